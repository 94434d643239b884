"""The transport plans of a few photos as a run goes on: `plans.npz` in its folder."""

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from univip_jax.augment import normalize_pixels
from univip_jax.common.errors import UserError
from univip_jax.common.files import write_whole
from univip_jax.losses import instance_loss
from univip_jax.models.univip import Encoder, Online
from univip_jax.plan import Plan
from univip_jax.types import Batch, TargetOutputs, TrainState

PLANS = "plans.npz"
_PARTS = 16  # of a run: the first plans of each stay, and the newest


class TransportPlans(NamedTuple):
    """The arrays of `plans.npz`: plans after `steps` steps, of the K crops of P photos."""

    steps: Int[np.ndarray, " n"]
    plans: Float[np.ndarray, "n P K K"]  # rows: online network, columns: target
    crops: UInt8[np.ndarray, "P K I I 3"]


@lru_cache(maxsize=8)
def make_transport_plans(plan: Plan) -> Callable[[TrainState, Batch], Float[Array, "B K K"]]:
    """Returns a jitted function of (state, batch): each image's transport plan (UniVIP Eq. 7); equal plans share it.

    In float32, by running statistics and without augmentation.
    """
    model = replace(plan.model, dtype="float32")

    @jax.jit
    def transport_plans(state: TrainState, batch: Batch) -> Float[Array, "B K K"]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        scenes, instances = (normalize_pixels(crops) for crops in batch)
        online = Online(model, merge=False).apply(variables, scenes, instances, train=False)

        def target(crops: Float[Array, "B n H W 3"]) -> Float[Array, "B n D"]:
            variables = {"params": state.target_params, "batch_stats": state.target_batch_stats}
            outputs = Encoder(model).apply(variables, crops.reshape(-1, *crops.shape[2:]), train=False)
            return outputs.reshape(*crops.shape[:2], -1)

        return instance_loss(online, TargetOutputs(target(scenes), target(instances)), plan.transport)[1]

    return transport_plans


class PlanLog:
    """Writes `plans.npz` of a run that starts or resumes at step `start`; plans of later steps are dropped.

    For the first process alone: it computes on one of its devices.
    """

    def __init__(self, folder: Path, start: int, plan: Plan, batch: Batch):
        """`batch` holds the P photos' views, the same ones at each start."""
        self._folder, self._total_steps, self._batch = folder, plan.total_steps, batch
        self._transport_plans = make_transport_plans(plan)
        self._plans: dict[int, np.ndarray] = {}
        try:
            earlier = read_plans(folder)
        except UserError as error:
            print(error, file=sys.stderr)
            return
        # Another data set has other photos; another processor may round the same ones otherwise.
        if earlier and earlier.crops.shape == (new := batch.instances).shape and np.allclose(earlier.crops, new, 0, 2):
            self._plans = {int(s): plans for s, plans in zip(earlier.steps, earlier.plans, strict=True) if s <= start}

    def add(self, step: int, state: TrainState) -> None:
        """Adds the plans of the state after `step` steps; raises UserError where they cannot be written."""
        local = jax.tree.map(lambda x: x.addressable_data(0), state)
        self._plans[step] = np.asarray(self._transport_plans(local, self._batch))
        self._plans = {kept: self._plans[kept] for kept in kept_steps(list(self._plans), self._total_steps)}
        found = TransportPlans(np.array(list(self._plans)), np.stack(list(self._plans.values())), self._batch.instances)
        buffer = io.BytesIO()
        np.savez(buffer, **found._asdict())
        write_whole(self._folder / PLANS, buffer.getvalue())


def kept_steps(steps: Sequence[int], total_steps: int) -> list[int]:
    """The steps whose plans stay: the first of each sixteenth of the run, and the newest.

    A plan that stays at one step stayed at each before: so a restart changes nothing.
    """
    first = {step * _PARTS // total_steps: step for step in sorted(steps, reverse=True)}
    return sorted({*first.values(), max(steps)})


def read_plans(folder: Path) -> TransportPlans | None:
    """The contents of `plans.npz`; None where the run has none. UserError: it is damaged."""
    path = folder / PLANS
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(contents), allow_pickle=False) as file:
            found = TransportPlans(**{name: file[name] for name in TransportPlans._fields})
        photos, count = found.crops.shape[:2]
        shape = (len(found.steps), photos, count, count)
        if found.plans.shape != shape or found.crops.ndim != 5 or not found.plans.size:
            raise ValueError("its arrays do not fit together")
        return found
    except Exception as error:  # damaged bytes raise anything inside the readers of zip and npy
        reason = " ".join(str(error).split()) or repr(error)
        raise UserError(
            f"{path} is damaged ({reason}): delete it; the run begins another at its next checkpoint"
        ) from error

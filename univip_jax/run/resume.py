"""How a run begins: at step 0, or from the newest checkpoint that is whole and belongs to it."""

import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from univip_jax.common.errors import DamagedCheckpoint, UserError
from univip_jax.data.records import Dataset
from univip_jax.plan import Plan
from univip_jax.run.checkpoint import Checkpoints
from univip_jax.sharding import replicated
from univip_jax.types import TrainState

State = TypeVar("State")


def start_or_resume(
    plan: Plan, dataset: Dataset, checkpoints: Checkpoints, mesh: Mesh, *, allow_other_data: bool
) -> tuple[int, TrainState]:
    """The steps that are done, and the state after them, on all devices of `mesh`.

    Raises:
      UserError: the run was trained on another data set and that is not allowed, or no checkpoint of it is whole.
    """
    if not checkpoints.steps():
        return 0, jax.jit(plan.init_state, out_shardings=replicated(mesh))()
    step, state, meta = restore_newest_good(plan.init_state, checkpoints, mesh)
    if meta["fingerprint"] != dataset.fingerprint:
        change = (
            f"{dataset.root} is not the data set that {checkpoints.folder.parent} was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, then {meta['fingerprint'][:12]})"
        )
        if not allow_other_data:
            raise UserError(
                f"{change}: name that one, or another --workdir, or change it on purpose by "
                "--config.allow_changes=data.train"
            )
        print(f"changed on purpose: {change}")
    print(f"going on from step {step}")
    return step, state


def restore_newest_good(
    init_state: Callable[[], State], checkpoints: Checkpoints, mesh: Mesh
) -> tuple[int, State, dict]:
    """The newest checkpoint that is what was saved, on every host; damaged ones are set aside, with a message.

    Raises UserError where none is whole.
    """
    like = jax.eval_shape(init_state)
    places = []
    for step in reversed(checkpoints.steps()):
        restored, damage = None, ""
        try:
            restored = checkpoints.restore(step, like, replicated(mesh))
        except DamagedCheckpoint as error:
            damage = str(error)
        if min(multihost_utils.process_allgather(np.array([restored is not None]))) == 1:
            return step, *restored
        places.append(checkpoints.set_aside(step))
        print(f"{damage or 'damaged on another host'}: set aside as {places[-1].name}", file=sys.stderr)
    raise UserError(
        f"no checkpoint of {checkpoints.folder.parent} is whole: {', '.join(place.name for place in places)} were set "
        "aside there; restore them from a backup, or begin anew in another --workdir"
    )

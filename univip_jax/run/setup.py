"""A run before its first step: what is trained, and the state that it starts from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from univip_jax.common.errors import UserError
from univip_jax.data.records import Dataset
from univip_jax.models.univip import ModelSpec
from univip_jax.run.cadence import Cadence
from univip_jax.run.checkpoint import FOLDER, Checkpoints
from univip_jax.run.folder import STARTED_FROM, allowed_changes, read_config
from univip_jax.run.staged import committed
from univip_jax.sharding import replicated

Step = Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]  # (state, batch) to (state, metrics)
Diagnosis = Callable[[int, Any, Any], dict[str, float]]  # (step, state, batch) to metrics


class Evaluator(Protocol):
    """Evaluates during training, on the first process: state to metrics, `log.TOP1` among them."""

    every: int  # steps from one evaluation to the next

    def __call__(self, state: Any) -> dict[str, float]: ...


class Weights(Protocol):
    """Parts of an encoder that a run starts from; `weights.warm_start.WarmStart`."""

    variables: dict[str, dict[str, Any]]
    facts: dict[str, Any]
    note: str


OpenWeights = Callable[[str, ModelSpec], Weights]


@dataclass(frozen=True)
class Run(ABC):
    """A run that is opened, and refused where it cannot be, before anything is written.

    What is trained is a subclass: the loop, its log and its checkpoints know nothing else of it. A state is a pytree
    with `step` and `bad_steps`; the metrics of a step hold `train/loss` and `train/grad_norm`.
    """

    config: ConfigDict
    folder: Path
    dataset: Dataset
    mesh: Mesh
    rows: np.ndarray  # of each batch, that this process feeds
    cadence: Cadence
    evaluator: Evaluator | None

    batch_size: int
    steps_per_epoch: int
    total_steps: int

    @abstractmethod
    def init_state(self) -> Any:
        """The state at step 0, a pure function of the config."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[Any]:
        """This process's rows of the batches of steps `start` and later, counted from 0."""

    @abstractmethod
    def photo_ids(self, step: int) -> list[str]:
        """The ids of the photos in the global batch of a step."""

    @abstractmethod
    def compile(self, start: int) -> Step:
        """Says what will run, and compiles the step ahead of time."""

    def diagnosis(self, start: int) -> Diagnosis:
        """What is measured beside the losses, now and then; all processes call it."""
        return lambda step, state, batch: {}

    def warning(self, newest: dict[str, float]) -> str | None:
        """What goes wrong by the newest metrics, with the way out."""
        return None


def started_from(
    config: ConfigDict, folder: Path, model: ModelSpec, open_weights: OpenWeights | None
) -> tuple[ConfigDict, Weights | None]:
    """The config that says what `init` held at step 0, and the weights until a step is saved: then nobody needs them.

    Raises UserError as `open_weights` does.
    """
    if not config.init:
        return config, None
    config, weights = config.copy_and_resolve_references(), None
    if committed(folder / FOLDER):
        facts = read_config(folder).get(STARTED_FROM, {})
    else:
        weights = open_weights(config.init, model)
        facts = ConfigDict(weights.facts)
    with config.unlocked():
        config[STARTED_FROM] = facts
    return config, weights


def start_or_resume(run: Run, checkpoints: Checkpoints) -> tuple[int, Any]:
    """The number of steps that are done, and the state after them, on all devices.

    Raises UserError: the run was trained on another data set and that is not allowed, or no checkpoint is whole.
    """
    everywhere = replicated(run.mesh)
    if not checkpoints.steps():
        return 0, jax.jit(run.init_state, out_shardings=everywhere)()
    step, state, meta = checkpoints.restore_newest(jax.eval_shape(run.init_state), everywhere)
    if meta["fingerprint"] != run.dataset.fingerprint:
        change = (
            f"{run.dataset.root} is not the data set that {run.folder} was trained on (fingerprint "
            f"{run.dataset.fingerprint[:12]}, then {meta['fingerprint'][:12]})"
        )
        if "data.train" not in allowed_changes(run.config):
            raise UserError(
                f"{change}: name that one, or another --workdir, or change it on purpose by "
                "--config.allow_changes=data.train"
            )
        print(f"changed on purpose: {change}")
    print(f"resuming from step {step}")
    return step, state

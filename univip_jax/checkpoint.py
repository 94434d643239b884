"""Saving and restoring the state of a run: the only home of Orbax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from orbax.checkpoint.checkpoint_managers import LatestN

from univip_jax.errors import UserError
from univip_jax.types import TrainState

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of a run's folder. Saves are asynchronous; close it, or leave its `with`, to wait for them."""

    def __init__(self, run: Path, keep: int | None = None):
        """Keeps the newest `keep`; None opens the folder for reading."""
        self.folder = Path(run).resolve() / FOLDER
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), read_only=keep is None, create=keep is not None
        )
        if keep is None and not self.folder.is_dir():
            raise UserError(f"{run} has no {FOLDER}: it is no run, or ended before its first checkpoint")
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_: Any) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: TrainState, meta: dict) -> None:
        """Begins to save the state after `step` steps; `meta` is JSON, read back by `restore`."""
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(step, args=args, force=True)
        except (OSError, ValueError) as error:
            raise UserError(f"checkpoint {self.folder / str(step)} cannot be written: {error}") from error

    def wait(self) -> None:
        """Returns when the last save is on disk; raises UserError where it failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise UserError(f"a checkpoint in {self.folder} cannot be written: {error}") from error

    def restore_part(self, step: int, like: Any) -> Any:
        """Those leaves of the state after `step` steps that `like` names, as host arrays.

        Args:
          like: nested dicts by field and name, with shapes, as {'params': {'encoder': {...}}}.
        """
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        args = ocp.args.PyTreeRestore(like, restore_args=restore_args, partial_restore=True)
        return self._restore(step, ocp.args.Composite(state=args)).state

    def restore(self, step: int, like: Any, sharding: NamedSharding) -> tuple[TrainState, dict]:
        """The state after `step` steps, on the devices of `sharding`, and its `meta`.

        Args:
          like: a state, or its `jax.eval_shape`, with the shapes of the one that was saved.
        """
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), meta=ocp.args.JsonRestore())
        restored = self._restore(step, args)
        return restored.state, restored.meta

    def _restore(self, step: int, args: ocp.args.Composite) -> ocp.args.Composite:
        try:
            return self._manager.restore(step, args=args)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} cannot be read ({str(error).splitlines()[0]}): remove that "
                "folder to go on from the one before"
            ) from error

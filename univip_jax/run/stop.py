"""SIGTERM, by which a machine is taken away: the step at which all processes stop together."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stop:
    """Within its `with`, SIGTERM no longer ends the process but makes `reached` true."""

    def __init__(self) -> None:
        # With jax.distributed the runtime itself listens to SIGTERM, and tells all processes of it.
        self._alone = not jax.distributed.is_initialized()
        self._noticed = False

    def __enter__(self) -> "Stop":
        if self._alone:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._alone:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, signum: int, frame: FrameType | None) -> None:
        self._noticed = True

    def reached(self, step: int) -> bool:
        """Whether to stop after `step` steps; all processes ask after every step and get the same answer."""
        return self._noticed if self._alone else multihost_utils.reached_preemption_sync_point(step)

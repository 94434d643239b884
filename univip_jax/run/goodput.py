"""Where the wall time of a run went, over all its attempts: what was training and what was not.

Nothing that takes time to import: `main.py` imports this file first, so that `STARTED` is when the process began.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from univip_jax.common.files import write_whole

STARTED = time.time()
LEDGER = "goodput.json"

# Of an attempt: `start` is imports and opening, `data` waiting for a batch, `save` the stall of a save. `lost` is the
# training that an interruption undid, `down` the time from the last report of an attempt to the start of the next.
KINDS = ("train", "start", "compile", "restore", "data", "save", "evaluate", "lost", "down")


class Goodput:
    """The ledger of a run, kept in its folder; every second since the first attempt began is in one of `KINDS`."""

    def __init__(self, run: Path | None):
        """Goes on from the ledger in `run`; None keeps none, as all processes but the first do."""
        self._path = run / LEDGER if run else None
        self._seconds, self.attempts, updated = dict.fromkeys(KINDS, 0.0), 1, STARTED
        if self._path and self._path.exists():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off by a full disk: begins anew
                before = json.loads(self._path.read_text())
                updated, self.attempts = float(before["updated"]), int(before["attempts"]) + 1
                self._seconds = {kind: float(before["seconds"][kind]) for kind in KINDS}
        # Two trainings of one process share `STARTED`.
        begun = max(STARTED, updated)
        self._seconds["down"] += begun - updated
        self._mark, self._inside = begun, "start"

    @contextlib.contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """What is done within belongs to `kind`."""
        before = self._inside
        self._turn(kind)
        try:
            yield
        finally:
            self._turn(before)

    def train_from_now(self, trained: float) -> None:
        """What follows is training, `trained` seconds of which are in the state that the run goes on from."""
        self._turn("train")
        self._seconds["lost"] += max(0.0, self._seconds["train"] - trained)
        self._seconds["train"] = min(trained, self._seconds["train"])
        self.write()

    def stepping(self) -> float:
        """Seconds until now of steps and of waiting for their batches."""
        self._turn(self._inside)
        return self._seconds["train"] + self._seconds["data"]

    def write(self) -> dict[str, float]:
        """Brings the file up to date; the seconds of each kind and the share of training, as metrics."""
        self._turn(self._inside)
        if self._path:
            ledger = {"updated": self._mark, "attempts": self.attempts, "seconds": self._seconds}
            write_whole(self._path, json.dumps(ledger) + "\n")
        seconds = {f"goodput/{kind}_seconds": value for kind, value in self._seconds.items()}
        return {"goodput/share": self._seconds["train"] / max(1e-9, sum(self._seconds.values())), **seconds}

    def summary(self) -> str:
        """One line for people."""
        total = sum(self._seconds.values())
        shares = {kind: 100 * seconds / total for kind, seconds in self._seconds.items() if seconds}
        rest = sorted(((share, kind) for kind, share in shares.items() if kind != "train"), reverse=True)
        attempts = f"{self.attempts} attempt{'s' * (self.attempts > 1)}"
        return f"goodput   {shares.get('train', 0):.1f} % of {total:.0f} s in {attempts} was training; " + ", ".join(
            f"{kind} {share:.1f} %" for share, kind in rest
        )

    def _turn(self, kind: str) -> None:
        now = time.time()
        self._seconds[self._inside] += max(0.0, now - self._mark)
        self._mark, self._inside = now, kind

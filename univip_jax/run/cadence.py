"""What is due after a step: a pure function of its number."""

from typing import NamedTuple


class Due(NamedTuple):
    """What follows a step, in this order."""

    report: bool
    diagnose: bool  # a part of the report, where no interruption moves it
    save: bool
    evaluate: bool
    stop: bool


class Cadence(NamedTuple):
    """Steps from one report, save or evaluation to the next, and of the run. `evaluate` 0: never."""

    report: int
    save: int
    evaluate: int
    total: int

    def due(self, step: int, *, stopping: bool = False) -> Due:
        """What follows step `step`, counted from 1. Each save is preceded by a report, and each evaluation by a save.

        A run that is `stopping` saves and leaves the evaluation to its next start (`evaluates`).
        """
        last = step == self.total
        regular = last or step % self.save == 0
        save = regular or stopping or self.evaluates(step)
        return Due(
            report=save or step % self.report == 0,
            diagnose=regular,
            save=save,
            evaluate=self.evaluates(step) and not stopping,
            stop=stopping or last,
        )

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation belongs to step `step`."""
        return bool(self.evaluate) and step > 0 and step % self.evaluate == 0

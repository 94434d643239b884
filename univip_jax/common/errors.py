"""The exceptions for what a user can put right, or a second try, and how their messages list names."""

from collections.abc import Sequence


class UserError(Exception):
    """Something that a user can put right: a flag, a path, a file, a data set.

    The message is one line that names the thing, its value and the way out. Command lines print it to stderr
    without a traceback and exit with `exit_code`.
    """

    exit_code = 1


class Misuse(UserError):
    """Flags that cannot be right, which only work can tell. `supervise` and schedulers do not restart."""

    exit_code = 2


class TransientError(UserError):
    """Something that may be gone when the same command is run again: a disk that did not answer, a device that erred.

    `supervise` and schedulers restart on its exit code, EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read, or whose bits are not those that were saved."""


class DivergedReplicas(TransientError):
    """Devices that should hold the same state hold different bits."""


def shorten(names: Sequence[str], few: int = 3) -> str:
    """The first few names, and how many more there are, for a message."""
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more

"""What all command lines share: one map from exceptions to a line and an exit code, one parser of flags.

Exit codes: 0 done, 1 a user can put it right, 2 misuse of the command line, 75 worth a second try, 130 Ctrl-C, 70 a
defect of ours, with its traceback.
"""

import contextlib
import errno
import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging

from univip_jax.common import buckets, machine
from univip_jax.common.errors import UserError
from univip_jax.common.files import expand

_PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells have it
SOFTWARE_ERROR = 70  # EX_SOFTWARE of sysexits.h: no mistake of the user's, so a supervisor restarts
_BAD_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_OUT_OF_MEMORY = "out of memory: lower the batch size, or use more devices or a larger machine"


class _Path(flags.ArgumentParser):
    """A path as users type it, see `expand`."""

    syntactic_help = "a path: ~ and $NAME are expanded"

    def __init__(self, any_bytes: bool):
        self._any_bytes = any_bytes

    def parse(self, argument: str) -> str:
        try:
            return expand(argument, any_bytes=self._any_bytes)
        except UserError as error:
            raise ValueError(error) from error

    def flag_type(self) -> str:
        return "path"


def define_path(name: str, default: str | list[str] | None, text: str, *, any_bytes: bool = False) -> flags.FlagHolder:
    """A flag for a path, see `expand`; with a list as its default it may be given several times."""
    if isinstance(default, list):
        return flags.DEFINE_multi(_Path(any_bytes), flags.ArgumentSerializer(), name, default, text)
    return flags.DEFINE(_Path(any_bytes), name, default, text, serializer=flags.ArgumentSerializer())


def parse_flags(name: str, required: Sequence[str], check: Callable[[], None] | None = None):
    """absl's parser; misuse is one line and exit code 2. `check` raises `flags.Error` for flags that conflict."""

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)[1:]
            if rest:
                raise flags.Error(f"unexpected argument {rest[0]!r}: flags look like --name=value")
            for flag in required:
                if not flags.FLAGS[flag].value:
                    raise flags.Error(f"--{flag} is missing: give {' '.join(f'--{flag}=...' for flag in required)}")
            if check:
                check()
        except flags.Error as error:
            fail(f"python -m {name}", f"{' '.join(str(error).split())}; see --help", 2)
        return argv[:1]

    return parse


def fail(prefix: str, message: object, code: int) -> NoReturn:
    """Prints one line to stderr and exits."""
    print(f"{prefix}: {message}", file=sys.stderr)
    with contextlib.suppress(UserError):  # the message is what counts
        _flush()
    sys.exit(code)


def call(prefix: str, work: Callable[[], int | None], *, interrupted: str, folder: Path | None = None) -> NoReturn:
    """Does the work and exits: with the code that it returns, or with the line and code of what it raises.

    Args:
      prefix: what each line begins with.
      interrupted: what a user reads after Ctrl-C.
      folder: where the command writes; a file in it that cannot be written is the user's to put right.
    """
    quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to end
            stream.reconfigure(errors="backslashreplace")
    try:
        machine.settle()
        code = work()
        _flush()
        sys.exit(code)
    except BrokenPipeError:  # the reader of the output has gone, as in `... | head`
        _discard_output()
        sys.exit(_PIPE_CLOSED)
    except UserError as error:
        fail(prefix, _handles(error) or error, error.exit_code)
    except KeyboardInterrupt:
        fail(prefix, f"interrupted; {interrupted}", 130)
    except Exception as error:
        if line := _user_can_mend(error, folder):
            fail(prefix, line, 1)
        traceback.print_exc()
        with contextlib.suppress(UserError):
            _flush()
        sys.exit(SOFTWARE_ERROR)


def _flush() -> None:
    """Writes what was printed: Python would complain at its end, with a code of its own.

    Raises UserError: the output's disk is full. A reader that has gone does not matter: the work is done.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        raise UserError(f"the output cannot be written ({error.strerror}), but the work is done") from error


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _user_can_mend(error: Exception, folder: Path | None) -> str | None:
    """The line for an exception of a library that means a mistake, a full disk or too little memory."""
    if line := _handles(error):
        return line
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):  # XLA's word
        return _OUT_OF_MEMORY
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms and isinstance(error, RuntimeError | AssertionError) and "backend" in str(error).lower():
        return f"JAX_PLATFORMS={platforms} is not on this machine: unset it"
    if isinstance(error, OSError) and error.errno in _BAD_PATHS:
        return f"{error.filename}: {error.strerror}: give another path"
    if isinstance(error, OSError) and (error.errno in _UNWRITABLE or _is_below(folder, error.filename)):
        what = error.filename or (f"a file in {folder}" if folder else "the output")
        return f"{what}: {error.strerror}; make it writable, or choose another folder"
    return None


def _handles(error: Exception) -> str | None:
    """The line where the system, or C++ code, says that no more files may be opened."""
    too_many = os.strerror(errno.EMFILE)
    return f"{too_many}: run ulimit -n 4096, then the same command again" if too_many in str(error) else None


def _is_below(folder: Path | None, filename: object) -> bool:
    if folder is None or buckets.is_bucket(folder) or not isinstance(filename, str | os.PathLike):
        return False
    return Path(filename).absolute().is_relative_to(folder.absolute())


def quiet() -> None:
    """Leaves out what libraries print beside the errors that they raise. For commands; nothing calls it on import."""
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax and the exporters report their own steps
    # Orbax logs the traceback of a failed thread, then raises the same error at the next call.
    logging.getLogger("absl").addFilter(_not_orbaxs_traceback)
    logging.getLogger("asyncio").addFilter(_not_orbaxs_task)
    if not isinstance(sys.unraisablehook, _WithoutClosedLoops):
        sys.unraisablehook = _WithoutClosedLoops(sys.unraisablehook)


def _not_orbaxs_traceback(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in record.pathname)


def _not_orbaxs_task(record: logging.LogRecord) -> bool:
    """Orbax awaits all leaves and raises the first failure; whenever Python collects the others, asyncio logs them."""
    return not ("exception was never retrieved" in record.msg and "orbax" in record.msg)


class _WithoutClosedLoops:
    """`sys.unraisablehook` without one message, which follows failures that are raised.

    At the first leaf that fails, Orbax closes its event loop; TensorStore then complains for each of the rest.
    """

    def __init__(self, earlier: Callable[[Any], Any]):
        self._earlier = earlier

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self._earlier(unraisable)


def run(
    name: str,
    define: Callable[[], None],
    required: Sequence[str],
    work: Callable[[], int | None],
    *,
    check: Callable[[], None] | None = None,
    interrupted: str,
) -> None:
    """Runs `python -m NAME`; SIGTERM ends it as Ctrl-C does.

    Flags are defined here, not on import: other commands have flags of the same names.
    """
    define()

    def main(_: list[str]) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        call(f"python -m {name}", work, interrupted=interrupted)

    app.run(main, flags_parser=parse_flags(name, required, check))

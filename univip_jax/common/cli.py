"""What our command lines share: misuse is one line and exit code 2, what a user can put right one and code 1."""

import os
import signal
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from univip_jax.common.errors import UserError


def parse_flags(name: str, required: Sequence[str], check: Callable[[], None] | None = None):
    """absl's parser with misuse as one line; `check` raises `flags.Error` for flags that do not go together."""

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
            fail(name, f"{' '.join(str(error).split())}; see --help", 2)
        return argv[:1]

    return parse


def fail(name: str, message: object, code: int) -> None:
    """One line on stderr, and the end."""
    print(f"python -m {name}: {message}", file=sys.stderr)
    sys.exit(code)


def call(name: str, work: Callable[[], int | None], interrupted: str) -> None:
    """Does the work and ends with the exit code that it returns; SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.set_verbosity(logging.ERROR)  # Orbax and the exporters tell their own steps; failures are raised
    try:
        sys.exit(work())
    except UserError as error:
        fail(name, error, error.exit_code)
    except MemoryError:
        fail(name, "out of memory: choose a smaller --batch_size, where there is one, or a larger machine", 1)
    except KeyboardInterrupt:
        fail(name, f"interrupted; {interrupted}", 130)
    except (RuntimeError, AssertionError) as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            fail(name, "out of memory: choose a smaller --batch_size, where there is one, or a larger machine", 1)
        if (platforms := os.environ.get("JAX_PLATFORMS")) and "backend" in str(error).lower():
            fail(name, f"JAX_PLATFORMS={platforms} is not on this machine: unset it", 1)
        raise


def run(name: str, define: Callable[[], None], required: Sequence[str], work, *, check=None, interrupted: str) -> None:
    """Runs `python -m NAME`. Flags are defined here, not on import: other commands have flags of the same names."""
    define()
    app.run(lambda _: call(name, work, interrupted), flags_parser=parse_flags(name, required, check))

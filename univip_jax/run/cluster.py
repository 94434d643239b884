"""One process among several of a run: misuse is named at once, and who waits in vain is told, not aborted.

`jax.distributed.initialize` aborts the process, in C++, where the others do not come.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from univip_jax.common.errors import Misuse, TransientError, UserError
from univip_jax.common.files import held

_PATIENCE = 300.0  # s for all to come: hosts of one job boot minutes apart
# What `srun` gives to each task; a login to a node of the job, or a batch script without srun, lacks some.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_ELSEWHERE = ("JAX_COORDINATOR_ADDRESS", "OMPI_MCA_orte_hnp_uri")  # where JAX looks before Slurm's
_EXAMPLE = "--coordinator_address=HOST:PORT --num_processes=4 --process_id=0"


class Place(NamedTuple):
    """The flags of the same names; None: the cluster's environment says it."""

    coordinator_address: str | None
    num_processes: int | None
    process_id: int | None


def check_place(place: Place, distributed: bool) -> None:
    """Raises Misuse for flags that cannot be right on any machine."""
    given = [f"--{name}" for name, value in place._asdict().items() if value is not None]
    if given and not distributed:
        raise Misuse(f"{given[0]} needs --distributed")
    address, count, index = place
    if count is not None and count < 1:
        raise Misuse(f"--num_processes={count} must be at least 1")
    if index is not None and not 0 <= index < (count or index + 1):
        raise Misuse(f"--process_id={index} must be at least 0 and below --num_processes={count or ''}")
    host, _, port = (address or "host:1").rpartition(":")
    if not (host and "/" not in host and port.isdecimal() and 0 < int(port) < 65536):
        raise Misuse(f"--coordinator_address={address} must be HOST:PORT of process 0, as node1:1234")


def join(place: Place, patience: float = _PATIENCE) -> None:
    """Meets the other processes of the run.

    Where they do not come in `patience` seconds, the process says so and ends with TransientError's code: C++ code that
    waits cannot be interrupted, and would abort.

    Raises:
      Misuse: neither flags nor the environment say where the others are.
      TransientError: the coordinator cannot be started, or not be reached.
    """
    empty = [name for name in _SLURM if os.environ.get(name) == ""]
    if empty and place.coordinator_address is None and not any(map(os.environ.get, _ELSEWHERE)):
        raise Misuse(f"--distributed finds no cluster here ({empty[0]} is empty): {_way_out()}")
    import jax  # late: wrong flags are told at once

    def give_up() -> None:
        me = "this process" if place.process_id is None else f"process {place.process_id} of {place.num_processes}"
        print(
            f"error: {me} waited {patience:g} s for the others at {_where(place)}: start all of them, with "
            "the same flags, and check names, ports and firewalls",
            file=sys.stderr,
            flush=True,
        )
        os._exit(TransientError.exit_code)

    clock = threading.Timer(patience, give_up)
    clock.daemon = True
    clock.start()
    try:
        jax.distributed.initialize(*place, initialization_timeout=int(patience) + 60)
    except (ValueError, TypeError, LookupError) as error:  # before anything was tried
        raise Misuse(f"--distributed finds no cluster here ({_cause(error)}): {_way_out()}") from error
    except RuntimeError as error:
        raise TransientError(f"{_where(place)} cannot be used ({_cause(error)}): is its port taken?") from error
    finally:
        clock.cancel()


def _where(place: Place) -> str:
    return place.coordinator_address or "the coordinator that the cluster names"


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200]


def _way_out() -> str:
    missing = [name for name in _SLURM if not os.environ.get(name)]
    if any(name.startswith("SLURM_") for name in os.environ) and missing:
        return f"{missing[0]} is not set, so start it by srun; or give {_EXAMPLE}"
    return f"give {_EXAMPLE}, start it by srun or mpirun, or leave --distributed out"


@contextmanager
def held_by_first(folder: Path) -> Iterator[None]:
    """`held` in process 0; all processes call it, and all raise where it cannot be held."""
    import jax

    from univip_jax.sharding import of_first_process

    refused: UserError | None = None
    with contextlib.ExitStack() as lock:
        if jax.process_index() == 0:
            try:
                lock.enter_context(held(folder))
            except UserError as error:
                refused = error
        (is_held,) = of_first_process([refused is None])
        if not is_held:
            raise refused or TransientError(f"{folder} cannot be held, or is in use, as process 0 says")
        yield

"""Several processes of one run on this machine, as a scheduler would start them on several."""

import random
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# At their first step together, JAX's collectives for CPUs wait 30 s for the slowest process, and no option changes
# that. On a machine under load it may need longer; then all are started again, as a scheduler does.
TOO_SLOW = "Gloo context initialization failed"


def start_processes(
    command: Sequence[str], count: int, environment: Mapping[str, str], log: Path
) -> list[subprocess.Popen]:
    """Starts `count` processes of `main.py --distributed`; their output is appended to `log`."""
    together = ["--distributed", f"--coordinator_address=localhost:{free_port()}", f"--num_processes={count}"]
    with log.open("a") as output:
        return [
            subprocess.Popen(
                [*command, *together, f"--process_id={index}"], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            for index in range(count)
        ]


def free_port() -> int:
    """A port that only those take who ask for it by number: the kernel gives out none below 32768 (Linux)."""
    ports = range(20000, 32768)
    while True:
        with socket.socket() as candidate:
            try:
                candidate.bind(("localhost", port := random.SystemRandom().choice(ports)))
                return port
            except OSError:
                continue

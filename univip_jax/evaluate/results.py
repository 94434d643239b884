"""The file that ends an evaluation."""

import json
from pathlib import Path

from univip_jax.common.files import write_whole

RESULTS = "results.json"


def write_results(workdir: Path, results: dict) -> None:
    """Writes `results.json` into an evaluation's folder and prints it as one line."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / RESULTS, json.dumps(results, indent=2) + "\n")  # where it is, the evaluation is done
    print(json.dumps(results))


def read_results(folder: Path, name: str = RESULTS) -> dict | None:
    """The results in an evaluation's folder; None where there are none, or they were cut off."""
    try:
        return json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return None

"""The finished rows of a folder beside the paper's, in Markdown; imports no JAX."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

from univip_jax.common.errors import UserError
from univip_jax.reproduce.rows import TABLES

RESULTS = "results.json"
_SCORES = {"knn": "k-NN", "probe": "probe", "rank": "rank"}
_PLAN = {f"plan/{name}": name for name in ("diagonal", "marginal_tv", "mass", "cosine_same", "cosine_other")}


def read_results(root: Path, table: int) -> list[dict]:
    """The finished rows and seeds of a table in `root`: untrained, the table's rows, each with its variants."""
    found = [json.loads(path.read_text()) for path in root.glob(f"table{table}_*_seed*/{RESULTS}")]
    return sorted(found, key=lambda one: (one["row"] != "untrained", one["row"], one["seed"]))


def table_lines(table: int, results: list[dict], reference: str = "") -> list[str]:
    """Three tables: scores of each row, their paired differences from `reference`, and the plans of the instances.

    Means over the seeds, with the std of the sample; of differences over the common seeds, with their standard error.
    The reference is, if not named, row b or the first one that was trained. Raises UserError if it is not finished.
    """
    paper = {row.config.partition("=")[2]: row for row in reversed(TABLES[table].rows)}  # box AP follows top-1
    rows = {}
    for one in results:
        rows.setdefault(one["row"], {})[one["seed"]] = one
    trained = [row for row in rows if row != "untrained"]
    reference = reference or next((row for row in ("b", *trained) if row in rows), "")
    if trained and reference not in trained:
        raise UserError(f"--reference={reference} is not finished: choose from {','.join(trained)}")
    scores = _SCORES | {f"as_trained/{key}": f"as trained: {name}" for key, name in _SCORES.items()}

    def label(row: str) -> list[str]:
        return [paper[row].name, f"{paper[row].paper[0]}"] if row in paper else [row, ""]

    def differences(row: str, key: str) -> list[float]:
        return [rows[row][seed][key] - one[key] for seed, one in rows[reference].items()
                if key in one and key in rows[row].get(seed, {})]  # fmt: skip

    def body(names: list[str], keys: dict[str, str], values: Callable, spread: Callable, sign: str = "") -> list[str]:
        cells = ([*label(row), *(_cell(values(row, key), spread, sign) for key in keys)] for row in names)
        return [f"| {' | '.join(line)} |" for line in cells]

    def means(row: str, key: str) -> list[float]:
        return [one[key] for one in rows[row].values() if key in one]

    lines = _head(f"Table {table}, mean and std", scores | {"overlap": "overlap", "seconds": "s"})
    lines += body(list(rows), scores | {"overlap": "", "seconds": ""}, means, statistics.stdev)
    if others := [row for row in trained if row != reference]:
        lines += ["", *_head(f"minus {reference} by seed, mean and standard error", scores)]
        lines += body(others, scores, differences, _standard_error, "+")
    if planned := [row for row in rows if means(row, next(iter(_PLAN)))]:
        lines += ["", *_head("plan at the end", _PLAN), *body(planned, _PLAN, means, statistics.stdev)]
    seeds = sorted({one["seed"] for one in results})
    return [*lines, "", f"seeds {', '.join(map(str, seeds))}"]


def _head(first: str, columns: dict[str, str]) -> list[str]:
    names = [first, "paper: linear top-1", *columns.values()]
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5


def _cell(values: list[float], spread: Callable, sign: str) -> str:
    """The mean and, for several values, their spread; of shares two places."""
    if not values:
        return ""
    digits = 2 if max(map(abs, values)) <= 1 and not sign else 1
    several = f" +- {spread(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.{digits}f}{several}"

"""A table of the paper beside our results: `python -m univip_jax.reproduce --table=1 --runs=runs`.

Looks for `results.json` in all folders below --runs, and for the `config.json` of the runs that they are of. A result
belongs to the row whose method its run was pre-trained by; among rows of one method, to the one nearest in data,
optimizer and epochs. What still differs from the paper's settings is printed beside the number, never passed over. Ends
with what is missing, and the commands that make it. Prints Markdown.
"""

import shlex
import statistics
from pathlib import Path
from typing import Any

from absl import flags

from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError
from univip_jax.reproduce.results import (
    RANDOM,
    Result,
    differences,
    find_pretrainings,
    pretraining_differences,
    read_results,
    rows_of,
    score,
)
from univip_jax.reproduce.rows import TABLES, Row, Table

NAME = "univip_jax.reproduce"


def compare(table: Table, root: Path) -> str:
    """The table in Markdown, from the results below `root`."""
    results, runs = read_results(root), find_pretrainings(root)
    of_row = {row: _newest(row, table, results) for row in table.rows}
    with_box_ap = any(row.box_ap for row in table.rows)
    columns = ["row", "paper", "ours", "what differs from the paper's settings", "run", "protocol"]
    columns[2:2] = ["box AP, paper"] if with_box_ap else []
    lines = [f"# {table.title}", "", table.note, "", _line(columns), _line(["---"] * len(columns))]
    for row, mine in of_row.items():
        paper = [row.name, " / ".join(f"{score:.1f}" for score in row.paper.values())]
        paper += [f"{row.box_ap:.1f}"] if with_box_ap else []
        lines += [_line([*paper, *cells, row.evaluation.protocol]) for cells in _ours(row, mine)]
    shown = {result.path for mine in of_row.values() for result in mine}
    lines += _others(table, [result for result in results if result.path not in shown])
    lines += _missing_lines(_gaps(of_row, table, runs, root))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _newest(row: Row, table: Table, results: list[Result]) -> list[Result]:
    """The results of a row, of each run those of its newest step."""
    mine = [r for r in results if row.evaluation.is_of(r.values) and row in rows_of(r.settings, table.rows)]
    newest: dict[str, int] = {}
    for result in mine:
        run = result.values["pretrained"]
        newest[run] = max(newest.get(run, 0), result.values["step"])
    return [result for result in mine if result.values["step"] == newest[result.values["pretrained"]]]


def _ours(row: Row, mine: list[Result]) -> list[list[str]]:
    """Scores, differences and runs; a line for each way to differ, as only equal settings have a mean."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in mine:
        groups.setdefault(tuple(differences(row, result)), []).append(result)
    lines = []
    for said, group in groups.items():
        runs = sorted({f"{result.values['pretrained']}, step {result.values['step']}" for result in group})
        scores = " / ".join(_mean(name, group) for name in row.paper)
        lines.append([scores, "; ".join(said) or "nothing", "; ".join(runs)])
    return lines or [["missing", "", ""]]


def _mean(name: str, group: list[Result]) -> str:
    """The mean of a score, and of several results the deviation (of the sample) and how many they are."""
    values = [float(result.values[name]) for result in group if name in result.values]
    if not values:
        return "?"
    several = f" ± {statistics.stdev(values):.2f} (n = {len(values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{several}"


def _others(table: Table, results: list[Result]) -> list[str]:
    """Results that are in no row, and why."""
    lines = []
    for result in results:
        if result.settings is None:
            why = "its run is not here, or no pre-training of ours"
        elif rows_of(result.settings, table.rows):
            why = "another protocol, or an older step"
        else:
            why = "a pre-training of no row of this table"
        run = f"{result.values['pretrained']}, step {result.values['step']}"
        lines.append(f"- {result.values['protocol']} {score(result.values):.2f}, {run}: {why} ({result.path})")
    return ["", "## Results that are not in the table", "", *lines] if lines else []


def missing(table: Table, root: Path) -> list[str]:
    """The commands that make what the table lacks below `root`, each once, in an order in which they can be run.

    The pre-training is always among them: an interrupted one goes on, one that is finished says so and ends.
    """
    results = read_results(root)
    gaps = _gaps({row: _newest(row, table, results) for row in table.rows}, table, {}, root)
    return list(dict.fromkeys(command for commands in gaps for command in commands))


def _gaps(
    of_row: dict[Row, list[Result]], table: Table, runs: dict[Path, dict], root: Path
) -> dict[tuple[str, ...], list[str]]:
    """The rows without a result by the paper's settings, by the commands that make it."""
    rows_by_commands: dict[tuple[str, ...], list[str]] = {}
    for row, mine in of_row.items():
        if all(differences(row, result) for result in mine):
            rows_by_commands.setdefault(tuple(_commands(row, table, runs, root)), []).append(row.name)
    return rows_by_commands


def _missing_lines(gaps: dict[tuple[str, ...], list[str]]) -> list[str]:
    """The commands behind the names of their rows, each command once."""
    lines: list[str] = []
    for commands, names in gaps.items():
        lines += [f"# {'; '.join(names)}", *(command for command in commands if command not in lines)]
    return ["", "## Missing", "", "```", *lines, "```"] if lines else []


def _commands(row: Row, table: Table, runs: dict[Path, dict], root: Path) -> list[str]:
    """The evaluation of a row, and before it the pre-training, where none by its settings is there."""
    folders = [folder for folder, settings in runs.items() if _is_of(row, settings, table)]
    # Rows of one pre-training share it.
    first = next(other for other in table.rows if other.settings == row.settings)
    words = [first.data, *first.arg.split("="), f"{first.settings['num_epochs']:g}"] if row.data else [RANDOM]
    run = folders[0] if folders else root / "_".join(filter(None, words))
    evaluation = row.evaluation
    percent = f"_{evaluation.labels}pct" if evaluation.labels else ""
    evaluate = [
        *("python", "main.py", f"--config={evaluation.config}", f"--config.pretrained={run if row.data else RANDOM}"),
        *(f"--config.data.train={evaluation.train}", f"--config.data.test={evaluation.test}"),
        *evaluation.flags,
        f"--workdir={root / run.name}_{evaluation.protocol}{percent}",
    ]
    train = ["python", "main.py", *first.flags(), f"--workdir={run}"]
    return [shlex.join(command) for command in ([evaluate] if folders or not row.data else [train, evaluate])]


def _is_of(row: Row, settings: dict[str, Any], table: Table) -> bool:
    return row in rows_of(settings, table.rows) and not pretraining_differences(row, settings)


def _define_flags() -> None:
    flags.DEFINE_enum("table", None, [str(number) for number in TABLES], "Of the paper.")
    flags.DEFINE_string("runs", None, "Folder with results and runs, at any depth.")


def _work() -> None:
    root = Path(flags.FLAGS.runs)
    if not root.is_dir():
        raise UserError(f"--runs={root} is no folder; name the one that holds the --workdir of runs and evaluations")
    print(compare(TABLES[int(flags.FLAGS.table)], root))


if __name__ == "__main__":
    run_command(NAME, _define_flags, ("table", "runs"), _work, interrupted="run it again")

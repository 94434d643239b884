"""A table of the paper beside our results, in Markdown, and the commands for what is missing."""

import shlex
import statistics
from pathlib import Path

from univip_jax.reproduce.results import (
    RANDOM,
    Result,
    Settings,
    difference,
    differences,
    find_runs,
    read_results,
    rows_of,
    score,
)
from univip_jax.reproduce.rows import Row, Table


def compare(table: Table, root: Path) -> str:
    """The table, from the results below `root`; then results without a row, and commands for rows without a result.

    A row has a line for each way in which results differ from the paper's settings: only equal settings are averaged.
    """
    runs = find_runs(root)
    results = read_results(root, runs)
    of_row = {row: _newest(row, table, results) for row in table.rows}
    with_box_ap = any(row.box_ap for row in table.rows)
    columns = ["row", "paper", "ours", "differences from the paper's settings", "run", "protocol"]
    columns[2:2] = ["box AP, paper"] if with_box_ap else []
    lines = [f"# {table.title}", "", table.note, "", _line(columns), _line(["---"] * len(columns))]
    for row, mine in of_row.items():
        paper = [row.name, " / ".join(f"{score:.1f}" for score in row.paper.values())]
        paper += [f"{row.box_ap:.1f}"] if with_box_ap else []
        lines += [_line([*paper, *cells, row.evaluation.protocol]) for cells in _ours(row, mine)]
    shown = {result.path for mine in of_row.values() for result in mine}
    if others := [_why_left_out(result, table) for result in results if result.path not in shown]:
        lines += ["", "## Results that are not in the table", "", *others]
    gaps: dict[tuple[str, ...], list[str]] = {}  # commands to the rows that they fill
    for row, mine in of_row.items():
        if all(differences(row, result) for result in mine):
            gaps.setdefault(_commands(row, table, root, runs), []).append(row.name)
    if gaps:
        lines += ["", "## Missing", "", "```"]
        for commands, names in gaps.items():
            lines += [f"# {'; '.join(names)}", *(command for command in commands if command not in lines)]
        lines.append("```")
    return "\n".join(lines)


def _newest(row: Row, table: Table, results: list[Result]) -> list[Result]:
    """The results of a row; of each run, those of its newest step."""
    protocol, newest = (row.evaluation.protocol, row.evaluation.labels), {}
    mine = [r for r in results if (r.values["protocol"], r.values.get("labels")) == protocol]
    mine = [r for r in mine if row in rows_of(r, table.rows)]
    for result in sorted(mine, key=lambda result: result.values["step"]):
        newest[result.values["pretrained"]] = result.values["step"]
    return [result for result in mine if result.values["step"] == newest[result.values["pretrained"]]]


def _ours(row: Row, mine: list[Result]) -> list[list[str]]:
    """Cells: scores, differences, runs."""
    groups: dict[str, list[Result]] = {}
    for result in mine:
        groups.setdefault("; ".join(differences(row, result)) or "none", []).append(result)
    return [
        [" / ".join(_mean(name, group) for name in row.paper), different, "; ".join(sorted({r.run for r in group}))]
        for different, group in groups.items()
    ] or [["missing", "", ""]]


def _mean(name: str, group: list[Result]) -> str:
    """The mean of a score and, for several results, the std (of the sample) and their number."""
    values = [float(result.values[name]) for result in group if name in result.values]
    if not values:
        return "?"
    several = f" ± {statistics.stdev(values):.2f} (n = {len(values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{several}"


def _why_left_out(result: Result, table: Table) -> str:
    if result.settings is None:
        why = "its training run was not found below --runs"
    elif rows_of(result, table.rows):
        why = "another protocol, or an older step"
    else:
        why = "its pre-training belongs to no row of this table"
    return f"- {result.values['protocol']} {score(result.values):.2f}, {result.run}: {why} ({result.path})"


def _commands(row: Row, table: Table, root: Path, runs: dict[Path, Settings]) -> tuple[str, ...]:
    """The evaluation of a row, after its pre-training unless `runs` has one with the row's settings."""
    folders = [run for run, settings in runs.items() if row.data and not difference(row.settings, settings)]
    first = next(other for other in table.rows if other.settings == row.settings)  # rows of one pre-training share it
    words = [first.data, *first.arg.split("="), f"{first.settings['num_epochs']:g}"] if row.data else [RANDOM]
    run = folders[0] if folders else root / "_".join(filter(None, words))
    percent = f"_{row.evaluation.labels}pct" if row.evaluation.labels else ""
    pretrained = f"--config.pretrained={run if row.data else RANDOM}"
    workdir = f"--workdir={root / run.name}_{row.evaluation.protocol}{percent}"
    evaluate = shlex.join(["python", "main.py", *row.evaluation.flags, pretrained, workdir])
    train = shlex.join(["python", "main.py", *first.flags, f"--workdir={run}"])
    return (evaluate,) if folders or not row.data else (train, evaluate)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

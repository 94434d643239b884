"""A table of the paper beside our results, in Markdown, and the commands for what is missing."""

import shlex
import statistics
from pathlib import Path

from univip_jax.reproduce.results import (
    AS_IT_IS,
    Result,
    Settings,
    accepted,
    difference,
    differences,
    find_runs,
    read_results,
    rows_of,
)
from univip_jax.reproduce.rows import RANDOM, Evaluation, Row, Table

_NOTE = (
    "Scores are top-1, in Table 6 top-1 / top-5, in Tables 2 to 4 box / mask AP, in Table 5 box AP, in Tables 7 and 8 "
    "top-1 and, by Mask R-CNN 1x, box AP. docs/reproduction.md says how the protocols were chosen."
)


def compare(table: Table, root: Path) -> str:
    """The table, from the results below `root`; then results without a row, and commands for rows without a result.

    A row has a line for each way in which results differ from the paper's settings: only equal settings are averaged.
    """
    runs = find_runs(root)
    results = read_results(root, runs)
    found = {
        (row, evaluation): _newest(row, evaluation, table, results)
        for row in table.rows
        for evaluation in row.evaluations
    }
    columns = ["row", "paper", "ours", "differences from the paper's settings", "run", "protocol"]
    lines = [f"# {table.title}", "", f"{_NOTE} {table.note}".strip(), ""]
    lines += [_line(columns), _line(["---"] * len(columns))]
    for (row, evaluation), mine in found.items():
        paper = [row.name, " / ".join(f"{score:.1f}" for score in row.paper)]
        lines += [_line([*paper, *cells, evaluation.name]) for cells in _ours(row, evaluation, mine)]
    shown = {result.path for mine in found.values() for result in mine}
    if others := [_why_left_out(result, table) for result in results if result.path not in shown]:
        lines += ["", "## Results that are not in the table", "", *others]
    gaps: dict[tuple[str, ...], list[str]] = {}  # commands to the rows that they fill
    for row in table.rows:
        missing = [e for e in row.evaluations if all(differences(row, e, result) for result in found[row, e])]
        if missing:
            gaps.setdefault(_commands(row, missing, table, root, runs), []).append(row.name)
    if gaps:
        lines += ["", "## Missing", "", "```"]
        for commands, names in gaps.items():
            lines += [f"# {'; '.join(names)}", *(command for command in commands if command not in lines)]
        lines.append("```")
    return "\n".join(lines)


def _newest(row: Row, evaluation: Evaluation, table: Table, results: list[Result]) -> list[Result]:
    """The results of a row; of each run, those of its newest step."""
    mine = [r for r in results if r.name == evaluation.name and row in rows_of(r, table.rows)]
    return [r for r in mine if r.step == max(other.step for other in mine if other.run == r.run)]


def _ours(row: Row, evaluation: Evaluation, mine: list[Result]) -> list[list[str]]:
    """Cells: scores, differences, runs."""
    groups: dict[str, list[Result]] = {}
    for result in mine:
        different = [*accepted(row, result), *differences(row, evaluation, result)]
        groups.setdefault("; ".join(different) or "none", []).append(result)
    return [
        [" / ".join(_mean(row, name, group) for name in evaluation.scores[: len(row.paper)]), different, _runs(group)]
        for different, group in groups.items()
    ] or [["missing", "", ""]]


def _mean(row: Row, name: str, group: list[Result]) -> str:
    """The mean of a score and, for several results, the std (of the sample) and their number."""
    values, layer = [result.scores[name] for result in group if name in result.scores], ""
    if row.best_layer and all(result.layers for result in group):
        values = [max(result.layers.values()) for result in group]
        layer = f" ({', '.join(sorted({max(result.layers, key=result.layers.get) for result in group}))})"
    if not values:
        return "?"
    several = f" ± {statistics.stdev(values):.2f} (n = {len(values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{several}{layer}"


def _runs(results: list[Result]) -> str:
    return "; ".join(sorted({f"{result.run}, step {result.step}" for result in results}))


def _why_left_out(result: Result, table: Table) -> str:
    if result.protocol == AS_IT_IS:
        why = "a detector that this result did not train"
    elif result.settings is None:
        why = "its training run was not found below --runs"
    elif rows := rows_of(result, table.rows):
        protocols = {evaluation.name: None for row in rows for evaluation in row.evaluations}
        other = f"another protocol than its rows', {' and '.join(protocols)}"
        why = "an older step" if result.name in protocols else other
    else:
        why = "its pre-training belongs to no row of this table"
    return f"- {result.name} {next(iter(result.scores.values())):.2f}, {_runs([result])}: {why} ({result.path})"


def _commands(
    row: Row, missing: list[Evaluation], table: Table, root: Path, runs: dict[Path, Settings]
) -> tuple[str, ...]:
    """The evaluations of a row, after its pre-training unless `runs` has one with the row's settings."""
    commands = []
    if row.config == RANDOM:
        run = Path(RANDOM)
    elif folders := [folder for folder, found in runs.items() if not difference(row.settings, found, row.accepted)]:
        run = folders[0]
    else:
        first = next(other for other in table.rows if other.settings == row.settings)  # rows may share a pre-training
        words = f"{first.config} {first.settings['num_epochs']:g}".replace(":", " ").replace("=", " ").split()
        run = root / "_".join(words)
        config = first.config.replace(":", ".py:").removesuffix(":")
        fields = [f"--config.{name}={value}" for name, value in first.fields]
        commands.append(["python", "main.py", f"--config=configs/{config}", *fields, f"--workdir={run}"])
    for evaluation in missing:
        words = ["python", "main.py", f"--config={evaluation.config}", f"--config.data.train={evaluation.train}"]
        words += [f"--config.data.test={evaluation.test}", *evaluation.flags, f"--config.pretrained={run}"]
        words += [f"--workdir={root / run.name}_{evaluation.name.replace(' ', '_')}"]
        commands.append(words)
    return tuple(map(shlex.join, commands))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The finished rows beside the paper's, in Markdown."""

import statistics

from univip_jax.reproduce.rows import TABLES

_MEASURES = ("knn", "probe", "effective_rank", "overlap", "seconds")


def table_lines(table: int, results: list[dict]) -> list[str]:
    """One line per row: the paper's top-1 on ImageNet, and our mean and std over the seeds."""
    paper = {row.config.partition("=")[2]: row for row in TABLES[table].rows}
    seeds = sorted({one["seed"] for one in results})
    lines = [
        f"| Table {table} | paper: linear top-1 | k-NN | probe | effective rank | overlap | s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in dict.fromkeys(one["row"] for one in results):
        mine = [one for one in results if one["row"] == row]
        cells = [_mean([one[measure] for one in mine if measure in one]) for measure in _MEASURES]
        known = paper.get(row)
        cells = [known.name if known else row, f"{known.paper[0]}" if known else "", *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, f"seeds {', '.join(map(str, seeds))}"]


def _mean(values: list[float]) -> str:
    """The mean and, for several values, the std of the sample."""
    if not values:
        return ""
    digits = 2 if max(values) < 1 else 1
    several = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{several}"

"""A table of the paper beside our results: `python -m univip_jax.reproduce --table=1 --runs=runs`.

Reads every `results.json` below --runs and the `config.json` of the run it evaluates, whose field `row` names the row.
Prints Markdown: the paper's number, ours, how our settings differ, and the commands for what is missing.
"""

from absl import flags

from univip_jax.common.cli import define_path, run
from univip_jax.common.errors import UserError
from univip_jax.common.files import at
from univip_jax.reproduce.rows import TABLES
from univip_jax.reproduce.table import compare


def _define_flags() -> None:
    flags.DEFINE_enum("table", None, [str(number) for number in TABLES], "Number of the paper's table.")
    define_path("runs", None, "Folder with runs and evaluations, at any depth.")


def _work() -> None:
    root = at(flags.FLAGS.runs)
    if not root.is_dir():
        raise UserError(f"--runs={root} is not a folder; name the folder that holds your runs and evaluations")
    print(compare(TABLES[int(flags.FLAGS.table)], root))


if __name__ == "__main__":
    run("univip_jax.reproduce", _define_flags, ("table", "runs"), _work, interrupted="run it again")

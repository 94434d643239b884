"""Trains rows of UniVIP's Table 7 or 8, and variants of them, with the same scenes, seeds and budget, and compares.

    python -m benchmarks.scenes --digits --out=scenes --count=4000
    python -m benchmarks.ablation --scenes=scenes/scenes.npz --workdir=runs/ablation --seeds=0,1
        [--rows=b,e] [--variant=e_diagonal:transport.plan=diagonal] [--set=optimizer.lr=0.2,ema.base=0.98]
    python -m benchmarks.ablation --workdir=runs/ablation         # only prints the table of what is finished there

Each row and seed has a folder in --workdir; the same command resumes with the unfinished ones, and another one adds its
rows to the same table, where seeds pair. Needs no TensorFlow. To run two commands side by side, one core each:

    export OMP_NUM_THREADS=1
    export XLA_FLAGS="--xla_disable_hlo_passes=algsimp --xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1"

For the paper's budget run the commands that `python -m univip_jax.reproduce --table=7 --runs=DIR` prints.
"""

import os
import re
from pathlib import Path

from absl import flags

from benchmarks.ablation.table import read_results, table_lines
from configs.common import TABLE7
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.errors import UserError

NAME = "benchmarks.ablation"
# `none` is k0; selective_search is k2 at the budget tiny and k4 at small.
_ROWS = {7: tuple(TABLE7), 8: ("random_views", "naive", "annotated", "selective_search", "k0", "k2", "k4", "k8")}
# Faster on small maps on a CPU, as in demo/__main__.py.
_XLA_FLAGS = "--xla_disable_hlo_passes=algsimp"


def _define_flags() -> None:
    define_path("workdir", None, "Folder with one folder per row and seed.")
    flags.DEFINE_enum("budget", "tiny", ["tiny", "small"], "tiny: digits, on one CPU core; small: photos, on a GPU.")
    flags.DEFINE_enum("table", "7", [str(number) for number in _ROWS], "Number of the paper's table.")
    define_path("scenes", None, "The scenes.npz of python -m benchmarks.scenes; without it nothing is trained.")
    flags.DEFINE_list("rows", None, "Only these rows of the table; `--rows=`: none.")
    flags.DEFINE_multi_string("variant", [], "ROW_NAME:FIELD=VALUE[,...]: the row with other config fields, as well.")
    flags.DEFINE_list("seeds", ["0"], "Seeds of networks, order and crops.")
    flags.DEFINE_string("set", "", "Config fields that override the budget's in every row, e.g. optimizer.lr=0.2.")
    flags.DEFINE_string("reference", "", "Row or variant from which the others are subtracted; b, else the first.")


def _row_of(variant: str) -> str:
    """The row of ROW_NAME, or nothing."""
    rows = [row for row in _ROWS[int(flags.FLAGS.table)] if variant.startswith(f"{row}_")]
    return max(rows, key=len, default="")


def _check_flags() -> None:
    args = flags.FLAGS
    rows = _ROWS[int(args.table)]
    if unknown := set(args.rows or ()) - set(rows):
        raise flags.Error(f"--rows={','.join(sorted(unknown))}: choose from {','.join(rows)}")
    if wrong := [seed for seed in args.seeds if not seed.isdecimal()]:
        raise flags.Error(f"--seeds={wrong[0]} is not a number")
    for variant in args.variant:
        name, _, changes = variant.partition(":")
        if not _row_of(name) or not changes or not re.fullmatch(r"[\w.-]+", name):
            raise flags.Error(f"--variant={variant}: give ROW_NAME:FIELD=VALUE, e.g. e_lr:optimizer.lr=0.2")


def _train() -> None:
    args = flags.FLAGS
    if args.budget != "small":
        os.environ.setdefault("XLA_FLAGS", _XLA_FLAGS)  # before JAX is imported
    from benchmarks.ablation.budgets import parse_changes, row_config
    from benchmarks.ablation.row import UNTRAINED, run_row
    from benchmarks.scenes.packed import unpack

    table, packed, common = int(args.table), unpack(Path(args.scenes)), parse_changes(args.set)
    rows = _ROWS[table] if args.rows is None else args.rows
    wanted = [(UNTRAINED, _ROWS[table][0], {})] + [(row, row, {}) for row in rows]
    for name, _, changes in (variant.partition(":") for variant in args.variant):
        wanted.append((name, _row_of(name), parse_changes(changes)))
    configs = [(name, row_config(args.budget, table, row, int(seed), common | changes))
               for seed in args.seeds for name, row, changes in wanted]  # fmt: skip
    for name, config in configs:  # all are made: a wrong field ends before anything is trained
        run_row(config, packed, Path(args.workdir) / f"table{table}_{name}_seed{config.seed}", name)
    _print_table()


def _print_table() -> None:
    args = flags.FLAGS
    results = read_results(Path(args.workdir), int(args.table))
    if not results:
        raise UserError(f"{args.workdir} has no finished row of Table {args.table}: give --scenes to train some")
    print("\n".join(table_lines(int(args.table), results, args.reference)), flush=True)


if __name__ == "__main__":
    run_command(
        NAME,
        _define_flags,
        ("workdir",),
        lambda: _train() if flags.FLAGS.scenes else _print_table(),
        check=_check_flags,
        interrupted="the same command resumes",
    )

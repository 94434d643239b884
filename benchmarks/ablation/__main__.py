"""Trains the rows of UniVIP's Table 7 or 8 with the same scenes, seeds and budget, and prints the table.

    python -m benchmarks.scenes --train=imagenette128/train --test=imagenette128/val --out=scenes
    python -m benchmarks.ablation --scenes=scenes/scenes.npz --workdir=runs/ablation [--budget=tiny] [--table=7]
        [--seeds=0,1] [--rows=a,e] [--set=optimizer.lr=0.2,ema.base=0.98]

Each row and seed has a folder in --workdir; the same command resumes with the unfinished ones. Needs no TensorFlow.
For the paper's budget run the commands that `python -m univip_jax.reproduce --table=7 --runs=DIR` prints.
"""

import os
from pathlib import Path

from absl import flags

from configs.common import TABLE7
from univip_jax.common.cli import run as run_command

NAME = "benchmarks.ablation"
# One row of each config: none is k0, k4 is selective_search.
_ROWS = {7: tuple(TABLE7), 8: ("random_views", "naive", "annotated", "selective_search", "k0", "k2", "k8")}
# Faster on small maps on a CPU, as in demo/__main__.py.
_XLA_FLAGS = "--xla_disable_hlo_passes=algsimp"


def _define_flags() -> None:
    flags.DEFINE_string("workdir", None, "Folder with one folder per row and seed.")
    flags.DEFINE_enum("budget", "tiny", ["tiny", "small"], "For 2 CPU cores, or for one H200.")
    flags.DEFINE_enum("table", "7", [str(number) for number in _ROWS], "Number of the paper's table.")
    flags.DEFINE_string("scenes", None, "The scenes.npz of python -m benchmarks.scenes.")
    flags.DEFINE_list("rows", [], "Only these rows of the table.")
    flags.DEFINE_list("seeds", ["0"], "Seeds of networks, order, crops and augmentation.")
    flags.DEFINE_list("set", [], "Config fields that override the budget's, e.g. optimizer.lr=0.2.")


def _check_flags() -> None:
    args = flags.FLAGS
    if unknown := set(args.rows) - set(_ROWS[int(args.table)]):
        raise flags.Error(f"--rows={','.join(sorted(unknown))}: choose from {','.join(_ROWS[int(args.table)])}")
    if wrong := [seed for seed in args.seeds if not seed.isdecimal()]:
        raise flags.Error(f"--seeds={wrong[0]} is not a number")
    if wrong := [change for change in args.set if "=" not in change]:
        raise flags.Error(f"--set={wrong[0]} has no value; give e.g. --set=optimizer.lr=0.2")


def _work() -> None:
    args = flags.FLAGS
    table, root = int(args.table), Path(args.workdir)
    if args.budget == "tiny":
        os.environ.setdefault("XLA_FLAGS", _XLA_FLAGS)  # before JAX is imported
    from benchmarks.ablation.budgets import row_config
    from benchmarks.ablation.row import run_row, untrained
    from benchmarks.ablation.table import table_lines
    from benchmarks.scenes.packed import unpack

    changes = dict(change.split("=", 1) for change in args.set)
    packed, results = unpack(Path(args.scenes)), []
    for seed in map(int, args.seeds):
        results.append(untrained(row_config(args.budget, table, _ROWS[table][0], seed, changes), packed))
        for row in args.rows or _ROWS[table]:
            config, name = row_config(args.budget, table, row, seed, changes), f"table{table}_{row}_seed{seed}"
            results.append(run_row(config, packed, root / name, row))
            print("\n".join(table_lines(table, results)), flush=True)


if __name__ == "__main__":
    run_command(
        NAME, _define_flags, ("workdir", "scenes"), _work, check=_check_flags, interrupted="the same command resumes"
    )

"""A run on one page: `python -m univip_jax.report --run=RUN` writes RUN/report.html. The run may still be training.

RUN may also be the --workdir of a sweep (`main.py --steps=... --seeds=...`): the page has its scores over the steps.
With two runs or more, `--run=A --run=B --out=FILE` sets them side by side.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # an accelerator's memory belongs to the run, which may still be training

from absl import flags

from univip_jax.common.cli import define_path, run
from univip_jax.common.files import at


def _define_flags() -> None:
    define_path("run", [], "Folder of a run or a sweep. Given twice or more: the runs side by side, on another page.")
    define_path("out", "compare.html", "The page of several runs. The page of one is report.html in its folder.")
    flags.DEFINE_integer(
        "photos", 200, "Photos of a pre-training run's data set to show as the network sees them; 0: none.", 0
    )


def _check() -> None:
    given, several = flags.FLAGS, len(flags.FLAGS.run) > 1
    if several and given["photos"].present:
        raise flags.Error("--photos is for the page of one --run, not for several")
    if not several and given["out"].present:
        raise flags.Error("--out is for several runs: give --run twice; the page of one is report.html in its folder")


def _work() -> None:
    # Late: matplotlib looks for a home folder when it is imported.
    from univip_jax.report.compare import write_comparison
    from univip_jax.report.page import write_report

    runs = [at(run) for run in flags.FLAGS.run]
    if len(runs) > 1:
        print(write_comparison(runs, at(flags.FLAGS.out)))
        return
    page, warnings = write_report(runs[0], photos=flags.FLAGS.photos)
    for line in warnings:
        print(f"warning: {line}")
    print(page)


if __name__ == "__main__":
    run("univip_jax.report", _define_flags, ("run",), _work, check=_check, interrupted="nothing was written")

"""A run on one page: `python -m univip_jax.report --run=RUN` writes RUN/report.html. The run may still be training.

RUN may also be the --workdir of a sweep (`main.py --steps=... --seeds=...`): the page has its scores over the steps.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # an accelerator's memory belongs to the run, which may still be training

from pathlib import Path

from absl import flags

from univip_jax.common.cli import define_path, run


def _define_flags() -> None:
    define_path("run", None, "Folder of a run or a sweep.")
    flags.DEFINE_integer(
        "photos", 200, "Photos of a pre-training run's data set to show as the network sees them; 0: none.", 0
    )


def _work() -> None:
    from univip_jax.report.page import write_report  # late: matplotlib looks for a home folder when it is imported

    page, warnings = write_report(Path(flags.FLAGS.run), photos=flags.FLAGS.photos)
    for line in warnings:
        print(f"warning: {line}")
    print(page)


if __name__ == "__main__":
    run("univip_jax.report", _define_flags, ("run",), _work, interrupted="nothing was written")

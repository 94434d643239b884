"""A run on one page, RUN/report.html: `python -m univip_jax.report --run=RUN`. The run may still be training."""

from pathlib import Path

from absl import flags

from univip_jax.common.cli import run
from univip_jax.report.page import write_report


def _work() -> None:
    page, warnings = write_report(Path(flags.FLAGS.run))
    for line in warnings:
        print(f"warning: {line}")
    print(page)


if __name__ == "__main__":
    run(
        "univip_jax.report",
        lambda: flags.DEFINE_string("run", None, "The run's folder."),
        ("run",),
        _work,
        interrupted="nothing was written",
    )

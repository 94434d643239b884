"""What is due after each step, as a table."""

import pytest

from univip_jax.run.cadence import Cadence

CADENCE = Cadence(report=3, save=4, evaluate=6, total=13)


@pytest.mark.parametrize(
    ("step", "stopping", "due"),
    [  # report, diagnose, save, evaluate, stop
        (1, False, ""),
        (3, False, "report"),
        (4, False, "report diagnose save"),
        (6, False, "report save evaluate"),
        (12, False, "report diagnose save evaluate"),
        (13, False, "report diagnose save stop"),
        (1, True, "report save stop"),
        (4, True, "report diagnose save stop"),
        (6, True, "report save stop"),
        (13, True, "report diagnose save stop"),
    ],
)
def test_cadence_of_a_step(step, stopping, due):
    found = CADENCE.due(step, stopping=stopping)
    assert " ".join(name for name, value in found._asdict().items() if value) == due


def test_cadence_evaluates_multiples_only_and_never_at_zero():
    assert [step for step in range(20) if CADENCE.evaluates(step)] == [6, 12, 18]
    assert not any(CADENCE._replace(evaluate=0).evaluates(step) for step in range(20))

"""`python -m data_prep` in the process of the tests."""

from functools import partial

import pytest
from absl.testing import flagsaver

from data_prep import __main__ as command
from univip_jax.common import cli


def exit_code(*given: object, beam_options: tuple[str, ...] = ()) -> int:
    """Exit code of the command with these flags; Beam's options are those after a bare `--`."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as error:
        command._define()
        check = partial(command._check_flags, beam_options)
        cli.parse_flags("data_prep", [], check)(["data_prep", *map(str, given)])
        cli.call("python -m data_prep", partial(command._run, beam_options), interrupted="run it again")
    return error.value.code

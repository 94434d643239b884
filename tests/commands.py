"""Parses commands with the flags of the program, without running it: `parse(["python", "-m", "data_prep", ...])`.

The commands share flags, so this needs a process of its own: JSON lists of words on stdin, a list of complaints out.
"""

import argparse
import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

from absl import app, flags


class Parsed(Exception):
    """Raised where the program would begin its work."""


def _parse_and_stop(main, argv=None, flags_parser=None):
    (flags_parser or flags.FLAGS)(sys.argv)
    raise Parsed


def parse(words: list[str]) -> str:
    """What the program says against the command, or nothing."""
    _, *words = words
    if "python" in words:  # a command for the supervisor, after --
        place = words.index("python")
        if complaint := parse(words[place:]):
            return complaint
    for name in set(flags.FLAGS) - _OF_ABSL:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    sys.argv, complaint = [words[0], *words[1:]], io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            if words[0] == "-m":
                sys.argv = words[1:]
                runpy.run_module(words[1], run_name="__main__")
            else:
                runpy.run_path(words[0], run_name="__main__")
    except Parsed:
        return ""
    except (SystemExit, flags.Error, ImportError) as error:
        return complaint.getvalue() or f"{type(error).__name__}: {error}"
    return "did not parse its flags"


if __name__ == "__main__":
    sys.path.insert(0, "")
    app.run = _parse_and_stop
    parse_args = argparse.ArgumentParser.parse_args

    def _parse_args_and_stop(self, *arguments):
        parse_args(self, *arguments)
        raise Parsed

    argparse.ArgumentParser.parse_args = _parse_args_and_stop

    from univip_jax.common import buckets  # late: its folder is on the path by now

    buckets._client, buckets.open_address = lambda scheme: None, Path  # `make test` has no packages for buckets
    _OF_ABSL = set(flags.FLAGS)
    print(json.dumps([parse(command) for command in json.load(sys.stdin)]))

"""Detection and segmentation with our weights in Detectron2: configs of the paper's protocol, and a check of yours.

python -m univip_jax.detectron2 --write=DIR --weights=FILE.pkl [--depth=50] [--width=1]
python -m univip_jax.detectron2 --check=CONFIG.yaml [--weights=FILE.pkl]

The check names what Detectron2 would accept without a word although it costs points. Neither needs Detectron2.
"""

import sys
from pathlib import Path

from absl import app, flags

from univip_jax.detectron2.check import Finding, check_config
from univip_jax.detectron2.configs import write_configs
from univip_jax.detectron2.pickle_file import read_pkl
from univip_jax.errors import UserError


def _report(findings: list[Finding]) -> int:
    """Prints findings, one a line; 1 where one is an error."""
    for finding in findings:
        print(finding)
    if not findings:
        print("nothing found that would cost points")
    return int(any(finding.severity == "error" for finding in findings))


def _write(folder: str, weights: str, depth: int, width: float) -> int:
    """Writes the configs and, where the weights are here already, checks that they load."""
    here = Path(weights).is_file()
    paths = write_configs(folder, str(Path(weights).resolve()) if here else weights, depth=depth, width=width)
    print(*paths, sep="\n")
    if not here:
        print(f"{weights} is not on this machine: whether it fits was not checked")
        return 0
    return _report(check_config(paths[0], read_pkl(weights)))


def _define_flags() -> None:
    flags.DEFINE_string("check", None, "Name what in this Detectron2 YAML config would cost points.")
    flags.DEFINE_string("write", None, "Folder for configs of the 1x, 2x and 6x schedules; created if missing.")
    flags.DEFINE_string(
        "weights", None, "The exported .pkl; --check then also says which of its arrays would not load."
    )
    flags.DEFINE_integer("depth", 50, "Of the ResNet, for --write.")
    flags.DEFINE_float("width", 1.0, "Of the ResNet, for --write.")


def _parse(argv: list[str]) -> list[str]:
    """Flags, with misuse as one line and exit code 2."""
    try:
        rest = flags.FLAGS(argv)[1:]
        if rest:
            raise flags.Error(f"unexpected argument {rest[0]!r}: flags look like --check=CONFIG.yaml")
        if bool(flags.FLAGS.check) == bool(flags.FLAGS.write):
            raise flags.Error("give --check=CONFIG.yaml or --write=DIR")
        if flags.FLAGS.write and not flags.FLAGS.weights:
            raise flags.Error("--write=DIR needs --weights=FILE.pkl")
    except flags.Error as error:
        print(f"python -m univip_jax.detectron2: {error}; see --help", file=sys.stderr)
        sys.exit(2)
    return argv[:1]


def main(_: list[str]) -> None:
    """Runs the command; a UserError becomes one line on stderr and exit code 1."""
    given = flags.FLAGS
    try:
        if given.write:
            sys.exit(_write(given.write, given.weights, given.depth, given.width))
        sys.exit(_report(check_config(given.check, read_pkl(given.weights) if given.weights else None)))
    except UserError as error:
        print(f"python -m univip_jax.detectron2: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    _define_flags()
    app.run(main, flags_parser=_parse)

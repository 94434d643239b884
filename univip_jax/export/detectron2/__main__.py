"""Detection and segmentation with our weights in Detectron2: configs of the paper's protocol, and a check of yours.

python -m univip_jax.export.detectron2 --write=DIR --weights=FILE.pkl [--depth=50] [--width=1]
python -m univip_jax.export.detectron2 --check=CONFIG.yaml [--weights=FILE.pkl]

The check names what Detectron2 would accept without a word although it costs points. Neither needs Detectron2.
"""

from pathlib import Path

from absl import flags

from univip_jax.common.cli import run
from univip_jax.common.errors import UserError
from univip_jax.export.detectron2.check import Finding, check_config
from univip_jax.export.detectron2.configs import write_configs
from univip_jax.weights.detectron2 import depth_of, width_of
from univip_jax.weights.pickle_file import read_pkl


def _report(findings: list[Finding]) -> int:
    """Prints findings, one a line; 1 where one is an error."""
    for finding in findings:
        print(finding)
    if not findings:
        print("nothing found that would cost points")
    return int(any(finding.severity == "error" for finding in findings))


def _write(folder: Path, weights: str, depth: int | None, width: float | None) -> int:
    """Writes the configs; depth and width are those of the weights where they are on this machine."""
    if not Path(weights).is_file():
        print(*write_configs(folder, weights, depth=depth or 50, width=width or 1.0), sep="\n")
        print(f"{weights} is not on this machine: whether it fits was not checked")
        return 0
    arrays = read_pkl(weights)
    found_depth, found_width = depth_of(arrays), width_of(arrays)
    if depth not in (None, found_depth) or width not in (None, found_width):
        raise UserError(f"{weights} is a ResNet-{found_depth} of width {found_width:g}: leave out --depth and --width")
    paths = write_configs(folder, str(Path(weights).resolve()), depth=found_depth, width=found_width)
    print(*paths, sep="\n")
    return _report(check_config(paths[0], arrays, weights))


def _define_flags() -> None:
    flags.DEFINE_string("check", None, "Name what in this Detectron2 YAML config would cost points.")
    flags.DEFINE_string("write", None, "Folder for configs of the 1x, 2x and 6x schedules; created if missing.")
    flags.DEFINE_string(
        "weights", None, "The exported .pkl; --check then also says which of its arrays would not load."
    )
    flags.DEFINE_integer("depth", None, "Of the ResNet, for --write where the weights are elsewhere; 50 by default.")
    flags.DEFINE_float("width", None, "Likewise; 1 by default.")


def _check_flags() -> None:
    if bool(flags.FLAGS.check) == bool(flags.FLAGS.write):
        raise flags.Error("give --check=CONFIG.yaml or --write=DIR")
    if flags.FLAGS.write and not flags.FLAGS.weights:
        raise flags.Error("--write=DIR needs --weights=FILE.pkl")


def _work() -> int:
    given = flags.FLAGS
    if given.write:
        return _write(Path(given.write), given.weights, given.depth, given.width)
    return _report(check_config(given.check, read_pkl(given.weights) if given.weights else None, given.weights))


if __name__ == "__main__":
    run("univip_jax.export.detectron2", _define_flags, (), _work, check=_check_flags, interrupted="run it again")

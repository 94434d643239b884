"""Configs of the paper's detection protocol for Detectron2, and a check of your own config.

python -m univip_jax.export.detectron2 --write=DIR --weights=FILE.pkl
python -m univip_jax.export.detectron2 --check=CONFIG.yaml [--weights=FILE.pkl]

The check names what Detectron2 would accept silently although it costs points. Neither needs Detectron2.
"""

from absl import flags

from univip_jax.common.cli import define_path, run
from univip_jax.common.files import at
from univip_jax.export.detectron2.check import check_config
from univip_jax.export.detectron2.configs import named_in_config, read_exported, write_configs


def _define_flags() -> None:
    define_path("check", None, "Detectron2 YAML config, in which to name what would cost points.")
    define_path("write", None, "Folder for the configs of the 1x, 2x and 6x schedules; created if missing.")
    define_path("weights", None, "The exported .pkl; --check then compares depth and width with it.")


def _check_flags() -> None:
    given = flags.FLAGS
    if bool(given.check) == bool(given.write) or (given.write and not given.weights):
        raise flags.Error("give --check=CONFIG.yaml, or --write=DIR with --weights=FILE.pkl")


def _work() -> int:
    given = flags.FLAGS
    weights = at(given.weights) if given.weights else None
    if given.write:
        print(*write_configs(at(given.write), named_in_config(weights), read_exported(weights)), sep="\n")
        return 0
    findings = check_config(at(given.check), weights)
    print(*findings or ["nothing found that would cost points"], sep="\n")
    return int(any(finding.severity == "error" for finding in findings))


if __name__ == "__main__":
    run("univip_jax.export.detectron2", _define_flags, (), _work, check=_check_flags, interrupted="run it again")

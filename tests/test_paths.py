"""Each flag and each field of a config that holds a path takes `~` and variables."""

import ast
import importlib
from pathlib import Path

import pytest

from univip_jax.common.errors import Misuse
from univip_jax.config import PATHS, expand_paths, flatten

ROOT = Path(__file__).parents[1]
# Flags and fields of text that are no paths: what is not here is defined by cli.define_path, or named in PATHS.
FLAGS = {"dataset", "split", "prefix", "licence", "steps", "seeds", "coordinator_address"}
FLAGS |= {"devices", "tpu", "backbone", "dtype", "rows", "variant", "set", "reference"}  # of benchmarks
FLAGS |= {"parts", "trials", "batches", "methods", "frameworks", "experiments", "compile_mode", "canvas"}
EXPANDED = {"results"}  # a list, expanded where it is used
FIELDS = {"task", "row", "allow_changes", "views.crop", "views.interpolation", "views.proposals", "views.pick"}
FIELDS |= {"augment.color", "augment.blur_kernel", "augment.instances", "model.backbone", "model.stem", "model.init"}
FIELDS |= {"model.predictors", "model.running_stats", "model.dtype", "transport.plan", "transport.marginals"}
FIELDS |= {"optimizer.name", "protocol", "optimizer", "norm", "schedule", "crop", "head", "detector.box_head", "dtype"}
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if "def get_config" in path.read_text())


def text_flags():
    """Names of the flags of text, by file."""
    found = {}
    for room in ("main.py", "data_prep", "univip_jax", "demo", "benchmarks", "tests/soak"):
        for path in sorted((ROOT / room).rglob("*.py")) or [ROOT / room]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                    ("DEFINE_string", "DEFINE_multi_string", "DEFINE_list")
                ):
                    found[node.args[0].value] = path
    return found


def test_each_flag_of_text_is_a_path_or_known_to_be_none():
    found = text_flags()
    assert {"dataset", "steps", "results"} <= found.keys()
    assert found.keys() <= FLAGS | EXPANDED, found.keys() - FLAGS - EXPANDED


@pytest.mark.parametrize("name", CONFIGS)
def test_each_field_of_text_is_a_path_or_known_to_be_none(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    texts = {field for field, value in flatten(config).items() if isinstance(value, str)}
    assert texts <= {*PATHS, *FIELDS}, texts - {*PATHS, *FIELDS}


def test_expand_paths_replaces_the_paths_of_a_config_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = importlib.import_module("configs.svm").get_config()
    before = flatten(config)
    config.data.train, config.data.test, config.pretrained = "~/VOC2007:trainval", "voc/2007:test", "random"
    expand_paths(config)
    expected = {"data.train": "/home/ada/VOC2007:trainval", "data.test": "voc/2007:test", "pretrained": "random"}
    assert flatten(config) == before | expected
    config.data.test = "$NO_SUCH/x"
    with pytest.raises(Misuse, match=r"--config\.data\.test=\$NO_SUCH/x: the variable NO_SUCH has no value"):
        expand_paths(config)

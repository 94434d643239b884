"""Files of whole detectors: ours, damaged ones, and those that hold something else."""

import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.weights.random_detector import FULL, detector_variables, every_net
from tests.weights.random_weights import SMALL, assert_equal, variables_of
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.weights.detector_file import read_detector, write_detector
from univip_jax.weights.names import to_flat

VARIABLES = detector_variables(FULL)
FACTS = {"categories": [{"id": 7, "name": "π"}], "detector": {"rpn_match": [0.3, 0.7]}, "step": 12}


@every_net
def test_a_file_of_ours_gives_back_the_network_the_values_and_the_facts(net, tmp_path):
    variables = detector_variables(net)
    write_detector(tmp_path / "detector.safetensors", net, variables, FACTS)
    found = read_detector(tmp_path / "detector.safetensors")
    assert (found.net, found.facts) == (net, FACTS)
    assert_equal(found.variables, variables)


@pytest.mark.parametrize("stem", ["small", "cifar"])
def test_a_file_of_ours_says_its_stem(stem, tmp_path):
    net = FULL.clone(backbone=FULL.backbone.clone(stem=stem))
    write_detector(tmp_path / "d", net, detector_variables(net), {})
    assert read_detector(tmp_path / "d").net == net


def test_readers_of_backbones_take_the_one_of_a_detector(tmp_path):
    write_detector(tmp_path / "d", FULL, VARIABLES, FACTS)
    encoder = load_encoder(tmp_path / "d")
    assert encoder.backbone == FULL.backbone
    assert_equal(encoder.variables, {kind: tree["backbone"] for kind, tree in VARIABLES.items()})


def spoiled(**changes) -> dict:
    state = to_flat(VARIABLES)
    for name, value in changes.items():
        state.pop(name, None)
        state |= {} if value is None else {name: value}
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            to_flat(variables_of(SMALL)),
            r"no detector: no params/backbone/conv1/kernel or .* or backbone\.body\..*, but batch_stats/bn1/mean",
        ),
        (spoiled(**{"params/backbone/layer1_0/conv1/kernel": None}), r"but lacks layer1\.0\.conv1\.weight"),
        (spoiled(**{"params/mask/conv3/kernel": None}), "4conv1fc and 3 classes, but lacks params/mask/conv3/kernel: "),
        (spoiled(**{"params/box/fc2/bias": np.zeros(16)}), "also holds params/box/fc2/bias: another architecture"),
        (spoiled(**{"params/proposals/conv/bias": np.zeros((8, 1))}), r"no params/proposals/conv/bias \[n\]: it holds"),
        (
            spoiled(**{"params/box/fc1/kernel": np.zeros((9 * 8, 16))}),
            r"params/box/fc1/kernel is \[72, 16\]: another architecture",
        ),
        (
            spoiled(**{"batch_stats/pyramid/output5_norm/var": np.full(8, -1.0)}),
            "batch_stats/pyramid/output5_norm/var holds values that are .* negative variances",
        ),
        (spoiled(**{"params/box/logits/bias": np.full(4, np.nan)}), "params/box/logits/bias holds .* not finite"),
    ],
)
def test_what_is_no_whole_detector_is_refused_by_name(state, message, tmp_path):
    save_file(state, tmp_path / "d.safetensors")
    with pytest.raises(UserError, match=message) as error:
        read_detector(tmp_path / "d.safetensors")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    write_detector(whole, FULL, VARIABLES, FACTS)
    cut.write_bytes(whole.read_bytes()[:-100])
    for path, message in (
        (cut, "is no readable safetensors file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "is a folder: name the file of weights in it"),
    ):
        with pytest.raises(UserError, match=f"{re.escape(str(path))} {message}"):
            read_detector(path)
    for facts in ("[1]", "{"):
        save_file(load_file(whole), cut, {"stem": "imagenet", "facts": facts})
        with pytest.raises(UserError, match=r"cut\.safetensors: the facts in its metadata are no JSON object"):
            read_detector(cut)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    write_detector(tmp_path / "d", FULL, VARIABLES, FACTS)
    with pytest.raises(ValueError, match="JSON"):
        write_detector(tmp_path / "d", FULL, VARIABLES, {"step": float("nan")})
    assert read_detector(tmp_path / "d").facts == FACTS
    with pytest.raises(UserError, match=r"none.d cannot be written \(No such file or directory\)"):
        write_detector(tmp_path / "none" / "d", FULL, VARIABLES, FACTS)

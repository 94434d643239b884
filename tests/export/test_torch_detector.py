"""Exported detectors in PyTorch: every output from the file's arrays beside ours."""

import pytest
import torch

from tests.weights.random_detector import FULL, PLAIN, detector_variables
from tests.weights.random_weights import assert_equal
from univip_jax.common.errors import UserError
from univip_jax.export import detectors
from univip_jax.export.detectors import DETECTORS, prove_detector
from univip_jax.weights.detector_file import DetectorFile, read_detector
from univip_jax.weights.detector_names import to_detectron2_detector

STRIDED = PLAIN.clone(backbone=PLAIN.backbone.clone(stride_in_1x1=True), norm=True, masks=True)


@pytest.fixture(autouse=True)
def small_photos(monkeypatch):
    monkeypatch.setattr(detectors, "SIZES", ((64, 96),))


def prove(net, kind, tmp_path):
    file = DetectorFile(net, detector_variables(net), {})
    path = tmp_path / f"d{DETECTORS[kind].suffix}"
    DETECTORS[kind].write(path, DETECTORS[kind].state(file.variables), {})
    return prove_detector(file, kind, path, "run")


@pytest.mark.parametrize(
    ("net", "kind"),
    [
        (FULL, "detectron2_detector"),
        (FULL, "torchvision_detector"),
        (PLAIN, "torchvision_detector"),
        (STRIDED, "detectron2_detector"),
    ],
)
def test_every_output_is_ours(net, kind, tmp_path):
    report = prove(net, kind, tmp_path)
    assert report["consumer"].keys() == {"transformers", "torch"} and not report["not_installed"]
    (differences,) = report["differences"].values()
    stages = [f"res{n}" for n in (2, 3, 4, 5)] + [f"P{n}" for n in (2, 3, 4, 5, 6)]
    heads = ["rpn_logits", "rpn_deltas", "classes", "boxes"] + ["masks"] * net.masks
    assert differences.keys() == {*stages, *heads} and 0 < max(differences.values()) < 1e-5


def test_another_output_is_refused(tmp_path, monkeypatch):
    outputs, name = detectors.torch_detector_outputs, "roi_heads.mask_head.deconv.weight"

    def mirrored(net, backbone, state, names):
        return outputs(net, backbone, state | {name: state[name][:, :, ::-1].copy()}, names)

    monkeypatch.setattr(detectors, "torch_detector_outputs", mirrored)
    with pytest.raises(UserError, match=r"transformers's outputs from the file differ by .* nothing was written"):
        prove(FULL, "detectron2_detector", tmp_path)


def test_a_checkpoint_of_detectron2s_trainer_is_read(tmp_path):
    """`model_final.pth`: the network under `model`, beside an optimizer, a schedule and a counter."""
    variables = detector_variables(FULL)
    network = {name: torch.tensor(value) for name, value in to_detectron2_detector(variables).items()}
    network["backbone.fpn_output2.norm.num_batches_tracked"] = torch.tensor(7)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], 0.1, momentum=0.9).state_dict()
    torch.save({"model": network, "optimizer": optimizer, "iteration": 89999}, tmp_path / "model_final.pth")
    found = read_detector(tmp_path / "model_final.pth")
    assert found.net == FULL
    assert_equal(found.variables, variables)

"""Detectors of other projects: their names, layouts and pixels, against what their sources say.

Detectron2: modeling/backbone/{resnet,fpn}.py, modeling/proposal_generator/rpn.py, modeling/roi_heads/*.py,
checkpoint/detection_checkpoint.py, config/defaults.py. torchvision: models/detection/{mask_rcnn,faster_rcnn,rpn}.py.
"""

import pickle
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.random_detector import FULL, PLAIN, detector_variables, every_net
from tests.weights.random_weights import assert_equal
from univip_jax.augment import IMAGENET_MEAN, IMAGENET_STD
from univip_jax.common.errors import UserError
from univip_jax.models.mask_rcnn import MaskRCNN
from univip_jax.models.resnet import ResNet
from univip_jax.weights.detector_file import DETECTOR, holds_detector, read_detector
from univip_jax.weights.detector_names import to_detectron2_detector, to_torchvision_detector
from univip_jax.weights.files import read_backbone
from univip_jax.weights.imported import import_detector
from univip_jax.weights.pickle_file import write_pkl

VARIABLES = detector_variables(FULL)
CONV, NORM = "backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.stem.conv1.norm.running_var"


def save(state: dict, path) -> None:
    write_pkl(path, state) if path.suffix == ".pkl" else save_file(state, path)


@every_net
@pytest.mark.parametrize("write", [to_detectron2_detector, to_torchvision_detector])
def test_there_and_back_is_bit_identical(net, write, tmp_path):
    variables = detector_variables(net)
    path = tmp_path / ("d.pkl" if write is to_detectron2_detector else "d.safetensors")
    save(write(variables), path)
    found = read_detector(path)
    assert (found.net, found.facts) == (net, {}) and holds_detector(path)
    assert_equal(found.variables, variables)


def test_layouts_and_classes_by_hand():
    """One weight of every layer whose axes or classes are not those of a plain convolution."""
    box, mask = VARIABLES["params"]["box"], VARIABLES["params"]["mask"]
    d2, tv = to_detectron2_detector(VARIABLES), to_torchvision_detector(VARIABLES)
    # Row 2, column 5, channel 3 of a region of 7 x 7 x 8.
    theirs, ours = 3 * 49 + 2 * 7 + 5, (2 * 7 + 5) * 8 + 3
    assert d2["roi_heads.box_head.fc1.weight"][11, theirs] == box["fc1"]["kernel"][ours, 11]
    assert tv["roi_heads.box_head.5.weight"][11, theirs] == box["fc1"]["kernel"][ours, 11]
    assert d2["roi_heads.mask_head.deconv.weight"][3, 5, 0, 1] == mask["deconv"]["kernel"][0, 1, 3, 5]
    # Class 2 of 3 is number 3 in torchvision, whose background is 0 and ours 3.
    assert d2["roi_heads.box_predictor.cls_score.bias"][2] == box["logits"]["bias"][2]
    assert tv["roi_heads.box_predictor.cls_score.bias"][3] == box["logits"]["bias"][2]
    assert tv["roi_heads.box_predictor.cls_score.bias"][0] == box["logits"]["bias"][3]
    assert tv["roi_heads.box_predictor.bbox_pred.weight"][13, 4] == box["deltas"]["kernel"][4, 9]
    assert tv["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, *mask["logits"]["bias"]]


def test_names_are_those_of_detectron2s_baseline():
    """Mask R-CNN R50-FPN as its model zoo has it, counted by hand."""
    net = MaskRCNN(ResNet("resnet50", 0.0625), 80, channels=4, head_width=8, box_head="2fc", norm=False)
    names = set(to_detectron2_detector(detector_variables(net)))
    wanted = [f"backbone.fpn_{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)]
    wanted += [f"proposal_generator.rpn_head.{name}" for name in ("conv", "objectness_logits", "anchor_deltas")]
    wanted += [f"roi_heads.{name}" for name in ("box_head.fc1", "box_head.fc2")]
    wanted += [f"roi_heads.box_predictor.{name}" for name in ("cls_score", "bbox_pred")]
    wanted += [f"roi_heads.mask_head.{name}" for name in ("mask_fcn1", "mask_fcn4", "deconv", "predictor")]
    assert {f"{name}.{kind}" for name in wanted for kind in ("weight", "bias")} <= names
    assert CONV in names and "backbone.bottom_up.res5.2.conv3.norm.running_mean" in names
    assert len(names) == 5 * 53 + 2 * (8 + 3 + 2 + 2 + 6)


def caffe_like(variables: dict) -> dict:
    """The detector as if it had learned on BGR pixels less the mean, of which it computes the same."""
    state = to_detectron2_detector(variables)
    # Channels of a kernel of random signs, times the norm, see pixels of any scale: only the variance tells.
    state[CONV] = np.ascontiguousarray((state[CONV] / (255 * IMAGENET_STD)[:, None, None])[:, ::-1])
    return state


def normalised(photo: np.ndarray) -> np.ndarray:
    return (photo / 255 - IMAGENET_MEAN) / IMAGENET_STD


def test_a_detector_of_raw_pixels_needs_its_stride_and_computes_the_same(tmp_path):
    """Its first convolution, by hand: on BGR in 0..255 less the mean; converted, on our pixels."""
    variables = detector_variables(PLAIN)
    path = tmp_path / "zoo.pkl"
    # As the model zoo's files: no heuristics, and a counter that nobody needs.
    state = caffe_like(variables) | {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(UserError, match=r"zoo\.pkl learned on BGR .*--detector_stride=1x1 --workdir=RUN makes a run"):
        read_detector(path)
    for stride in ("1x1", "3x3"):
        found = read_detector(path, stride)
        assert found.net == PLAIN.clone(backbone=PLAIN.backbone.clone(stride_in_1x1=stride == "1x1"))
    photo = np.random.default_rng(0).integers(0, 256, (7, 7, 3)).astype(np.float32)
    theirs = np.einsum("ochw,hwc->o", state[CONV], (photo - 255 * IMAGENET_MEAN)[..., ::-1])
    ours = np.einsum("hwco,hwc->o", found.variables["params"]["backbone"]["conv1"]["kernel"], normalised(photo))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    with pytest.raises(UserError, match=r"zoo\.pkl is no Detectron2 weights file"):
        read_backbone(path)  # which would take BGR for RGB

    line = import_detector(path, tmp_path / "run", "1x1")
    assert line == "resnet50 of width 0.0625, 2fc, 2 classes, without masks"
    again = read_detector(tmp_path / "run" / DETECTOR)
    assert again.net.backbone.stride_in_1x1 and again.facts["pretrained"]["path"] == "zoo.pkl"
    assert_equal(again.variables, found.variables)
    with pytest.raises(UserError, match=r"the stride of bottlenecks in the 1x1: it is read as a whole detector only"):
        read_backbone(tmp_path / "run" / DETECTOR)


@pytest.mark.parametrize("gain", [0.05, 1.0, 100.0])
def test_raw_pixels_are_known_by_the_first_norm(gain, tmp_path):
    """A variance of `gain` times the kernel's squares and the pixels' variance; 100 is near what a colour gives."""
    state = to_detectron2_detector(VARIABLES)
    squares = np.square(state[CONV]).sum((1, 2, 3))
    save(state | {NORM: np.float32(gain * squares)}, tmp_path / "d.pkl")
    np.testing.assert_array_equal(
        read_detector(tmp_path / "d.pkl").variables["params"]["backbone"]["conv1"]["kernel"],
        VARIABLES["params"]["backbone"]["conv1"]["kernel"],
    )
    save(
        state | {NORM: np.float32(max(gain, 1) * 58**2 * squares)}, tmp_path / "d.pkl"
    )  # of blocks without bottlenecks
    kernel = read_detector(tmp_path / "d.pkl").variables["params"]["backbone"]["conv1"]["kernel"]
    assert kernel[0, 0, 0, 0] == state[CONV][0, 2, 0, 0] * np.float32(255 * 0.229)


def test_a_detector_inside_a_checkpoint_and_old_names_of_torchvision(tmp_path):
    plain = detector_variables(PLAIN.clone(masks=True))
    state = {re.sub(r"^(backbone\.fpn\..*\d|rpn\.head\.conv)(\.0)+\.", r"\1.", name): value
             for name, value in to_torchvision_detector(plain).items()}  # fmt: skip
    state = {
        re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name): value
        for name, value in state.items()
    }
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias", "roi_heads.mask_head.mask_fcn4.bias"} <= set(
        state
    )
    counters = {"model.backbone.body.bn1.num_batches_tracked": np.array(3), "optimizer.0.momentum": np.zeros(3)}
    save({f"model.{name}": value for name, value in state.items()} | counters, tmp_path / "old.safetensors")
    assert_equal(read_detector(tmp_path / "old.safetensors").variables, plain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roi_heads.keypoint_head.conv_fcn1.weight": np.zeros(2)}, "also holds roi_heads.keypoint_head.conv_fcn1.wei"),
        (
            {"proposal_generator.rpn_head.conv.conv1.weight": np.zeros(2)},
            "also holds proposal_generator.rpn_head.conv.",
        ),
        ({"roi_heads.box_head.fc1.weight": np.zeros((16, 100))}, r"fc1.weight is \[16, 100\]: another architecture"),
        ({"roi_heads.box_predictor.bbox_pred.weight": np.zeros((4, 16))}, r"bbox_pred.weight is \[4, 16\]: another"),
        ({"backbone.fpn_lateral2.weight": np.zeros(8)}, r"fpn_lateral2.weight is \[8\]: another architecture"),
        ({"backbone.bottom_up.res2.0.conv1.norm.running_mean": None}, "lacks layer1.0.bn1.running_mean"),
        ({"ema.backbone.body.conv1.weight": np.zeros(2)}, "holds 2 detectors, under '', 'ema.': save the one that is"),
    ],
)
def test_other_architectures_are_refused_by_name(changes, message, tmp_path):
    state = to_detectron2_detector(VARIABLES) | changes
    save({n: np.float32(v) for n, v in state.items() if v is not None}, tmp_path / "d.pkl")
    with pytest.raises(UserError, match=rf"d\.pkl .*{message}") as error:
        read_detector(tmp_path / "d.pkl")
    assert "\n" not in str(error.value)


def test_a_backbone_alone_is_no_detector(tmp_path):
    """A detector of another kind is one neither: what starts from it takes its backbone."""
    state = {name: value for name, value in to_detectron2_detector(VARIABLES).items() if "roi_heads" not in name}
    save(state, tmp_path / "retinanet.pkl")
    assert not holds_detector(tmp_path / "retinanet.pkl")
    assert read_backbone(tmp_path / "retinanet.pkl").net == FULL.backbone
    with pytest.raises(UserError, match=r"has no roi_heads\.box_predictor\.cls_score\.bias \[n\]: it holds no Faster"):
        read_detector(tmp_path / "retinanet.pkl")


class Malicious:
    def __reduce__(self):
        return print, ("code of the file was run",)


@pytest.mark.parametrize("content", [{"model": {CONV: Malicious()}}, {CONV: Malicious()}, Malicious(), {"model": 3}])
def test_no_code_of_a_pickle_is_run(content, tmp_path, capfd):
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"d\.pkl (is no Detectron2|has .* which is no array|holds no detector)"):
        read_detector(tmp_path / "d.pkl")
    assert "was run" not in capfd.readouterr().out

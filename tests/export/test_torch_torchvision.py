"""Our detector against torchvision's, stage by stage, with the same weights; RoIAlign and pasting against PyTorch."""

from functools import partial

import torchvision_detector as theirs  # isort: skip (makes torchvision importable)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.roi_align import _roi_align

from tests.weights.random_weights import draw
from univip_jax.detection.anchors import STRIDES
from univip_jax.detection.coco_ap import paste
from univip_jax.detection.predict import predict
from univip_jax.detection.roi_align import pool_regions, roi_align
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.step import Detector, on_canvas
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet

SPEC = DetectorSpec(channels=8, head_width=32, rpn_candidates=(100, 100), proposals=12, detections=10)
CANVAS = 128, 160  # the largest proposals are of P3
SIZES = np.array([CANVAS, (122, 141)], np.float32)


def network(box_head: str, spec: DetectorSpec = SPEC) -> MaskRCNN:
    return MaskRCNN(ResNet("resnet50"), 5, spec.channels, spec.head_width, box_head)


def random_variables(net: MaskRCNN) -> dict:
    """Kernels of variance 2 / inputs: activations keep their size through the layers, and scores and boxes differ."""

    def scaled(path, value):
        names = [key.key for key in path]
        if names[-1] != "kernel":
            return value * (0.3 if names[-2:] == ["bn3", "scale"] else 1)
        inputs = value.shape[2] if "deconv" in names else value[..., 0].size
        return value * np.float32(np.sqrt(600 / inputs) * (0.3 if "deltas" in names else 1))

    return jax.tree_util.tree_map_with_path(scaled, draw(jax.eval_shape(partial(init, net), jax.random.key(0)), 0))


def photos(canvas) -> np.ndarray:
    """Smooth, as photos are."""
    rng = np.random.default_rng(1)
    rough = torch.tensor(rng.uniform(0, 255, (2, 3, canvas[0] // 8, canvas[1] // 8)))
    smooth = torch.nn.functional.interpolate(rough, canvas, mode="bilinear")
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def channels_first(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x).permute(0, 3, 1, 2)


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


def anchors_last(x: torch.Tensor, values: int) -> np.ndarray:
    """[B, anchors of a cell * values, h, w] to [B, anchors, values]."""
    return channels_last(x).reshape(len(x), -1, values)


def yxyx(boxes: torch.Tensor) -> np.ndarray:
    return boxes.numpy()[:, [1, 0, 3, 2]]


def of_torchvision(model, images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """All that leaves its stages, under our names and in our layouts."""
    pixels = (torch.tensor(images) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    shapes = [tuple(map(int, size)) for size in sizes]
    for image, (height, width) in zip(pixels, shapes, strict=True):
        image[height:], image[:, width:] = 0, 0
    batch = ImageList(pixels.permute(0, 3, 1, 2), shapes)
    with torch.inference_mode():
        maps = list(model.backbone.body(batch.tensors).values())
        levels = model.backbone(batch.tensors)
        logits, deltas = model.rpn.head(list(levels.values()))
        proposals, _ = model.rpn(batch, levels)
        heads = model.roi_heads
        regions = heads.box_roi_pool(levels, proposals, shapes)
        classes, boxes = heads.box_predictor(heads.box_head(regions))
        mask_regions = heads.mask_roi_pool(levels, proposals, shapes)
        masks = heads.mask_predictor(heads.mask_head(mask_regions))
        found, _ = heads(levels, proposals, shapes)
    stages = {f"C{number}": channels_last(x) for number, x in enumerate(maps, start=2)}
    stages |= {f"P{number}": channels_last(x) for number, x in enumerate(levels.values(), start=2)}
    stages |= {f"RPN logits {number}": anchors_last(x, 1)[..., 0] for number, x in enumerate(logits, start=2)}
    stages |= {f"RPN deltas {number}": anchors_last(x, 4) for number, x in enumerate(deltas, start=2)}
    stages |= {
        "proposals": np.stack([*map(yxyx, proposals)]),
        "box regions": channels_last(regions),
        "class logits": np.roll(classes.numpy(), -1, axis=1),
        "box deltas": boxes.numpy()[:, 4:].reshape(len(boxes), -1, 4),
        "mask regions": channels_last(mask_regions),
        "mask logits": channels_last(masks)[..., 1:],
    }
    final = {name: np.stack([one[name].numpy() for one in found]) for name in ("scores", "labels", "masks")}
    return stages | {"detections": np.stack([yxyx(one["boxes"]) for one in found])} | final


def of_ours(detector: Detector, variables, images: np.ndarray, sizes: np.ndarray, proposals: np.ndarray) -> dict:
    """The same of ours; regions are pooled from torchvision's proposals."""
    net, spec = detector.net, detector.spec
    run = partial(net.apply, variables)

    @jax.jit
    def compute(images, sizes, proposals):
        pixels = on_canvas(images, sizes)
        maps = run(pixels, method=lambda net, x: net.backbone.stages(x, False))
        levels = run(pixels, False, method="levels")
        logits, deltas = run(levels, method="propose")
        regions = pool_regions(levels[:4], proposals, STRIDES[:4], spec.box_bins)
        mask_regions = pool_regions(levels[:4], proposals, STRIDES[:4], spec.mask_bins)
        regions, mask_regions = (x.reshape(-1, *x.shape[2:]) for x in (regions, mask_regions))
        classes, boxes = run(regions, False, method="classify")
        stages = {f"C{number}": x for number, x in enumerate(maps, start=2)}
        stages |= {f"P{number}": x for number, x in enumerate(levels, start=2)}
        stages |= {f"RPN logits {number}": x for number, x in enumerate(logits, start=2)}
        stages |= {f"RPN deltas {number}": x for number, x in enumerate(deltas, start=2)}
        stages |= {
            "proposals": detector.propose(logits, deltas, sizes, images.shape[1:3], train=False),
            "box regions": regions,
            "class logits": classes,
            "box deltas": boxes,
            "mask regions": mask_regions,
            "mask logits": run(mask_regions, False, method="segment"),
        }
        return stages, predict(detector, variables, images, sizes)

    return jax.device_get(compute(images, sizes, proposals))


def compare(box_head: str, spec: DetectorSpec, images: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """The largest difference of each stage, relative to its largest value."""
    net = network(box_head, spec)
    variables = random_variables(net)
    expected = of_torchvision(theirs.torchvision_detector(net, spec, variables), images, sizes)
    stages, (detections, masks) = of_ours(Detector(net, spec), variables, images, sizes, expected["proposals"])
    proposals = stages.pop("proposals")
    assert proposals.exists.all() and detections.exists.all() and not detections.truncated.any()
    np.testing.assert_array_equal(detections.classes, expected.pop("labels") - 1)
    stages |= {"proposals": proposals.boxes, "detections": detections.boxes, "scores": detections.scores}
    stages["masks"] = masks[:, :, None]
    assert stages.keys() == expected.keys()
    assert min(np.abs(value).max() for value in expected.values()) > 0.1
    return {name: relative(stages[name], value) for name, value in expected.items()}


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_every_stage_is_torchvisions():
    differences = compare("4conv1fc", SPEC, photos(CANVAS), SIZES)
    assert max(differences.values()) < 1e-4, differences


def test_heads_without_norm_are_torchvisions():
    net, rng = network("2fc"), np.random.default_rng(5)
    variables = random_variables(net)
    heads = theirs.torchvision_detector(net, SPEC, variables).roi_heads
    small, large = (rng.normal(size=(6, bins, bins, SPEC.channels)).astype(np.float32) for bins in (7, 14))
    with torch.inference_mode():
        scores, deltas = heads.box_predictor(heads.box_head(channels_first(small)))
        masks = channels_last(heads.mask_predictor(heads.mask_head(channels_first(large))))
    logits, moves = net.apply(variables, jnp.array(small), False, method="classify")
    assert relative(logits, np.roll(scores.numpy(), -1, axis=1)) < 1e-4
    assert relative(moves, deltas.numpy()[:, 4:].reshape(moves.shape)) < 1e-4
    assert relative(net.apply(variables, jnp.array(large), False, method="segment"), masks[..., 1:]) < 1e-4


def regions_of(height: int, width: int) -> np.ndarray:
    """Random yxyx, in cells, and the ends of what there is; the first one has no area.

    Half a cell off the border, at most: torchvision's fallback moves all samples that are farther onto the border.
    """
    corners = np.sort(np.random.default_rng(2).uniform(0, 1, (9, 2, 2)), axis=1).reshape(9, 4)
    ends = [
        [1, 1, 1, 1],
        [-0.5, -0.5, height / 2, width / 2],
        [height / 2, width / 2, height + 0.5, width + 0.5],
        [2, 0, 2 + width / 40, width],
        [0, 3, height, 3 + height / 40],
    ]
    return np.concatenate([ends, corners * [height, width, height, width]]).astype(np.float32)


@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize(("height", "width", "stride", "bins"), [(13, 22, 8, 7), (25, 10, 4, 14), (7, 9, 32, 7)])
def test_regions_and_their_gradient_are_torchvisions(height, width, stride, bins, samples):
    rng = np.random.default_rng(3)
    features = rng.normal(size=(1, height, width, 3)).astype(np.float32)
    boxes = regions_of(height, width) * stride
    slope = rng.normal(size=(len(boxes), bins, bins, 3)).astype(np.float32)
    found, pull = jax.vjp(
        jax.jit(lambda x: roi_align(x, jnp.array(boxes), stride, bins, samples=samples)), jnp.array(features[0])
    )
    (gradient,) = pull(jnp.array(slope))

    inputs = channels_first(features).requires_grad_()
    rois = torch.tensor(np.insert(boxes[:, [1, 0, 3, 2]], 0, 0, axis=1))
    pool = partial(_roi_align.__wrapped__, inputs, spatial_scale=1 / stride, pooled_height=bins, pooled_width=bins)
    expected = pool(rois, sampling_ratio=samples or 0, aligned=True)
    first = 1 if samples is None else 0  # its gradient is NaN there without area; ours has none
    (pool(rois[first:], sampling_ratio=samples or 0, aligned=True) * channels_first(slope)[first:]).sum().backward()
    assert relative(found, channels_last(expected.detach())) < 1e-5
    assert relative(gradient, channels_last(inputs.grad)[0]) < 1e-5


@pytest.mark.parametrize("spread", [0.5, 1e-4])
@pytest.mark.parametrize("box", [(10.3, -5.2, 77.8, 60.1), (40.0, 30.0, 41.5, 85.0), (-9.0, -9.0, 120.0, 99.0)])
def test_a_pasted_mask_is_grid_samples(box, spread):
    """Values about the threshold show differences of 1e-6 of what is bilinear between them."""
    mask = 0.5 + spread * np.random.default_rng(4).uniform(-1, 1, (28, 28))
    height, width = 100, 90
    rows, columns = (
        (np.arange(length) + 0.5 - start) / (stop - start) * 2 - 1
        for length, start, stop in ((height, box[0], box[2]), (width, box[1], box[3]))
    )
    grid = torch.tensor(np.stack(np.meshgrid(columns, rows), axis=-1)[None])
    values = torch.nn.functional.grid_sample(torch.tensor(mask)[None, None], grid, align_corners=False)[0, 0].numpy()
    pasted, clear = paste(mask, np.array(box), height, width), np.abs(values - 0.5) > 1e-6
    np.testing.assert_array_equal(pasted[clear], values[clear] >= 0.5)
    assert clear.mean() > 0.95 and 0 < pasted.sum() < pasted.size

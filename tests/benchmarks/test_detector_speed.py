"""The benchmark of Mask R-CNN: its parts and made-up photos, figures by hand, and mistakes."""

import jax
import numpy as np
import pytest

from benchmarks.detection import __main__ as command_line
from benchmarks.detection.jax_step import JaxDetector, parts
from benchmarks.detection.program import Program
from benchmarks.detection.table import markdown
from configs import detection
from univip_jax.common.errors import UserError

SMALL = Program("jax", (64, 96), 2, "float32", small=True)
LONG = ("forward", "backbone and pyramid and gradient", "heads and gradient")  # to trace


def test_parts_are_those_of_the_step():
    """By shapes alone: P2 is of stride 4, with 3 anchors a cell; the regions with an object have masks."""
    spec = detection.get_config("schedule=small").detector
    channels, regions, masks, proposals = spec.channels, 2 * spec.box_samples, 2 * spec.box_positive, spec.proposals
    one = JaxDetector(SMALL)

    def run_all(batch):
        state = one.init_state()
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        every = parts(one, variables, batch)
        return {name: function(*arguments) for name, function, arguments in every if name not in LONG}

    found = jax.tree.map(lambda x: x.shape, jax.eval_shape(run_all, SMALL.batch()))
    assert found["backbone and pyramid"][0] == (2, 16, 24, channels) and len(found["backbone and pyramid"]) == 5
    assert found["RPN head"][0][0] == (2, 16 * 24 * 3)
    assert found["proposals"].boxes == (2, proposals, 4)
    assert found["region sampling"].boxes == (2, spec.box_samples, 4)
    assert found["proposals: NMS of one level"] == (2, spec.rpn_candidates[0])
    assert found["RoIAlign"] == ((regions, 7, 7, channels), (masks, 14, 14, channels))
    assert found["heads"][0] == ((regions, 81), (regions, 80, 4)) and found["heads"][1] == (masks, 28, 28, 80)
    assert found["RoIAlign and gradient"][0] == (2, 16, 24, channels)


def test_made_up_objects_lie_on_the_canvas():
    batch = SMALL.batch()
    low, high = batch.boxes[..., :2], batch.boxes[..., 2:]
    assert (low >= 0).all() and (high - low >= 16 - 1e-3).all() and (high <= np.array([64, 96]) + 1e-3).all()
    assert batch.exists.sum(axis=1).tolist() == [7, 7] and batch.images.shape == (2, 64, 96, 3)


def test_table_has_rates_shares_and_goals_by_hand():
    """16 photos in 0.25 s are 64 a second; 2 TFLOP each are 128 TFLOP/s of 989; 1.44 million take 6.25 h."""
    ours = Program("jax", (800, 1088), 16, "bfloat16", parts=True)
    theirs, large = Program("torchvision", (800, 1088), 16, "bfloat16"), Program("jax", (800, 1344), 16, "bfloat16")
    device = {"device": "NVIDIA H100 80GB HBM3"}
    seconds = {
        "step": [0.25, 0.2, 0.3],
        "predict": [0.1, 0.1, 0.1],
        "forward": [0.1] * 3,
        "proposals: top-k": [0.01] * 3,
    }
    facts = {"flops_per_image": 2e12, "bytes_accessed": 2.0**31, "program_bytes": 2**30, "compile_seconds": 61.0}
    text = markdown(
        {
            ours: device | facts | {"seconds": seconds, "peak_bytes": 41 * 2**30},
            theirs: device | {"seconds": {"step": [0.5] * 3, "predict": [0.4] * 3}, "peak_bytes": None},
            large: device | {"failure": "out of memory", "program_bytes": 2**30},
        }
    )
    assert "| jax 800x1088 16 | 64.0 | 20.0 | 250.0 | 128.0 | 12.9 | 1.0 | 41.0 | 61.0 | 6.2 | 160.0 |" in text
    assert "| torchvision 800x1088 16 | 32.0 | 0.0 | 500.0 | 64.0 | 6.5 | - | - | - | 12.5 | 40.0 |" in text
    assert f"| jax 800x1344 16: out of memory |{' - |' * 5} 1.0 |{' - |' * 4}" in text
    assert "| forward | 100.0 | 40.0 |\n| - proposals: top-k | 10.0 | 4.0 |" in text
    assert "| gradient and update (step - forward) | 150.0 | 60.0 |" in text
    assert text.splitlines()[-4:] == [
        "jax 800x1088 16: 2,000.0 GFLOP per image, 2.00 GiB read and written per step",
        "jax 800x1088 16: 64.00 images/s; goal 60: reached",
        "jax 800x1088 16: 2.00 times torchvision; goal 1.5: reached",
        "jax 800x1088 16: 41.00 GiB at most, batch 16; goal 40: missed",
    ]


def test_mistakes_name_the_flag():
    assert command_line.canvases(["800x1088", "64x32"]) == [(800, 1088), (64, 32)]
    for wrong in ("800", "800x1080", "0x32", "-32x32"):
        with pytest.raises(UserError, match=f"--canvas={wrong} must be HEIGHTxWIDTH, multiples of 32 px"):
            command_line.canvases([wrong])
    with pytest.raises(UserError, match="--frameworks=detectron2 is unknown; choose from jax, torchvision"):
        command_line.present(["jax", "detectron2"], False, False)


@pytest.mark.parametrize(
    ("installed", "sees", "small", "left", "line"),
    [
        (True, {"jax", "torch"}, False, ["jax", "torchvision"], ""),
        (True, {"jax"}, False, ["jax"], "only one of JAX and PyTorch sees an accelerator: JAX alone"),
        (True, set(), True, ["jax"], "torchvision has no network of this size: JAX alone"),
        (False, set(), False, ["jax"], "torchvision is not installed: JAX alone"),
    ],
)
def test_torchvision_is_left_out_where_it_cannot_be_compared(monkeypatch, capsys, installed, sees, small, left, line):
    monkeypatch.setattr(command_line.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(command_line, "sees_accelerator", lambda framework: framework in sees)
    assert command_line.present(["jax", "torchvision"], small, False) == left
    assert capsys.readouterr().out.strip() == line

"""The GPU measurements: parts that are done, fail or hang, and the table by hand."""

import dataclasses
import time

import numpy as np
import pytest

import benchmarks.step.__main__ as step
from benchmarks import gpu
from benchmarks.gpu import PARTS, known_records, run_parts, table, waiting
from benchmarks.limited import run_part
from benchmarks.repeats import nearness
from benchmarks.step.cut import differing
from benchmarks.step.program import EXPERIMENTS
from benchmarks.step.trace import classify, kernels, summary
from univip_jax.common.errors import UserError

DEVICE = "NVIDIA H100 80GB HBM3"
DONE = "import sys; open(sys.argv[1].partition('=')[2], 'w').write('{\"copy_tb_per_s\": 3, \"product_tflops\": 700}')"
OUT_OF_MEMORY = DONE.replace('"copy_tb_per_s": 3, "product_tflops": 700', '"results": [{"failure": "out of memory"}]')
HANG = "import time; time.sleep(60)"


def test_a_part_that_fails_or_hangs_says_why(tmp_path):
    path = tmp_path / "new" / "A2.json"
    failures = [
        run_part(["-c", code], path, limit)["failure"]
        for code, limit in (
            (DONE, 20),
            (OUT_OF_MEMORY, 20),
            ("print('half'); raise SystemExit('no card')", 20),
            ("print('nothing written')", 20),
            (HANG, 0.2),
        )
    ]
    late = "not done after 0 s"
    assert failures == ["", "out of memory", "exit code 1: no card", "exit code 0: nothing written", late]


def test_a_part_finds_the_choices_of_those_before(tmp_path):
    """One that writes a choice where XLA_FLAGS says; the count is what lay there before, and after."""
    code = "import os, uuid; open(os.environ['XLA_FLAGS'].rpartition('=')[2] + '/' + uuid.uuid4().hex, 'w'); " + DONE
    counts = [run_part(["-c", code], tmp_path / "A2.json", 20, tmp_path / "choices")["choices"] for _ in range(2)]
    assert counts == [[0, 1], [1, 2]]


def test_figures_count_for_the_same_flags_and_device_alone(tmp_path, monkeypatch, capsys):
    lines = {name: ["-c", DONE] for name in PARTS} | {"A2": ["-c", OUT_OF_MEMORY], "A3": ["-c", HANG]}
    monkeypatch.setattr(gpu, "command", lines.__getitem__)
    monkeypatch.setitem(PARTS, "A3", dataclasses.replace(PARTS["A3"], limit=0.8))
    names, until = ["A1", "A2", "A3"], lambda seconds: time.monotonic() + seconds
    run_parts(names, tmp_path, DEVICE, until(-1))
    assert not known_records(tmp_path, DEVICE) and "A1: 0 s of --seconds are left" in capsys.readouterr().out
    run_parts(["A3"], tmp_path, DEVICE, until(0.6))  # the call ends it, not its own limit: as if it had not begun
    assert not known_records(tmp_path, DEVICE)
    run_parts(names, tmp_path, DEVICE, until(100))
    known = known_records(tmp_path, DEVICE)
    assert {name: one["failure"] for name, one in known.items()} == {
        "A1": "",
        "A2": "out of memory",
        "A3": "not done after 1 s",
    }
    assert waiting([*names, "A4"], known) == ["A4", "A2", "A3"]
    assert not known_records(tmp_path, "cpu")
    lines["A1"] = [*lines["A1"], "--rounds=9"]
    assert "A1" not in known_records(tmp_path, DEVICE)


def test_pytorch_alone_where_it_cannot_be_timed_is_a_failure(monkeypatch):
    """Else part A3 would count as done without a figure, or have a CPU's."""
    monkeypatch.setattr(step, "torch_is_installed", lambda: True)
    monkeypatch.setattr(step, "sees_accelerator", lambda framework: framework == "jax")
    with pytest.raises(UserError, match="--frameworks=torch: JAX sees an accelerator, PyTorch does not: install"):
        step.present(["torch"])
    monkeypatch.setattr(step, "torch_is_installed", lambda: False)
    with pytest.raises(UserError, match="--frameworks=torch: PyTorch is not installed: pip install"):
        step.present(["torch"])


def record(size: int, seconds: float, **classes: float) -> dict:
    result = {
        "program": {"batch_size": size},
        "facts": {"compile_seconds": 60.0},
        "rounds": [{"step": seconds}] * 3,
        "peak_bytes": 2**34,
    }
    found = {"failure": "", "seconds": 70.4, "choices": [12, 30], "found": {"results": [result]}}
    return found | {"kernels": {"classes_ms": classes}}


def test_table_by_hand():
    """256 images in 0.2 s are 1,280 a second; 0.24 / 0.2 and 0.2 / 0.16 are ratios, 0.095 / 0.1 a part's cost."""
    classes = {"conv fprop": 20.0, "conv dgrad": 21.5, "pool": 3.0}
    records = {"A2": record(256, 0.2, **classes), "A3": record(256, 0.24, conv=48.0), "A4": record(256, 0.16)}
    records |= {"A5": record(128, 0.1), "B1": record(128, 0.095), "B6": {"failure": "out of memory", "seconds": 9.0}}
    cut = {"ms_per_image": 0.0123, "compared": 16, "crops_differ": 0, "boxes_differ": 2}
    records["C2"] = {"failure": "", "seconds": 20.0, "found": cut}
    head, _, *rows = table(records, DEVICE).splitlines()
    cells = {row.split(" | ")[0].strip("| "): row for row in rows}
    assert cells.keys() == PARTS.keys() and f"measured, {DEVICE}" in head
    line = "| 1,280.0 images/s, 200.0 ms, peak 16.0 GiB, compiled in 60 s with 12 stored choices, 18 new | 70 |"
    assert line in cells["A2"]
    assert "JAX / PyTorch 1.200; convolutions 48.0 ms a step, JAX's 41.5" in cells["A3"]
    assert "UniVIP / BYOL 1.250" in cells["A4"]
    assert "time 0.950 of A5" in cells["B1"] and "| out of memory | 9 |" in cells["B6"] and "not run" in cells["A1"]
    assert "0.012 ms an image; boxes of 2 and crops of 0 of 16 photos differ" in cells["C2"]


@pytest.mark.parametrize(
    ("mean", "gradient", "loss", "near"),
    [(4.1, [4, 2.9], 1, True), (6.4, [4, 3], 1, False), (4, [6, 4], 1, False), (4, [4, 3], 1.2, False)],
)
def test_nearness_by_hand(tmp_path, mean, gradient, loss, near):
    """Of the statistics [3, 4], [3, 4] and [4], the median of whose errors is 0; of the gradient [4, 3], and loss 1."""
    same = np.array([3.0, 4.0])
    np.savez(tmp_path / "exact.npz", same, same, np.array([4.0]), loss=1.0, gradient=np.array([4.0, 3.0]))
    np.savez(tmp_path / "ours.npz", same, same, np.array([mean]), loss=loss, gradient=np.array(gradient))
    found = nearness(tmp_path / "ours.npz", tmp_path / "exact.npz")
    assert found["near_float32"] is near and (found["loss"], found["loss_float32_cpu"]) == (loss, 1.0)
    assert (found["statistics_median"], found["statistics_largest"]) == (0, pytest.approx(abs(mean - 4) / 4))
    assert found["gradient_norm_ratio"] == pytest.approx(np.hypot(*gradient) / 5)
    assert found["gradient_cosine"] == pytest.approx(np.dot([0.8, 0.6], gradient) / np.hypot(*gradient))


def test_photos_that_differ_are_counted():
    """The first in one array, the third in both."""
    first = np.zeros((3, 2)), np.zeros((3, 4, 4))
    second = np.array([[0, 1], [0, 0], [1, 1]]), np.pad(np.ones((1, 4, 4)), ((2, 0), (0, 0), (0, 0)))
    assert (differing(first, second), differing(first, first)) == (2, 0)


def test_the_parts_experiments_exist():
    assert {part.experiment for part in PARTS.values()} - {""} <= EXPERIMENTS.keys()


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("cudnn-conv.7", 'custom_call_target="__cudnn$convForward" op_name="jit(step)/conv"', "conv fprop"),
        (
            "cudnn-conv.8",
            'custom_call_target="__cudnn$convForward" op_name="jit(step)/transpose(jvp())/x"',
            "conv dgrad",
        ),
        ("cudnn-conv-bw-input.1", "", "conv dgrad"),
        ("cudnn-conv-bw-filter.1", "", "conv wgrad"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "", "conv fprop"),
        ("input_reduce_fusion.1072", "", "column reductions"),
        ("input_multiply_reduce_fusion.3", "", "column reductions"),
        ("loop_maximum_fusion.99", "", "loop fusions"),
        ("gemm_fusion_dot.7", "", "products"),
        ("gemm_fusion_dot.7", "univip_jax/augment.py", "augmentation"),
        ("input_scatter_fusion", 'op_name="jit(step)/select_and_scatter_add"', "pool"),
        ("copy.3", "", "copies"),
        ("sort.1", "", "other"),
    ],
)
def test_classes_of_kernels(name, text, kind):
    assert classify(name, text) == kind


HLO = """HloModule jit_step

FileNames
1 "/a/train_step.py"
2 "/a/augment.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1}
2 {file_name_id=2 function_name_id=1 line=1}

StackFrames
1 {file_location_id=1 parent_frame_id=0}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=1 parent_frame_id=3}

ENTRY %main (p: f32[10]) -> bf16[5,2] {
  %p = f32[10]{0} parameter(0)
  %loop_add_fusion = bf16[5,2]{1,0} fusion(%p), kind=kLoop, metadata={stack_frame_id=1}
  %loop_mul_fusion = (bf16[5,2]{1,0}, pred[4]{0}) fusion(%loop_add_fusion), metadata={stack_frame_id=3}
}
"""


def test_kernels_and_their_sums_by_hand():
    """40 bytes in and 20 out; 20 in and 24 out. Two steps: 3 us of kernels in each, 1 us of gaps."""
    program = kernels(HLO)
    assert program["loop_add_fusion"][1:] == ("loop fusions", 60)
    assert program["loop_mul_fusion"][1:] == ("augmentation", 44)
    events = [("loop_add_fusion", 0, 2000), ("loop_mul_fusion", 2000, 3000), ("loop_add_fusion", 5000, 7000)]
    found = summary([*events, ("loop_mul_fusion", 7000, 8000)], program, steps=2)
    assert found["classes_ms"] == pytest.approx({"loop fusions": 0.002, "augmentation": 0.001})
    assert found["gaps_ms"] == pytest.approx(0.001)
    assert found["largest"][0]["gb_per_s"] == pytest.approx(60 / 2000)

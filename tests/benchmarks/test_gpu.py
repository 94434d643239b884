"""The GPU measurements: parts that are done, fail or hang, and the table by hand."""

import json
import sys

import pytest

import benchmarks.step.__main__ as step
from benchmarks.gpu import PARTS, run_part, table
from benchmarks.step.program import EXPERIMENTS
from benchmarks.step.trace import classify, kernels, summary
from univip_jax.common.errors import UserError


def line(code: str):
    return lambda path: [sys.executable, "-c", code, str(path)]


def test_a_part_writes_its_file_and_is_not_run_again(tmp_path, capsys):
    path = tmp_path / "A1.json"
    assert run_part(line("import sys; open(sys.argv[1], 'w').write('1')"), path, 20) == ""
    assert path.read_text() == "1"
    assert run_part(line("raise SystemExit(3)"), path, 20) == ""
    assert "A1: done before" in capsys.readouterr().out


def test_a_part_that_fails_or_hangs_says_why_and_leaves_no_figures(tmp_path):
    path = tmp_path / "A2.json"
    assert run_part(line("print('half'); raise SystemExit('no card')"), path, 20) == "exit code 1: no card"
    assert run_part(line("import time; time.sleep(60)"), path, 0.2) == "not done after 0.2 s"
    assert run_part(line("print('nothing written')"), path, 20) == "exit code 0: nothing written"
    assert not path.exists()


def test_pytorch_alone_where_it_is_not_installed_is_a_failure(monkeypatch):
    """Else part A3 would count as done without a figure."""
    monkeypatch.setattr(step, "torch_is_installed", lambda: False)
    with pytest.raises(UserError, match="--frameworks=torch: PyTorch is not installed: pip install"):
        step.present(["torch"])


def write(folder, name: str, seconds: float, failure: str = "") -> None:
    program = {"batch_size": 256 if name in ("A2", "A3", "A4") else 128}
    facts = {"device": "NVIDIA H100 80GB HBM3", "compile_seconds": 60.0}
    rounds = [{"step": seconds}] * 3
    result = {"program": program, "facts": facts, "rounds": rounds, "peak_bytes": 2**34, "failure": failure}
    (folder / f"{name}.json").write_text(json.dumps({"results": [result]}))


def test_table_by_hand(tmp_path):
    """256 images in 0.2 s are 1,280 a second; 0.24 / 0.2 and 0.2 / 0.16 are ratios, 0.095 / 0.1 a part's cost."""
    for name, seconds in (("A2", 0.2), ("A3", 0.24), ("A4", 0.16), ("A5", 0.1), ("B1", 0.095)):
        write(tmp_path, name, seconds)
    write(tmp_path, "B6", 1.0, "out of memory")
    rows = table(tmp_path, {"B2": "not done after 90 s"}).splitlines()[2:]
    cells = {row.split(" | ")[0].strip("| "): row for row in rows}
    assert cells.keys() == PARTS.keys()
    assert "| 1,280.0 images/s, 200.0 ms, peak 16.0 GiB, compiled in 60 s | NVIDIA H100 80GB HBM3 |" in cells["A2"]
    assert "JAX / PyTorch 1.200" in cells["A3"] and "UniVIP / BYOL 1.250" in cells["A4"]
    assert "time 0.950 of A5" in cells["B1"] and "not done after 90 s" in cells["B2"]
    assert "out of memory" in cells["B6"] and "not run" in cells["A1"]


def test_two_calls_of_ten_minutes_hold_all_parts():
    for call in "AB":
        assert sum(part.limit for name, part in PARTS.items() if name[0] == call) <= 580
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

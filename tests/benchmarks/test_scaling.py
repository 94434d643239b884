"""The collectives of the compiled step, counted by hand; the reading of HLO; the arithmetic of docs/scaling.md."""

import json
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks.scaling import predict
from benchmarks.scaling.__main__ import targets
from benchmarks.scaling.collectives import GRADIENTS, METRICS, NORM_BACKWARD, NORM_FORWARD, Tensor, read_collectives
from benchmarks.scaling.program import compile_step, from_json
from tests.small import small_config
from univip_jax.common.errors import UserError
from univip_jax.plan import make_plan
from univip_jax.sharding import make_mesh
from univip_jax.train_step import make_train_step
from univip_jax.types import Batch

PROGRAM = """\
HloModule step
%body (p: (f32[4])) -> (f32[4]) {
  %a2a = f32[16,4]{1,0} all-to-all(%p), replica_groups=[2,4]<=[8], metadata={op_name="jit(step)/x"}
}
ENTRY %main (p: f32[2]) -> f32[2] {
  %loop = (f32[4]) while(%init), condition=%cond, body=%body
  %pair = (f32[8]{0}, bf16[3,3,8,16]{3,2,1,0:T(8,128)(2,1)S(1)}, /*index=2*/f32[]) all-reduce(%a, %b, %c), \
replica_groups=mesh['x'=4,'y'=2] {'x'}, metadata={op_name="jit(step)/(Online/bn1/psum:transpose(jvp())/psum:mean)"}
  %start = (f32[2,6]{1,0}, f32[8,6]{1,0}, u32[]) all-gather-start(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, \
metadata={op_name="jit(step)/transpose(jvp(Online))/layer2_0/downsample_bn/reduce_sum"}
  %done = f32[8,6]{1,0} all-gather-done(%start)
  ROOT %permute = pred[10]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}
"""


def test_read_collectives_parses_every_form():
    """Loops, tuples, layouts, asynchronous pairs, joined names, four notations of groups; bytes of a ring by hand."""
    swap, reduce, gather, permute = read_collectives(PROGRAM, num_devices=8)
    assert [one.kind for one in (swap, reduce, gather, permute)] == [
        "all-to-all", "all-reduce", "all-gather", "collective-permute",
    ]  # fmt: skip
    assert [one.group_size for one in (swap, reduce, gather, permute)] == [4, 4, 4, 8]
    assert [one.looped for one in (swap, reduce, gather, permute)] == [True, False, False, False]
    assert reduce.tensors == (Tensor(32, NORM_FORWARD), Tensor(2304, GRADIENTS), Tensor(4, METRICS))
    assert gather.tensors == (Tensor(192, NORM_BACKWARD),)
    assert swap.sent_bytes == 256 * 3 / 4
    assert reduce.sent_bytes == 2 * 2340 * 3 / 4
    assert gather.sent_bytes == 48 * 3  # its own 2 x 6 floats, to each of the three other devices
    assert permute.sent_bytes == 10


def tiny_config():
    """UniVIP with a ResNet-10 of 8 to 64 channels, hidden 32, projection 16; two images for each of four devices."""
    config = small_config("unused")
    config.model.dtype = "float32"  # compiles faster
    return config


@pytest.fixture(scope="module")
def program():
    return compile_step(tiny_config(), 24, jax.devices())


@pytest.fixture(scope="module")
def state():
    return jax.eval_shape(make_plan(tiny_config(), 24).init_state)


@pytest.mark.pinned
def test_step_reduces_norms_gradients_and_losses_and_nothing_else(program, state):
    """Norms: stem 1, stages 2 + 3 + 3 + 3, projector 1 make 13 of 392 channels; the predictor's makes 14 of 424.

    A norm needs a mean and a mean square per channel in each of three passes: one array online, two in the target.
    The online gradient needs two sums per norm and pass, in one array. Each parameter's gradient is reduced once.
    These counts would show a collective that moves an image, an activation or a gradient twice.
    """
    assert {collective.kind for collective in program.collectives} == {"all-reduce"}
    assert not any(collective.looped for collective in program.collectives)
    assert {collective.group_size for collective in program.collectives} == {4}
    tensors = [tensor for collective in program.collectives for tensor in collective.tensors]
    leaves = jax.tree.leaves(state.params)
    assert Counter(tensor.purpose for tensor in tensors) == {
        NORM_FORWARD: 3 * 14 + 3 * 13 * 2,
        NORM_BACKWARD: 3 * 14,
        GRADIENTS: len(leaves),
        METRICS: 3 + 5 + 2,  # the terms; what the plan does; mean and mean square of the std of the outputs
    }
    num_bytes = Counter()
    for tensor in tensors:
        num_bytes[tensor.purpose] += tensor.bytes
    assert num_bytes == {
        NORM_FORWARD: 3 * (424 + 392) * 2 * 4,
        NORM_BACKWARD: 3 * 424 * 2 * 4,
        GRADIENTS: sum(leaf.size for leaf in leaves) * 4,
        METRICS: (3 + 5) * 4 + 2 * 16 * 4,
    }


def test_step_on_one_device_has_no_collective(state):
    """XLA for CPUs would keep the collectives of a single device."""
    batch = Batch(np.zeros((8, 2, 32, 32, 3), np.uint8), np.zeros((8, 4, 16, 16, 3), np.uint8))
    step = make_train_step(make_plan(tiny_config(), 24), make_mesh(jax.devices()[:1]))
    assert "all_reduce" not in step.lower(state, batch).as_text()


def test_program_has_images_parameters_and_memory(program, state):
    assert (program.num_devices, program.images) == (4, 8)
    assert program.parameter_bytes == sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert program.argument_bytes == size + 2 * (2 * 32 * 32 + 4 * 16 * 16) * 3  # two uint8 images per device
    assert program.temporary_bytes > 0 and program.flops_per_image > 0
    assert from_json(json.dumps(asdict(program))) == program


def test_predict_by_hand():
    """64 images per device take 640 ms at 100 images/s.

    31 rounds of 1 ms; a ring of 4 sends 1.5 times 40 MB at 1 GB/s in 60 ms. 256 images in 731 ms are 350.21 per
    second. Ten epochs of 390 whole batches take 0.7919 hours and, at 2.4 ms per image, 0.8405 cores.
    """
    network = predict.Network(parameter_bytes=39_000_000, statistics_bytes=1_000_000)
    machine = predict.Machine("four", 4, 100, 200, 1e9, 1e-3, 31)
    found = predict.predict(network, machine, predict.Run("photos", 100_000, 10, 256), machine.images_per_second)
    assert found.compute == pytest.approx(0.64)
    assert found.communication == pytest.approx(0.091)
    assert found.efficiency == pytest.approx(0.64 / 0.731)
    assert found.images_per_second == pytest.approx(350.21, rel=1e-4)
    assert found.hours == pytest.approx(0.7919, rel=1e-4)
    assert found.input_cores == pytest.approx(0.8405, rel=1e-3)


@pytest.fixture(scope="module")
def network():
    return predict.resnet50()


def test_resnet50_by_hand(network):
    """ResNet-50: 53 norms of 26,560 channels; projector and predictor one of 4,096 each."""
    assert network.statistics_bytes == 3 * (2 * (26_560 + 2 * 4096) + 26_560 + 4096) * 2 * 4


def test_docs_scaling_has_the_figures_of_the_command(network):
    lines = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text().splitlines()
    rows = {tuple(cells[:2]): cells for line in lines if len(cells := line.strip("| ").split(" | ")) == 8}
    for run, machine in product(predict.RUNS, predict.MACHINES):
        found = predict.predict(network, machine, run, machine.images_per_second)
        most = predict.predict(network, machine, run, machine.most_images_per_second)
        rate, hours, least = (float(cell.replace(",", "")) for cell in rows[run.name, machine.name][4:7])
        assert rate == pytest.approx(found.images_per_second, abs=0.51)
        assert hours == pytest.approx(found.hours, abs=0.051)
        assert least == pytest.approx(most.hours, abs=0.051)


def test_flags():
    assert targets(["1", "8"], ["v5e:8x8", "v5p:4x4x8"]) == [("1", 1), ("8", 8), ("v5e:8x8", 64), ("v5p:4x4x8", 128)]
    with pytest.raises(UserError, match="--devices=8,x: 'x' is not a number of devices"):
        targets(["8", "x"], [])
    with pytest.raises(UserError, match="--tpu=v5e-64: 'v5e-64' is not a slice"):
        targets([], ["v5e-64"])

"""Names, layouts and architectures against facts of torchvision; weights files: good, damaged, malicious."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.weights.random_weights import SMALL, assert_equal, variables_of
from univip_jax import load_encoder
from univip_jax.common.errors import UserError
from univip_jax.models.resnet import DEPTHS, ResNet
from univip_jax.weights.files import read_backbone
from univip_jax.weights.imported import import_weights
from univip_jax.weights.names import from_torch, to_detectron2, to_flat, to_torch
from univip_jax.weights.pickle_file import write_pkl

VARIABLES = variables_of(SMALL)


def test_to_torch_gives_torchvisions_names():
    """The first names of torchvision's resnet18 in its order, the shortcut of its third stage, and their number."""
    state = to_torch(VARIABLES)
    norm = ["weight", "bias", "running_mean", "running_var"]
    first = ["conv1.weight", *[f"bn1.{n}" for n in norm]]
    first += ["layer1.0.conv1.weight", *[f"layer1.0.bn1.{n}" for n in norm]]
    first += ["layer1.0.conv2.weight", *[f"layer1.0.bn2.{n}" for n in norm]]
    shortcut = ["layer3.0.downsample.0.weight", *[f"layer3.0.downsample.1.{n}" for n in norm]]
    assert state.keys() >= {*first, *shortcut}
    assert not any(name.startswith("layer1.0.downsample") for name in state)
    assert len(state) == 20 + 20 * 4  # 20 convolutions, each with a norm


def test_to_torch_transposes_kernels_and_nothing_else():
    state = to_torch(VARIABLES)
    kernel = VARIABLES["params"]["layer2_0"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 8, 16)
    found = state["layer2.0.conv1.weight"]
    assert found.shape == (16, 8, 3, 3)
    for out, inp, y, x in ((0, 0, 0, 0), (15, 7, 2, 1), (3, 5, 0, 2)):
        assert found[out, inp, y, x] == kernel[y, x, inp, out]
    np.testing.assert_array_equal(state["bn1.running_var"], VARIABLES["batch_stats"]["bn1"]["var"])
    np.testing.assert_array_equal(state["bn1.weight"], VARIABLES["params"]["bn1"]["scale"])


@pytest.mark.parametrize("backbone", DEPTHS)
@pytest.mark.parametrize(("width", "stem"), [(0.0625, "imagenet"), (0.125, "small")])
def test_from_torch_recognises_every_architecture_bit_for_bit(backbone, width, stem):
    net = ResNet(backbone, width, stem)
    variables = variables_of(net)
    found, back = from_torch(to_torch(variables), "weights")
    assert found == net
    assert_equal(back, variables)


def test_from_torch_leaves_out_heads_and_counters_and_widens_halves():
    state = {name: value.astype(np.float16) for name, value in to_torch(VARIABLES).items()}
    state |= {"fc.weight": np.zeros((1000, 64)), "fc.bias": np.zeros(1000), "bn1.num_batches_tracked": np.array(7)}
    state |= {"projection_head.0.weight": np.zeros((8, 64)), "prototypes.weight": np.zeros((9, 8))}
    net, back = from_torch(state, "weights")
    assert net == SMALL
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {np.dtype(np.float32)}
    kernel = VARIABLES["params"]["conv1"]["kernel"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(back["params"]["conv1"]["kernel"], kernel)


def spoil(**changes) -> dict:
    state = dict(to_torch(VARIABLES))
    for name, value in changes.items():
        state.pop(name, None)
        if value is not None:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            spoil(**{"layer2.1.bn2.running_var": None}),
            r"resnet18 of width 0\.125, but lacks layer2\.1\.bn2\.running_var",
        ),
        (spoil(**{"layer1.0.se.fc1.weight": np.zeros(3)}), r"also holds layer1\.0\.se\.fc1\.weight"),
        (spoil(**{"layer1.0.conv1.weight": np.zeros((8, 4, 3, 3))}), r"layer1\.0\.conv1\.weight is \[8, 4, 3, 3\]"),
        (
            spoil(**{"bn1.bias": np.full(8, np.nan)}),
            r"weights: bn1\.bias holds values that .*not finite",
        ),
        (spoil(**{"conv1.weight": np.zeros((8, 3, 5, 5))}), r"holds no ResNet: .* but conv1\.weight \[8, 3, 5, 5\]"),
        (
            spoil(**{"bn1.running_var": np.full(8, -1.0)}),
            r"bn1\.running_var holds .*negative variances",
        ),
        (spoil(**{"bn1.bias": np.full(8, 1j)}), r"bn1\.bias holds values that are complex"),
        (spoil(**{"conv1.weight": np.zeros((0, 3, 7, 7))}), r"holds no ResNet: no conv1\.weight"),
        (spoil(**{"conv1.weight": None}), r"holds no ResNet: no conv1\.weight"),
        ({}, r"holds no ResNet: no conv1\.weight \[n, 3, 7, 7\], .* but no names"),
        (
            {name: value for name, value in to_torch(VARIABLES).items() if not name.startswith("layer3.1")},
            r"has \[2, 2, 1, 2\] basic blocks in its stages; known are resnet10",
        ),
    ],
)
def test_from_torch_refuses_another_architecture_by_name(state, message):
    with pytest.raises(UserError, match=message):
        from_torch(state, "weights")


@pytest.mark.parametrize("write", [to_torch, to_flat])
def test_read_backbone_reads_torchvisions_and_our_names(tmp_path, write):
    path = tmp_path / "weights.safetensors"
    save_file(write(VARIABLES), path, {"image_size": "96", "step": "7"})
    net, back, metadata, _ = read_backbone(path)
    assert net == SMALL and metadata["image_size"] == "96"
    assert_equal(back, VARIABLES)
    encoder = load_encoder(path)
    assert (encoder.image_size, encoder.step, encoder.source) == (96, 7, str(path))


def test_import_weights_makes_a_run_of_the_same_bits(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(to_torch(VARIABLES), path)
    line = import_weights(path, tmp_path / "run", image_size=64)
    assert line.startswith("resnet18 of width 0.125, 0.2 million parameters")
    encoder = load_encoder(tmp_path / "run")
    assert (encoder.image_size, encoder.step) == (64, 0)
    assert_equal(encoder.variables, VARIABLES)
    images = np.random.default_rng(0).integers(0, 256, (2, 33, 47, 3), np.uint8)
    np.testing.assert_array_equal(encoder(images), load_encoder(path)(images))
    with pytest.raises(UserError, match=r"--workdir=.*run exists; choose another folder"):
        import_weights(path, tmp_path / "run")


class Malicious:
    """Pickles to a call."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_read_backbone_runs_no_code_of_a_pickle(tmp_path):
    path, trace = tmp_path / "weights.pkl", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"model": Malicious(trace), "__author__": "x"}))
    with pytest.raises(UserError, match=re.escape(str(path)) + " is no Detectron2 weights file"):
        read_backbone(path)
    assert not trace.exists()


def test_read_backbone_names_damaged_and_missing_files(tmp_path):
    whole, cut = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(to_torch(VARIABLES), whole)
    cut.write_bytes(whole.read_bytes()[:-100])
    for path, message in (
        (cut, r"b\.safetensors is no readable safetensors file"),
        (tmp_path / "none.pth", r"none\.pth does not exist$"),
        (tmp_path, r" is a folder: name the file of weights in it$"),
    ):
        with pytest.raises(UserError, match=message):
            read_backbone(path)
    with pytest.raises(UserError, match=r"a\.safetensors has no ResNet under --prefix=encoder\.; it has --prefix=$"):
        read_backbone(whole, "encoder.")


def test_read_backbone_of_two_networks_takes_the_online_one_or_asks(tmp_path):
    path, other = tmp_path / "weights.safetensors", variables_of(SMALL, seed=1)

    def save(one, two):
        states = {one: to_torch(VARIABLES), two: to_torch(other)}
        save_file({prefix + name: value for prefix, state in states.items() for name, value in state.items()}, path)

    save("module.encoder_q.", "module.encoder_k.")
    assert_equal(read_backbone(path)[1], VARIABLES)
    assert_equal(read_backbone(path, "module.encoder_k.")[1], other)
    save("a.", "b.")
    with pytest.raises(UserError, match=r"holds 2 networks: choose by --prefix=a\. or --prefix=b\."):
        read_backbone(path)
    assert_equal(read_backbone(path, "b.")[1], other)


@pytest.mark.parametrize("size", ["abc", "0", "99999999", "", "9" * 5000])
def test_image_size_without_sense_is_224(tmp_path, size):
    save_file(to_torch(VARIABLES), tmp_path / "weights.safetensors", {"image_size": size})
    assert load_encoder(tmp_path / "weights.safetensors").image_size == 224
    assert import_weights(tmp_path / "weights.safetensors", tmp_path / "run").endswith("evaluated at 224 px")


def test_import_weights_where_a_file_is_in_the_way_leaves_nothing(tmp_path):
    save_file(to_torch(VARIABLES), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"--workdir=.*cannot be written: (Not a directory|File exists)"):
        import_weights(tmp_path / "weights.safetensors", tmp_path / "weights.safetensors" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_from_flat_refuses_a_leaf_of_the_wrong_kind(tmp_path):
    """It would take the place of the one of the right kind."""
    save_file(to_flat(VARIABLES) | {"params/bn1/mean": np.full(8, 9, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="holds params/bn1/mean, which no backbone of ours has"):
        read_backbone(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("head", ["stem.fc.weight", "stem.fc.0.weight", "linear.weight"])
def test_read_backbone_leaves_out_classifiers_of_detectron2s_converters(tmp_path, head):
    state = to_detectron2(to_torch(VARIABLES))
    write_pkl(tmp_path / "weights.pkl", state | {head: np.zeros((3, 64), np.float32)})
    assert_equal(read_backbone(tmp_path / "weights.pkl")[1], VARIABLES)
    write_pkl(tmp_path / "other.pkl", state | {"res9.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"other\.pkl .* also holds res9\.weight"):
        read_backbone(tmp_path / "other.pkl")


def test_read_backbone_of_a_file_without_tensors_says_so(tmp_path):
    save_file({}, tmp_path / "weights.safetensors")
    with pytest.raises(
        UserError, match=r"weights\.safetensors holds no tensors by name; save the network's state_dict"
    ):
        read_backbone(tmp_path / "weights.safetensors")


def test_load_encoder_changes_nothing_of_the_process(tmp_path):
    """A notebook that loads features gets no TensorFlow, which would take the GPUs, no logger filter and no hook."""
    save_file(to_torch(VARIABLES), tmp_path / "weights.safetensors")
    import_weights(tmp_path / "weights.safetensors", tmp_path / "run")
    code = (
        "import logging, signal, sys\n"
        "hooks = sys.unraisablehook, sys.excepthook, signal.getsignal(signal.SIGTERM)\n"
        "import univip_jax\n"
        "for source in sys.argv[1:]: univip_jax.load_encoder(source)\n"
        "assert hooks == (sys.unraisablehook, sys.excepthook, signal.getsignal(signal.SIGTERM))\n"
        "print([name for name in ('tensorflow', 'cv2') if name in sys.modules], logging.getLogger('absl').filters)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run"), str(tmp_path / "weights.safetensors")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.stdout == "[] []\n", result.stdout + result.stderr

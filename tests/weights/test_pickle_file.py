"""Detectron2's weights files against plain `pickle`, and files that are hostile, damaged or not for Detectron2."""

import os
import pickle
import pickletools
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.weights.pickle_file import _ALLOWED, read_pkl, write_pkl

ARRAYS = {
    "stem.conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 7, 7)).astype(np.float32),
    "half": np.arange(3, dtype=np.float16),
    "columns": np.asfortranarray(np.arange(10.0).reshape(2, 5)),
    "count": np.array(7),
    "none": np.zeros((0, 2), np.float32),
}


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def write(folder: Path, content: bytes | dict, protocol: int = 4) -> Path:
    """A file with these bytes, or with this value as 'model'."""
    path = folder / "w.pkl"
    if not isinstance(content, bytes):
        content = pickle.dumps({"model": content, "__author__": "x", "matching_heuristics": True}, protocol)
    path.write_bytes(content)
    return path


def test_write_pkl_writes_what_detectron2_unpickles(tmp_path):
    path = tmp_path / "w.pkl"
    write_pkl(path, ARRAYS)
    content = pickle.loads(path.read_bytes(), encoding="latin1")  # as detection_checkpoint.py opens it
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True and isinstance(content["__author__"], str)
    assert_same(content["model"], ARRAYS)
    assert all(type(array) is np.ndarray and array.flags.writeable for array in content["model"].values())
    assert_same(read_pkl(path), ARRAYS)
    assert [p.name for p in path.parent.iterdir()] == ["w.pkl"]
    words = {word for _, word, _ in pickletools.genops(path.read_bytes()) if isinstance(word, str)}
    assert {"numpy", "ndarray", "dtype"} <= words
    assert not any("core" in word for word in words)  # NumPy 1 has no numpy._core


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy._core.", b"numpy.core."])
def test_read_pkl_reads_plain_pickles(tmp_path, protocol, core):
    """NumPy 1 writes numpy.core where NumPy 2 writes numpy._core."""
    expected = {name: array for name, array in ARRAYS.items() if name != "none"}
    expected["swapped"] = np.arange(3, dtype=">i4")
    path = write(tmp_path, expected, protocol)
    if protocol < 4:  # from protocol 4 a name carries its length
        path.write_bytes(path.read_bytes().replace(b"numpy._core.", core))
    expected["swapped"] = expected["swapped"].astype("=i4")
    assert_same(read_pkl(path), expected)


class Call:
    """Pickles as a call, and a state for what it returns."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def test_objects_beside_the_arrays_do_not_matter(tmp_path):
    mark = tmp_path / "run"
    content = {"iteration": np.int64(3), "args": Namespace(lr=1), "call": Call(os.system, f"touch {mark}")}
    content |= {"model": OrderedDict(a=np.arange(3)), "__author__": "x", "matching_heuristics": True, "path": Path("a")}
    np.testing.assert_array_equal(read_pkl(write(tmp_path, pickle.dumps(content)))["a"], [0, 1, 2])
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_read_pkl_runs_no_code(tmp_path, protocol):
    mark = tmp_path / "run"
    path = write(tmp_path, {"a": Call(os.system, f"touch {mark}")}, protocol)
    with pytest.raises(UserError, match=r"w\.pkl has 'a' in 'model', which is no array by name but (posix|nt)\.system"):
        read_pkl(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())
    assert mark.exists()  # so the file would have run it


# An array of pointers that claims to hold plain bytes: NumPy's own classes build it, and crash on its first use.
FORGED = Call(np.dtype, "O8", False, True, state=(3, "|", None, None, None, -1, -1, 0))
ONE_BYTE = Call(np.dtype, "i1", False, True, state=(3, "|", None, None, None, -1, -1, 0))


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(eval, "1"), r"(__builtin__|builtins)\.eval"),
        (Call(getattr, "", "join"), "getattr"),
        (Call(np.ndarray, (0,), np.dtype("i1"), state=(1, (1,), FORGED, False, b"A" * 8)), "dtype 'O8'"),
        (Call(np._core.multiarray.scalar, FORGED, b"A" * 8), "dtype 'O8'"),
        (np.array([{}, None], dtype=object), "dtype 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype 'V4'"),
        (np.array(["a"]), "dtype 'U1'"),
        (np.zeros(2, np.complex64), "dtype 'c8'"),
        (np.float32(1), "scalar"),
        ([1, 2], "'a' in 'model', which is no array"),
        (Call(np.ndarray, (2**50,)), "'a' in 'model', which is no array"),  # nothing is allocated
        (Call(np.ndarray, (0,), state=(1, (2**50,), ONE_BYTE, False, b"A")), r"damaged.*1 bytes for an array of shape"),
        (Call(np.ndarray, (0,), state=(1, (-1, -1), ONE_BYTE, False, b"A")), r"damaged.*1 bytes for an array of shape"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_read_pkl_refuses_all_but_arrays_of_numbers(tmp_path, value, named, protocol):
    with pytest.raises(UserError, match=named) as error:
        read_pkl(write(tmp_path, {"a": value}, protocol))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x80\x04" + b"]" * 1000 + b"a" * 999 + b".", "no Detectron2 weights file"),
        (b"\x80\x04}X\x05\x00\x00\x00model})" + b"\x85" * 900 + b"K\x01ss.", "lacks .*'__author__'"),
        (b"\x80\x04})" + b"\x85" * 1_000_000 + b"K\x01s.", "has tuples 1001 deep"),  # its hash would overflow
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"A.", "damaged or no pickle"),  # bytes of a huge size
        (pickle.dumps([]), "no Detectron2 weights file"),
        (pickle.dumps({"stem.conv1.weight": np.zeros(1)}), "no Detectron2 weights file"),
        (pickle.dumps({"model": {}, "matching_heuristics": True}), "lacks .*'__author__'"),
        (pickle.dumps({"model": {}, "__author__": "x"}), "matching_heuristics=True"),
        ({3: np.zeros(1)}, "<class 'int'> in 'model', which is no array by name"),
    ],
)
def test_read_pkl_refuses_other_forms_and_nesting(tmp_path, content, named):
    with pytest.raises(UserError, match=named):
        read_pkl(write(tmp_path, content))


def test_read_pkl_of_a_cut_or_changed_file_gives_arrays_or_one_error(tmp_path):
    path = tmp_path / "w.pkl"
    write_pkl(path, {"a": np.arange(3.0)})
    whole, refused = path.read_bytes(), 0
    for length in range(len(whole)):
        with pytest.raises(UserError, match=r"w\.pkl"):
            read_pkl(write(tmp_path, whole[:length]))
    for position, byte in enumerate(whole):
        try:
            found = read_pkl(write(tmp_path, whole[:position] + bytes([byte ^ 0x55]) + whole[position + 1 :]))
        except UserError:
            refused += 1
        else:
            assert all(type(array) is np.ndarray for array in found.values())
    assert refused > len(whole) // 2
    with pytest.raises(UserError, match=r"nothing\.pkl is missing, damaged or no pickle"):
        read_pkl(tmp_path / "nothing.pkl")


@pytest.mark.parametrize(
    "name",
    [b"_codecs\nencode", b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"numpy.core.numeric\n_frombuffer"],
)
def test_a_file_cannot_change_what_reads_it(tmp_path, name):
    """BUILD with a slot state sets attributes on what a GLOBAL names."""
    state = b"(N}X\x06\x00\x00\x00markerK\x01st"  # (None, {'marker': 1})
    with pytest.raises(UserError, match=r"w\.pkl"):
        read_pkl(write(tmp_path, b"\x80\x02c" + name + b"\n" + state + b"b."))
    assert not any(hasattr(allowed, "marker") for allowed in _ALLOWED.values())

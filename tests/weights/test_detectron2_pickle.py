"""Weights files against plain `pickle`, and files that are hostile, damaged or not for Detectron2."""

import os
import pickle
import pickletools

import numpy as np
import pytest

from univip_jax.common.errors import UserError
from univip_jax.weights import pickle_file
from univip_jax.weights.pickle_file import read_pkl, write_pkl


def arrays() -> dict:
    rng = np.random.default_rng(0)
    return {
        "stem.conv1.weight": rng.normal(size=(4, 3, 7, 7)).astype(np.float32),
        "half": rng.normal(size=3).astype(np.float16),
        "columns": np.asfortranarray(rng.normal(size=(2, 5))),
        "count": np.array(7),
        "none": np.zeros((0, 2), np.float32),
    }


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_written_file_is_what_detectron2_unpickles(tmp_path):
    path = tmp_path / "new" / "w.pkl"
    write_pkl(path, arrays())
    content = pickle.loads(path.read_bytes(), encoding="latin1")  # as detection_checkpoint.py opens it
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True and isinstance(content["__author__"], str)
    assert_same(content["model"], arrays())
    assert all(type(array) is np.ndarray and array.flags.writeable for array in content["model"].values())
    assert_same(read_pkl(path), arrays())
    assert [p.name for p in path.parent.iterdir()] == ["w.pkl"]
    words = {word for _, word, _ in pickletools.genops(path.read_bytes()) if isinstance(word, str)}
    assert {"numpy", "ndarray", "dtype"} <= words
    assert not any("core" in word for word in words)  # NumPy 1 has no numpy._core


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", ["_core", "core"])
def test_files_of_plain_pickle_are_read(tmp_path, protocol, core):
    """NumPy 1 writes numpy.core where NumPy 2 writes numpy._core."""
    expected = {name: array for name, array in arrays().items() if name != "none"}
    expected["swapped"] = np.arange(3, dtype=">i4")
    content = {"model": expected, "__author__": "x", "matching_heuristics": True}
    raw = pickle.dumps(content, protocol)
    if core == "core" and protocol < 4:  # from protocol 4 a name carries its length
        raw = raw.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "w.pkl").write_bytes(raw)
    expected["swapped"] = expected["swapped"].astype("=i4")
    assert_same(read_pkl(tmp_path / "w.pkl"), expected)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, protocol):
    mark = tmp_path / "run"
    content = {"model": {"a": Call(os.system, f"touch {mark}")}, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=r"w\.pkl is refused: it asks for (posix|nt)\.system"):
        read_pkl(tmp_path / "w.pkl")
    assert not mark.exists()
    pickle.loads((tmp_path / "w.pkl").read_bytes())
    assert mark.exists()  # so the file would have run it


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(eval, "1"), r"(__builtin__|builtins)\.eval"),
        (Call(getattr, "", "join"), "getattr"),
        (np.array([{}, None], dtype=object), "dtype 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype 'V4'"),
        (np.array(["a"]), "dtype 'U1'"),
        (np.zeros(2, np.complex64), "dtype 'c8'"),
        (np.float32(1), "scalar"),
        ([1, 2], "'a' in 'model', which is no array"),
        (Call(np.ndarray, (2,)), "'a' in 'model', which is no array"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_but_arrays_of_numbers_is_refused(tmp_path, value, named, protocol):
    content = {"model": {"a": value}, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(UserError, match=named):
        read_pkl(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "no Detectron2 weights file"),
        ({"stem.conv1.weight": np.zeros(1)}, "no Detectron2 weights file"),
        ({"model": {}, "matching_heuristics": True}, "lacks '__author__'"),
        ({"model": {}, "__author__": "x"}, "matching_heuristics=True"),
        ({"model": {3: np.zeros(1)}, "__author__": "x", "matching_heuristics": True}, "has 3 in 'model'"),
    ],
)
def test_files_that_detectron2_would_not_load_are_refused(tmp_path, content, named):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=named):
        read_pkl(tmp_path / "w.pkl")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    write_pkl(path, {"a": np.arange(3.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"w\.pkl"):
            read_pkl(path)


def test_a_file_with_any_byte_changed_gives_arrays_or_is_refused(tmp_path):
    path = tmp_path / "w.pkl"
    write_pkl(path, {"a": np.arange(3.0)})
    whole, refused = path.read_bytes(), 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            found = read_pkl(path)
        except UserError:
            refused += 1
        else:
            assert all(type(array) is np.ndarray for array in found.values())
    assert refused > len(whole) // 2


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing\.pkl"):
        read_pkl(tmp_path / "nothing.pkl")


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("w.pth", np.zeros(1), r"w\.pth must end in \.pkl"),
        ("w.pkl", [1.0], "a is list"),
        ("w.pkl", np.array([None]), "a is object"),
        ("w.pkl", np.zeros(1, np.complex64), "a is complex64"),
    ],
)
def test_what_detectron2_cannot_read_is_not_written(tmp_path, name, value, named):
    with pytest.raises(UserError, match=named):
        write_pkl(tmp_path / name, {"a": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [b"_codecs\nencode", b"numpy.core.multiarray\n_reconstruct"])
def test_a_file_cannot_change_what_reads_it(tmp_path, name):
    """BUILD with a slot state sets attributes on what a GLOBAL names."""
    state = b"(N}X\x06\x00\x00\x00markerK\x01st"  # (None, {'marker': 1})
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
    with pytest.raises(UserError, match=r"w\.pkl"):
        read_pkl(tmp_path / "w.pkl")
    assert not any(hasattr(stand_in, "marker") for stand_in in pickle_file._STAND_INS.values())

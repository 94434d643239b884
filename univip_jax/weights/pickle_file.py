"""Weights files of Detectron2: a pickle of {'model': {name: array}, '__author__': str, 'matching_heuristics': True}.

A pickle can run any code, so reading one runs none: every class it names is replaced by a stand-in of this file that
takes plain numbers, or refused. Writing uses only names that NumPy 1 and 2 share, as Detectron2 often runs with 1.
"""

import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from univip_jax.common.errors import UserError

_NUMBERS = re.compile(r"f[248]|[iu][1248]|b1")  # as NumPy spells a dtype without its byte order


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise UserError(f"it holds arrays of dtype {code!r}; only plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _, order, subdtype, names, fields, *_ = state
        if order not in ("<", ">", "|", "=") or (subdtype, names, fields) != (None, None, None):
            raise UserError("it holds arrays of structures; only plain numbers are read")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands in for numpy.ndarray; what `pickle` hands over comes by `__setstate__`."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _read_numbers(data, dtype, shape, "F" if fortran else "C")


def _read_numbers(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """A new array in the machine's byte order from the bytes of a pickled one."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise UserError("it holds an array of Python objects; only plain numbers are read")
    if len(data) != math.prod(shape) * dtype.dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"{len(data)} bytes for an array of shape {shape}")
    array = np.ndarray(shape, dtype.dtype, buffer=data, order=order)
    return array.astype(dtype.dtype.newbyteorder("="))


class _MakeArray:
    """Stands in for `ndarray` and for NumPy's `_reconstruct`: an array still without values.

    This and the next ones are instances without attributes rather than classes and functions, whose own attributes
    a file's BUILD instruction could set.
    """

    __slots__ = ()

    def __call__(self, *_: Any) -> _Array:
        return _Array()


class _MakeDtype:
    """Stands in for `dtype`."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)


class _FromBuffer:
    """Stands in for NumPy's `_frombuffer`, which protocol 5 uses."""

    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.value = _read_numbers(data, dtype, shape, order)
        return array


class _Encode:
    """Stands in for `codecs.encode`, by which protocols before 3 write bytes."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise ValueError(f"encoding {encoding!r}")
        return text.encode("latin1")


_STAND_INS = {
    ("numpy", "ndarray"): _MakeArray(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),  # NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),  # NumPy 2
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer(),
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer(),
}


class _Unpickler(pickle.Unpickler):
    """Knows only the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise UserError(f"it asks for {module}.{name}, which no file of arrays needs; nothing of it was run")
        return _STAND_INS[module, name]


class _Pickler(pickle.Pickler):
    """Names arrays by numpy.ndarray alone: the function NumPy 2 names by default is unknown to NumPy 1."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray:
            return np.ndarray, ((0,), np.dtype("i1")), value.__reduce__()[2]
        return NotImplemented


def read_pkl(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a Detectron2 weights file by name; runs no code of the file.

    Raises UserError where the file is missing, damaged, asks for anything but arrays of numbers, or is of a form
    from which Detectron2 would load nothing.
    """
    try:
        with open(path, "rb") as file:
            found = _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{path} is refused: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path} is damaged or no pickle ({type(error).__name__}: {error}); write it anew") from None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise UserError(f"{path} is no Detectron2 weights file: it has no 'model' with arrays by name")
    if not isinstance(found.get("__author__"), str) or found.get("matching_heuristics") is not True:
        raise UserError(
            f"{path} lacks '__author__' or matching_heuristics=True, without which Detectron2 matches no backbone name"
        )
    state = {}
    for name, array in found["model"].items():
        if not isinstance(name, str) or not isinstance(array, _Array) or array.value is None:
            raise UserError(f"{path} has {name!r} in 'model', which is no array under a name")
        state[name] = array.value
    return state


def write_pkl(path: str | Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under Detectron2's names as a file for MODEL.WEIGHTS; a whole file or none.

    Raises UserError where the name does not end in .pkl (Detectron2 chooses its reader by that), a value is no array
    of plain numbers, or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".pkl":
        raise UserError(f"{path} must end in .pkl: Detectron2 chooses how to read a weights file by its name")
    for name, array in state.items():
        if not isinstance(array, np.ndarray) or not _NUMBERS.fullmatch(array.dtype.str[1:]):
            kind = getattr(array, "dtype", type(array).__name__)
            raise UserError(f"{name} is {kind}; Detectron2 reads NumPy arrays of plain numbers, such as float32")
    model = {name: np.array(array, array.dtype.newbyteorder("=")) for name, array in state.items()}
    content = {"model": model, "__author__": "univip_jax", "matching_heuristics": True}
    partial = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            _Pickler(file, protocol=4).dump(content)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None

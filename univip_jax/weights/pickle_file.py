"""Weights files of Detectron2: a pickle of {'model': {name: array}, '__author__': str, 'matching_heuristics': True}.

A pickle can run any code, so reading one knows an allow-list; whatever else it names becomes an inert stand-in.
NumPy's own `dtype` and `ndarray` are not on the list: a file can give them flags by which its bytes pass for pointers.
Two small classes take their place.
"""

import codecs
import math
import pickle
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from univip_jax.common.errors import UserError

_NUMBERS = re.compile(r"f[248]|[iu][1248]|b1")  # as NumPy spells a dtype without its byte order
_MOST_STEPS = 2_000_000  # instructions of a pickle; the checkpoint of a ResNet-152 with its optimizer needs 100,000
_MOST_NAMES = 10_000  # of classes and functions
_DEEPEST = 1000  # nested tuples; the hash of 100,000 overflows Python's stack
_CALLS = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "BINPERSID", "BUILD")
_LARGEST = 1_000_000  # elements of a tuple with those of the tuples in it: a hash visits each as often as it is named


class _Dtype:
    """In place of numpy.dtype: plain numbers only."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise UserError(f"it holds arrays of dtype {code!r:.20}, and only plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """In place of numpy.ndarray and NumPy's `_reconstruct`: has no values until pickle hands over its state."""

    values: np.ndarray | None = None

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, "F" if fortran else "C")

    def _fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise UserError("it holds an array of Python objects, and only plain numbers are read")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise ValueError(f"{len(data)} bytes for an array of shape {shape!r:.40}")
        array = np.ndarray(shape, dtype.dtype, buffer=data, order=order)
        self.values = array.astype(dtype.dtype.newbyteorder("="))


class _FilledArray(_Array):
    """In place of NumPy's `_frombuffer`, which protocol 5 uses."""

    def __init__(self, *arguments: Any):
        self._fill(*arguments)


_ALLOWED = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): codecs.encode,  # by which protocols before 3 write bytes
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1, NumPy 2
    _ALLOWED |= {(f"{_core}.multiarray", "_reconstruct"): _Array, (f"{_core}.numeric", "_frombuffer"): _FilledArray}


class StandIn(dict):
    """In place of a class or function that a pickle names: holds its items and its state, and does nothing."""

    state: Any = None
    __hash__, __eq__ = object.__hash__, object.__eq__  # it may be a key

    def __new__(cls, *_: Any, **__: Any):
        return dict.__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, value: Any) -> None:
        self[len(self)] = value

    add = append

    def extend(self, values: list) -> None:
        self.update(enumerate(values, start=len(self)))


def stand_in(module: str, name: str) -> type[StandIn]:
    """A class of its own, whose name is that of what it stands for; nothing is imported."""
    return type(name, (StandIn,), {"__qualname__": f"{module}.{name}"})


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name)) or stand_in(module, name)


class _Pickler(pickle.Pickler):
    """Names arrays by numpy.ndarray alone: NumPy 1, on which Detectron2 often runs, lacks what NumPy 2 would name."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray:
            return np.ndarray, ((0,), np.dtype("i1")), value.__reduce__()[2]
        return NotImplemented


def require_few_steps(file: BinaryIO) -> None:
    """Reads a pickle up to its end; UserError where it wants more memory, or deeper tuples, than weights do."""
    stack: list[tuple[int, int]] = []  # how deep the tuples in each object are, and its elements if it is one
    marks: list[int] = []
    memo: dict[int, tuple[int, int]] = {}
    names = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(file)):
        names += code.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        if step > _MOST_STEPS or names > _MOST_NAMES:
            raise UserError(f"it has {step} instructions and {names} names, more than files of weights need")
        if code.name == "MARK":
            marks.append(len(stack))
        elif code.name.endswith("GET"):
            stack.append(memo[int(argument)])
        elif code.name.endswith("PUT") or code.name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            if place > _MOST_STEPS:  # Python makes room for as many
                raise UserError(f"it counts {place} objects, which no file of weights needs")
            memo[place] = stack[-1]
        else:
            kinds = code.stack_before
            marked = pickletools.markobject in kinds
            start = marks.pop() - kinds.index(pickletools.markobject) if marked else len(stack) - len(kinds)
            is_tuple = code.name.startswith("TUPLE") or code.name == "FROZENSET"
            depth = max((depth for depth, _ in stack[start:]), default=0) + is_tuple
            # Some callables give their argument back. What a list or a dict holds is in no hash.
            holds = is_tuple or code.name in _CALLS
            size = 1 + sum(size for _, size in stack[start:]) if holds else 1
            if depth > _DEEPEST or size > _LARGEST:
                raise UserError(f"it has tuples {depth} deep with {size} elements, more than files of weights need")
            stack[start:] = [(depth, size)] * len(code.stack_after)


def read_pkl(path: Path, *, whole: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a Detectron2 weights file by name; runs no code of the file.

    A `whole` detector has Detectron2's own names, for which nobody needs heuristics or an author, nor we a 'model'.

    Raises UserError where the file is missing or damaged, asks for anything but arrays of numbers, or has a form from
    which Detectron2 would load nothing.
    """
    try:
        with open(path, "rb") as file:
            require_few_steps(file)
            file.seek(0)
            content = _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{path} is refused: {error}; save its state_dict as safetensors") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is missing, damaged or no pickle ({reason}); write it anew") from None
    head = content if isinstance(content, dict) else {}
    arrays = head.get("model", head if whole else None)
    is_loaded = whole or (isinstance(head.get("__author__"), str) and head.get("matching_heuristics") is True)
    if not isinstance(arrays, dict) or not is_loaded:
        raise UserError(
            f"{path} is no Detectron2 weights file: it lacks a dict 'model', '__author__' or matching_heuristics=True"
        )
    for name, array in arrays.items():
        if not isinstance(name, str) or not isinstance(array, _Array) or array.values is None:
            shown = name if isinstance(name, str) else type(name)  # what is nested deeply has no repr
            what = type(array).__qualname__
            raise UserError(
                f"{path} has {shown!r} in 'model', which is no array by name but {what:.80}; nothing was run"
            )
    return {name: array.values for name, array in arrays.items()}


def write_pkl(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays of plain numbers under Detectron2's names as a file for MODEL.WEIGHTS."""
    content = {"model": dict(state), "__author__": "univip_jax", "matching_heuristics": True}
    with open(path, "wb") as file:
        _Pickler(file, protocol=4).dump(content)

"""The tensors of a PyTorch file by name, without PyTorch and without anything that the file wants to run.

Since PyTorch 1.6 a file is a zip: `data.pkl` and one record per storage; TorchScript's differ in what the pickle names.
Before, it was five pickles (magic number, protocol, system, contents, keys of storages), then the storages in a row.
Whatever a pickle names becomes an inert stand-in, so objects beside the weights do not matter and none is imported.
"""

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from univip_jax.common.errors import UserError
from univip_jax.weights.names import Tensor
from univip_jax.weights.pickle_file import StandIn, require_few_steps, stand_in

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # ends the first pickle of a file before 1.6
_DEEPEST = 64  # nested dicts and modules
_CODES = {
    "Float float32": "f4", "Double float64": "f8", "Half float16": "f2", "BFloat16 bfloat16": jnp.bfloat16,
    "Long int64": "i8", "Int int32 QInt32": "i4", "Short int16": "i2", "Char int8 QInt8": "i1",
    "Byte uint8 QUInt8 Untyped": "u1", "Bool bool": "b1", "ComplexFloat complex64": "c8", "ComplexDouble": "c16",
}  # fmt: skip
_DTYPES = {name: np.dtype(code) for names, code in _CODES.items() for name in names.split()}


class _Storage(NamedTuple):
    key: str
    kind: str  # such as Float of torch.FloatStorage


class _View(NamedTuple):
    """A tensor: elements of a storage; offset and strides count elements."""

    storage: _Storage
    kind: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Rebuild(StandIn):  # torch._utils._rebuild_tensor and _v2
    def __new__(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any):
        return cls._view(storage, storage.kind, offset, shape, strides)

    @staticmethod
    def _view(storage: _Storage, kind: str, offset: int, shape: Any, strides: Any) -> _View:
        if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)):
            raise ValueError("a tensor without a shape")
        return _View(storage, kind, offset, tuple(shape), tuple(strides))


class _RebuildOfDtype(_Rebuild):  # _v3
    def __new__(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any):
        return cls._view(storage, rest[2].__name__, offset, shape, strides)


class _RebuildQuantized(_Rebuild):
    def __new__(cls, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any):
        return cls._view(storage, f"quantized {storage.kind}", offset, shape, strides)


class _RebuildParameter(StandIn):
    def __new__(cls, data: Any, *_: Any):
        return data


class _RebuildOfType(StandIn):  # of a subclass of tensors: (function, type, arguments, state)
    def __new__(cls, function: Any, _: Any, arguments: Any, *__: Any):
        return function(*arguments)


_KNOWN = {
    "torch._utils._rebuild_tensor": _Rebuild,
    "torch._utils._rebuild_tensor_v2": _Rebuild,
    "torch._utils._rebuild_tensor_v3": _RebuildOfDtype,
    "torch._utils._rebuild_qtensor": _RebuildQuantized,
    "torch._utils._rebuild_parameter": _RebuildParameter,
    "torch._utils._rebuild_parameter_with_state": _RebuildParameter,
    "torch._tensor._rebuild_from_type": _RebuildOfType,
    "torch._tensor._rebuild_from_type_v2": _RebuildOfType,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")  # of Python 2's strings
        self.storages: dict[str, str] = {}  # kinds by key

    def find_class(self, module: str, name: str) -> type[StandIn]:
        return _KNOWN.get(f"{module}.{name}") or stand_in(module, name)

    def persistent_load(self, pid: Any) -> Any:
        kind, what, *rest = pid
        if kind == "module":  # a class with its source, in files before 1.6
            return what
        key, _, _, *view = rest
        if not isinstance(key, str | int):
            raise ValueError("a storage without a key")
        if any(part is not None for part in view):
            raise ValueError("a storage that is part of another, as before PyTorch 0.4")
        storage = _Storage(str(key), what.__name__.removesuffix("Storage"))
        self.storages[storage.key] = storage.kind
        return storage


def read_torch(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its dotted name; values are read when asked for.

    Names join the keys of nested dicts, and of pickled modules the names of their children.

    Raises UserError where the file is damaged.
    """
    try:
        contents, storage = (_open_zip if zipfile.is_zipfile(path) else _open_legacy)(path)
        found = dict(_views("", contents, set(), 0))
    except UserError as error:
        raise UserError(f"{path} is refused: {error}") from None
    except Exception as error:  # a damaged zip or pickle can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path} is damaged ({reason:.200}): fetch or save it again") from error
    cached = lru_cache(1)(storage)
    return {name: Tensor(view.shape, partial(_read, f"{path}: {name}", view, cached)) for name, view in found.items()}


def _unpickle(file: BinaryIO) -> tuple[Any, dict[str, str]]:
    start = file.tell()
    require_few_steps(file)
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages


def _open_zip(path: Path) -> tuple[Any, Callable[[str], bytes]]:
    archive = zipfile.ZipFile(path)
    most = 10 * path.stat().st_size  # TorchScript compresses its pickle

    def record(name: str) -> bytes:
        if archive.getinfo(name).file_size > most:
            raise UserError(f"its record {name} is compressed beyond what weights can be")
        return archive.read(name)

    root = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl").removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        _require_little(record(f"{root}byteorder") == b"little")
    contents, _ = _unpickle(io.BytesIO(record(f"{root}data.pkl")))
    return contents, lambda key: record(f"{root}data/{key}")


def _open_legacy(path: Path) -> tuple[Any, Callable[[str], bytes]]:
    places: dict[str, tuple[int, int]] = {}  # where a storage begins, and its bytes
    with open(path, "rb") as file:
        _, _, (system, _), (contents, storages), (keys, _) = [_unpickle(file) for _ in range(5)]
        _require_little(system["little_endian"])
        for key in keys:
            length = int.from_bytes(file.read(8), "little") * _DTYPES[storages[key]].itemsize
            places[key] = file.tell(), length
            file.seek(length, io.SEEK_CUR)
        if file.tell() > path.stat().st_size:
            raise ValueError("it ends early")

    def read(key: str) -> bytes:
        with open(path, "rb") as file:
            file.seek(places[key][0])
            return file.read(places[key][1])

    return contents, read


def _require_little(is_little: bool) -> None:
    if not is_little:
        raise UserError("a big-endian machine wrote it: save it again on another")


def _views(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, _View]]:
    if isinstance(value, _View):
        yield from [(name, value)] if name else []  # a tensor alone has no name
    elif isinstance(value, dict | list | tuple) and depth < _DEEPEST and id(value) not in seen:
        seen.add(id(value))  # a file can make a dict that holds itself, or the same one a million times
        for key, below in _children(value):
            if isinstance(key, str | int):
                yield from _views(f"{name}.{key}" if name else str(key), below, seen, depth + 1)


def _children(value: dict | list | tuple) -> Iterable[tuple[Any, Any]]:
    """Items; of a stand-in also its attributes, where a module keeps its children, parameters and buffers apart."""
    if not isinstance(value, dict):
        return enumerate(value)
    items, state = list(value.items()), getattr(value, "state", None)
    for key, held in state.items() if isinstance(state, dict) else ():
        apart = key in ("_modules", "_parameters", "_buffers") and isinstance(held, dict)
        items += held.items() if apart else [(key, held)]
    return items


def _read(what: str, view: _View, storage: Callable[[str], bytes]) -> np.ndarray:
    """The values as NumPy has them, bfloat16 as float32; NumPy checks that they lie inside the storage."""
    if view.kind not in _DTYPES:
        raise UserError(f"{what} is of {view.kind}, and only plain numbers are read: save it as float32")
    dtype = _DTYPES[view.kind]
    try:
        data = storage(view.storage.key)
        if math.prod(view.shape) * dtype.itemsize > len(data):
            raise ValueError(f"{len(data)} bytes for a tensor of shape {list(view.shape)}")
        strides = [stride * dtype.itemsize for stride in view.strides]
        array = np.ndarray(view.shape, dtype, data, view.offset * dtype.itemsize, strides)
    except Exception as error:  # of the zip too
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what} is damaged ({reason:.200}): fetch or save the file again") from error
    return array.astype(np.float32) if dtype == jnp.bfloat16 else array

"""The collectives of a compiled program, read from its optimised HLO text: kind, bytes, purpose."""

import math
import re
from dataclasses import dataclass

GRADIENTS, NORM_FORWARD, NORM_BACKWARD, METRICS = "gradients", "norms, forward", "norms, backward", "losses, metrics"
PURPOSES = (GRADIENTS, NORM_FORWARD, NORM_BACKWARD, METRICS)

# Bytes that each of n devices sends in a ring, for a result of one byte per device.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
KINDS = tuple(_SENT)
_INSTRUCTION = re.compile(rf"%?(\S+) = (.*?) ({'|'.join(KINDS)})(-start|-done)?\(%?([^,)\s]*)")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")


@dataclass(frozen=True)
class Tensor:
    """One array in a collective: bytes of its result on each device."""

    bytes: int
    purpose: str


@dataclass(frozen=True)
class Collective:
    """One collective instruction; a combined one carries several tensors.

    `looped`: it is in the body of a loop, so it runs more than once per step.
    """

    kind: str
    group_size: int
    tensors: tuple[Tensor, ...]
    looped: bool

    @property
    def sent_bytes(self) -> float:
        """Bytes that each device sends, in a ring."""
        return _SENT[self.kind](self.group_size) * sum(tensor.bytes for tensor in self.tensors)


def read_collectives(hlo: str, num_devices: int) -> list[Collective]:
    """The collectives of `compiled.as_text()` of a program for `num_devices`.

    An asynchronous pair has its groups and names in -start and its result in -done: the result of -start holds operands
    and contexts too, in an order that depends on the kind.
    """
    loops = set(re.findall(r"\bbody=%?([\w.-]+)", hlo))
    found, started, computation = [], {}, ""
    for line in hlo.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            computation = header[1]
        if not (match := _INSTRUCTION.search(line)):
            continue
        name, result, kind, stage, operand = match.groups()
        if stage == "-start":
            started[name] = line
            continue
        named = started[operand] if stage == "-done" else line
        sizes = [_size(*shape) for shape in _SHAPE.findall(result)]
        names = _op_names(named, len(sizes))
        tensors = tuple(Tensor(size, purpose(name)) for size, name in zip(sizes, names, strict=True))
        found.append(Collective(kind, _group_size(named, num_devices), tensors, computation in loops))
    return found


def purpose(op_name: str) -> str:
    """The purpose of a collective, from JAX's name of the operation: its modules and transformations.

    Norms are modules called `bn1`, `downsample_bn` and so on; the transpose of a pass is its gradient.
    """
    backward = "transpose(" in op_name
    if re.search(r"/(\w+_)?bn\d?/", op_name):
        return NORM_BACKWARD if backward else NORM_FORWARD
    return GRADIENTS if backward else METRICS


def _size(dtype: str, dims: str) -> int:
    """Bytes of a shape such as bf16[3,3,64,64]; 0 for a token."""
    digits = re.search(r"\d+", dtype)
    bits = int(digits[0]) if digits else {"pred": 8, "token": 0}[dtype]
    return math.prod(int(dim.lstrip("<=")) for dim in dims.split(",") if dim) * bits // 8


def _op_names(line: str, count: int) -> list[str]:
    """The name of each tensor: XLA joins the names of a combined collective as prefix/(one:two), or keeps one."""
    match = re.search(r'op_name="([^"]*)"', line)
    name = match[1] if match else ""
    if group := re.fullmatch(r"(.*?/|)\((.*)\)", name):
        parts = group[2].split(":")
        if len(parts) == count:
            return [f"{group[1]}{part}" for part in parts]
    return [name] * count


def _group_size(line: str, num_devices: int) -> int:
    """Devices per group; groups look like {{0,1},{2,3}}, [2,2]<=[4] or mesh['x'=2,'y'=2] {'x'}."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"('\w+')=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'\w+'", match[2]))
    return num_devices

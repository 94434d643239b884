"""Collectives and memory of the compiled train step on many devices, and predicted hours of long runs.

    python -m benchmarks.scaling [--devices=1,8,64,256] [--tpu=v5e:8x8,v5p:4x4x8] [--images_per_device=8] [...]
    python -m benchmarks.scaling --predict [--images_per_second=1250]

The first compiles for simulated CPU devices and, with --tpu, for slices that this machine lacks (needs libtpu, but no
TPU). It runs nothing and prints a row per number of devices. The second prints the table of docs/scaling.md.
"""

import math
import os
import re
import subprocess
import sys
import time
from collections import Counter

from absl import flags
from ml_collections import ConfigDict

from benchmarks.scaling import predict
from benchmarks.scaling.collectives import PURPOSES
from benchmarks.scaling.program import Program, from_json
from configs import coco
from univip_jax.common.cli import run
from univip_jax.common.errors import UserError

_FLAGS = flags.FLAGS
_CAPTION = (
    "| devices | all-reduces; other collectives | "
    + " | ".join(f"{purpose}: arrays, MB" for purpose in PURPOSES)
    + " | sent per device, MB | parameters, MB | arguments, GB | temporaries, GB | GFLOP per image | compiled in |\n"
    + "| --- " * (len(PURPOSES) + 8)
    + "|"
)


def _define() -> None:
    flags.DEFINE_list("devices", ["1", "8", "64", "256"], "Numbers of simulated CPU devices to compile for.")
    flags.DEFINE_list("tpu", [], "TPU slices to compile for, as v5e:8x8; needs libtpu, but no TPU.")
    flags.DEFINE_integer("images_per_device", 8, "Per step; the collectives do not depend on it.", 1)
    flags.DEFINE_string("backbone", "resnet50", "config.model.backbone")
    flags.DEFINE_integer("scene_size", 224, "config.views.scene_size, px", 1)
    flags.DEFINE_integer("instance_size", 96, "config.views.instance_size, px", 1)
    flags.DEFINE_string("dtype", "bfloat16", "config.model.dtype")
    flags.DEFINE_bool("predict", False, "Print the table of docs/scaling.md instead of compiling.")
    flags.DEFINE_float("images_per_second", None, "--predict: of one device; default: the goal of each kind.", 1)


def _config(images: int) -> ConfigDict:
    config = coco.get_config()
    config.batch_size = images
    config.model.backbone, config.model.dtype = _FLAGS.backbone, _FLAGS.dtype
    config.views.scene_size, config.views.instance_size = _FLAGS.scene_size, _FLAGS.instance_size
    return config


def targets(devices: list[str], tpu: list[str]) -> list[tuple[str, int]]:
    """Targets to compile for, each with its number of devices; raises UserError for a wrong number or slice."""
    found = []
    for text in devices:
        if not text.isdigit() or not int(text):
            raise UserError(f"--devices={','.join(devices)}: {text!r} is not a number of devices; give e.g. 1,8,64")
        found.append((text, int(text)))
    for text in tpu:
        if not (match := re.fullmatch(r"v\w+:(\d+(?:x\d+)+)", text)):
            raise UserError(f"--tpu={','.join(tpu)}: {text!r} is not a slice; give e.g. v5e:8x8,v5p:4x4x8")
        found.append((text, math.prod(int(side) for side in match[1].split("x"))))
    return found


def _compile(target: str, count: int) -> Program:
    """Compiles in a process of its own. Level 0 saves time and leaves the collectives as they are."""
    options = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"
    tpu = [target] if ":" in target else []
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "" if tpu else options, "TPU_SKIP_MDS_QUERY": "1"}
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling.program", *tpu],
        input=_config(count * _FLAGS.images_per_device).to_json(),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    if process.returncode:
        sys.exit(process.returncode)
    return from_json(process.stdout.splitlines()[-1])


def row(program: Program) -> str:
    """A row of the table."""
    tensors = [tensor for collective in program.collectives for tensor in collective.tensors]
    kinds = Counter(collective.kind for collective in program.collectives)
    reduces = kinds.pop("all-reduce", 0)
    others = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"
    cells = [f"{program.num_devices} ({program.device})", f"{reduces}; {others}"]
    for purpose in PURPOSES:
        if program.device.startswith("TPU"):  # XLA names a combined all-reduce after one of its arrays there
            cells.append("")
            continue
        sizes = [tensor.bytes for tensor in tensors if tensor.purpose == purpose]
        cells.append(f"{len(sizes)}, {sum(sizes) / 1e6:.3g}")
    cells += [
        f"{sum(collective.sent_bytes for collective in program.collectives) / 1e6:.1f}",
        f"{program.parameter_bytes / 1e6:.1f}",
        f"{program.argument_bytes / 1e9:.2f}",
        f"{program.temporary_bytes / 1e9:.2f}",
        f"{program.flops_per_image / 1e9:.2f}",
        f"{program.compile_seconds:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def _work() -> None:
    if _FLAGS.predict:
        print(predict.report(predict.resnet50(), _FLAGS.images_per_second))
        return
    wanted, start = targets(_FLAGS.devices, _FLAGS.tpu), time.monotonic()
    sizes = f"{_FLAGS.scene_size}/{_FLAGS.instance_size} px, {_FLAGS.images_per_device} images per device"
    print(f"{_FLAGS.backbone}, {sizes}, {_FLAGS.dtype}\n\n{_CAPTION}", flush=True)
    for done, (target, count) in enumerate(wanted):
        left = f", about {(time.monotonic() - start) / done * (len(wanted) - done) / 60:.0f} min left" if done else ""
        print(f"compiling for {target} ({done + 1} of {len(wanted)}{left}) ...", file=sys.stderr, flush=True)
        print(row(_compile(target, count)), flush=True)


if __name__ == "__main__":
    run("benchmarks.scaling", _define, [], _work, interrupted="run it again")

"""The trainer's own step, compiled for one device, on a batch that stays there."""

import gzip
import json
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.step.program import Program, random_pixels
from benchmarks.step.trace import kernel_table, kernels, read_events, summary
from univip_jax.common.files import write_whole
from univip_jax.losses import instance_loss
from univip_jax.plan import Plan, make_plan
from univip_jax.reproduce.rows import PHOTOS
from univip_jax.sharding import make_mesh, put_batch, replicated
from univip_jax.train_step import augment_views, lower_step
from univip_jax.types import Batch, OnlineOutputs, TargetOutputs

_PROFILED_STEPS = 3
_AHEAD = 2  # queued calls on the device, as in training: the results of more would fill its memory


class JaxStep:
    """A compiled step and its state.

    Attributes:
      facts: known before it runs: device, seconds to compile, FLOPs per image, bytes of the program.
      parts: calls to time; `step` does one train step, the others, not of an experiment, repeat a part alone.
    """

    def __init__(self, program: Program):
        jax.config.update("jax_enable_compilation_cache", False)  # the time to compile is a figure
        plan = make_plan(program.config(), PHOTOS["coco"])
        device = jax.devices()[0]
        mesh = make_mesh([device])
        views = plan.views
        self._batch = put_batch(
            mesh,
            Batch(
                random_pixels(plan.batch_size, 2, views.scene_size),
                random_pixels(plan.batch_size, views.num_instances, views.instance_size),
            ),
        )
        self._state = jax.jit(plan.init_state, out_shardings=replicated(mesh))()
        began = time.monotonic()
        lowered = lower_step(plan, mesh)
        self._step = lowered.compile()
        seconds = time.monotonic() - began
        memory = self._step.memory_analysis()
        self.facts = {
            "device": device.device_kind,
            "platform": device.platform,
            "version": f"jax {jax.__version__}",
            "compile_seconds": seconds,
            # Counted before XLA's passes: the method's work, on any backend.
            "flops_per_image": lowered.cost_analysis()["flops"] / plan.batch_size,
            "program_bytes": memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes,
        }
        self._device = device
        self._running: deque[Any] = deque()
        calls = {"step": self._train, **({} if program.experiment else _parts(plan, self._batch))}
        self.parts = {name: partial(self._queue, call) for name, call in calls.items()}

    def _train(self) -> jax.Array:
        self._state, self._metrics = self._step(self._state, self._batch)
        return self._metrics["train/loss"]

    def _queue(self, call: Callable[[], Any]) -> None:
        self._running.append(call())
        if len(self._running) > _AHEAD:
            jax.block_until_ready(self._running.popleft())

    def wait(self) -> None:
        """Waits until the device is idle."""
        jax.block_until_ready(list(self._running))
        self._running.clear()

    def peak_bytes(self) -> int | None:
        """Peak of the device so far; None if it does not report one."""
        return (self._device.memory_stats() or {}).get("peak_bytes_in_use")

    def check(self) -> None:
        """Raises FloatingPointError if a step was not finite, and therefore skipped."""
        if bad := int(self._metrics["train/bad_steps"]):
            raise FloatingPointError(f"{bad} steps were not finite")

    def profile(self, folder: Path) -> None:
        """Writes a trace of a few steps, for TensorBoard or Perfetto, the program, and `kernels.json`."""
        with jax.profiler.trace(str(folder)):
            for index in range(_PROFILED_STEPS):
                with jax.profiler.StepTraceAnnotation("train", step_num=index):
                    self.parts["step"]()
            self.wait()
        hlo = self._step.as_text()
        (folder / "program.hlo.gz").write_bytes(gzip.compress(hlo.encode()))
        found = summary(read_events(folder), kernels(hlo), _PROFILED_STEPS)
        write_whole(folder / "kernels.json", json.dumps(found, indent=1) + "\n")
        print(kernel_table(found), flush=True)


def _parts(plan: Plan, batch: Batch) -> dict[str, Callable[[], Any]]:
    """Augmentation, and the instance loss forward (marginals, cost and Sinkhorn), each compiled alone."""
    key = jax.random.key(0)
    augment = jax.jit(lambda key, batch: augment_views(key, batch, plan.augment))
    parts = {"augmentation": lambda: augment(key, batch)}
    if plan.loss.instance:
        rng = np.random.default_rng(0)
        shape = (plan.batch_size, 2 + plan.views.num_instances, plan.model.projection)
        online, target = (jax.device_put(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
        outputs = (
            OnlineOutputs(online[:, :2], online[:, 2:], online[:, 0]),
            TargetOutputs(target[:, :2], target[:, 2:]),
        )
        transport = jax.jit(lambda online, target: instance_loss(online, target, plan.transport))
        parts["transport"] = lambda: transport(*outputs)
    return parts

"""The train step in PyTorch, written for speed: compiled, channels last, autocast, fused optimizer."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from benchmarks.step.program import Program, random_pixels
from benchmarks.step.torch_augment import augment
from benchmarks.step.torch_losses import Losses
from benchmarks.step.torch_networks import make_online
from univip_jax.augment import AugmentSpec
from univip_jax.common.files import write_whole
from univip_jax.config import to_spec
from univip_jax.losses import LossSpec
from univip_jax.models.univip import ModelSpec
from univip_jax.optim import OptimizerSpec
from univip_jax.transport import TransportSpec
from univip_jax.views import ViewSpec

_PROFILED_STEPS = 2
_CONVOLUTIONS = ("aten::convolution", "aten::convolution_backward")  # with all that they call


class TorchStep:
    """A compiled step and its state, with the attributes and methods of `JaxStep`.

    It lacks the check for non-finite values, the metrics and the schedules of our step.
    """

    def __init__(self, program: Program, compile_mode: str):
        config = program.config()
        torch.manual_seed(config.seed)
        torch.backends.cudnn.benchmark = True
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loss, views = to_spec(LossSpec, config, "loss"), to_spec(ViewSpec, config, "views")
        num_instances = views.num_instances if loss.needs_instances else 0
        model, optimizer = to_spec(ModelSpec, config, "model"), to_spec(OptimizerSpec, config, "optimizer")
        self._augment = to_spec(AugmentSpec, config, "augment")
        self._bfloat16 = model.dtype == "bfloat16"
        self._scenes = self._put(random_pixels(config.batch_size, 2, views.scene_size))
        self._instances = None
        if num_instances:
            instances = random_pixels(config.batch_size, num_instances, views.instance_size)
            self._instances = self._put(instances).flatten(0, 1)

        self.online = make_online(model, num_instances).to(self._device, memory_format=torch.channels_last)
        self.target = copy.deepcopy(self.online.encoder).requires_grad_(False)
        self._losses = Losses(self.online, self.target, loss, to_spec(TransportSpec, config, "transport"))
        self._moved = list(self.target.parameters()), list(self.online.encoder.parameters())
        self._target_momentum = config.ema.base
        self.optimizer = torch.optim.SGD(
            self.online.parameters(),
            optimizer.lr * config.batch_size / 256,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._forward = self._loss
        if compile_mode != "none":
            self._forward = torch.compile(self._loss, mode=compile_mode, dynamic=False, fullgraph=True)
        self.parts: dict[str, Callable[[], torch.Tensor]] = {"step": self._train}
        began = time.monotonic()
        self._train()
        self.wait()
        self.facts = {
            "device": torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu",
            "platform": self._device.type,
            "version": f"torch {torch.__version__}",
            "compile_seconds": time.monotonic() - began,
        }

    def _put(self, pixels):
        return torch.from_numpy(pixels).to(self._device)

    def _loss(self, scenes: torch.Tensor, instances: torch.Tensor | None) -> torch.Tensor:
        with torch.no_grad():
            views = [augment(scenes[:, view], self._augment, view) for view in (0, 1)]
            if instances is not None:
                instances = augment(instances, self._augment, 0)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
            return self._losses(views, instances)

    def _train(self) -> torch.Tensor:
        loss = self._forward(self._scenes, self._instances)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        target, online = self._moved
        torch._foreach_lerp_(target, online, 1 - self._target_momentum)
        self._last = loss.detach()
        return self._last

    def wait(self) -> None:
        """Waits until the device is idle."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        """Peak of the device so far; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else None

    def check(self) -> None:
        """Raises FloatingPointError if the last loss is not finite."""
        if not torch.isfinite(self._last):
            raise FloatingPointError("the loss is not finite")

    def profile(self, folder: Path) -> None:
        """Writes `kernels.json`: ms per step of all convolutions, by the profiler; a CPU's where there is no GPU."""
        on_gpu = self._device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with torch.profiler.profile(activities=activities) as seen:
            for _ in range(_PROFILED_STEPS):
                self._train()
            self.wait()
        field = "device_time_total" if on_gpu else "cpu_time_total"  # us
        spent = sum(getattr(one, field) for one in seen.key_averages() if one.key in _CONVOLUTIONS)
        if not spent:
            raise RuntimeError("the profiler saw no convolution")
        folder.mkdir(parents=True, exist_ok=True)
        found = {"classes_ms": {"conv": spent / _PROFILED_STEPS / 1000}}
        write_whole(folder / "kernels.json", json.dumps(found) + "\n")

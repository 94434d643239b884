"""What is timed: the train step of one framework and method at one batch size; and changes to JAX's, to be tried."""

from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from configs import common

METHODS = {"byol": "table7=a", "univip": "table7=e"}  # rows of the paper's Table 7: the scene loss alone, all three
FRAMEWORKS = ("jax", "torch")


@dataclass(frozen=True)
class Experiment:
    """One change to JAX's step, measured beside the step as it is."""

    question: str
    fields: dict[str, object] = field(default_factory=dict)  # of the config
    xla_flags: str = ""


EXPERIMENTS = {
    "no_loop": Experiment("what do the iterations of Sinkhorn cost inside the step?", {"transport.num_iters": 1}),
    "no_blur": Experiment("what does the blur cost inside the step?", {"augment.blur": (0.0, 0.0)}),
    "no_graphs": Experiment("what do CUDA graphs bring?", xla_flags="--xla_gpu_enable_command_buffer="),
    "loops_in_graphs": Experiment(
        "is Sinkhorn's loop faster as part of a CUDA graph?",
        xla_flags="--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE",
    ),
    "unroll": Experiment(
        "is Sinkhorn's loop faster unrolled?",
        xla_flags="--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_AUTO_UNROLL",
    ),
    "conv_fusion": Experiment(
        "do convolutions that take in their neighbours save passes of batch norm?",
        xla_flags="--xla_gpu_experimental_enable_conv_fusion=true",
    ),
    "multi_output": Experiment(
        "do more reductions share a pass over an activation?",
        xla_flags="--xla_gpu_unsupported_enable_triton_multi_output_fusion=true",
    ),
    "nhwc": Experiment("does XLA leave NHWC where it should not?", xla_flags="--xla_gpu_force_conv_nhwc=true"),
    "latency": Experiment(
        "does the latency-hiding scheduler help one device?",
        xla_flags="--xla_gpu_enable_latency_hiding_scheduler=true",
    ),
    "cudnn_gemm": Experiment("are cuDNN's fused products faster?", xla_flags="--xla_gpu_cudnn_gemm_fusion_level=2"),
    "all_tilings": Experiment("does a longer search find better kernels?",
                              xla_flags="--xla_gpu_exhaustive_tiling_search=true"),
}  # fmt: skip


@dataclass(frozen=True)
class Program:
    """A row of the final table. `fields` are values of the config that differ from configs/common.py."""

    framework: str
    method: str
    batch_size: int
    experiment: str = ""
    fields: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.framework, self.method, str(self.batch_size), self.experiment)))

    def config(self) -> ConfigDict:
        """The config of a training that takes this step."""
        config = common.get_config(METHODS[self.method])
        config.batch_size = self.batch_size
        config.update_from_flattened_dict(dict(self.fields))
        if self.experiment:
            config.update_from_flattened_dict(EXPERIMENTS[self.experiment].fields)
        return config

    @property
    def xla_flags(self) -> str:
        """What its experiment adds to XLA_FLAGS."""
        return EXPERIMENTS[self.experiment].xla_flags if self.experiment else ""


def random_pixels(batch_size: int, count: int, side: int) -> np.ndarray:
    """uint8 [batch_size, count, side, side, 3]; the time of a step does not depend on what the photos show."""
    return np.random.default_rng(0).integers(0, 256, (batch_size, count, side, side, 3), np.uint8)

"""What is timed: the train step of one framework and method at one batch size, and experiments with JAX's step."""

from dataclasses import dataclass, field

import numpy as np
from ml_collections import ConfigDict

from configs import common

METHODS = {"byol": "table7=a", "univip": "table7=e"}  # rows of the paper's Table 7
FRAMEWORKS = ("jax", "torch")


@dataclass(frozen=True)
class Experiment:
    """One change to JAX's step, timed beside the unchanged step."""

    question: str
    fields: dict[str, object] = field(default_factory=dict)  # of the config
    xla_flags: str = ""


_GRAPHS = "--xla_gpu_enable_command_buffer="
EXPERIMENTS = {
    "no_loop": Experiment("what do Sinkhorn's iterations cost inside the step?", {"transport.num_iters": 1}),
    "no_blur": Experiment("what does the blur cost inside the step?", {"augment.blur": (0.0, 0.0)}),
    "no_graphs": Experiment("what do CUDA graphs save?", xla_flags=_GRAPHS),
    "conv_graphs": Experiment("what do convolutions in CUDA graphs save?", xla_flags=f"{_GRAPHS}+CONVOLUTION"),
    "loops_in_graphs": Experiment(
        "is Sinkhorn's loop faster in a CUDA graph?",
        xla_flags=f"{_GRAPHS}FUSION,CUBLAS,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE",
    ),
    "unroll": Experiment(
        "is Sinkhorn's loop faster unrolled?",
        xla_flags="--xla_gpu_enable_while_loop_unrolling=WHILE_LOOP_UNROLLING_AUTO_UNROLL",
    ),
    "no_multi": Experiment(
        "are sums slower in one kernel with element-wise siblings? (openxla/xla #46075)",
        xla_flags="--xla_disable_hlo_passes=multi_output_fusion",
    ),
    "any_order": Experiment(
        "what does a step that repeats bit for bit cost?",
        xla_flags="--xla_gpu_exclude_nondeterministic_ops=false",
    ),
    "conv_fusion": Experiment(
        "do fused convolutions save passes over activations?",
        xla_flags="--xla_gpu_experimental_enable_conv_fusion=true",
    ),
}


@dataclass(frozen=True)
class Program:
    """A row of the final table. `fields`: config values that differ from configs/common.py."""

    framework: str
    method: str
    batch_size: int
    experiment: str = ""
    fields: tuple[tuple[str, object], ...] = ()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.framework, self.method, str(self.batch_size), self.experiment)))

    def config(self) -> ConfigDict:
        """The config of a training with this step."""
        config = common.get_config(METHODS[self.method])
        config.batch_size = self.batch_size
        config.update_from_flattened_dict(dict(self.fields))
        if self.experiment:
            config.update_from_flattened_dict(EXPERIMENTS[self.experiment].fields)
        return config

    @property
    def xla_flags(self) -> str:
        """Flags that its experiment adds to XLA_FLAGS."""
        return EXPERIMENTS[self.experiment].xla_flags if self.experiment else ""


def random_pixels(batch_size: int, count: int, side: int) -> np.ndarray:
    """uint8 [batch_size, count, side, side, 3]; the time of a step does not depend on the pixels."""
    return np.random.default_rng(0).integers(0, 256, (batch_size, count, side, side, 3), np.uint8)

"""What the device can do at most: bytes per second of a copy, FLOP per second of a bfloat16 product."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks.step.worker import seconds_per_call
from univip_jax.common.cli import define_path
from univip_jax.common.cli import run as run_command
from univip_jax.common.files import write_whole

NAME = "benchmarks.step.ceilings"


def _seconds(function, *arguments: jax.Array) -> float:
    """Mean of ten calls after one that compiles."""
    compiled, last = jax.jit(function), []

    def call() -> None:
        last[:] = [compiled(*arguments)]

    seconds_per_call(call, lambda: jax.block_until_ready(last), 1)
    return seconds_per_call(call, lambda: jax.block_until_ready(last), 10)


def _work() -> None:
    device = jax.devices()[0]
    values, side = (2**24, 512) if device.platform == "cpu" else (2**30, 8192)
    ones = jnp.ones(values, jnp.float32)
    copy_bytes = 2 * 4 * values / _seconds(lambda x: x + 1, ones)
    first, second = (jax.random.normal(jax.random.key(i), (side, side), jnp.bfloat16) for i in range(2))
    flops = 2 * side**3 / _seconds(jnp.dot, first, second)
    found = {"device": device.device_kind, "version": jax.__version__}
    found |= {"copy_tb_per_s": copy_bytes / 1e12, "product_tflops": flops / 1e12}
    write_whole(Path(flags.FLAGS.json), json.dumps(found) + "\n")


if __name__ == "__main__":
    define = lambda: define_path("json", None, "File for the figures.")  # noqa: E731
    run_command(NAME, define, ("json",), _work, interrupted="run it again")

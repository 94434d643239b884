"""The former name of `python -m univip_jax.weights`, which it runs: scripts of users hold it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("univip_jax.weights", run_name="__main__")

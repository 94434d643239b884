"""The command `python -m univip_jax.pretrain`: your own photos to weights and a page; see `univip_jax.own`.

A file that nobody imports: `univip_jax.pretrain` is the function of the same name.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("univip_jax.own", run_name="__main__", alter_sys=True)

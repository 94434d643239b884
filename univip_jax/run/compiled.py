"""Compiled programs, cached in a run's folder: a restart compiles nothing, and continues with the very same program.

The same matters as much as the time: XLA chooses algorithms by measuring them, and another choice rounds differently.
JAX writes an entry in place and verifies none, so an interruption or a flipped bit would stay. zlib, by which JAX
compresses entries, carries a checksum: one that does not decompress is removed before JAX sees it. (Where `zstandard`
is installed JAX uses that, without a checksum: then each start compiles anew.)

On GPUs XLA's choices are stored beside the programs, so that one compiled anew, because its entry was lost or damaged,
makes the same: a file per fusion and kind of GPU, written whole, one that cannot be read is measured anew.
"""

import contextlib
import os
import zlib
from pathlib import Path

import jax
import jaxlib

from univip_jax.common import buckets

FOLDER = "compiled"
_ENTRIES = "*-cache"  # JAX's suffix
CHOICES = "xla_gpu_per_fusion_autotune_cache_dir"  # XLA's flag, JAX's name of the cache, and of its folder


def cache_compiled(run: Path) -> None:
    """Programs compiled from now on are cached in `run/compiled`. JAX_COMPILATION_CACHE_DIR, where set, stays.

    For a run in a bucket the cache is a folder of this machine.

    On GPUs in a folder of this jaxlib's version: XLA does not check that a stored choice is of its own version. A place
    for choices that XLA_FLAGS names stays.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    on_gpus = jax.default_backend() == "gpu"
    in_bucket = buckets.is_bucket(run)
    folder = (buckets.near(run) if in_bucket else run) / FOLDER
    folder = folder / jaxlib.__version__ if on_gpus else folder
    if in_bucket or jax.process_index() == 0:
        for path in folder.glob(_ENTRIES):
            if not _is_whole(path):
                path.unlink(missing_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    # XLA's other caches would be unverified. JAX 0.10 has their path in each key: a run that is moved compiles anew.
    stores = on_gpus and CHOICES not in os.environ.get("XLA_FLAGS", "")
    jax.config.update("jax_persistent_cache_enable_xla_caches", CHOICES if stores else "none")


def _is_whole(path: Path) -> bool:
    with contextlib.suppress(zlib.error):
        zlib.decompress(path.read_bytes())
        return True
    return False

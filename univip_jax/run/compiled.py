"""Compiled programs, cached in a run's folder: a restart compiles nothing, and continues with the very same program.

The same matters as much as the time: XLA chooses algorithms by measuring them, and another choice rounds differently.
JAX writes an entry in place and verifies none, so an interruption or a flipped bit would stay. zlib, by which JAX
compresses entries, carries a checksum: one that does not decompress is removed before JAX sees it. (Where `zstandard`
is installed JAX uses that, without a checksum: then each start compiles anew.)
"""

import contextlib
import zlib
from pathlib import Path

import jax

FOLDER = "compiled"
_ENTRIES = "*-cache"  # JAX's suffix


def cache_compiled(run: Path) -> None:
    """Programs compiled from now on are cached in `run/compiled`. JAX_COMPILATION_CACHE_DIR, where set, stays."""
    if jax.config.jax_compilation_cache_dir:
        return
    folder = run / FOLDER
    if jax.process_index() == 0:
        for path in folder.glob(_ENTRIES):
            if not _is_whole(path):
                path.unlink()
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    # XLA's own caches would be unverified, and their paths part of each key: a run that is moved would compile anew.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _is_whole(path: Path) -> bool:
    with contextlib.suppress(zlib.error):
        zlib.decompress(path.read_bytes())
        return True
    return False

"""Compiled programs, kept in a run's folder: a restart compiles nothing, and goes on with the very same program.

The same matters as much as the time: XLA chooses algorithms by measuring them, and another choice rounds differently.
JAX writes an entry in place and checks none, so that an interruption or a flipped bit would stay: here each entry has a
digest, and one without, or with another, is removed before JAX sees it.
"""

import hashlib
import json
from pathlib import Path

import jax

FOLDER = "compiled"
_DIGESTS = "digests.json"
_ENTRIES = "*-cache"  # JAX's suffix


def keep_compiled(run: Path) -> None:
    """Programs compiled from now on are kept in `run/compiled`; JAX_COMPILATION_CACHE_DIR, where set, is left alone."""
    if jax.config.jax_compilation_cache_dir:
        return
    folder = run / FOLDER
    if jax.process_index() == 0 and folder.is_dir():
        known = _read(folder)
        for path in folder.glob(_ENTRIES):
            if known.get(path.name) != _sha256(path):
                path.unlink()
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    # XLA's own caches would be unverified, and their paths part of each key: a run that is moved would compile anew.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def seal_compiled(run: Path) -> None:
    """Notes the digests of the programs that were added; called when none is being written."""
    folder = run / FOLDER
    if jax.process_index() == 0 and folder.is_dir():
        known = _read(folder)
        added = {path.name: _sha256(path) for path in folder.glob(_ENTRIES) if path.name not in known}
        if added:
            temporary = folder / f"{_DIGESTS}.tmp"
            temporary.write_text(json.dumps(known | added, indent=2) + "\n")
            temporary.replace(folder / _DIGESTS)


def _read(folder: Path) -> dict[str, str]:
    try:
        known = json.loads((folder / _DIGESTS).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

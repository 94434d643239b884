"""What a checkpoint says of its state: shapes, and a digest of every leaf, which any flipped bit changes.

Orbax stores no checksums, and to hash a host copy would stall a step for as long as the copy takes. These digests are
computed where the leaf lives, at the speed of the accelerator's memory. They are the same for every sharding, since
sums modulo 2^32 do not depend on their order. Each device sums its own copy: copies that differ show.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from univip_jax.common.errors import DivergedReplicas

# Odd, so that multiplication by it modulo 2^32 loses no bit; Knuth's multiplicative constant.
_WEIGHT = 2654435761


def _sums(leaf: jax.Array) -> jax.Array:
    """Two sums [2] uint32 of the leaf's words: plain, and weighted by position, so that an exchange shows."""
    bits = leaf.dtype.itemsize * 8
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    elif bits == 64:
        words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    else:
        words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)
    words = words.reshape(-1)
    weights = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(_WEIGHT) | 1
    return jnp.stack([words.sum(dtype=jnp.uint32), (words * weights).sum(dtype=jnp.uint32)])


@jax.jit
def _all_sums(leaves: list[jax.Array]) -> jax.Array:
    """[L, 2] uint32, on every device that holds the leaves."""
    return jnp.stack([_sums(leaf) for leaf in leaves])


def digests(tree: Any, *, all_processes: bool = False) -> dict[str, str]:
    """16 hexadecimal digits for each leaf, by its path, such as `params/encoder/backbone/conv1/kernel`.

    Args:
      tree: of host arrays, or of arrays that every device of a mesh holds.
      all_processes: compare the devices of all processes, which must all call this, and not only this one's.

    Raises:
      DivergedReplicas: two devices hold different bits of the same leaf.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    sums = _all_sums(list(leaves))
    shards = sums.addressable_shards
    replicas = np.stack([np.asarray(shard.data) for shard in shards])
    devices = np.array([shard.device.id for shard in shards])
    if all_processes:
        replicas, devices = multihost_utils.process_allgather((replicas, devices), tiled=True)
    for replica, device in zip(replicas, devices, strict=True):
        differing = [name for name, same in zip(names, (replica == replicas[0]).all(-1), strict=True) if not same]
        if differing:
            raise DivergedReplicas(
                f"device {device} holds other bits than device {devices[0]} in {len(differing)} of {len(names)} arrays "
                f"({differing[0]}, ...): memory or a computation erred; run the same command again: it resumes "
                "from the newest checkpoint, on which all agreed; if it happens again, replace the device"
            )
    return {name: f"{plain:08x}{weighted:08x}" for name, (plain, weighted) in zip(names, replicas[0], strict=True)}


def describe(state: Any, meta: dict) -> dict:
    """`meta` with the digests and shapes of a state on all processes, and a digest of the whole description.

    Raises DivergedReplicas as `digests` does.
    """
    meta = {**meta, "digests": digests(state, all_processes=True), "shapes": shapes(state)}
    return {**meta, "sha256": description_sha256(meta)}


def shapes(tree: Any) -> dict[str, list[int]]:
    """The shape of each leaf, by the names that `digests` gives."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): list(leaf.shape) for path, leaf in leaves}


def differing(like: Any, saved: dict[str, list[int]], *, partial: bool = False) -> list[str]:
    """Names of the leaves that only one side has, or has in another shape; `partial`: in the modules of `like`."""
    wanted = shapes(like)
    if partial:
        modules = {tuple(name.split("/")[:3]) for name in wanted}
        saved = {name: shape for name, shape in saved.items() if tuple(name.split("/")[:3]) in modules}
    return sorted(name for name in wanted.keys() | saved.keys() if wanted.get(name) != saved.get(name))


def description_sha256(meta: dict) -> str:
    """Sha256 (hex) of all fields but itself."""
    fields = {name: value for name, value in meta.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

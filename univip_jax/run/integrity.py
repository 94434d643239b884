"""A digest of every leaf of a state, computed where the leaf lives: any flipped bit changes it.

Orbax stores no checksums of its own, and the way of a host copy through a hash would stall a step for as long as the
copy takes. These sums run on the accelerator at the speed of its memory and are the same for every sharding,
since sums modulo 2^32 do not depend on their order. Each device sums its own copy: copies that differ show.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from univip_jax.common.errors import DivergedReplicas

# Odd, so that multiplication by it modulo 2^32 loses no bit; Knuth's multiplicative constant.
_WEIGHT = 2654435761


def _sums(leaf: jax.Array) -> jax.Array:
    """Two sums [2] uint32 of the leaf's words: plain, and weighted by position so that an exchange shows."""
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
                f"({differing[0]}, ...): memory or a computation erred; the same command goes on from the newest "
                "checkpoint, before which all agreed; if it happens again, replace the device"
            )
    return {name: f"{plain:08x}{weighted:08x}" for name, (plain, weighted) in zip(names, replicas[0], strict=True)}

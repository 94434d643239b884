"""Digests against a NumPy loop; every flipped bit and exchanged pair changes them, no sharding does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from univip_jax.common.errors import DivergedReplicas
from univip_jax.run.integrity import digests
from univip_jax.sharding import make_mesh, replicated


def by_hand(leaf: np.ndarray) -> str:
    plain = weighted = 0
    for index, word in enumerate(leaf.reshape(-1).view({2: np.uint16, 4: np.uint32}[leaf.dtype.itemsize]).tolist()):
        plain = (plain + word) % 2**32
        weighted = (weighted + word * ((index * 2654435761) % 2**32 | 1)) % 2**32
    return f"{plain:08x}{weighted:08x}"


LEAF = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)


@pytest.mark.parametrize(
    "leaf", [LEAF, LEAF.astype(np.float16), LEAF.view(np.int32), LEAF[:1, :1], np.float32(3).reshape(())]
)
def test_sums_are_those_of_a_loop(leaf):
    assert digests({"a": {"b": jnp.asarray(leaf)}}) == {"a/b": by_hand(leaf)}


def test_every_flipped_bit_and_an_exchange_show():
    whole = digests([LEAF])["0"]
    for index in range(LEAF.size):
        for bit in range(32):
            flipped = LEAF.copy()
            flipped.reshape(-1).view(np.uint32)[index] ^= np.uint32(1) << np.uint32(bit)
            assert by_hand(flipped) != whole
    exchanged = LEAF.copy()
    exchanged[0, 0], exchanged[3, 4] = LEAF[3, 4], LEAF[0, 0]
    assert digests([exchanged])["0"] != whole


def test_a_sharding_changes_nothing():
    mesh = make_mesh()
    assert mesh.size == 4
    leaf = np.random.default_rng(0).normal(size=(8, 7)).astype(np.float32)
    sharded = jax.device_put(leaf, jax.NamedSharding(mesh, PartitionSpec("data")))
    assert digests([sharded]) == digests([leaf]) == {"0": by_hand(leaf)}


def test_a_device_that_holds_other_bits_is_named():
    """One bit of one copy: the runtime believes that all are equal, and a save would keep whichever comes first."""
    mesh = make_mesh()
    copies = [LEAF.copy() for _ in range(mesh.size)]
    like = [jax.device_put(copy, device) for copy, device in zip(copies, mesh.devices, strict=True)]
    whole = jax.make_array_from_single_device_arrays(LEAF.shape, replicated(mesh), like)
    assert digests({"a": whole, "b": whole}, all_processes=True)["b"] == by_hand(LEAF)
    other = LEAF.copy()  # a buffer may share the memory of the array that was put there
    other.view(np.uint32)[0, 0] ^= 1
    like[2] = jax.device_put(other, mesh.devices[2])
    diverged = jax.make_array_from_single_device_arrays(LEAF.shape, replicated(mesh), like)
    with pytest.raises(
        DivergedReplicas, match=r"device 2 holds other bits than device 0 in 1 of 2 arrays \(b, \.\.\.\)"
    ):
        digests({"a": whole, "b": diverged})

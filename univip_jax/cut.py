"""Photos to views on the accelerator: boxes by Algorithm 1, crops by products of matrices."""

from functools import lru_cache

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from univip_jax.crops import choose_views
from univip_jax.resample import crop
from univip_jax.sharding import by_batch
from univip_jax.types import Batch, Geometry, Photos
from univip_jax.views import ViewSpec

_VIEWS = 2**32 - 1  # folded into a run's key for its views; augmentation folds in the step, which is less


def views_key(seed: int) -> Key[Array, ""]:
    """The key of a run's views."""
    return jax.random.fold_in(jax.random.key(seed), _VIEWS)


def cut_views(photos: Photos, key: Key[Array, ""], spec: ViewSpec) -> tuple[Batch, Geometry]:
    """The views of a batch, and their boxes: a function of the photos and of (key, epoch, record), photo by photo."""

    def one(photo: Photos) -> tuple[Batch, Geometry]:
        drawn = jax.random.fold_in(jax.random.fold_in(key, photo.draw[0]), photo.draw[1])
        boxes = choose_views(drawn, photo.proposals, photo.size.astype(jnp.float32), spec)
        groups = [(boxes.scenes, spec.scene_size), (boxes.instances, spec.instance_size)]
        return Batch(*crop(photo.pixels, photo.extent, groups, spec.interpolation)), boxes

    return jax.vmap(one)(photos)


def shapes_of(photos: Photos) -> Photos:
    """Shapes and dtypes of a batch; hashable."""
    return Photos(*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in photos))


def photo_shapes(batch_size: int, height: int, width: int, num_proposals: int) -> Photos:
    """Shapes and dtypes of a batch on canvases of height x width px."""
    shape = jax.ShapeDtypeStruct
    pixels, pair = shape((batch_size, height, 3 * width), jnp.uint8), shape((batch_size, 2), jnp.int32)
    return Photos(pixels, pair, pair, shape((batch_size, num_proposals, 4), jnp.float32), pair)


@lru_cache(maxsize=8)
def compile_cut(spec: ViewSpec, seed: int, shapes: Photos, mesh: Mesh) -> jax.stages.Compiled:
    """`cut_views` of a run's seed, compiled for `mesh` ahead of time: each device cuts its photos."""

    def cut(photos: Photos) -> tuple[Batch, Geometry]:
        return cut_views(photos, views_key(seed), spec)

    split = by_batch(mesh)
    # Left to the partitioner, an index might gather all photos.
    mapped = jax.shard_map(cut, mesh=mesh, in_specs=split.spec, out_specs=split.spec)
    return jax.jit(mapped, in_shardings=split, out_shardings=split).lower(shapes).compile()

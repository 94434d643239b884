"""The five losses as sums; the step divides them by what Detectron2 divides them by, of the global batch."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def rpn_losses(
    logits: Float[Array, "*n"],
    deltas: Float[Array, "*n 4"],
    targets: Float[Array, "*n 4"],
    positive: Bool[Array, "*n"],
    negative: Bool[Array, "*n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of the drawn anchors, and L1 of the deltas of the positive ones.

    Both are divided by 256 (the anchors to draw) times the images, even where fewer are drawn.
    """
    entropy = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    distance = jnp.abs(deltas - targets).sum(-1)
    return jnp.where(positive | negative, entropy, 0).sum(), jnp.where(positive, distance, 0).sum()


def box_losses(
    logits: Float[Array, "n L"],
    deltas: Float[Array, "n K 4"],
    classes: Int[Array, " n"],
    targets: Float[Array, "n 4"],
    drawn: Bool[Array, " n"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of the drawn regions, and L1 of the deltas of those with an object, of its class alone.

    Both are divided by the number of drawn regions.

    Args:
      classes: 0 to K - 1; K is background.
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    of_class = classes[:, None] == jnp.arange(deltas.shape[1])  # a product, no gather: its gradient is no scatter
    mine = jnp.where(of_class[..., None], deltas, 0).sum(1)
    distance = jnp.abs(mine - targets).sum(-1)
    has_object = drawn & (classes < deltas.shape[1])
    return jnp.where(drawn, entropy, 0).sum(), jnp.where(has_object, distance, 0).sum()


def mask_loss(
    logits: Float[Array, "n q q K"], classes: Int[Array, " n"], targets: Bool[Array, "n q q"], drawn: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Mean cross-entropy of each region's pixels, on the channel of its class, summed over the drawn regions.

    It is divided by the number of drawn regions, all of which have an object; 0 where there is none.
    """
    of_class = (classes[:, None] == jnp.arange(logits.shape[-1]))[:, None, None]
    mine = jnp.where(of_class, logits, 0).sum(-1)
    entropy = optax.sigmoid_binary_cross_entropy(mine, targets.astype(mine.dtype)).mean((1, 2))
    return jnp.where(drawn, entropy, 0).sum()

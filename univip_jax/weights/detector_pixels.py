"""Which pixels a detector of Detectron2 learned on, by its first norm; and its first kernel for ours.

Detectron2's default is BGR in 0..255 less the mean, with a std of 1. Its config says so, and no file does. But the
variance that a norm has seen is at most the kernel's squares, summed, times those of the pixels under it.
"""

import numpy as np

from univip_jax.augment import IMAGENET_STD
from univip_jax.weights.names import Tensors, values_of

# 147 squares of at most 2.64, where all pixels are white. Those of raw pixels are 3,300 times as large: there a kernel
# that sees edges comes to several thousand, and one that sees colours, as some do, to several 100,000.
_MOST = 3 * 7 * 7 * 2.64**2


def is_of_raw_pixels(tensors: Tensors, conv: str) -> bool:
    """Whether the norm of the first convolution saw more than normalised pixels can give, or is Caffe2's."""
    norms = [tensors.get(conv.replace(".weight", f".norm.running_{name}")) for name in ("mean", "var")]
    if any(norm is None for norm in norms) or tensors[conv].shape[1:] != (3, 7, 7):
        return False  # no network of ours: the reader names what is missing
    squares = np.square(values_of(tensors[conv]).astype(np.float64)).sum((1, 2, 3))
    means, variances = (values_of(norm).astype(np.float64) for norm in norms)
    if squares.shape != variances.shape:
        return False
    alive = squares > 1e-6 * squares.max()  # weight decay empties some kernels
    is_caffe2 = not means.any() and (variances < 1).all()  # 1 - eps: Detectron2 made up what Caffe2 folds away
    return bool(is_caffe2 or (variances[alive] > _MOST * squares[alive]).any())


def to_our_pixels(tensors: Tensors, conv: str) -> Tensors:
    """The tensors with the first kernel for RGB pixels of ImageNet's std; the mean is the same in both."""
    kernel = values_of(tensors[conv]).astype(np.float32)[:, ::-1]
    return {**tensors, conv: kernel * (255 * IMAGENET_STD)[:, None, None]}

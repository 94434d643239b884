"""Anchors against Detectron2's definition, one by one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from univip_jax.detection.anchors import anchors, grid
from univip_jax.models.mask_rcnn import MaskRCNN, init
from univip_jax.models.resnet import ResNet


def test_each_anchor():
    """Row by row, column by column, ratio by ratio; ratios are height / width, nothing is rounded."""
    for level, (stride, side) in enumerate(((4, 32), (8, 64), (16, 128), (32, 256), (64, 512))):
        expected = []
        for row in range(-(-96 // stride)):
            for column in range(-(-160 // stride)):
                for ratio in (0.5, 1, 2):
                    width = (side * side / ratio) ** 0.5
                    y, x, h, w = row * stride, column * stride, ratio * width / 2, width / 2
                    expected.append((y - h, x - w, y + h, x + w))
        np.testing.assert_allclose(anchors(96, 160)[level], expected, rtol=1e-6, atol=1e-5)


def test_the_numbers_of_the_largest_canvas():
    assert [len(level) for level in anchors(800, 1344)] == [201600, 50400, 12600, 3150, 819]  # 13 rows of P6


@pytest.mark.parametrize("size", [(800, 1088), (1344, 800), (100, 150)])
def test_the_network_has_an_output_for_each_anchor(size):
    """Also where a side is no multiple of 64, or of 32."""
    net = MaskRCNN(ResNet("resnet10", 0.0625), 2, channels=4, head_width=4)
    variables = jax.eval_shape(partial(init, net), jax.random.key(0))

    def run(variables):
        levels = net.apply(variables, jnp.zeros((1, *size, 3)), False, method="levels")
        return levels, net.apply(variables, levels, method="propose")

    levels, (logits, deltas) = jax.eval_shape(run, variables)
    assert [(x.shape[1], x.shape[2]) for x in levels] == [tuple(grid(n, s) for n in size) for s in (4, 8, 16, 32, 64)]
    assert [x.shape[1] for x in logits] == [x.shape[1] for x in deltas] == [len(level) for level in anchors(*size)]

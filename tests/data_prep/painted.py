"""Photos for the tests of data preparation."""

import numpy as np
from PIL import Image, ImageDraw


def paint(seed, width=120, height=96):
    """A photo with a dozen coloured rectangles and a little noise, as a Pillow image."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.integers(0, max(1, width - 8)), generator.integers(0, max(1, height - 8))
        w, h = generator.integers(8, width), generator.integers(8, height)
        draw.rectangle([int(x), int(y), int(x + w), int(y + h)], fill=tuple(generator.integers(0, 256, 3).tolist()))
    noise = generator.integers(0, 9, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(image) // 2 + noise)

"""A map of photos: their features in two dimensions, with thumbnails."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.manifold import TSNE

from univip_jax.report.neighbours import normalize

_SIDE = 1000  # px
_COVERED = 0.5  # of the map, by thumbnails
_THUMBS = (24, 100)  # px, least and most
_FRAME = 4  # px
_LEAST_PHOTOS = 30  # for t-SNE
_PERPLEXITY = 20  # about the number of neighbours that count
_LEAST_STD = 1e-4  # of a normalized feature's first component: what is less is noise of float32


def flatten(features: Float[np.ndarray, "n F"]) -> tuple[Float[np.ndarray, "n 2"], str]:
    """Places in [0, 1] by directions of features, and the method: t-SNE, or principal components.

    Those where there are too few photos, or where the features are as good as equal.
    """
    unit = normalize(features.astype(np.float64))
    centred = unit - unit.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    places, method = np.zeros((len(unit), 2)), "principal components"
    found = (left * values)[:, :2]
    places[:, : found.shape[1]] = found
    if len(unit) >= _LEAST_PHOTOS and places[:, 0].std() > _LEAST_STD:
        perplexity = min(_PERPLEXITY, (len(unit) - 1) / 3)
        method = f"t-SNE (perplexity {perplexity:.0f})"
        places = TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(unit)
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 2 * _LEAST_STD), method


def draw_map(
    places: Float[np.ndarray, "n 2"], thumbs: UInt8[np.ndarray, "n T T 3"], framed: Sequence[int]
) -> UInt8[np.ndarray, "W W 3"]:
    """Thumbnails at their places; the framed ones lie on top, each in its colour."""
    side = int(np.clip(_SIDE * np.sqrt(_COVERED / len(places)), *_THUMBS))
    sheet = Image.new("RGB", (_SIDE, _SIDE), "white")
    colors = {place: colorsys.hsv_to_rgb(number / len(framed), 1, 0.95) for number, place in enumerate(framed)}
    for place in sorted(range(len(places)), key=lambda place: place in colors):
        x, y = (places[place] * (_SIDE - side - 2 * _FRAME)).astype(int).tolist()
        if place in colors:
            color = tuple(round(255 * value) for value in colors[place])
            sheet.paste(color, (x, y, x + side + 2 * _FRAME, y + side + 2 * _FRAME))
        sheet.paste(Image.fromarray(thumbs[place]).resize((side, side)), (x + _FRAME, y + _FRAME))
    return np.asarray(sheet)

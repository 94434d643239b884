"""The nearest neighbours of a few photos and instances, before and after training."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from univip_jax.data.index import evenly_spread
from univip_jax.report.markup import before_and_after, photo, tile

QUERIES, NEIGHBOURS = 12, 5


def normalize(features: Float[np.ndarray, "*n F"]) -> Float[np.ndarray, "*n F"]:
    """Each divided by its length; zeros stay."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


def cosines(features: Float[np.ndarray, "n F"], owners: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Cosine similarities; -inf within a photo, as `owners` tells."""
    unit = normalize(features)
    return np.where(owners[:, None] == owners, -np.inf, unit @ unit.T)


def nearest(similarities: Float[np.ndarray, "n n"], query: int, count: int = NEIGHBOURS) -> list[tuple[int, float]]:
    """The nearest and their similarities, of other photos only; fewer than `count` where there are fewer."""
    row = similarities[query]
    order = np.argsort(-row, kind="stable")[:count]
    return [(int(place), float(row[place])) for place in order if np.isfinite(row[place])]


def draw_neighbours(
    before: Float[np.ndarray, "n F"],
    after: Float[np.ndarray, "n F"],
    owners: Int[np.ndarray, " n"],
    thumbs: UInt8[np.ndarray, "n T T 3"],
    names: list[str],
) -> tuple[str, float]:
    """Rows of 12 queries with their 5 nearest neighbours, and the share of neighbours that stayed.

    Args:
        owners: the photo of each row of features; its own others are no neighbours.
        names: of the photos.
    """
    sides = [cosines(features, owners) for features in (before, after)]
    rows, stayed, shown = [], 0, 0
    for query in evenly_spread(len(owners), QUERIES):
        found = [nearest(similarities, query) for similarities in sides]
        both = {place for place, _ in found[0]} & {place for place, _ in found[1]}
        stayed, shown = stayed + len(both), shown + len(found[1])
        tiles = [
            [
                tile(photo(thumbs[place], "neighbour", names[owners[place]]), f"{cosine:.2f}", "same" * (place in both))
                for place, cosine in side
            ]
            for side in found
        ]
        own = names[owners[query]]
        rows.append(before_and_after(tile(photo(thumbs[query], "query", own), own, "query"), *tiles))
    return "".join(rows), stayed / max(1, shown)

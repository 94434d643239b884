"""Rows of similarity maps: a photo and its nearest neighbour, before and after training."""

import jax
import numpy as np
from jaxtyping import Float

from univip_jax.data.index import evenly_spread
from univip_jax.data.records import Dataset
from univip_jax.report.markup import before_and_after, photo, tile
from univip_jax.report.neighbours import QUERIES, cosines, nearest
from univip_jax.report.sample import Sample, read_photo
from univip_jax.report.similarity import SIDE, draw_heat, draw_point, point_of, similarity
from univip_jax.views import ViewSpec
from univip_jax.weights.encoder import Encoder

_PHOTOS, _STAGES = 4, ("res4", "res5")
_LEAST_CELLS = 7  # of res5, a side
_HTML = """<h3>Similarity maps</h3>
<p>The feature at the ring, the centre of the photo's largest box, against each place of the same photo and of its
nearest neighbour after training; central squares at {side} px. Red: as similar as can be; blue: as little as anywhere
in the photo itself. Healthy: after training, the object at the ring is red and what surrounds it is not, and in the
other photo a similar thing is. Where the lowest cosine is near 1, the places can hardly be told apart.</p>
{rows}"""


def draw_similarity(
    encoders: tuple[Encoder, Encoder],
    dataset: Dataset,
    sample: Sample,
    views: ViewSpec,
    after: Float[np.ndarray, "n F"],
) -> str:
    """Maps of res4 and res5 for four of the photos; `after` are their features, which tell the neighbours."""
    compute = jax.jit(lambda variables, images: encoders[0].stages(variables, images)[2:])
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), np.uint8)
    stride = 256 // jax.eval_shape(compute, encoders[0].variables, image)[1].shape[1]
    side = stride * max(_LEAST_CELLS, round(2 * views.scene_size / stride))
    similarities, rows = cosines(after, np.arange(len(after))), []
    queries = evenly_spread(len(sample.names), QUERIES)
    for query in queries[evenly_spread(len(queries), _PHOTOS)]:
        found = nearest(similarities, query, 1)
        pair = [read_photo(dataset, sample.records[place], views) for place in (query, *(place for place, _ in found))]
        pixels = np.stack([one.cut(one.square(), side, views.interpolation) for one in pair])
        shown, point = [one.cut(one.square(), SIDE, "bicubic") for one in pair], point_of(pair[0])
        tiles = [[[], []] for _ in pair]  # by photo, then before and after
        for moment, encoder in enumerate(encoders):
            for name, maps in zip(_STAGES, compute(encoder.variables, pixels), strict=True):
                maps = np.asarray(maps)
                heats = [similarity(maps[0], other, point)[1] for other in maps]
                low = float(heats[0].min())
                for place, heat in enumerate(heats):
                    drawn = photo(draw_heat(heat, shown[place], low), f"similarity in {name}")
                    tiles[place][moment].append(tile(drawn, f"{name}: {heat.min():.2f} to {heat.max():.2f}"))
        shown[0] = draw_point(shown[0], point)
        for place, one in enumerate(pair):
            query_tile = tile(photo(shown[place], "the photo", one.name), one.name, "query")
            rows.append(before_and_after(query_tile, *tiles[place], css="row two"))
    return _HTML.format(side=side, rows="".join(rows))

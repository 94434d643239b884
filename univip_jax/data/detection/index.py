"""Which photos, on which canvas, make up the batch of a step: a pure function of (data set, seed, batch size, step)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from univip_jax.data.index import permutation

_STREAM = 1 << 20  # keys of the photos' orders lie beyond those of the rounds


class CanvasRows(NamedTuple):
    """The photos of one global batch, in order."""

    canvas: int  # position in `canvases`
    photos: Int[np.ndarray, " B"]  # positions in the data set
    repeats: Int[np.ndarray, " B"]  # how often each was used before


class CanvasIndex:
    """Maps steps to photos of one canvas.

    A round takes each canvas as often as its photos ask for, in an order of its own. Each canvas reads an endless
    stream: one order of its photos after another. So a step's place in its stream is a closed form. Canvases with less
    than one batch of photos give them to the next larger canvas of the same direction, where there is one.
    """

    def __init__(self, canvas: Int[np.ndarray, " N"], photos: Int[np.ndarray, " N"], seed: int, batch_size: int):
        """`canvas`: of each photo; `photos`: their positions in the data set."""
        self.seed, self.batch_size = seed, batch_size
        canvas = canvas.copy()
        for number in range(int(canvas.max(initial=0)) - 1):
            if 0 < (canvas == number).sum() < batch_size and (canvas > number)[canvas % 2 == number % 2].any():
                larger = canvas[(canvas > number) & (canvas % 2 == number % 2)].min()
                canvas[canvas == number] = larger
        self._of_canvas = {int(number): photos[canvas == number] for number in np.unique(canvas)}
        self._times = {number: max(1, round(len(of) / batch_size)) for number, of in self._of_canvas.items()}
        self._round = np.repeat(list(self._times), list(self._times.values()))
        self.steps_per_epoch = len(self._round)
        self.canvases = tuple(self._of_canvas)  # positions in `canvases`, of those in use

    def rows(self, step: int) -> CanvasRows:
        """The global batch of `step`, counted from 0."""
        number, place = divmod(step, len(self._round))
        order = self._round[permutation(len(self._round), self.seed, number)]
        canvas = int(order[place])
        batch = number * self._times[canvas] + int((order[:place] == canvas).sum())
        photos = self._of_canvas[canvas]
        repeats, places = np.divmod(np.arange(batch * self.batch_size, (batch + 1) * self.batch_size), len(photos))
        chosen = [
            photos[permutation(len(photos), self.seed, _STREAM * (canvas + 1) + repeat)[at]]
            for repeat, at in zip(repeats.tolist(), places.tolist(), strict=True)
        ]
        return CanvasRows(canvas, np.array(chosen), repeats)

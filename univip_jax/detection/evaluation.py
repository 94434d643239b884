"""Judges a detector on a prepared test set: COCO's average precision, a results file, and a page with pictures."""

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from univip_jax.common.files import write_whole
from univip_jax.data.detection.canvas import InputSpec, Size, resized
from univip_jax.data.detection.sets import DetectionSet
from univip_jax.data.detection.testing import photos_on_canvases, rows_of_canvases
from univip_jax.data.detection.truth import Truth, read_truth
from univip_jax.data.host import available_cores
from univip_jax.detection.coco_ap import KINDS, Found, average_precision
from univip_jax.detection.page import write_page
from univip_jax.detection.pasting import Paster
from univip_jax.detection.predictor import Predictor, found_in
from univip_jax.detection.step import Detector
from univip_jax.evaluate.features import progress_bar
from univip_jax.sharding import local_rows

DETECTIONS = "detections.json"


def evaluate_detector(
    detector: Detector, variables: Any, test: DetectionSet, spec: InputSpec, folder: Path, *,
    batch_size: int, num_photos: int, mesh: Mesh,
) -> dict[str, Any]:  # fmt: skip
    """Writes `detections.json` and `detections.html` into a folder. All processes call it.

    Args:
      variables: `params` and `batch_stats`, with the running statistics to use.
      spec: of the detector's input.
      batch_size: photos at once on all devices.
      num_photos: the first of the set; 0: all.

    Returns:
      In process 0: `box` and, of a detector with masks, `mask` by `coco_ap.STATISTICS`, `per_class`, `truncated_nms`
      (photos with so many candidates that detections may be missing), `evaluated_photos`, `detections`, `evaluator`
      and `seconds` (`paste` is the work of all workers together). In the others nothing, before process 0 is done.
    """
    truth = read_truth(test, num_photos)
    contents, truncated, seconds = _predict(detector, variables, test, truth, spec, batch_size, mesh)
    if jax.process_index() > 0:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / DETECTIONS, contents)
    results, started = json.loads(contents), time.perf_counter()
    print(f"{len(results)} detections: {folder / DETECTIONS}; computing average precision ...", flush=True)
    scores = average_precision(truth.contents, results, list(KINDS) if detector.net.masks else ["box"])
    seconds["ap"] = time.perf_counter() - started
    page = write_page(folder, test.dataset, truth, results, scores)
    print(f"pictures and curves: {page}", flush=True)
    return {kind: score.statistics for kind, score in scores.items()} | {
        "per_class": {kind: score.per_class for kind, score in scores.items()},
        "truncated_nms": truncated,
        "evaluated_photos": len(truth.photos),
        "detections": len(results),
        "evaluator": {"name": "pycocotools", "version": version("pycocotools")},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _predict(
    detector: Detector, variables: Any, test: DetectionSet, truth: Truth, spec: InputSpec, batch_size: int, mesh: Mesh
) -> tuple[str, int, dict[str, float]]:
    """A COCO results file, in process 0; the number of photos whose candidates were truncated; seconds by work."""
    batches = rows_of_canvases(test.sizes, truth.photos, spec, batch_size)
    photos = photos_on_canvases(test.dataset, batches, spec, local_rows(mesh, batch_size))
    predictor = Predictor(detector, variables, mesh, batch_size)
    images = dict(zip(truth.photos.tolist(), truth.contents["images"], strict=True))
    categories = [category.id for category in test.categories]
    primary, truncated, started = jax.process_index() == 0, 0, time.perf_counter()
    with (
        Paster(available_cores() if primary and detector.net.masks else 1) as paster,
        progress_bar(len(truth.photos), "photo", f"detections of {test.dataset.root}") as bar,
    ):
        for rows, predicted in predictor(zip(batches, photos, strict=True)):
            for row, photo in enumerate(rows.photos[: rows.number].tolist() if primary else ()):
                paster.add(_found(predicted, row, images[photo], test.sizes[photo], spec, categories))
            truncated += int(predicted.detections.truncated[: rows.number].sum())
            bar.update(rows.number)
        seconds = {"compile": predictor.compile_seconds}
        seconds["predict"] = time.perf_counter() - started - predictor.compile_seconds
        contents = paster.finish()
    return contents, truncated, seconds | {"paste": paster.seconds}


def _found(
    predicted: Any, row: int, image: dict[str, Any], stored: np.ndarray, spec: InputSpec, categories: list[int]
) -> Found:
    on_canvas = resized(*stored.tolist(), spec.test_short_side, spec.max_side)
    frame = Size(image["height"], image["width"])
    return found_in(predicted, row, image["id"], frame, on_canvas, categories)

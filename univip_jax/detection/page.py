"""`detections.html`: a detector's scores, precision-recall curves, and photos with what was found beside the truth."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from univip_jax.common.files import write_whole
from univip_jax.data.detection.truth import Truth
from univip_jax.data.index import locate
from univip_jax.data.photos import FORMATS
from univip_jax.data.records import Dataset, parse, read_record
from univip_jax.detection.coco_ap import IOUS, STATISTICS, PhotoMatches, Score, decode
from univip_jax.detection.curves import draw_precision, precision_lines
from univip_jax.detection.drawing import GREY, RED, Drawn, color_of, draw_objects

PAGE = "detections.html"
_SHOWN = 8  # good photos, and as many bad ones
_SIDE = 640  # px
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Detections</title><style>
body {{ font: 15px/1.5 sans-serif; color: #222; max-width: 1280px; margin: 2em auto; padding: 0 1em }}
h2 {{ margin: 1.5em 0 .3em }} table {{ border-collapse: collapse }}
th, td {{ padding: .15em 1.2em .15em 0; text-align: right; font-variant-numeric: tabular-nums }}
th:first-child, td:first-child {{ text-align: left }} th {{ border-bottom: 1px solid #aaa; font-weight: 600 }}
.classes {{ columns: 3 380px }} .classes table {{ width: 100%; font-size: 13px; break-inside: avoid }}
.bar {{ background: linear-gradient(#4363d8 0 0) 0 100% / var(--w) 3px no-repeat border-box }}
.curves {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(580px, 1fr)) }} svg, img {{ max-width: 100% }}
.photo {{ display: grid; grid-template-columns: 1fr 1fr; gap: 8px; margin: 0 0 1.2em }} .photo p {{ margin: 0 }}
.photo p:first-child {{ grid-column: 1 / 3 }}
</style></head><body>
<h1>{name}</h1>
<p>{num_detections} detections in {num_photos} photos with {num_objects} objects of {num_classes} classes.</p>
<h2>Average precision, %</h2>
<table><tr><th>{columns}</tr>{rows}</table>
<p>AP is the mean over IoU .50 to .95; s, m and l are objects below 32<sup>2</sup>, to 96<sup>2</sup> and above, in
px<sup>2</sup>. By pycocotools; crowds are ignored.</p>
<h2>Precision and recall</h2>
<div class="curves">{curves}</div>
<p>The mean over all classes; of the half of them with the most objects, the three best and the three worst, with their
AP at that IoU.</p>
<h2>Classes</h2>
<div class="classes">{classes}</div>{without}
<h2>Photos with much found</h2>
<p>Left: detections with a score of at least {threshold:.2f}, where F1 over all photos is highest ({f1:.2f}, by {kind}
at IoU .5). Right: the annotated objects. <b style="color: #d61020">Red</b> are wrong detections and missed objects;
grey are crowds, which are ignored.</p>
{good}
<h2>Photos with much missed or wrong</h2>
{bad}
</body></html>
"""


def write_page(
    folder: Path, dataset: Dataset, truth: Truth, results: Sequence[dict[str, Any]], scores: dict[str, Score]
) -> Path:
    """Writes `detections.html` and returns its path.

    Args:
      results: what `scores` judge, as `coco_ap.average_precision` has it.
    """
    contents, kind = truth.contents, "mask" if "mask" in scores else "box"
    matches = scores[kind].photos
    points = np.array([one["score"] for one in results])
    threshold, f1 = best_threshold(points, matches)
    good, bad = choose_photos(points, matches, threshold)
    pictures = _Pictures(dataset, truth, results, matches, threshold, masks=kind == "mask")
    objects = [one for one in contents["annotations"] if not one["iscrowd"]]
    counts = {one["id"]: 0 for one in contents["categories"]}
    for one in objects:
        counts[one["category_id"]] += 1
    classes, without = _classes(contents, counts, scores)
    write_whole(
        folder / PAGE,
        _HTML.format(
            name=html.escape(str(folder)),
            num_detections=f"{len(results):,}",
            num_photos=f"{len(contents['images']):,}",
            num_objects=f"{len(objects):,}",
            num_classes=len(contents["categories"]),
            columns="<th>".join(("", *STATISTICS)),
            rows="".join(_row(name, score.statistics.values()) for name, score in scores.items()),
            curves="".join(_curves(scores, contents["categories"], counts)),
            classes=classes,
            without=without,
            threshold=threshold,
            f1=f1,
            kind=kind,
            good="".join(map(pictures.html, good)),
            bad="".join(map(pictures.html, bad)),
        ),
    )
    return folder / PAGE


def best_threshold(scores: np.ndarray, matches: dict[int | str, PhotoMatches]) -> tuple[float, float]:
    """The score from which on detections have the highest F1 = 2 correct / (detections + objects), and that F1."""
    places = np.concatenate([np.zeros(0, int), *(one.results for one in matches.values())])
    correct = np.concatenate([np.zeros(0, bool), *(one.correct for one in matches.values())])
    if not len(places):
        return 0.5, 0.0
    order = np.argsort(-scores[places], kind="stable")
    num_objects = sum(len(one.objects) for one in matches.values())
    f1 = 2 * np.cumsum(correct[order]) / (np.arange(1, len(order) + 1) + num_objects)
    return float(scores[places][order][f1.argmax()]), float(f1.max())


def choose_photos(
    scores: np.ndarray, matches: dict[int | str, PhotoMatches], threshold: float
) -> tuple[list[int | str], list[int | str]]:
    """Ids of the photos with the highest F1 above the threshold, and of those with the lowest; the fullest first."""
    f1 = {}
    for number, one in matches.items():
        kept = scores[one.results] >= threshold if len(one.results) else np.zeros(0, bool)
        if total := int(kept.sum()) + len(one.objects):
            f1[number] = 2 * int(one.correct[kept].sum()) / total
    order = sorted(f1, key=lambda number: (-f1[number], -len(matches[number].objects)))
    good = order[: min(_SHOWN, (len(order) + 1) // 2)]
    rest = sorted(set(order) - set(good), key=lambda number: (f1[number], -len(matches[number].objects), str(number)))
    return good, rest[:_SHOWN]


class _Pictures:
    """Photos with what was found, and with what is there."""

    def __init__(
        self, dataset: Dataset, truth: Truth, results: Sequence[dict[str, Any]],
        matches: dict[int | str, PhotoMatches], threshold: float, *, masks: bool,
    ):  # fmt: skip
        self._dataset, self._results, self._matches, self._threshold = dataset, results, matches, threshold
        self._masks = masks
        self._classes = {one["id"]: (one["name"], place) for place, one in enumerate(truth.contents["categories"])}
        images = truth.contents["images"]
        self._images = {one["id"]: (one, place) for one, place in zip(images, truth.photos.tolist(), strict=True)}
        self._annotations: dict[int | str, list[dict[str, Any]]] = {one["id"]: [] for one in images}
        for one in truth.contents["annotations"]:
            self._annotations[one["image_id"]].append(one)

    def html(self, image_id: int | str) -> str:
        """Both pictures of a photo, with a line above."""
        image, record = self._images[image_id]
        found, correct = self._found(image_id)
        place = locate(self._dataset)
        path = str(self._dataset.shards[place.shards[record]].path)
        encoded = parse(read_record(path, place.offsets[record]))["encoded"].numpy()
        photo = Image.open(io.BytesIO(encoded), formats=FORMATS)
        frame = image["height"], image["width"]
        number = len(self._matches[image_id].objects)
        line = f"{image['file_name']}: {number} objects, {len(found)} detections, {correct} of them correct"
        pictures = (draw_objects(photo, frame, one, _SIDE) for one in (found, self._true(image_id)))
        return f'<div class="photo"><p>{html.escape(line)}</p>{"".join(map(_inline, pictures))}</div>'

    def _found(self, image_id: int | str) -> tuple[list[Drawn], int]:
        """Detections above the threshold, the best last, and how many of them are correct."""
        one = self._matches[image_id]
        drawn = []
        for place, correct in zip(one.results.tolist(), one.correct.tolist(), strict=True):
            result = self._results[place]
            if result["score"] >= self._threshold:
                name, number = self._classes[result["category_id"]]
                color = color_of(number) if correct else RED
                drawn.append((result["score"], correct, self._drawn(result, color, f"{name} {result['score']:.2f}")))
        drawn.sort(key=lambda entry: entry[0])
        return [entry[2] for entry in drawn], sum(entry[1] for entry in drawn)

    def _true(self, image_id: int | str) -> list[Drawn]:
        """Annotated objects, the smallest last."""
        one = self._matches[image_id]
        found = dict(zip(one.objects.tolist(), (one.found_at >= self._threshold).tolist(), strict=True))
        drawn = []
        for annotation in sorted(self._annotations[image_id], key=lambda entry: -entry["area"]):
            name, number = self._classes[annotation["category_id"]]
            if annotation["id"] not in found:
                drawn.append(self._drawn(annotation, GREY, f"{name}, ignored"))
            else:
                color = color_of(number) if found[annotation["id"]] else RED
                drawn.append(self._drawn(annotation, color, name))
        return drawn

    def _drawn(self, entry: dict[str, Any], color: tuple[int, ...], label: str) -> Drawn:
        x, y, width, height = entry["bbox"]
        image, _ = self._images[entry["image_id"]]
        shape = entry.get("segmentation") if self._masks else None
        mask = decode(shape, image["height"], image["width"]) if shape else None
        return Drawn(np.array([y, x, y + height, x + width]), color, label, mask)


def _row(name: str, values: Any) -> str:
    return f"<tr><td>{html.escape(name)}" + "".join(f"<td>{_percent(value)}" for value in values)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _classes(contents: dict[str, Any], counts: dict[int, int], scores: dict[str, Score]) -> tuple[str, str]:
    """A table of the classes by their AP, in three columns; and a line with those that have no object."""
    names = {one["name"]: counts[one["id"]] for one in contents["categories"]}
    first = next(iter(scores.values())).per_class
    known = sorted((name for name in names if first[name] is not None), key=lambda name: -first[name])
    rows = [
        f"<tr><td>{html.escape(name)}<td>{names[name]:,}"
        + "".join(
            f'<td class="bar" style="--w: {score.per_class[name] or 0:.0f}%">{_percent(score.per_class[name])}'
            for score in scores.values()
        )
        for name in known
    ]
    head = f"<tr><th>class<th>objects{''.join(f'<th>{kind} AP' for kind in scores)}"
    third = max(1, -(-len(rows) // 3))
    parts = (rows[start : start + third] for start in range(0, len(rows), third))
    empty = [name for name in names if first[name] is None]
    line = f"<p>Without an object to find: {html.escape(', '.join(empty))}.</p>" if empty else ""
    return "".join(f"<table>{head}{''.join(part)}</table>" for part in parts), line


def _curves(scores: dict[str, Score], categories: Sequence[dict[str, Any]], counts: dict[int, int]) -> list[str]:
    names = {one["id"]: one["name"] for one in sorted(categories, key=lambda one: one["id"])}
    about = list(names.values()), [counts[number] for number in names]
    return [
        draw_precision(f"{kind}, IoU {iou}", precision_lines(score.precision[np.abs(IOUS - iou).argmin()], *about))
        for kind, score in scores.items()
        for iou in (0.5, 0.75)
    ]


def _inline(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f'<img alt="photo with objects" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'

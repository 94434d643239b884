"""What a trained detector finds in any folder of photos, as a file of COCO results.

python -m univip_jax.detect --run=RUN --images=DIR --out=detections.json [--draw=DIR]

The file is a list with one entry per detection: {"image_id", "category_id", "bbox", "score", "segmentation"}, in px of
the upright photo; `image_id` is the photo's path in the folder. Paths as ids make `data_prep --proposals=import
--proposals_file=OUT` need no other file, and a plain list is what pycocotools reads:
`COCO("detections.images.json").loadRes("detections.json")`. That file, written beside the list, has the size of every
photo that could be read, with detections or without, and the names of the categories.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

# XLA reads it when it is imported; its start-up notes hide what a user needs to read.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import flags

from univip_jax.common.buckets import is_bucket
from univip_jax.common.cli import define_path, run
from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import at, temporary, write_whole
from univip_jax.data.detection.canvas import InputSpec, Size
from univip_jax.data.detection.sets import Category
from univip_jax.data.host import available_cores
from univip_jax.data.photos.sources import list_sources, passed_over_line
from univip_jax.detect.pictures import Pictures
from univip_jax.detect.reading import PhotoBatches
from univip_jax.detection.pasting import Paster
from univip_jax.detection.predictor import Predictor, found_in
from univip_jax.detection.spec import DetectorSpec
from univip_jax.detection.start import detector_of, find_detector
from univip_jax.evaluate.features import progress_bar, round_batch
from univip_jax.sharding import make_mesh
from univip_jax.weights.detector_file import DetectorFile, read_detector

NAME, REQUIRED = "univip_jax.detect", ("run", "images", "out")


class Request(NamedTuple):
    """What the command line asks for."""

    run: str
    images: str
    out: Path
    draw: Path | None = None
    threshold: float = 0.5  # least score of what is drawn
    batch_size: int = 8
    categories: str | None = None


def detect_folder(request: Request) -> str:
    """Writes `request.out` and what stands beside it; returns a closing line.

    Raises UserError for a folder without (readable) photos, a run that is no detector, and an output that exists.
    """
    _refuse_to_overwrite(request)
    path = find_detector(request.run)
    if path is None:
        raise UserError(f"--run={request.run} is no detector: name the --workdir of a trained one, or its file")
    photos, passed_over = list_sources([request.images])
    if line := passed_over_line(passed_over):
        print(line, flush=True)
    file = read_detector(path)
    categories = categories_of(file, path, request.categories)
    detector, spec = detector_of(file, DetectorSpec(), InputSpec(), file.facts.get("dtype", "float32"))
    _check_writable(request.out)
    mesh, started = make_mesh(jax.local_devices()), time.perf_counter()
    batch_size = round_batch(request.batch_size, mesh)
    batches, sizes = PhotoBatches(photos, spec, batch_size), {}
    pictures = Pictures(request.draw, request.threshold, photos, categories) if request.draw else None
    predictor = Predictor(detector, file.variables, mesh, batch_size)
    with (
        Paster(available_cores() if detector.net.masks else 1) as paster,
        progress_bar(len(photos), "photo", f"detections of {request.images}") as bar,
    ):
        for batch, predicted in predictor(batches):
            for row, photo in enumerate(batch):
                sizes[photo.image_id] = photo.size
                on_canvas = Size(*map(int, photo.on_canvas))
                about = on_canvas, [category.id for category in categories]
                paster.add(found_in(predicted, row, photo.image_id, photo.size, *about))
                if pictures:
                    pictures.draw(found_in(predicted, row, photo.image_id, on_canvas, *about), photo)
            bar.update(len(sizes) + len(batches.refused) - bar.n)
        contents = paster.finish()
    _name_refused(request, batches, bool(sizes))
    about = {"detector": str(path), "step": file.facts.get("step"), "least_score": detector.spec.score_threshold}
    write_whole(_beside(request.out, "images.json"), _images(sizes, categories, about))
    write_whole(request.out, contents)
    pace = f"{len(photos) / (time.perf_counter() - started):.1f} photos/s"
    left_out = f", without {len(batches.refused)} that cannot be read" if batches.refused else ""
    return f"{request.out}: {paster.number:,} detections in {len(sizes):,} photos{left_out}; {pace}"


def categories_of(file: DetectorFile, path: Path, given: str | None) -> tuple[Category, ...]:
    """The category of each class: the file's own, or those of a COCO json, by id, where it names none.

    Raises UserError: neither does, or the json has another number of them.
    """
    if "categories" in file.facts:
        return tuple(Category(**row) for row in file.facts["categories"])
    if not given:
        raise UserError(
            f"{path} does not name its {file.net.num_classes} classes: give --categories=FILE, the COCO json that it "
            "was trained on or another with the same categories"
        )
    try:
        rows = json.loads(at(given).read_bytes())["categories"]
        found = tuple(sorted(Category(int(row["id"]), str(row["name"])) for row in rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--categories={given} is no COCO json with categories ({error}): give another") from error
    if len(found) != file.net.num_classes:
        raise UserError(
            f"--categories={given} has {len(found)} categories, the detector {file.net.num_classes} classes: give the "
            "json that it was trained on"
        )
    return found


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.name.removesuffix('.json')}.{what}")


def _refuse_to_overwrite(request: Request) -> None:
    for name, path in (("out", request.out), ("out", _beside(request.out, "images.json")), ("draw", request.draw)):
        if path and path.exists() and not (name == "draw" and path.is_dir() and not any(path.iterdir())):
            raise UserError(f"{path} exists already: choose another --{name} or delete it")


def _check_writable(out: Path) -> None:
    """Makes the folder. Raises UserError where the file could not be written once all photos are done."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: {error.filename}: {error.strerror}: choose another --out") from error
    if is_bucket(out):
        probe = out.with_name(f"{out.name}.tmp")
        write_whole(probe, b"")
        probe.unlink()
        return
    with temporary(out):
        pass


def _images(sizes: dict[str, Size], categories: tuple[Category, ...], about: dict[str, Any]) -> str:
    """A COCO json without annotations."""
    images = [
        {"id": name, "file_name": name, "height": size.height, "width": size.width}
        for name, size in sorted(sizes.items())
    ]
    rows = [category._asdict() for category in categories]
    return json.dumps({"info": about, "images": images, "categories": rows}) + "\n"


def _name_refused(request: Request, batches: PhotoBatches, any_read: bool) -> None:
    """Writes and prints which photos cannot be read. Raises UserError where none can."""
    path = _beside(request.out, "rejected.jsonl")
    rejected = sorted(batches.refused)
    if not rejected:
        path.unlink(missing_ok=True)
        return
    write_whole(path, "".join(json.dumps({"id": one.image_id, "reason": one.reason}) + "\n" for one in rejected))
    named = [f"{one.image_id} ({one.reason})" for one in rejected]
    if not any_read:
        raise UserError(
            f"none of the {len(rejected)} photos can be read, as {named[0]}: see {path}, then give another --images"
        )
    print(f"{len(rejected)} photos cannot be read: {shorten(named)}; see {path}", flush=True)


def _define_flags() -> None:
    define_path("run", None, "The run's folder, or a file with a whole detector.")
    text = "Folder with photos (folders in it are searched too), zip or tar file."
    define_path("images", None, text, any_bytes=True)
    define_path("out", None, "The COCO results file to write; files of the same name beside it say of which photos.")
    define_path("draw", None, "Folder for a picture of each photo with boxes, masks and labels.")
    flags.DEFINE_float("threshold", 0.5, "Least score of what is drawn; the file has every detection.", 0, 1)
    flags.DEFINE_integer("batch_size", 8, "Photos at a time, on all devices of this machine together.", 1, 1024)
    define_path("categories", None, "COCO json that names the classes of a detector whose file does not.")


def _work() -> None:
    values = {field: flags.FLAGS[field].value for field in Request._fields}
    places = {name: at(values[name]) for name in ("out", "draw") if values[name]}
    print(detect_folder(Request(**values | places)))


if __name__ == "__main__":
    run(NAME, _define_flags, REQUIRED, _work, interrupted="nothing was written but pictures")

"""The request of a command line, and the inputs that it names: photos, annotations, imported boxes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import imported
from data_prep.annotations import Annotations, find_annotations, read_json
from data_prep.record import Settings
from univip_jax.common.errors import UserError
from univip_jax.common.files import sha256_of
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.sources import list_sources
from univip_jax.data.photos.tfds import has_boxes, list_split


class Request(NamedTuple):
    """The flags of `python -m data_prep`; the command says what they mean."""

    out: Path
    settings: Settings
    images: Sequence[Path | str] = ()  # folders, zip and tar files
    annotations: Sequence[Path | str] = ()  # COCO json
    proposals_file: Sequence[Path | str] = ()  # boxes for `import`
    dataset: str | None = None  # TFDS's name, instead of images
    split: str | None = None
    num_workers: int | None = None  # None: all cores
    max_rejected: float = 0.1  # share of the photos
    task_index: int = 0  # one of num_tasks that share the shards, on any machines
    num_tasks: int = 1
    beam_options: Sequence[str] | None = None  # Apache Beam's pipeline options; None: processes of this machine


class Loaded(NamedTuple):
    """The inputs as read."""

    photos: list[PhotoFile]
    passed_over: Counter[str]  # files of other formats by suffix
    annotations: dict[str, Annotations]  # by image id
    imported: dict[str, Annotations]  # candidate boxes by image id
    facts: dict[str, Any]  # for the manifest's settings
    report: dict[str, Any] | None  # `import`: boxes and photos without a match


def load(request: Request) -> Loaded:
    """Lists the photos and reads their annotations and imported boxes.

    Raises UserError: see `sources`, `annotations`, `imported`.
    """
    if request.dataset:
        return _load_tfds(request)
    photos, passed_over = list_sources(request.images)
    image_ids = [photo.image_id for photo in photos]
    contents = [read_json(path) for path in request.annotations]
    annotations: dict[str, Annotations] = {}
    for path, content in zip(request.annotations, contents, strict=True):
        annotations |= find_annotations(content, path, image_ids)
    candidates, report = {}, None
    if request.settings.proposals == "import":
        images = [content["images"] for content in contents] or [[] for _ in request.proposals_file]
        if len(images) != len(request.proposals_file):
            raise UserError(
                f"{len(request.proposals_file)} --proposals_file but {len(images)} --annotations: give one json for "
                "each file of boxes, in the same order"
            )
        min_side = request.settings.min_side
        candidates, report = imported.read_proposals(request.proposals_file, images, image_ids, min_side)
        report = {"sha256": [sha256_of(path) for path in request.proposals_file], **report}
    facts = {"source": "images", "annotations_sha256": [sha256_of(path) for path in request.annotations]}
    return Loaded(photos, passed_over, annotations, candidates, facts, report)


def _load_tfds(request: Request) -> Loaded:
    photos = list_split(request.dataset, request.split)
    dataset = photos[0].path.rpartition("@")[0]
    if request.settings.proposals == "annotated" and not has_boxes(dataset):
        raise UserError(f"--dataset={request.dataset} has no annotated boxes: choose another --proposals")
    facts = {"source": "tfds", "annotations_sha256": [], "dataset": dataset, "split": request.split}
    return Loaded(photos, Counter(), {}, {}, facts, None)

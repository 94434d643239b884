"""The inputs of a data set: photos of every source, annotations, and imported boxes."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import imported
from data_prep.annotations import Annotations, find_annotations, read_json
from data_prep.record import Settings
from univip_jax.common.errors import UserError
from univip_jax.common.files import sha256_of
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.sources import list_sources, tfds_photos
from univip_jax.data.photos.tfds import has_boxes


class Inputs(NamedTuple):
    """Where the inputs lie."""

    images: tuple[Path, ...] = ()  # folders, zip and tar files
    annotations: tuple[Path, ...] = ()  # COCO json
    proposals_file: tuple[Path, ...] = ()  # boxes for `import`
    dataset: str = ""  # TFDS's name, instead of images
    split: str = ""


class Loaded(NamedTuple):
    """The inputs as read."""

    photos: list[PhotoFile]
    passed_over: Counter[str]  # files of other formats by suffix
    annotations: dict[str, Annotations]  # by image id
    imported: dict[str, Annotations]  # candidate boxes by image id
    facts: dict[str, Any]  # for the manifest's settings
    report: dict[str, Any] | None  # `import`: boxes and photos without a match


def load(inputs: Inputs, settings: Settings) -> Loaded:
    """Lists the photos and reads their annotations and imported boxes.

    Raises UserError: see `sources`, `annotations`, `imported`.
    """
    if inputs.dataset:
        return _load_tfds(inputs, settings)
    photos, passed_over = list_sources(inputs.images)
    image_ids = [photo.image_id for photo in photos]
    contents = [read_json(path) for path in inputs.annotations]
    annotations: dict[str, Annotations] = {}
    for path, content in zip(inputs.annotations, contents, strict=True):
        annotations |= find_annotations(content, path, image_ids)
    candidates, report = {}, None
    if settings.proposals == "import":
        images = [content["images"] for content in contents] or [[] for _ in inputs.proposals_file]
        if len(images) != len(inputs.proposals_file):
            raise UserError(
                f"{len(inputs.proposals_file)} --proposals_file but {len(images)} --annotations: give one json for "
                "each file of boxes, in the same order"
            )
        candidates, report = imported.read_proposals(inputs.proposals_file, images, image_ids, settings.min_side)
        report = {"sha256": [sha256_of(path) for path in inputs.proposals_file], **report}
    facts = {"source": "images", "annotations_sha256": [sha256_of(path) for path in inputs.annotations]}
    return Loaded(photos, passed_over, annotations, candidates, facts, report)


def _load_tfds(inputs: Inputs, settings: Settings) -> Loaded:
    photos = tfds_photos(inputs.dataset, inputs.split)
    dataset = photos[0].path.rpartition("@")[0]
    if settings.proposals == "annotated" and not has_boxes(dataset):
        raise UserError(f"--dataset={inputs.dataset} has no annotated boxes: choose another --proposals")
    facts = {"source": "tfds", "annotations_sha256": [], "dataset": dataset, "split": inputs.split}
    return Loaded(photos, Counter(), {}, {}, facts, None)

"""The request of a command line, and the inputs that it names: photos, annotations, imported boxes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import categories, coco, imported
from data_prep.annotated import find_annotations
from data_prep.annotations import Annotations
from data_prep.coco import Coco
from data_prep.findings import Findings
from data_prep.record import Settings
from univip_jax.common.errors import UserError
from univip_jax.common.files import sha256_of
from univip_jax.data.photos.listing import PhotoFile
from univip_jax.data.photos.sources import list_sources, prefixes
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
    categories: list[dict[str, Any]] | None  # of the annotations, {"id", "name"} by id; None: no json is given
    report: dict[str, Any] | None  # `import`: boxes and photos without a match
    findings: dict[str, Any]  # for the manifest: what was odd in the json, and what has no match
    lines: list[str]  # the same for people


def load(request: Request) -> Loaded:
    """Lists the photos and reads their annotations and imported boxes.

    Raises UserError: see `sources`, `annotations`, `imported`.
    """
    if request.dataset:
        return _load_tfds(request)
    photos, passed_over = list_sources(request.images)
    image_ids = [photo.image_id for photo in photos]
    jsons = [coco.read(path) for path in request.annotations]
    names = categories.agreed([(json.findings.source, json.categories) for json in jsons])
    listed = [{"id": known, "name": name} for known, name in names.items()] if jsons else None
    annotations, matched = _match(jsons, _parts(request, image_ids, len(jsons)))
    findings: dict[str, Any] = {"annotations": matched} if jsons else {}
    lines = [
        line
        for found, json in zip(matched, jsons, strict=True)
        for line in (
            f"{json.findings.source}: names {found['photos_named']} of {found['photos']} photos",
            *json.findings.lines(),
        )
    ]
    candidates, report = {}, None
    if request.settings.proposals == "import":
        candidates, report, odd = _import(request, jsons, image_ids)
        findings["import"] = report | {"odd": [one.report() for one in odd]}
        lines += [line for one in odd for line in one.lines()] + imported.describe(report)
    if request.settings.proposals == "annotated":
        kinds = {
            "photos_without_object": "photo{s} without an annotated object",
            "photos_cut": f"photo{{s}} with more objects than --max_boxes={request.settings.max_boxes}, whose first "
            "are taken",
        }
        without, counts = (
            Findings("--proposals=annotated", kinds),
            {one: _count(annotations.get(one)) for one in image_ids},
        )
        without.add("photos_without_object", *(one for one, count in counts.items() if not count))
        most = request.settings.max_boxes
        without.add("photos_cut", *(one for one, count in counts.items() if count > most))
        findings["annotated"] = without.report()
        lines += without.lines()
    facts = {"source": "images", "annotations_sha256": [json.sha256 for json in jsons]}
    return Loaded(photos, passed_over, annotations, candidates, facts, listed, report, findings, lines)


def _parts(request: Request, image_ids: list[str], num_files: int) -> list[tuple[list[str], str]]:
    """For each json, the photos that it may name and the prefix of their ids: with as many as sources, one source's."""
    if not num_files == len(request.images) > 1:
        return [(image_ids, "")] * num_files
    return [([one for one in image_ids if one.startswith(prefix)], prefix) for prefix in prefixes(request.images)]


def _match(
    jsons: list[Coco], parts: list[tuple[list[str], str]]
) -> tuple[dict[str, Annotations], list[dict[str, Any]]]:
    """The annotations by image id, and what the manifest says of each json."""
    annotations: dict[str, Annotations] = {}
    reports = []
    for json, (ids, prefix) in zip(jsons, parts, strict=True):
        source = prefix.removesuffix("/")
        advice = f"as many --annotations as --images: give them in the same order, this one belongs to {source}"
        found = find_annotations(json, ids, prefix, advice if prefix else "")
        json.findings.add("photos_annotated_twice", *(one for one in found if one in annotations))
        annotations |= found
        reports.append({"photos": len(ids), "photos_named": len(found), **json.findings.report()})
    return annotations, reports


def _import(request: Request, jsons: list[Coco], image_ids: list[str]) -> imported.Imported:
    files = request.proposals_file
    if jsons and len(jsons) != len(files):
        raise UserError(
            f"{len(files)} --proposals_file but {len(jsons)} --annotations: give one json for each file of boxes, in "
            "the same order"
        )
    ids, of_ids = zip(*_parts(request, image_ids, len(files)), strict=True)
    found = imported.read_proposals(files, jsons or [None] * len(files), ids, of_ids, request.settings.min_side)
    return found._replace(report={"sha256": [sha256_of(path) for path in files], **found.report})


def _count(annotations: Annotations | None) -> int:
    """Annotated objects, without crowds."""
    return 0 if annotations is None else int((~annotations.is_crowd).sum())


def _load_tfds(request: Request) -> Loaded:
    photos = list_split(request.dataset, request.split)
    dataset = photos[0].path.rpartition("@")[0]
    if request.settings.proposals == "annotated" and not has_boxes(dataset):
        raise UserError(f"--dataset={request.dataset} has no annotated boxes: choose another --proposals")
    facts = {"source": "tfds", "annotations_sha256": [], "dataset": dataset, "split": request.split}
    return Loaded(photos, Counter(), {}, {}, facts, None, None, {}, [])

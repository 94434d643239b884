"""Imported boxes: which photos the boxes of a detector, or of ORL's selective search, belong to."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.annotations import Annotations
from data_prep.box_files import read_boxes
from data_prep.coco import SHARED, Coco, Image
from data_prep.findings import Findings, first_of, shown
from data_prep.matching import form, match
from data_prep.values import key
from univip_jax.common.errors import UserError

_KINDS = {
    "boxes_unusable": "element{s} without a usable box or image_id left out",
    "scores_unusable": "element{s} without a usable score taken last",
    "ids_shared": "image_id{s} that several images of the json have left out",
    "texts_are_ids": "image_id{s} in text that could be names too taken as ids of the json",
    "texts_are_names": "image_id{s} in text that could be ids of the json too taken as names",
    "photos_ambiguous": "photo{s} left without boxes because several images or photos fit equally well",
    "photos_replaced": "photo{s} that an earlier file has boxes for: they are replaced",
}


class Imported(NamedTuple):
    """Candidate boxes by image id; photos and entries without a match, and what was odd, as the manifest stores it."""

    candidates: dict[str, Annotations]
    report: dict[str, Any]
    findings: list[Findings]  # of each file


class _Boxes(NamedTuple):
    """Boxes of one image of a file."""

    name: str
    height: int  # px; 0: unknown
    width: int
    boxes_xywh_px: np.ndarray  # [N, 4], the best first


def read_proposals(
    paths: Sequence[Path | str],
    jsons: Sequence[Coco | None],
    image_ids: Sequence[Sequence[str]],
    prefixes: Sequence[str],
    min_side: float,
) -> Imported:
    """Reads files of boxes and assigns them to photos.

    Args:
        paths: COCO results, boxes by name, or ORL's json.
        jsons: for each path, the annotations json that belongs to it, if there is one.
        image_ids: for each path, the photos that it may name; matched as annotations are.
        prefixes: for each path, the beginning of these ids that names in the file lack.
        min_side: boxes with a shorter side (px of the annotated photo) are dropped while reading.

    Raises UserError: a file is missing or of another kind, lacks its annotations json, or has boxes for no photo.
    """
    candidates: dict[str, Annotations] = {}
    all_findings, without_photo = [], []
    for path, coco, ids, prefix in zip(paths, jsons, image_ids, prefixes, strict=True):
        findings = Findings(f"--proposals_file={path}", _KINDS)
        short = [image_id[len(prefix) :] for image_id in ids]
        given = read_boxes(path, min_side, findings)
        in_order = isinstance(given, list)
        boxes = _in_order(given, coco, findings) if in_order else _by_image(given, coco, short, findings)
        names, ambiguous = match(boxes, short)
        if not names:
            other = next((shown(one.name) for one in boxes.values()), "no image")
            odd = "".join(line.removeprefix(findings.source).replace(": ", "; ", 1) for line in findings.lines()[:1])
            raise UserError(
                f"{findings.source} has boxes for none of the {len(ids)} photos (such as {ids[0]}), but for {other}"
                f"{odd}: give the file, and the --annotations, that belong to --images"
                + (", in the same order" if len(paths) > 1 else "")
            )
        findings.add("photos_ambiguous", *(prefix + one for one in ambiguous))
        findings.add("photos_replaced", *(prefix + one for one in names if prefix + one in candidates))
        candidates |= {prefix + one: _candidates(boxes[name]) for one, name in names.items()}
        matched = set(names.values())
        without_photo += [one.name for name, one in boxes.items() if name not in matched]
        all_findings.append(findings)
    listed = dict.fromkeys(image_id for ids in image_ids for image_id in ids)
    without_boxes = [image_id for image_id in listed if image_id not in candidates]
    report = {
        "photos_without_boxes": len(without_boxes),
        "first_photos_without_boxes": first_of(without_boxes),
        "images_without_photo": len(without_photo),
        "first_images_without_photo": first_of(sorted(without_photo)),
    }
    return Imported(candidates, report, all_findings)


def describe(report: dict[str, Any]) -> list[str]:
    """Photos and entries without a match, in lines for people; empty where all have one."""
    kinds = {
        "photos_without_boxes": "photos have no boxes in the file",
        "images_without_photo": "images of the file are no photos here",
    }
    return [
        f"{report[key]} {words} (first: {', '.join(map(repr, report[f'first_{key}']))})"
        for key, words in kinds.items()
        if report.get(key)
    ]


def _by_image(
    rows: dict[int | str, array], coco: Coco | None, image_ids: list[str], findings: Findings
) -> dict[str, _Boxes]:
    """Rows of score and box as boxes by the form of the image's name."""
    texts = [known for known in rows if isinstance(known, str)]
    if coco is None and len(texts) < len(rows):
        raise UserError(f"{findings.source} names photos by numbers: give the --annotations json with their file names")
    texts_are_ids = coco is not None and _texts_are_ids(texts, coco, image_ids, findings)
    images: dict[str, Image] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for known, row in rows.items():
        by_id = coco is not None and (texts_are_ids or not isinstance(known, str))
        position = coco.find(known) if by_id else None
        if position == SHARED:
            findings.add("ids_shared", known)
            continue
        image = None if position is None else coco.images[position]
        if image is None or image.name is None:
            image = Image(str(known), known, 0, 0, [])
        images.setdefault(form(image.name), image)
        parts.setdefault(form(image.name), []).append(np.array(row, np.float64).reshape(-1, 5))
    found = {}
    for name, image in images.items():
        scored = np.concatenate(parts[name])
        best_first = scored[np.argsort(-scored[:, 0], kind="stable"), 1:]
        found[name] = _Boxes(image.name, image.height, image.width, best_first)
    return found


def _texts_are_ids(texts: list[str], coco: Coco, image_ids: list[str], findings: Findings) -> bool:
    """Whether texts are ids of the json, not names: what most of them can be, and ids where it is as many."""
    by_name = {name: one for one, name in match(map(form, texts), image_ids).names.items()}
    positions = {text: coco.find(text) for text in texts}
    images = {text: coco.images[at] for text, at in positions.items() if at is not None and at != SHARED}
    images = {text: image for text, image in images.items() if image.name not in (None, text)}
    # "007" is the number 7 only where it can be no name.
    num_ids = sum(key(text) in coco.positions for text in images) if by_name else len(images)
    are_ids = num_ids > 0 and num_ids >= len(by_name)
    if by_name and images:
        forms = {text: form(image.name) for text, image in images.items()}
        by_id = {name: one for one, name in match(forms.values(), image_ids).names.items()}
        both = ((text, by_id.get(forms[text]), by_name.get(form(text))) for text in forms)
        unclear = [text for text, one, other in both if one and other and one != other]
        findings.add("texts_are_ids" if are_ids else "texts_are_names", *unclear)
    return are_ids


def _in_order(lists: list[np.ndarray], coco: Coco | None, findings: Findings) -> dict[str, _Boxes]:
    """ORL's lists by the form of the image's name; there is one for each image of the json."""
    images = coco.images if coco else []
    if len(lists) != len(images):
        raise UserError(
            f"{findings.source} is ORL's, without names, for {len(lists)} photos in the order of an annotations "
            f"json; --annotations has {len(images)}: give the json that it was made from"
        )
    parts: dict[str, list[np.ndarray]] = {}
    named = [(image, boxes) for image, boxes in zip(images, lists, strict=True) if image.name is not None]
    for image, boxes in named:
        parts.setdefault(form(image.name), []).append(boxes)
    return {
        form(image.name): _Boxes(image.name, image.height, image.width, np.concatenate(parts[form(image.name)]))
        for image, _ in named
    }


def _candidates(boxes: _Boxes) -> Annotations:
    labels = np.zeros([len(boxes.boxes_xywh_px)], np.int64)
    return Annotations(boxes.boxes_xywh_px, labels, boxes.height, boxes.width)

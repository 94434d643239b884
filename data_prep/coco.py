"""COCO's instances json as people have it: its images with their annotations, and what was odd.

One odd entry never refuses the json: what can be used is used, the rest is counted with its first id.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.categories import read_categories
from data_prep.findings import Findings, label
from data_prep.values import key, number
from univip_jax.common.errors import UserError
from univip_jax.common.files import read_bytes

_NAMES = ("file_name", "filename", "path", "coco_url", "url", "image_url", "flickr_url")
SHARED = -1  # instead of a position: several images have this id
KINDS = {
    "images_without_name": "image{s} without a file name left out",
    "images_named_by_path": "image{s} without file_name named by their path or URL",
    "images_without_id": "image{s} without an id, to which no annotation can belong",
    "ids_shared": "image{s} left out because another image has the same id and another file name",
    "names_repeated": "file name{s} under several ids, whose annotations are put together",
    "names_of_several_sizes": "file name{s} under several ids with different sizes left out",
    "sizes_unknown": "image{s} without a usable size, taken to be as large as its masks in run lengths, or the photo",
    "annotations_of_no_image": "annotation{s} without a usable image_id left out",
    "annotations_of_unknown_images": "annotation{s} of unknown images left out",
    "annotations_of_shared_ids": "annotation{s} of an id that several images have left out",
    "boxes_of_outlines": "annotation{s} without a usable box given the box around the outline",
    "boxes_unusable": "annotation{s} without a usable box left out",
    "boxes_empty": "annotation{s} with a box of no area left out",
    "categories_unknown": "annotation{s} of an unknown category kept with label -1",
    "categories_unusable": "element{s} of categories without a whole number as id, or of an earlier one's id, left out",
    "categories_unnamed": "category id{s} without a name named by the number",
    "categories_unlisted": "annotation{s} of a category that is not listed kept; detection leaves them out",
    "crowds_unknown": "annotation{s} with an unknown iscrowd taken as no crowd",
    "outlines_unusable": "annotation{s} whose outline is no polygon and no mask, or not all of it, stored without "
    "that part",
    "masks_of_another_size": "annotation{s} with a mask of another size than the image's stored without it",
    "areas_unusable": "annotation{s} without a usable area given the mask's, or the box's",
    "frames_turned": "image{s} whose boxes leave the stated size and fit it turned: for a photo that EXIF turns, "
    "they mean the upright photo",
    "boxes_clipped": "photo{s} with boxes that end outside the stated size, clipped to it: is each "
    "[x, y, width, height]?",
    "boxes_tiny": "photo{s} whose boxes all lie within one pixel: are they fractions? COCO's are px",
    "ids_by_stem": "image_id{s} in text that could be ids too taken as file names without suffix, as all are",
    "annotations_repeated": "annotation{s} whose id another one has too, all kept",
    "photos_by_file_name": "photo{s} matched by the file name alone, in another folder than the json's",
    "photos_ambiguous": "photo{s} left without annotations because several images or photos fit equally well",
    "photos_without_image": "photo{s} without an image in the json",
    "images_without_photo": "image{s} without a photo here",
    "photos_annotated_twice": "photo{s} that an earlier json names too: its annotations are replaced",
}


class Image(NamedTuple):
    """One of the json's images."""

    name: str | None  # its path as the json gives it
    label: Any  # its id, or its place in the json
    height: int  # px; 0 where the json gives no usable size
    width: int  # px
    annotations: list[dict] | None  # None: its id is another image's too
    json_id: str = ""  # its id as JSON, as detectors' results name it; its name where it has no id


class Coco(NamedTuple):
    """A json as read."""

    images: list[Image]  # in the json's order
    positions: dict[Any, int]  # of the images by `key` of their ids; -1: several have it
    categories: dict[int, str]  # names by id
    ids: dict[str, int]  # of the categories by name
    findings: Findings
    sha256: str  # of the file

    def find(self, image_id: Any) -> int | None:
        """The position of the image with this id; -1 where several have it, None where none has it."""
        known = key(image_id)
        position = self.positions.get(known)
        if position is None and isinstance(known, str) and _is_padded(known):
            position = self.positions.get(int(known))
        return position


def read(path: Path | str) -> Coco:
    """Reads a COCO json.

    Raises UserError: the file is missing, no json, or lacks the list of images.
    """
    try:
        encoded = read_bytes(path)
        contents = json.loads(encoded)
        listed, annotations = contents["images"], contents.get("annotations") or []
        if not isinstance(listed, list) or not isinstance(annotations, list):
            raise TypeError("images and annotations must be lists")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"--annotations={path} cannot be read as COCO instances json ({type(error).__name__}: {error}): it needs "
            "images [id, file_name, height, width] and annotations [image_id, category_id, bbox, iscrowd]"
        ) from error
    findings = Findings(f"--annotations={path}", KINDS)
    images = [_image(raw, position, findings) for position, raw in enumerate(listed)]
    positions = _positions(listed, images, findings)
    categories = read_categories(contents.get("categories"), annotations, findings)
    coco = Coco(
        images,
        positions,
        categories,
        {name: known for known, name in categories.items()},
        findings,
        hashlib.sha256(encoded).hexdigest(),
    )
    _assign(annotations, coco)
    return coco


def _image(raw: Any, position: int, findings: Findings) -> Image:
    called = label(raw, position)
    if not isinstance(raw, dict):
        findings.add("images_without_name", called)
        return Image(None, called, 0, 0, [])
    by, name = next(((by, name) for by in _NAMES if isinstance(name := raw.get(by), str) and name), (None, None))
    if name is None:
        findings.add("images_without_name", called)
    elif by != "file_name":
        findings.add("images_named_by_path", called)
    height, width = (int(number(raw.get(side)) or 0) for side in ("height", "width"))
    if height < 1 or width < 1:
        findings.add("sizes_unknown", called)
        height, width = 0, 0
    known = raw.get("id")
    return Image(name, called, height, width, [], json.dumps(name if key(known) is None else known))


def _positions(listed: list[Any], images: list[Image], findings: Findings) -> dict[Any, int]:
    """The images by their ids. Images that share an id and not the name lose their annotations (None in `images`)."""
    positions: dict[Any, int] = {}
    for position, raw in enumerate(listed):
        known = key(raw.get("id")) if isinstance(raw, dict) else None
        if known is None:
            if isinstance(raw, dict):
                findings.add("images_without_id", images[position].name or images[position].label)
            continue
        other = positions.setdefault(known, position)
        if other != position and (other == SHARED or images[other].name != images[position].name):
            for one in {other, position} - {SHARED}:
                findings.add("ids_shared", images[one].label)
                images[one] = images[one]._replace(annotations=None)
            positions[known] = SHARED
    return _with_aliases(positions, images)


def _with_aliases(positions: dict[Any, int], images: list[Image]) -> dict[Any, int]:
    """Also by the number of an id like "007", and by name, where no id says the same."""
    aliases: dict[Any, int] = {}
    padded = [(int(known), position) for known, position in positions.items() if _is_padded(known)]
    names = [
        (image.name, SHARED if image.annotations is None else position)
        for position, image in enumerate(images)
        if key(image.name) == image.name is not None
    ]
    for alias, position in padded:
        aliases[alias] = SHARED if alias in aliases else position
    return dict(names) | aliases | positions


def _is_padded(known: Any) -> bool:
    """Whether an id is a text of digits that begins with 0."""
    return isinstance(known, str) and known.isascii() and known.isdigit() and len(known) < 19


def _assign(annotations: Sequence[Any], coco: Coco) -> None:
    """Gives the annotations to their images, in the json's order."""
    find, images, findings = coco.positions.get, coco.images, coco.findings
    ids: set[Any] = set()
    stems = _stems(annotations, coco)
    for place, annotation in enumerate(annotations):
        try:
            image_id = annotation["image_id"]
            position = find(image_id) if type(image_id) in (int, str) else None
            position = stems.get(image_id, position) if stems else position
            known = annotation.get("id")
            if known in ids:
                findings.add("annotations_repeated", known)
            elif known is not None:
                ids.add(known)
        except (KeyError, TypeError):  # no object, or an id that is a list
            position = None
        if position is None:
            image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
            position = coco.find(image_id)
            if position is None:
                kind = "annotations_of_no_image" if key(image_id) is None else "annotations_of_unknown_images"
                findings.add(kind, label(annotation, place))
                continue
        if position == SHARED:
            findings.add("annotations_of_shared_ids", label(annotation, place))
        else:
            images[position].annotations.append(annotation)


def _stems(annotations: Sequence[Any], coco: Coco) -> dict[str, int]:
    """The images by file names without suffix, where all annotations name theirs so, and one by a padded number.

    "007" is 007.jpg then, though an image of another name has the id 7.
    """
    texts = {found for one in annotations if isinstance(one, dict) and isinstance(found := one.get("image_id"), str)}
    if not any(_is_padded(text) and key(text) == text for text in texts):
        return {}
    stems: dict[str, int] = {}
    for position, image in enumerate(coco.images):
        stem = (image.name or "").replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
        stems[stem] = SHARED if stem in stems else position
    if not texts <= stems.keys():
        return {}
    coco.findings.add("ids_by_stem", *sorted(text for text in texts if coco.find(text) not in (None, stems[text])))
    return {text: stems[text] for text in texts}

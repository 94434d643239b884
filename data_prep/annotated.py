"""Which photos a COCO json annotates, and what has no match on either side."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from data_prep.annotations import Annotations, leave
from data_prep.coco import Coco, Image
from data_prep.coco_objects import read_objects
from data_prep.matching import form, match
from data_prep.values import key
from univip_jax.common.errors import UserError

_TURNED_SHARE = 0.01  # of the images, and more than one of ten or more: by careless drawing they are fewer
_ENOUGH = 4  # boxes that all lie within a pixel: fewer may be so by chance


def find_annotations(
    coco: Coco, image_ids: Sequence[str], prefix: str = "", advice: str = ""
) -> dict[str, Annotations]:
    """The annotations of a COCO json by image id; photos that it does not name are left out.

    In a json without annotations (COCO's image_info files), each named photo has no objects. Adds to the json's
    findings what was odd, and what has no match.

    Args:
        coco: the json.
        image_ids: the photos that it may name.
        prefix: the beginning of their ids that the json's paths lack.
        advice: the way out where it names none.

    Raises UserError: it names none of the photos.
    """
    findings = coco.findings
    images_of: dict[str, list[Image]] = {}
    for image in coco.images:
        if image.name is not None:
            images_of.setdefault(form(image.name), []).append(image)
    images_of = {name: images for name, images in images_of.items() if _are_one(images, coco)}
    names, ambiguous = match(images_of, [image_id[len(prefix) :] for image_id in image_ids])
    if not names:
        advice = advice or "give the json that belongs to --images"
        if ambiguous:
            advice = "several images or photos fit equally well: give names with folders that tell the photos apart"
        raise UserError(
            f"{findings.source} names none of the {len(image_ids)} photos (such as {image_ids[0]}): {advice}"
        )
    by_id = {prefix + short: _joined(images_of[name], coco) for short, name in names.items()}
    unsure = {prefix + short for short in ambiguous}
    findings.add("photos_ambiguous", *(one for one in image_ids if one in unsure))
    findings.add("photos_without_image", *(one for one in image_ids if one not in by_id and one not in unsure))
    matched = set(names.values())
    paths = {prefix + short: name for short, name in names.items()}
    findings.add("photos_by_file_name", *(one for one, name in paths.items() if _contradict(one, name)))
    boxes = np.concatenate([found.boxes_xywh_px for found in by_id.values()])
    if len(boxes) >= _ENOUGH and (boxes[:, :2] + boxes[:, 2:] <= 1).all():
        findings.add("boxes_tiny", *(one for one, found in by_id.items() if len(found.labels)))
    findings.add("images_without_photo", *(images[0].name for one, images in images_of.items() if one not in matched))
    return _with_frames(by_id, coco)


def _contradict(path: str, other: str) -> bool:
    """Whether two paths name the folder of their file, and not the same one."""
    folders = [one.split("/")[-2].casefold() for one in (form(path), form(other)) if "/" in one]
    return len(folders) == 2 and folders[0] != folders[1]


def _are_one(images: list[Image], coco: Coco) -> bool:
    """Whether images of one name can be one photo's."""
    if any(image.annotations is None for image in images):
        return False
    if len(images) > 1:
        if len({(image.height, image.width) for image in images if image.height}) > 1:
            coco.findings.add("names_of_several_sizes", images[0].name)
            return False
        if len({key(image.label) for image in images}) > 1:
            coco.findings.add("names_repeated", images[0].name)
    return True


def _joined(images: list[Image], coco: Coco) -> Annotations:
    sized = next((image for image in images if image.height), images[0])
    return read_objects(sized, list(chain.from_iterable(image.annotations for image in images)), coco)


def _with_frames(by_id: dict[str, Annotations], coco: Coco) -> dict[str, Annotations]:
    """The annotations, marked where the json's boxes mean upright photos: some leave the stated size and fit it turned.

    One tool makes a json: where that is clear for some photos, it holds for those whose boxes fit both ways.
    """
    sized = {one: found for one, found in by_id.items() if found.height and len(found.labels)}
    if not sized:
        return by_id
    boxes = np.concatenate([found.boxes_xywh_px for found in sized.values()])
    counts = [len(found.labels) for found in sized.values()]
    height, width = np.repeat([(found.height, found.width) for found in sized.values()], counts, axis=0).T
    first = np.cumsum([0, *counts[:-1]])
    tells = np.logical_or.reduceat(leave(boxes, height, width), first)
    tells &= ~np.logical_or.reduceat(leave(boxes, width, height), first)
    begin = (boxes[:, 0] < width) & (boxes[:, 1] < height)
    outside = np.logical_or.reduceat(begin & leave(boxes, height, width), first) & ~tells
    coco.findings.add("boxes_clipped", *(one for one, told in zip(sized, outside, strict=True) if told))
    if not tells.sum() > max(len(sized) >= 10, _TURNED_SHARE * len(sized)):
        return by_id
    coco.findings.add("frames_turned", *(one for one, told in zip(sized, tells, strict=True) if told))
    return {one: found._replace(upright=True) for one, found in by_id.items()}

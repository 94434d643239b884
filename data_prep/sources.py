"""Where photos and their annotations come from: a folder of images, and COCO's instances json."""

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from univip_jax.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class PhotoFile(NamedTuple):
    """One photo of a source, not yet opened."""

    image_id: str  # path relative to the source folder, with forward slashes
    path: str
    num_bytes: int  # -1 where the file cannot be looked at (a broken link)


class Annotations(NamedTuple):
    """What a COCO json says about one photo."""

    boxes_xywh_px: np.ndarray  # float64 [M, 4]
    labels: np.ndarray  # int64 [M], category ids
    height: int  # px, of the photo that was annotated; 0 where the json does not say
    width: int  # px


def find_photos(folder: Path | str) -> list[PhotoFile]:
    """Photos in `folder` and all folders below, by suffix in any letter case, sorted by relative path.

    Links to folders are followed (each real folder once); hidden files and folders are left out.

    Raises:
        UserError: no such folder, or no photo in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"--images={folder}: no such folder; give a folder with photos")
    photos, visited = [], set()
    for current, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(current)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                photos.append(_photo_file(root, Path(current) / name))
    if not photos:
        raise UserError(f"--images={folder} has no photos in it or below; photos end in {' '.join(SUFFIXES)}")
    return sorted(photos)


def _photo_file(root: Path, path: Path) -> PhotoFile:
    # A name that is not UTF-8 still gets an id that can be stored.
    image_id = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        return PhotoFile(image_id, str(path), path.stat().st_size)
    except OSError:
        return PhotoFile(image_id, str(path), -1)


def photos_digest(photos: list[PhotoFile]) -> str:
    """Sha256 (hex) of the photos' ids and sizes: tells one set from another without reading them."""
    lines = (f"{photo.image_id}\t{photo.num_bytes}\n" for photo in photos)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_annotations(path: Path | str, photos: list[PhotoFile]) -> dict[str, Annotations]:
    """COCO instances by image id, without crowds; photos that the json does not name are left out.

    A photo is matched by its relative path, else by its base name where only one photo and one entry bear it.

    Raises:
        UserError: file missing, not COCO instances json, or about none of the photos.
    """
    try:
        contents = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--annotations={path} cannot be read ({error}): give a COCO instances json") from error
    try:
        by_entry, matches = _group(contents), _match(contents["images"], photos)
        found = {
            image_id: Annotations(
                np.array([a["bbox"] for a in by_entry.get(entry["id"], ())], np.float64).reshape(-1, 4),
                np.array([a["category_id"] for a in by_entry.get(entry["id"], ())], np.int64),
                int(entry.get("height") or 0),
                int(entry.get("width") or 0),
            )
            for image_id, entry in matches.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(
            f"--annotations={path} is not COCO instances json ({type(error).__name__}: {error}): it needs "
            "images [id, file_name, height, width] and annotations [image_id, category_id, bbox, iscrowd]"
        ) from error
    if not found:
        raise UserError(
            f"--annotations={path} names none of the {len(photos)} photos (such as {photos[0].image_id}): "
            "give the json that belongs to --images"
        )
    return found


def _group(contents: dict) -> dict[int, list[dict]]:
    """Annotations by image id, without crowds (a box around many things) and boxes that are not finite."""
    grouped: dict[int, list[dict]] = {}
    for annotation in contents["annotations"]:
        if not annotation.get("iscrowd", 0) and np.isfinite(annotation["bbox"]).all():
            grouped.setdefault(annotation["image_id"], []).append(annotation)
    return grouped


def _match(entries: list[dict], photos: list[PhotoFile]) -> dict[str, dict]:
    """The json's entry of each photo's image id."""
    by_path = {entry["file_name"]: entry for entry in entries}
    by_base = _unique_by_base((entry["file_name"], entry) for entry in entries)
    photo_bases = _unique_by_base((photo.image_id, photo) for photo in photos)
    matches = {}
    for photo in photos:
        base = photo.image_id.rsplit("/", 1)[-1]
        entry = by_path.get(photo.image_id) or (by_base.get(base) if base in photo_bases else None)
        if entry is not None:
            matches[photo.image_id] = entry
    return matches


def _unique_by_base(named) -> dict:
    """Values by the base name of their name, where only one has it."""
    found: dict = {}
    for name, value in named:
        base = name.rsplit("/", 1)[-1]
        found[base] = None if base in found else value
    return {base: value for base, value in found.items() if value is not None}

"""Where photos come from: folders, zip and tar files, TFDS; which photos they hold, and how one photo is opened.

A photo is a small description that pickles: a worker on any machine opens it by itself.
"""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import at, read_bytes
from univip_jax.data.photos import SUFFIXES, archives, tfds
from univip_jax.data.photos.decode import Rejected
from univip_jax.data.photos.listing import Listing, Opened, PhotoFile, as_text, list_folder

MAX_BYTES = 1 << 30  # a larger file is no photo, and would fill the memory


def find_photos(source: Path | str) -> list[PhotoFile]:
    """Photos of one folder (and all folders below), zip or tar file, sorted by their ids; raises as `list_sources`."""
    return list_sources([source]).photos


def list_sources(sources: Sequence[Path | str]) -> Listing:
    """The photos of all sources, sorted by id; with several, each id begins with its source's name.

    Raises UserError: no such file or folder, a file that is no archive, no photo in it, or a source given twice.
    """
    photos, passed_over = [], Counter()
    for source, prefix in zip(sources, prefixes(sources), strict=True):
        listing = _list_source(source)
        passed_over += listing.passed_over
        photos += [photo._replace(image_id=prefix + photo.image_id) for photo in listing.photos]
    return Listing(sorted(photos), passed_over)


def _list_source(source: Path | str) -> Listing:
    there, in_bucket = at(source), is_bucket(source)
    if there.is_dir() if in_bucket else os.path.isdir(source):  # False too where a folder above may not be entered
        listing = list_folder(source)
    elif there.is_file() if in_bucket else os.path.isfile(source):
        listing = archives.list_archive(there)
    else:
        raise UserError(f"--images={source}: no such folder or file; give a folder with photos, a zip or a tar file")
    if not listing.photos:
        line = passed_over_line(listing.passed_over)
        raise UserError(
            f"--images={source} has no photos in it or below; photos end in {' '.join(SUFFIXES)}"
            + (f"; {line}" if line else "")
        )
    return listing


def passed_over_line(passed_over: Counter[str]) -> str:
    """One line that counts the files of other formats; empty where there are none."""
    if not (total := passed_over.total()):
        return ""
    counts = shorten([f"{count} {suffix}" for suffix, count in passed_over.most_common()], few=6)
    return f"passed over {total} files of other formats: {counts}"


def prefixes(sources: Sequence[Path | str]) -> list[str]:
    """The beginning of each source's ids: nothing for one source, else its name, numbered where two share it.

    Raises UserError: a source is given twice.
    """
    if len(sources) == 1:
        return [""]
    names: list[str] = []
    real = [str(at(source)) if is_bucket(source) else os.path.realpath(source) for source in sources]
    for path, source in zip(map(at, real), sources, strict=True):
        if real.count(str(path)) > 1:
            raise UserError(f"--images={source} is given twice: give each source once")
        name = as_text((path.name if path.is_dir() else path.stem) or str(path).rpartition("/")[2])
        numbered = (f"{name}-{number}" for number in range(2, len(real) + 2))
        names.append(next(one for one in (name, *numbered) if one not in names))
    return [f"{name}/" for name in names]


def open_photo(photo: PhotoFile) -> Opened:
    """Reads a photo's bytes.

    Raises:
        Rejected: the photo cannot be read, or is larger than any photo.
        UserError: the archive, the bucket or the TFDS data set that holds it cannot be read; TransientError: nor
            the bucket be reached.
    """
    if photo.kind == "refused":
        raise Rejected(photo.path)
    if photo.num_bytes > MAX_BYTES:
        raise Rejected(f"too large: {photo.num_bytes} bytes are over {MAX_BYTES}")
    if photo.kind == "tfds":
        return tfds.read_example(*photo.path.rsplit("@", 1), photo.position)
    if photo.kind in ("zip", "tar"):
        return Opened(archives.read_member(photo))
    try:
        return Opened(read_bytes(photo.path))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or (is_bucket(photo.path) and error.errno != errno.ENOENT):
            raise  # not the photo's fault
        raise Rejected(f"unreadable file: {error.strerror}") from error


def photos_digest(photos: list[PhotoFile]) -> str:
    """Sha256 (hex) of the photos' ids and sizes: tells one set from another without reading them."""
    lines = (f"{photo.image_id}\t{photo.num_bytes}\n" for photo in photos)
    return hashlib.sha256("".join(lines).encode()).hexdigest()

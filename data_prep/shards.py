"""One shard: photos to records on disk. Pure (equal specs give equal bytes), idempotent (done is done)."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import __version__ as pillow_version

from data_prep import filters, photos, selective_search, verdict
from data_prep.sources import Annotations, PhotoFile
from data_prep.writing import appearing, sha256_of, write_whole
from univip_jax.data import boxes, records

SHARD_NAME = re.compile(r"photos-\d{5}-of-\d{5}\.(tfrecord|json)")


class Settings(NamedTuple):
    """What decides a record's proposals."""

    proposals: str  # selective_search | naive | annotated | none
    search_max_side: int  # px, 0 = full size
    min_side: int  # px of the photo as stored
    max_boxes: int


class ShardSpec(NamedTuple):
    """All that a shard's bytes depend on, and where they go."""

    path: Path
    photos: tuple[PhotoFile, ...]
    annotations: dict[str, Annotations]  # by image id; photos that are not annotated are left out
    settings: Settings


def plan_shards(
    out: Path, found: list[PhotoFile], annotations: dict[str, Annotations], settings: Settings
) -> list[ShardSpec]:
    """Splits photos, in order, into shards of at most 256; the split depends on their number alone."""
    per_shard = min(256, max(8, -(-len(found) // 16)))
    groups = [tuple(found[start : start + per_shard]) for start in range(0, len(found), per_shard)]
    return [
        ShardSpec(
            out / f"photos-{index:05d}-of-{len(groups):05d}.tfrecord",
            group,
            {photo.image_id: annotations[photo.image_id] for photo in group if photo.image_id in annotations},
            settings,
        )
        for index, group in enumerate(groups)
    ]


def library_versions() -> dict[str, str]:
    """Versions of what decides the records' bytes."""
    return {"opencv": cv2.__version__, "numpy": np.__version__, "pillow": pillow_version}


def finished(spec: ShardSpec) -> dict | None:
    """The sidecar of a shard that an earlier run finished from an equal spec; None where there is none."""
    try:
        sidecar = json.loads(spec.path.with_suffix(".json").read_bytes())
        good = sidecar["spec_hash"] == spec_hash(spec) and sidecar["bytes"] == spec.path.stat().st_size
        good &= sidecar.keys() >= {"sha256", "num_records", "offsets", "verdict", "rejected"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sidecar if good else None


def process_shard(spec: ShardSpec, on_photo: Callable[[], object]) -> dict:
    """Writes a shard, then its sidecar; both appear whole or not at all.

    Args:
        spec: the shard.
        on_photo: called after each photo; what it raises ends the work, and leaves nothing behind.

    Returns:
        The sidecar: version, shard (file name), num_records, bytes, sha256, offsets (byte offset of each
        record), verdict (see `verdict.of_shard`), rejected ([{id, reason}]), spec_hash.

    Raises:
        UserError: the shard cannot be written.
    """
    if (sidecar := finished(spec)) is not None:
        return sidecar
    spec.path.with_suffix(".json").unlink(missing_ok=True)  # from here on it would vouch for another shard
    rejected: list[dict] = []
    counts: list[verdict.Counts] = []
    with appearing(spec.path) as tmp:
        offsets = records.write_shard(tmp, _serialized(spec, on_photo, rejected, counts))
        sidecar = {
            "version": records.FORMAT_VERSION,
            "shard": spec.path.name,
            "num_records": len(offsets),
            "bytes": tmp.stat().st_size,
            "sha256": sha256_of(tmp),
            "offsets": offsets,
            "verdict": verdict.of_shard(counts),
            "rejected": rejected,
            "spec_hash": spec_hash(spec),
        }
    write_whole(spec.path.with_suffix(".json"), json.dumps(sidecar, sort_keys=True) + "\n")
    return sidecar


def _serialized(
    spec: ShardSpec, on_photo: Callable[[], object], rejected: list[dict], counts: list[verdict.Counts]
) -> Iterator[bytes]:
    """The shard's records; fills `rejected` and `counts` on the way."""
    for photo in spec.photos:
        try:
            record = make_record(photo, spec.annotations.get(photo.image_id), spec.settings)
        except photos.Rejected as error:
            rejected.append({"id": photo.image_id, "reason": str(error)})
        else:
            counts.append(verdict.of_photo(record.proposals, record.objects, record.height, record.width))
            yield records.serialize(record)
        on_photo()


def make_record(photo: PhotoFile, annotations: Annotations | None, settings: Settings) -> records.Record:
    """Reads a photo and proposes boxes for it: a pure function of its bytes, annotations and the settings.

    Raises:
        photos.Rejected: the photo cannot be used.
    """
    try:
        found = Path(photo.path).read_bytes()
    except OSError as error:
        raise photos.Rejected(f"unreadable file: {error.strerror}") from error
    stored = photos.read_photo(found)
    height, width = stored.pixels.shape[:2]
    objects, labels = _objects(annotations, height, width)
    if settings.proposals == "annotated":
        proposals = objects[: settings.max_boxes]
    else:
        candidates = _candidates(stored, settings)
        kept = filters.keep(candidates, settings.min_side, settings.max_boxes)
        proposals = boxes.from_yxyx_px(kept, height, width)
    return records.Record(stored.encoded, photo.image_id, height, width, proposals, objects, labels)


def _candidates(stored: photos.StoredPhoto, settings: Settings) -> np.ndarray:
    """Candidate boxes yxyx in px, float64 [N, 4]."""
    height, width = stored.pixels.shape[:2]
    if settings.proposals == "none" or min(height, width) < settings.min_side:
        return np.zeros([0, 4])
    generator = selective_search.photo_generator(stored.encoded)
    if settings.proposals == "naive":
        return filters.naive_candidates(height, width, settings.min_side, generator)
    try:
        return selective_search.selective_search(stored.pixels, settings.search_max_side, generator)
    except cv2.error as error:
        raise photos.Rejected(f"selective search failed: {error.err}") from error


def _objects(annotations: Annotations | None, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Annotated boxes float32 [M, 4] yxyx in [0, 1], labels int64 [M]; without boxes outside the photo."""
    if annotations is None:
        return np.zeros([0, 4], np.float32), np.zeros([0], np.int64)
    # A json that gives no size speaks of the photo as stored.
    of_height, of_width = annotations.height or height, annotations.width or width
    # A smaller copy of the annotated photo is fine, a turned or cropped one is not; 2 px are for rounding.
    if abs(of_width * height / of_height - width) > 2:
        raise photos.Rejected(f"annotations are of another size: {of_width} x {of_height}, photo {width} x {height}")
    objects = boxes.from_xywh_px(annotations.boxes_xywh_px, of_height, of_width)
    inside = boxes.valid(objects)
    return objects[inside], annotations.labels[inside]


def spec_hash(spec: ShardSpec) -> str:
    """Sha256 (hex) of what decides the bytes: photos (name, size), annotations, settings, versions."""
    digest = hashlib.sha256()
    facts = [records.FORMAT_VERSION, library_versions(), spec.settings._asdict(), selective_search.SEARCH_PARAMETERS]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for photo in spec.photos:
        digest.update(f"\n{photo.image_id}\t{photo.num_bytes}\t".encode())
        if (annotations := spec.annotations.get(photo.image_id)) is not None:
            digest.update(f"{annotations.height} {annotations.width} ".encode())
            digest.update(annotations.boxes_xywh_px.tobytes() + annotations.labels.tobytes())
    return digest.hexdigest()

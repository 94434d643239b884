"""One shard: photos to records on disk. Pure (equal specs give equal bytes), idempotent (done is done)."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import __version__ as pillow_version

from data_prep import photo_stats, proposal_stats
from data_prep.annotations import Annotations, fingerprint
from data_prep.record import Settings, make_record
from data_prep.selective_search import search_parameters
from univip_jax.common.buckets import is_bucket
from univip_jax.common.files import appearing, read_bytes, sha256_of, write_whole
from univip_jax.common.objects import entries, read_all
from univip_jax.data import records, tfrecord
from univip_jax.data.photos import decode as photos
from univip_jax.data.photos.listing import Opened, PhotoFile
from univip_jax.data.photos.reading import read_ahead
from univip_jax.data.photos.sources import open_photo

_AHEAD = 8  # photos that are read from a bucket while one is searched
SHARD_NAME = re.compile(r"photos-\d{5}-of-\d{5}\.(tfrecord|json)")
STATS = "verdict"  # a sidecar's key for the statistics of its proposals; sidecars on disk keep this older name
LOOKS = "photo_stats"  # the key for the statistics of its photos; older sidecars lack it
PHOTOS = "photos"  # the key for what a detector must know of each photo, column by column; older sidecars lack it


class Sizes(NamedTuple):
    """A record's photo, as a sidecar counts it."""

    height: int  # px, as stored
    width: int
    num_objects: int  # that are no crowds
    num_masks: int  # of these, with an outline
    num_crowds: int


def sizes_of(height: int, width: int, is_crowd: np.ndarray, owners: np.ndarray, rle: Sequence[bytes]) -> Sizes:
    """What a sidecar says of a record, from its fields; `owners` are the polygons' objects."""
    has_outline = np.isin(np.arange(len(is_crowd)), [*owners, *(place for place, mask in enumerate(rle) if mask)])
    counts = (~is_crowd).sum(), (~is_crowd & has_outline).sum(), is_crowd.sum()
    return Sizes(int(height), int(width), *map(int, counts))


def columns(sizes: list[Sizes]) -> dict[str, list[int]]:
    """Sizes by name, each of all records."""
    return {name: [getattr(one, name) for one in sizes] for name in Sizes._fields}


class ShardSpec(NamedTuple):
    """Everything that a shard's bytes depend on, and their file."""

    path: Path
    photos: tuple[PhotoFile, ...]
    annotations: dict[str, Annotations]  # by image id, of annotated photos
    settings: Settings
    imported: dict[str, Annotations] = {}  # noqa: RUF012 (never changed); candidate boxes by image id, for `import`


def plan_shards(
    out: Path,
    photo_files: list[PhotoFile],
    annotations: dict[str, Annotations],
    settings: Settings,
    imported: dict[str, Annotations] | None = None,
) -> list[ShardSpec]:
    """Splits photos, in order, into shards of at most 256; the split depends on the number of photos alone."""
    per_shard = min(256, max(8, -(-len(photo_files) // 16)))
    groups = [tuple(photo_files[start : start + per_shard]) for start in range(0, len(photo_files), per_shard)]
    return [
        ShardSpec(
            out / f"photos-{index:05d}-of-{len(groups):05d}.tfrecord",
            group,
            {photo.image_id: annotations[photo.image_id] for photo in group if photo.image_id in annotations},
            settings,
            {photo.image_id: imported[photo.image_id] for photo in group if photo.image_id in (imported or ())},
        )
        for index, group in enumerate(groups)
    ]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the records' bytes."""
    return {"opencv": cv2.__version__, "numpy": np.__version__, "pillow": pillow_version}


def finished(spec: ShardSpec) -> dict | None:
    """The sidecar of a shard that an earlier run finished from an equal spec; None where there is none."""
    try:
        return _fitting(spec, read_bytes(spec.path.with_suffix(".json")), spec.path.stat().st_size)
    except OSError:
        return None


def all_finished(plan: Sequence[ShardSpec]) -> list[dict | None]:
    """`finished` for the shards of one folder; in a bucket by one listing, and requests at the same time."""
    if not is_bucket(plan[0].path):
        return [finished(spec) for spec in plan]
    there = entries(plan[0].path.parent)
    specs = [spec for spec in plan if {spec.path.name, spec.path.with_suffix(".json").name} <= there.keys()]
    sidecars = zip(specs, read_all([spec.path.with_suffix(".json") for spec in specs]), strict=True)
    found = {spec.path: _fitting(spec, sidecar or b"", there[spec.path.name].size) for spec, sidecar in sidecars}
    return [found.get(spec.path) for spec in plan]


def _fitting(spec: ShardSpec, contents: bytes, size: int) -> dict | None:
    """The sidecar, where it is one of an equal spec and of a shard of this size."""
    try:
        sidecar = json.loads(contents)
        good = sidecar["spec_hash"] == spec_hash(spec) and sidecar["bytes"] == size
        good &= sidecar.keys() >= {"sha256", "num_records", "offsets", STATS, "rejected"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return sidecar if good else None


def process_shard(spec: ShardSpec, on_photo: Callable[[], object]) -> dict:
    """Writes a shard, then its sidecar; both appear whole or not at all.

    Args:
        spec: the shard.
        on_photo: called after each photo; an exception from it ends the work, and leaves nothing behind.

    Returns:
        The sidecar: version, shard (file name), num_records, bytes, sha256, offsets (byte offset of each
        record), verdict (`proposal_stats.of_shard`), photo_stats (`photo_stats.of_shard`), photos (`columns`),
        rejected ([{id, reason}]), spec_hash; where boxes lie outside their photos, `record.OBJECTS` or CANDIDATES
        ([{id, count}]).

    Raises UserError: the shard cannot be written, or a photo's bucket not be read; TransientError: a bucket cannot be
    reached.
    """
    if (sidecar := finished(spec)) is not None:
        return sidecar
    spec.path.with_suffix(".json").unlink(missing_ok=True)  # from here on it would describe another shard
    rejected: list[dict] = []
    counts: list[proposal_stats.Counts] = []
    looks: list[photo_stats.Looks] = []
    sizes: list[Sizes] = []
    outside: dict[str, list[dict]] = {}
    with appearing(spec.path) as tmp:
        offsets = tfrecord.write_shard(tmp, _serialized(spec, on_photo, rejected, counts, looks, sizes, outside))
        sidecar = {
            "version": records.FORMAT_VERSION,
            "shard": spec.path.name,
            "num_records": len(offsets),
            "bytes": tmp.stat().st_size,
            "sha256": sha256_of(tmp),
            "offsets": offsets,
            STATS: proposal_stats.of_shard(counts),
            LOOKS: photo_stats.of_shard(looks),
            PHOTOS: columns(sizes),
            "rejected": rejected,
            "spec_hash": spec_hash(spec),
            **outside,
        }
    write_whole(spec.path.with_suffix(".json"), json.dumps(sidecar, sort_keys=True) + "\n", sync=True)
    return sidecar


def _serialized(
    spec: ShardSpec,
    on_photo: Callable[[], object],
    rejected: list[dict],
    counts: list[proposal_stats.Counts],
    looks: list[photo_stats.Looks],
    sizes: list[Sizes],
    outside: dict[str, list[dict]],
) -> Iterator[bytes]:
    """The shard's records; also fills the lists and `outside`."""
    for photo, opened in zip(spec.photos, _opened(spec.photos), strict=True):
        try:
            if isinstance(opened, photos.Rejected):
                raise opened
            annotated, imported = (given.get(photo.image_id) for given in (spec.annotations, spec.imported))
            record, pixels, num_outside = make_record(photo, annotated, spec.settings, imported, opened)
        except photos.Rejected as error:
            rejected.append({"id": photo.image_id, "reason": str(error)})
        else:
            objects = record.objects[~record.is_crowd]
            counts.append(proposal_stats.of_photo(record.proposals, objects, record.height, record.width))
            looks.append(photo_stats.of_photo(photo.image_id, pixels))
            rle = record.in_json.rle if record.in_json else ()
            sizes.append(sizes_of(record.height, record.width, record.is_crowd, record.polygons.objects, rle))
            for kind, count in num_outside.items():
                outside.setdefault(kind, []).append({"id": photo.image_id, "count": count})
            yield records.serialize(record)
        on_photo()


def _opened(listed: Sequence[PhotoFile]) -> Iterator[Opened | photos.Rejected | None]:
    """The bytes of each photo in a bucket, or why it is rejected; None for one on a disk, which nobody waits for."""

    def load(photo: PhotoFile) -> Opened | photos.Rejected:
        try:
            return open_photo(photo)
        except photos.Rejected as error:
            return error

    in_bucket = any(is_bucket(photo.path) for photo in listed)
    return read_ahead(listed, load, _AHEAD) if in_bucket else repeat(None, len(listed))


def spec_hash(spec: ShardSpec) -> str:
    """Sha256 (hex) of everything that decides the bytes: photos (name, size), annotations, settings, versions."""
    digest = hashlib.sha256()
    search = search_parameters(spec.settings.proposals, spec.settings.search_mode)
    facts = [records.FORMAT_VERSION, library_versions(), spec.settings.described(), search]
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for photo in spec.photos:
        digest.update(f"\n{photo.image_id}\t{photo.num_bytes}\t".encode())
        for given in (spec.annotations, spec.imported):
            if photo.image_id in given:
                digest.update(fingerprint(given[photo.image_id]))
    return digest.hexdigest()

"""The data set as a whole: what is in the output folder already, `manifest.json` and `rejected.jsonl`."""

import json
from pathlib import Path

import numpy as np

from data_prep import filters
from data_prep.inputs import Loaded
from data_prep.shards import (
    SHARD_NAME,
    TMP_NAME,
    Settings,
    ShardSpec,
    library_versions,
    write_whole,
)
from data_prep.sources import photos_digest
from univip_jax.data import records
from univip_jax.errors import UserError

REJECTED = "rejected.jsonl"


def describe(loaded: Loaded, settings: Settings) -> dict:
    """What was asked for, as the manifest keeps it: equal for equal requests wherever the photos lie."""
    description = {
        "photos": {"num": len(loaded.photos), "sha256": photos_digest(loaded.photos)},
        "settings": {
            **loaded.facts,
            **settings._asdict(),
            "max_aspect": filters.MAX_ASPECT,
            "max_iou": filters.MAX_IOU,
        },
    }
    return description | ({"import": loaded.report} if loaded.report else {})


def finished(out: Path, description: dict) -> dict | None:
    """The manifest of `out` where an earlier run finished the same request and its files are in place.

    Returns:
        The manifest, or None where there is work to do (new folder, unfinished run, missing shards).

    Raises:
        UserError: `out` holds a data set of another request, format version, or a damaged manifest.
    """
    if not (out / records.MANIFEST).is_file():
        return None
    manifest = records.read_manifest(out)
    there = {key: manifest.get(key) or {} for key in description}
    for section, wanted in description.items():
        for name, value in wanted.items():
            if there[section].get(name) != value:
                raise UserError(
                    f"--out={out} holds a finished data set of other {section} ({name}="
                    f"{there[section].get(name)}, asked for is {value}): choose another --out or delete it"
                )
    try:
        return records.open_dataset(out).manifest
    except UserError:
        return None  # the same request with a shard missing or cut short: the run mends it


def make_room(out: Path, plan: list[ShardSpec]) -> None:
    """Creates `out`, removes what interrupted runs left half written.

    Raises:
        UserError: it cannot be created, or holds shards of another set of photos.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in out.iterdir())
        planned = {spec.path.with_suffix(suffix).name for spec in plan for suffix in (".tfrecord", ".json")}
        for name in names:
            if SHARD_NAME.fullmatch(name) and name not in planned:
                raise UserError(
                    f"--out={out} holds {name} of an unfinished run over another number of photos "
                    f"(this run has {len(plan)} shards): choose another --out or delete it"
                )
        for name in filter(TMP_NAME.fullmatch, names):
            (out / name).unlink()
    except OSError as error:
        raise UserError(f"--out={out} cannot be used ({error.strerror}): give a folder that can be written") from error


def write(out: Path, sidecars: list[dict], description: dict, max_rejected: float) -> dict:
    """Writes `rejected.jsonl` and, last, `manifest.json`, and returns the manifest.

    Raises:
        UserError: not one photo could be used, or a larger share than `max_rejected` could not: the shards stay.
    """
    rejected = [entry for sidecar in sidecars for entry in sidecar["rejected"]]
    write_whole(out / REJECTED, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in rejected))
    num_boxes = np.array([n for sidecar in sidecars for n in sidecar["num_boxes"]], np.int64)
    if not len(num_boxes):
        raise UserError(
            f"none of the {len(rejected)} photos can be used (first: {rejected[0]['id']!r}: "
            f"{rejected[0]['reason']}): see {out / REJECTED}, then give another --images"
        )
    num_photos = len(rejected) + len(num_boxes)
    if len(rejected) > max_rejected * num_photos:
        raise UserError(
            f"{len(rejected)} of {num_photos} photos ({len(rejected) / num_photos:.1%}) cannot be used, more than "
            f"--max_rejected={max_rejected:g} allows (first: {rejected[0]['id']!r}: {rejected[0]['reason']}): see "
            f"{out / REJECTED}; mend them, or run again with a larger --max_rejected, the finished shards are kept"
        )
    manifest = {
        "version": records.FORMAT_VERSION,
        "fingerprint": records.fingerprint(sidecar["sha256"] for sidecar in sidecars),
        "num_records": len(num_boxes),
        "num_rejected": len(rejected),
        **description,
        "libraries": library_versions(),
        "proposals": {
            "mean": round(float(num_boxes.mean()), 3),
            "min": int(num_boxes.min()),
            "max": int(num_boxes.max()),
            "share_below_4": round(float((num_boxes < 4).mean()), 4),
        },
        "shards": [
            {"name": sidecar["shard"], **{key: sidecar[key] for key in ("num_records", "bytes", "sha256")}}
            for sidecar in sidecars
        ],
    }
    write_whole(out / records.MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return manifest

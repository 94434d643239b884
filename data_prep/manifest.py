"""The data set as a whole: what the output folder holds already, `manifest.json` and `rejected.jsonl`."""

import json
import os
from collections import Counter
from pathlib import Path

from data_prep import page, photo_stats, proposal_stats
from data_prep.findings import first_of
from data_prep.inputs import Loaded
from data_prep.record import CANDIDATES, OBJECTS
from data_prep.selective_search import search_parameters
from data_prep.shards import LOOKS, SHARD_NAME, STATS, Settings, ShardSpec, library_versions
from univip_jax.common.buckets import is_bucket
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import write_whole
from univip_jax.common.objects import entries, read_all
from univip_jax.data import boxes, records
from univip_jax.data.photos.sources import photos_digest
from univip_jax.data.quality import photo_warnings

REJECTED = "rejected.jsonl"
_OUTSIDE = {OBJECTS: "annotated boxes", CANDIDATES: "imported boxes"}
_PACE_SHARDS = 64  # the newest finished shards give the pace


def describe(loaded: Loaded, settings: Settings) -> dict:
    """The request, as the manifest stores it: equal for equal requests wherever the photos lie."""
    limits = {"max_aspect": boxes.MAX_ASPECT, "max_iou": boxes.MAX_IOU}
    search = search_parameters(settings.proposals, settings.search_mode)
    description = {
        "photos": {"num": len(loaded.photos), "sha256": photos_digest(loaded.photos)},
        "settings": {**loaded.facts, **settings.described(), **search, **limits},
    }
    return description | ({"import": loaded.report} if loaded.report else {})


def finished(out: Path, description: dict) -> dict | None:
    """The manifest of `out` where an earlier run finished the same request and its files are in place.

    Returns:
        The manifest, or None where there is work to do (new folder, unfinished run, missing shards).

    Raises UserError: `out` holds a data set of another request, format version, or a damaged manifest.
    """
    if not (out / records.MANIFEST).is_file():
        return None
    manifest = records.read_manifest(out)
    there = {key: manifest.get(key) or {} for key in description}
    there["settings"] = Settings._field_defaults | there["settings"]
    for section, wanted in description.items():
        if section == "settings":
            wanted = Settings._field_defaults | wanted
        for name, value in wanted.items():
            if there[section].get(name) != value:
                raise UserError(
                    f"--out={out} holds a finished data set of other {section} ({name}="
                    f"{there[section].get(name)}, asked for is {value}): choose another --out or delete it"
                )
    if not all((out / name).is_file() for name in (REJECTED, page.PAGE)):
        return None
    try:
        return records.open_dataset(out).manifest
    except TransientError:
        raise
    except UserError:
        return None  # the same request with a shard missing or cut short: the run mends it


def not_for_detection(out: Path, manifest: dict, loaded: Loaded) -> list[str]:
    """In a line, that an annotated data set of an earlier version lacks what a detector needs; else nothing."""
    if not loaded.categories or "categories" in manifest:
        return []
    return [
        f"warning: {out} was prepared before detection: it serves pre-training as it is, but lacks the ids, categories "
        f"and masks of --annotations; for detection delete {out / records.MANIFEST} and run this command again"
    ]


def ensure_folder(out: Path, plan: list[ShardSpec]) -> None:
    """Creates `out` where there is none; a bucket needs no folders.

    Raises UserError: it cannot be created, or holds shards of another set of photos.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        names = sorted(entries(out) if is_bucket(out) else os.listdir(out))
    except OSError as error:
        raise UserError(f"--out={out} cannot be used ({error.strerror}): give a folder that can be written") from error
    planned = {spec.path.with_suffix(suffix).name for spec in plan for suffix in (".tfrecord", ".json")}
    for name in names:
        if SHARD_NAME.fullmatch(name) and name not in planned:
            raise UserError(
                f"--out={out} holds {name} of an unfinished run over another number of photos "
                f"(this run has {len(plan)} shards): choose another --out or delete it"
            )


def compose(out: Path, sidecars: list[dict], description: dict, max_rejected: float) -> dict:
    """Writes `rejected.jsonl` and returns the manifest, which `write` writes last.

    Raises UserError: no photo can be used, or a larger share than `max_rejected` cannot: the shards stay.
    """
    rejected = [entry for sidecar in sidecars for entry in sidecar["rejected"]]
    write_whole(out / REJECTED, "".join(json.dumps(entry, sort_keys=True) + "\n" for entry in rejected), sync=True)
    if not any(sidecar["num_records"] for sidecar in sidecars):
        raise UserError(
            f"none of the {len(rejected)} photos can be used (first: {rejected[0]['id']!r}: "
            f"{rejected[0]['reason']}): see {out / REJECTED}, then give another --images"
        )
    num_photos = len(rejected) + sum(sidecar["num_records"] for sidecar in sidecars)
    if len(rejected) > max_rejected * num_photos:
        raise UserError(
            f"{len(rejected)} of {num_photos} photos ({len(rejected) / num_photos:.1%}) cannot be used, more than "
            f"--max_rejected={max_rejected:g} allows (first: {rejected[0]['id']!r}: {rejected[0]['reason']}): see "
            f"{out / REJECTED}; mend them, or run again with a larger --max_rejected: finished shards are not redone"
        )
    return of_shards(sidecars) | description | {"libraries": library_versions()}


def write(out: Path, manifest: dict) -> None:
    """Writes `manifest.json`: from here on the data set is finished."""
    write_whole(out / records.MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n", sync=True)


def unfinished(root: Path) -> tuple[dict, str] | None:
    """The manifest of the shards that are finished, and in words how many shards and hours are left.

    None where there is a manifest, or not one finished shard.
    """
    if (root / records.MANIFEST).exists():
        return None
    times, sidecars = _sidecars(root)
    if not any(sidecar["num_records"] for sidecar in sidecars):
        return None
    num_shards = int(min(times).removesuffix(".json").split("-")[-1])
    progress = f"unfinished: {len(sidecars)} of {num_shards} shards are done"
    times = sorted(times.values())[-_PACE_SHARDS:]
    if len(times) > 1 and times[-1] > times[0]:
        seconds = (num_shards - len(sidecars)) * (times[-1] - times[0]) / (len(times) - 1)
        progress += f", about {seconds / 3600:.1f} h are left at the pace of the newest {len(times)}"
    return of_shards(sidecars), progress


def _sidecars(root: Path) -> tuple[dict[str, float], list[dict]]:
    """The finished shards' sidecars in order: when each was written, by its name; and what they hold."""
    if is_bucket(root):
        written = {name: entry.modified for name, entry in entries(root).items()}
    else:
        written = {path.name: path.stat().st_mtime for path in root.glob("*.json")}
    names = sorted(name for name in written if SHARD_NAME.fullmatch(name) and name.endswith(".json"))
    paths = [root / name for name in names]
    contents = read_all(paths) if is_bucket(root) else [path.read_bytes() for path in paths]
    return {name: written[name] for name in names}, [json.loads(one) for one in contents if one is not None]


def of_shards(sidecars: list[dict]) -> dict:
    """What the manifest says of the shards; at least one must hold a record."""
    rejected = [entry for sidecar in sidecars for entry in sidecar["rejected"]]
    looks = [sidecar[LOOKS] for sidecar in sidecars if LOOKS in sidecar]
    outside = {kind: [entry for sidecar in sidecars for entry in sidecar.get(kind, ())] for kind in _OUTSIDE}
    return {
        "version": records.FORMAT_VERSION,
        "fingerprint": records.fingerprint(sidecar["sha256"] for sidecar in sidecars),
        "num_records": sum(sidecar["num_records"] for sidecar in sidecars),
        "num_rejected": len(rejected),
        "rejected": dict(Counter(entry["reason"].split(":")[0] for entry in rejected).most_common()),
        "proposals": proposal_stats.of_dataset(sidecar[STATS] for sidecar in sidecars),
        "shards": [
            {"name": sidecar["shard"], **{key: sidecar[key] for key in ("num_records", "bytes", "sha256")}}
            for sidecar in sidecars
        ],
        # Shards of an older version do not count their photos: then nothing is known of the whole.
        **({LOOKS: photo_stats.of_dataset(looks)} if len(looks) == len(sidecars) else {}),
        **{
            kind: {"count": sum(entry["count"] for entry in lost), "first": first_of([entry["id"] for entry in lost])}
            for kind, lost in outside.items()
            if lost
        },
    }


def summary(manifest: dict) -> list[str]:
    """The data set in lines: photos, what cannot teach, boxes, recall."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.get("rejected", {}).items())
    num_photos = manifest["num_records"] + manifest["num_rejected"]
    rejected = f"{manifest['num_rejected']} rejected" + (f" ({reasons}; see {REJECTED})" if reasons else "")
    lines = [
        f"photos: {manifest['num_records']} of {num_photos} used, {rejected}",
        *warnings(manifest),
        *proposal_stats.lines(manifest["proposals"]),
    ]
    for kind, words in _OUTSIDE.items():
        if outside := manifest.get(kind):
            lines.append(
                f"{words} outside their photos left out: {outside['count']} (first in {outside['first'][0]!r})"
            )
    return lines


def warnings(manifest: dict) -> list[str]:
    """What cannot teach, as this command says it."""
    return [f"warning: {line}" for line in photo_warnings(manifest)]

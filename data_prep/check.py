"""`--check`: reads every byte of a data set and names what is wrong and where."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import manifest as manifests
from data_prep import photo_stats, proposal_stats, runners
from data_prep.masks import read_mask
from data_prep.shards import LOOKS, PHOTOS, columns, sizes_of
from univip_jax.common.errors import TransientError, UserError
from univip_jax.common.files import on_disk, read_bytes, sha256_of
from univip_jax.data import boxes, records
from univip_jax.data.annotated import InJson, read_annotations, read_polygons
from univip_jax.data.tfrecord import FRAME_BYTES


class Checked(NamedTuple):
    """The outcome of a check."""

    manifest: dict  # with the statistics of the records as read; of an unfinished data set: of its finished shards
    problems: list[str]  # one line each, with its place; empty for a whole data set
    progress: str  # how much of an unfinished data set is done; empty for a finished one


def check_dataset(root: Path, num_workers: int) -> Checked:
    """Reads every byte, and computes the manifest's statistics of the proposals and photos again.

    Raises UserError: no data set in `root`, not one shard finished, another format version, or a damaged manifest.
    """
    manifest, progress = manifests.unfinished(root) or (records.read_manifest(root), "")
    results = runners.run(partial(check_shard, root), manifest["shards"], manifest["num_records"], num_workers)
    problems = [problem for of_shard, _ in results for problem in of_shard]
    if not progress:
        problems += _rejected_problems(root, manifest)
    if not problems:
        proposals, looks = zip(*(stats for _, stats in results), strict=True)
        stats = {"proposals": proposal_stats.of_dataset(proposals), LOOKS: photo_stats.of_dataset(looks)}
        problems = [
            f"{root / records.MANIFEST}: {section} {name} is {value}, the records say {again.get(name)}"
            for section, again in stats.items()
            for name, value in manifest.get(section, {}).items()
            if again.get(name) != value
        ]
        manifest = manifest | stats
    return Checked(manifest, problems, progress)


def _rejected_problems(root: Path, manifest: dict) -> list[str]:
    rejected = root / manifests.REJECTED
    if not rejected.is_file():
        return [f"{rejected} is missing"]
    if (lines := rejected.read_bytes().count(b"\n")) != manifest.get("num_rejected"):
        return [f"{rejected} has {lines} lines, the manifest says {manifest.get('num_rejected')}"]
    return []


def check_shard(root: Path, entry: dict, on_photo: Callable[[], object]) -> tuple[list[str], tuple[dict, dict]]:
    """Checks the shard of the manifest's `entry`: size, checksums, offsets, and every record in it.

    Returns:
        One line per problem, and the statistics of the shard's proposals and photos.
    """
    problems, stats = [], (proposal_stats.of_shard([]), photo_stats.of_shard([]))
    try:
        shard = records.read_sidecar(root, entry)
        with on_disk(shard.path) as copy:
            if sha256_of(copy) != entry["sha256"]:
                problems.append(f"{shard.path}: its sha256 is not the manifest's, bytes have changed")
            stats = _check_records(shard, copy, problems, on_photo)
    except TransientError:
        raise
    except UserError as error:
        problems.append(str(error))
    return problems, stats


def _check_records(
    shard: records.Shard, copy: Path, problems: list[str], on_photo: Callable[[], object]
) -> tuple[dict, dict]:
    """Checks the records of a shard, which lies at `copy` on a disk; adds to the problems, returns the statistics."""
    counts, looks, sizes, position = [], [], [], 0
    try:
        for index, serialized in enumerate(records.read_shard(shard._replace(path=copy))):
            where = f"{shard.path}: record {index}"
            if index < shard.num_records and shard.offsets[index] != position:
                problems.append(f"{where} is at byte {position}, the sidecar says {shard.offsets[index]}")
            of_record, parsed = record_problems(serialized)
            problems += [f"{where} {problem}" for problem in of_record]
            if not of_record:
                objects = parsed["objects"][~parsed["is_crowd"]]
                counts.append(proposal_stats.of_photo(parsed["proposals"], objects, parsed["height"], parsed["width"]))
                looks.append(photo_stats.of_photo(parsed["id"].decode("utf-8", "replace"), parsed["pixels"]))
                owners = read_polygons(serialized).objects.numpy()
                rle = read_annotations(serialized).rle.numpy()
                sizes.append(sizes_of(parsed["height"], parsed["width"], parsed["is_crowd"], owners, rle))
            position += len(serialized) + FRAME_BYTES
            on_photo()
    except UserError as error:
        problems.append(str(error).replace(str(copy), str(shard.path)))
        return proposal_stats.of_shard(counts), photo_stats.of_shard(looks)
    if len(counts) != shard.num_records and not problems:
        problems.append(f"{shard.path}: has {len(counts)} records, the manifest says {shard.num_records}")
    told = json.loads(read_bytes(shard.path.with_suffix(".json"))).get(PHOTOS)
    if told not in (None, columns(sizes)) and not problems:
        problems.append(f"{shard.path.with_suffix('.json')}: {PHOTOS} are not those of the records")
    return proposal_stats.of_shard(counts), photo_stats.of_shard(looks)


def record_problems(serialized: bytes) -> tuple[list[str], dict]:
    """The problems of one record, each beginning with its photo's id where it has one; and the record, parsed.

    A record without problems has its `pixels` too (`photo_stats.pixels_of`).
    """
    try:
        parsed = {key: value.numpy() for key, value in records.parse(serialized).items()}
    except Exception:  # one of TensorFlow's, which data_prep does not import
        return ["is not a record of a photo"], {}
    name = parsed["id"].decode("utf-8", "replace")
    try:
        height, width, _ = records.decode_image(parsed["encoded"]).shape
        parsed["pixels"] = photo_stats.pixels_of(parsed["encoded"])
    except Exception as error:
        return [f"({name}): the image does not decode ({type(error).__name__})"], parsed
    problems = []
    if (height, width) != (parsed["height"], parsed["width"]):
        problems.append(f"says {parsed['height']} x {parsed['width']} px, the image is {height} x {width}")
    for key in ("proposals", "objects"):
        if not (good := boxes.valid(parsed[key])).all():
            first = int(np.argmin(good))
            problems.append(f"{key} {first} is not a box in [0, 1]: {parsed[key][first].tolist()}")
    if len(parsed["objects"]) != len(parsed["labels"]):
        problems.append(f"has {len(parsed['objects'])} objects but {len(parsed['labels'])} labels")
    problems += _json_problems(serialized, len(parsed["objects"]))
    return [f"({name}): {problem}" for problem in problems], parsed


def _json_problems(serialized: bytes, num_objects: int) -> list[str]:
    """What is wrong with the areas and masks of a record that an annotations json names."""
    found = InJson(*(value.numpy() for value in read_annotations(serialized)))
    if not found.json_id:
        return []
    given = {"areas": len(found.areas), "masks": len(found.rle)}
    problems = [f"has {num_objects} objects but {n} {kind}" for kind, n in given.items() if n != num_objects]
    frame = [int(found.frame_height), int(found.frame_width)]
    for place, counts in enumerate(found.rle):
        if counts and read_mask({"size": frame, "counts": counts.decode("latin-1")}) is None:
            problems.append(f"mask {place} does not fill {frame[0]} x {frame[1]} px")
    if not (np.isfinite(found.areas) & (found.areas > 0)).all():
        problems.append("has an object without an area")
    return problems

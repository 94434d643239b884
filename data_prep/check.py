"""`--check`: reads every byte of a data set and says what is wrong where."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import manifest as manifests
from data_prep import runners
from data_prep.shards import sha256_of
from univip_jax.data import boxes, records
from univip_jax.errors import UserError


class CheckSpec(NamedTuple):
    """A shard to check."""

    root: Path
    entry: dict  # the shard's entry in the manifest


def check_dataset(root: Path, num_workers: int) -> tuple[dict, list[str]]:
    """The manifest, and one line for each problem of the data set, with its place; none where it is whole.

    Raises:
        UserError: no data set in `root`, not finished, of another format version, or its manifest is damaged.
    """
    manifest = records.read_manifest(root)
    specs = [CheckSpec(root, entry) for entry in manifest["shards"]]
    results = runners.run(check_shard, specs, manifest["num_records"], num_workers)
    problems = [problem for result in results for problem in result]
    rejected = root / manifests.REJECTED
    if not rejected.is_file():
        problems.append(f"{rejected} is missing")
    elif (lines := rejected.read_bytes().count(b"\n")) != manifest.get("num_rejected"):
        problems.append(f"{rejected} has {lines} lines, the manifest says {manifest.get('num_rejected')}")
    return manifest, problems


def check_shard(spec: CheckSpec, on_photo: Callable[[], object]) -> list[str]:
    """One line for each problem of the shard: size, checksums, offsets, and every record in it."""
    try:
        shard = records.read_sidecar(spec.root, spec.entry)
    except UserError as error:
        return [str(error)]
    problems = []
    if sha256_of(shard.path) != spec.entry["sha256"]:
        problems.append(f"{shard.path}: its sha256 is not the manifest's, bytes have changed")
    position = index = 0
    try:
        for index, serialized in enumerate(records.read_shard(shard)):
            where = f"{shard.path}: record {index}"
            if index < shard.num_records and shard.offsets[index] != position:
                problems.append(f"{where} is at byte {position}, the sidecar says {shard.offsets[index]}")
            problems += [f"{where} {problem}" for problem in record_problems(serialized)]
            position += len(serialized) + records.FRAME_BYTES
            on_photo()
    except UserError as error:
        return [*problems, str(error)]
    if (num_read := index + 1 if position else 0) != shard.num_records:
        problems.append(f"{shard.path}: has {num_read} records, the manifest says {shard.num_records}")
    return problems


def record_problems(serialized: bytes) -> list[str]:
    """What is wrong with one record, beginning with its photo's id where it has one."""
    try:
        parsed = {key: value.numpy() for key, value in records.parse(serialized).items()}
    except Exception:  # TensorFlow's own, which this room does not import
        return ["is not a record of a photo"]
    name = parsed["id"].decode("utf-8", "replace")
    try:
        height, width, _ = records.decode_image(parsed["encoded"]).shape
    except Exception as error:
        return [f"({name}): the image does not decode ({type(error).__name__})"]
    problems = []
    if (height, width) != (parsed["height"], parsed["width"]):
        problems.append(f"says {parsed['height']} x {parsed['width']} px, the image is {height} x {width}")
    for key in ("proposals", "objects"):
        if not (good := boxes.valid(parsed[key])).all():
            first = int(np.argmin(good))
            problems.append(f"{key} {first} is not a box in [0, 1]: {parsed[key][first].tolist()}")
    if len(parsed["objects"]) != len(parsed["labels"]):
        problems.append(f"has {len(parsed['objects'])} objects but {len(parsed['labels'])} labels")
    return [f"({name}): {problem}" for problem in problems]

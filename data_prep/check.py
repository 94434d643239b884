"""`--check`: reads every byte of a data set and names what is wrong and where."""

from functools import partial
from pathlib import Path

import numpy as np

from data_prep import manifest as manifests
from data_prep import proposal_stats, runners
from univip_jax.common.errors import UserError
from univip_jax.common.files import sha256_of
from univip_jax.data import boxes, records


def check_dataset(root: Path, num_workers: int) -> tuple[dict, list[str]]:
    """Reads every byte, and computes the manifest's statistics of the proposals again.

    Returns:
        The manifest, and one line per problem, with its place.

    Raises UserError: no data set in `root`, or an unfinished one, another format version, or a damaged manifest.
    """
    manifest = records.read_manifest(root)
    shards = manifest["shards"]
    results = runners.run(partial(check_shard, root), shards, [entry["num_records"] for entry in shards], num_workers)
    problems = [problem for of_shard, _ in results for problem in of_shard]
    rejected, num_rejected = root / manifests.REJECTED, manifest.get("num_rejected")
    if not rejected.is_file() or rejected.read_bytes().count(b"\n") != num_rejected:
        problems.append(f"{rejected} is missing, or has not the {num_rejected} lines that the manifest says")
    if not problems:
        stats = proposal_stats.of_dataset(counts for _, counts in results)
        problems = [
            f"{root / records.MANIFEST}: proposals {name} is {value}, the records say {stats.get(name)}"
            for name, value in manifest.get("proposals", {}).items()
            if stats.get(name) != value
        ]
    return manifest, problems


def check_shard(root: Path, entry: dict) -> tuple[list[str], dict]:
    """Checks the shard of the manifest's `entry`: size, checksums, offsets, and every record in it.

    Returns:
        One line per problem, and the statistics of the shard's proposals.
    """
    problems, counts = [], []
    try:
        shard = records.read_sidecar(root, entry)
        if sha256_of(shard.path) != entry["sha256"]:
            problems.append(f"{shard.path}: its sha256 is not the manifest's, bytes have changed")
        position = 0
        for index, serialized in enumerate(records.read_shard(shard)):
            where = f"{shard.path}: record {index}"
            if index < shard.num_records and shard.offsets[index] != position:
                problems.append(f"{where} is at byte {position}, the sidecar says {shard.offsets[index]}")
            of_record, parsed = record_problems(serialized)
            problems += [f"{where} {problem}" for problem in of_record]
            if not of_record:
                objects = parsed["objects"][~parsed["is_crowd"]]
                counts.append(proposal_stats.of_photo(parsed["proposals"], objects, parsed["height"], parsed["width"]))
            position += len(serialized) + records.FRAME_BYTES
        if len(counts) != shard.num_records and not problems:
            problems.append(f"{shard.path}: has {len(counts)} records, the manifest says {shard.num_records}")
    except UserError as error:
        problems.append(str(error))
    return problems, proposal_stats.of_shard(counts)


def record_problems(serialized: bytes) -> tuple[list[str], dict]:
    """The problems of one record, each beginning with its photo's id where it has one; and the record, parsed."""
    try:
        parsed = {key: value.numpy() for key, value in records.parse(serialized).items()}
    except Exception:  # one of TensorFlow's, which data_prep does not import
        return ["is not a record of a photo"], {}
    name = parsed["id"].decode("utf-8", "replace")
    try:
        height, width, _ = records.decode_image(parsed["encoded"]).shape
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
    return [f"({name}): {problem}" for problem in problems], parsed

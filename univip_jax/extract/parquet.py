"""The parquet file of features, and the photos that it lacks; the only home of pyarrow."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Shaped

from univip_jax.common.errors import UserError, shorten
from univip_jax.common.files import appearing, write_whole

_ROW_GROUP = 1024  # photos


class NoPhotoError(UserError):
    """None of the photos can be read."""


def is_finished(out: Path, settings: dict[str, str]) -> bool:
    """Whether `out` holds features of these settings. Raises UserError where it holds something else."""
    if not out.exists():
        return False
    try:
        with out.open("rb") as file:
            there = {key.decode(): value.decode() for key, value in (pq.read_schema(file).metadata or {}).items()}
    except (OSError, ValueError):  # no parquet file, or one with other metadata
        there = {}
    if "weights_sha256" not in there:
        raise UserError(f"--out={out} exists and holds no features: choose another --out or delete it")
    differences = [  # the same weights may lie in another `run`; the beginning of a digest is enough
        f"{name} was {str(there.get(name))[:16]} and is now {value[:16]}"
        for name, value in settings.items()
        if name != "run" and there.get(name) != value
    ]
    if differences:
        raise UserError(
            f"--out={out} holds features of other settings: {', '.join(differences)}; choose another --out or delete it"
        )
    return True


def write_features(out: Path, paths: list[str], rows: Shaped[np.ndarray, " N"], settings: dict[str, str]) -> str:
    """Writes the features of readable photos to `out`, the others to `OUT.rejected.jsonl`; returns a summary.

    Args:
      rows: `features` and `reason`, why a photo cannot be read; empty where it can.
      settings: the schema's metadata.

    Raises:
      UserError: a file cannot be written.
      NoPhotoError: no photo can be read; `out` is not written.
    """
    rejected_path = out.with_name(f"{out.name}.rejected.jsonl")
    rejected = [
        {"id": path, "reason": reason.decode(errors="ignore")}
        for path, reason in zip(paths, rows["reason"], strict=True)
        if reason
    ]
    if rejected:
        write_whole(rejected_path, "".join(json.dumps(entry) + "\n" for entry in rejected))
    else:
        rejected_path.unlink(missing_ok=True)
    named = [f"{entry['id']} ({entry['reason']})" for entry in rejected]
    if len(rejected) == len(paths):
        raise NoPhotoError(
            f"none of the {len(rejected)} photos can be read, as {named[0]}: see {rejected_path}, then give another "
            "--images"
        )
    width = rows["features"].shape[1]
    schema = pa.schema({"path": pa.string(), "features": pa.list_(pa.float32(), width)}, metadata=settings)
    with appearing(out) as tmp, pq.ParquetWriter(tmp, schema, use_dictionary=False) as writer:
        for start in range(0, len(rows), _ROW_GROUP):
            readable = np.flatnonzero(rows["reason"][start : start + _ROW_GROUP] == b"") + start
            features = pa.FixedSizeListArray.from_arrays(pa.array(rows["features"][readable].ravel()), width)
            writer.write_table(pa.table([[paths[index] for index in readable], features], schema=schema))
    without = (
        f", without {len(rejected)} that cannot be read: {shorten(named)}, see {rejected_path}" if rejected else ""
    )
    return f"{len(paths) - len(rejected)} photos{without}"

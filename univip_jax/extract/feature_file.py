"""Features on the disk: parts while they are made, then one parquet file; the only home of pyarrow.

Nothing is seen half written: a file gets its name when it is whole. Parts lie in `OUT.parts/` beside `settings.json`;
the photos that could not be read end in `OUT.rejected.jsonl`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from univip_jax.common.errors import UserError
from univip_jax.data.photos.sources import PhotoFile, photos_digest

PART_PHOTOS, PART_VALUES = 1024, 2**26  # a part's most photos, and most float32 values (256 MiB)
_SETTINGS = "settings.json"
_FREE = "run"  # the setting that may change when the work goes on: weights are told apart by their digest
_ANOTHER = "choose another --out or delete it"


class Part(NamedTuple):
    """Consecutive photos whose features are kept together until all are made."""

    path: Path
    photos: list[PhotoFile]


class FeatureFile:
    """The file `out` and the parts it is made of.

    Attributes:
      settings: the schema's metadata;  parts: all of them, in order.
      rejected_path: where the photos that cannot be read are named.
    """

    def __init__(self, out: Path, settings: dict[str, object], photos: list[PhotoFile], shape: tuple[int, ...]):
        """`settings` say what the features are, with `weights_sha256`; `shape` is that of one photo's."""
        size = min(PART_PHOTOS, max(1, PART_VALUES // int(np.prod(shape))))
        self.out = out
        of_photos = {"num_photos": len(photos), "photos_sha256": photos_digest(photos), "photos_a_part": size}
        self.settings = {key: str(value) for key, value in (settings | {"shape": list(shape)} | of_photos).items()}
        self.rejected_path = out.with_name(f"{out.name}.rejected.jsonl")
        self._folder = out.with_name(f"{out.name}.parts")
        self._tmp = self._folder / f"{os.getpid()}.tmp"
        starts = range(0, len(photos), size)
        self.parts = [Part(self._folder / f"{i // size:06d}.parquet", photos[i : i + size]) for i in starts]

    def is_finished(self) -> bool:
        """Whether `out` holds these features; raises UserError where it holds something else."""
        if not self.out.exists():
            return False
        try:
            metadata = pq.read_schema(self.out).metadata or {}
        except (OSError, ValueError):
            metadata = {}
        there = {key.decode(): value.decode(errors="replace") for key, value in metadata.items()}
        if "weights_sha256" not in there:
            raise UserError(f"--out={self.out} exists and is no file of features: {_ANOTHER}")
        self._refuse_others(there, f"--out={self.out} holds features", _ANOTHER)
        self._remove_parts()
        return True

    def open_parts(self) -> None:
        """Makes the folder of parts, or checks that the one there belongs to the same work (UserError)."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _SETTINGS
        if path.exists():
            way_out = f"give the old value to go on, delete {self._folder} to begin anew, or choose another --out"
            there = self._read_settings()
            self._refuse_others(there, f"{self._folder} holds unfinished features", way_out)
        elif any(entry.suffix != ".tmp" for entry in self._folder.iterdir()):
            raise UserError(f"{self._folder} is in the way and has no {_SETTINGS}: {_ANOTHER}")
        else:
            self._write_text(path, json.dumps(self.settings, indent=2) + "\n")

    def rejected(self, part: Part) -> list[dict] | None:
        """The photos of a finished part that could not be read, {"id", "reason"}; None where it is not finished."""
        try:
            with pq.ParquetFile(part.path) as file:
                rejected = json.loads(file.schema_arrow.metadata[b"rejected"])
                whole = file.metadata.num_rows + len(rejected) == len(part.photos)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return rejected if whole else None

    def write_part(self, part: Part, paths: list[str], values: Float[np.ndarray, "n F"], rejected: list[dict]) -> None:
        """Finishes a part: paths and features of its readable photos, and {"id", "reason"} of the others."""
        rows = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = pa.table({"path": pa.array(paths, pa.string()), "features": rows})
        pq.write_table(
            table.replace_schema_metadata({"rejected": json.dumps(rejected)}), self._tmp, use_dictionary=False
        )
        self._commit(part.path)

    def join(self) -> str:
        """Writes `out`, a row group a part, and removes the parts; gives in words what became of the photos.

        Raises UserError where no photo could be read.
        """
        rejected = [entry for part in self.parts for entry in self.rejected(part)]
        num_rows = sum(len(part.photos) for part in self.parts) - len(rejected)
        if rejected:
            self._write_text(self.rejected_path, "".join(json.dumps(entry) + "\n" for entry in rejected))
        else:
            self.rejected_path.unlink(missing_ok=True)
        if not num_rows:
            self._remove_parts()
            raise UserError(
                f"none of the {len(rejected)} photos can be read (first: {rejected[0]['id']}: "
                f"{rejected[0]['reason']}): see {self.rejected_path}, then give another --images"
            )
        schema = pq.read_schema(self.parts[0].path).with_metadata(self.settings)
        with pq.ParquetWriter(self._tmp, schema, use_dictionary=False) as writer:
            for part in self.parts:
                with pq.ParquetFile(part.path) as file:  # read_table would read columns out of a path like lr=1/
                    table = file.read()
                if len(table):
                    writer.write_table(table)
        self._commit(self.out)
        self._remove_parts()
        if not rejected:
            return f"{num_rows} photos"
        first = ", ".join(f"{entry['id']} ({entry['reason']})" for entry in rejected[:3])
        more = ", ..." if len(rejected) > 3 else ""
        return (
            f"{num_rows} photos, without {len(rejected)} that cannot be read: {first}{more}, see {self.rejected_path}"
        )

    def _differences(self, there: dict[str, str]) -> list[str]:
        """What differs, in words; of a digest, the beginning is enough."""
        return [
            f"{name} was {str(there.get(name))[:16]} and is now {value[:16]}"
            for name, value in self.settings.items()
            if name != _FREE and there.get(name) != value
        ]

    def _refuse_others(self, there: dict[str, str], what: str, way_out: str) -> None:
        if differences := self._differences(there):
            raise UserError(f"{what} of other settings: {', '.join(differences)}; {way_out}")

    def _read_settings(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._folder / _SETTINGS).read_bytes()))
        except (ValueError, TypeError) as error:
            raise UserError(f"{self._folder / _SETTINGS} is damaged ({error}): delete {self._folder}") from error

    def _remove_parts(self) -> None:
        """The settings last, so that after a kill in the middle the rest is known; parts of other work stay."""
        if not (self._folder / _SETTINGS).exists() or self._differences(self._read_settings()):
            return
        for entry in self._folder.iterdir():
            if entry.name != _SETTINGS:
                entry.unlink()
        shutil.rmtree(self._folder)

    def _write_text(self, path: Path, text: str) -> None:
        self._tmp.write_text(text)
        self._commit(path)

    def _commit(self, path: Path) -> None:
        with open(self._tmp, "rb+") as file:
            os.fsync(file.fileno())
        self._tmp.replace(path)

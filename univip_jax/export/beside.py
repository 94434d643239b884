"""Files that belong together appear together, once all are made and proven."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from univip_jax.common.buckets import is_bucket, put
from univip_jax.common.errors import UserError

_READ_FIRST = "config.json"  # of a folder for transformers: without it nothing there is read


@contextmanager
def made_beside(out: Path) -> Iterator[Path]:
    """A path of the name of `out`, for the block to make it there, and beside it what belongs to it.

    At the end all of it stands beside each other where `out` shall be, which comes last. Nothing does if the block
    raises. A bucket has no rename: there each file is put whole, from a folder of this machine.

    Raises UserError: `out` cannot be written.
    """
    bucket = is_bucket(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=None if bucket else out.parent, prefix=f".{out.name}-") as made:
            new = Path(made) / out.name
            yield new
            for one in sorted(Path(made).iterdir(), key=lambda one: one == new):
                _put(one, out.parent / one.name) if bucket else one.rename(out.parent / one.name)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from error


def _put(made: Path, place: Path) -> None:
    """A file, or a folder's files."""
    files = [made] if made.is_file() else sorted(path for path in made.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == _READ_FIRST):
        put(place if path == made else place / path.relative_to(made).as_posix(), path)

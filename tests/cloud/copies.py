"""Copies of folders in buckets, and what is below a folder."""

from pathlib import Path

from univip_jax.common.files import at


def put(folder: Path, address: str) -> str:
    """A copy of a folder in a bucket."""
    at(address).fs.put(f"{folder}/", f"{address}/", recursive=True)
    return address


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below a folder, by their paths in it."""
    start = f"{folder}/"
    return {str(path).removeprefix(start): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

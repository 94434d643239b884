"""Files that one process writes; data_prep, whose processes share a folder, has its own way."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is seen whole or as it was before; raises OSError where it cannot be written."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)

"""Photos of a folder and all folders below it."""

import os
import stat
from pathlib import Path

from univip_jax.data.photos.listing import Entry, Listing, is_photo, refused, stamp_of


def list_folder(folder: Path | str) -> Listing:
    """Photos by suffix, unsorted. Links are followed, each real folder once; what is hidden is left out.

    A folder that cannot be listed, and a photo's name on what is no file (a pipe, a socket), become refused entries.
    """
    listing = Listing([], [])
    visited: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        relative = waiting.pop()
        try:
            found = os.stat(os.path.join(folder, relative))
            if (found.st_dev, found.st_ino) in visited:
                continue
            visited.add((found.st_dev, found.st_ino))
            below = _list_one(folder, relative, listing.entries)
        except OSError as error:
            listing.entries.append(refused(relative or ".", f"unreadable folder: {error.strerror}"))
            continue
        listing.stamps.append(stamp_of(relative, found))
        waiting += sorted(below, reverse=True)  # of several ways to a folder the first by name is taken
    return listing


def _list_one(folder: Path | str, relative: str, entries: list[Entry]) -> list[str]:
    """Adds the photos of one folder to `entries`; gives the folders in it, by their paths."""
    below = []
    with os.scandir(os.path.join(folder, relative)) as items:
        for item in items:
            if item.name.startswith("."):
                continue
            name = f"{relative}/{item.name}" if relative else item.name
            try:
                if item.is_dir():
                    below.append(name)
                elif is_photo(item.name):
                    found = item.stat()
                    good = stat.S_ISREG(found.st_mode)
                    entries.append(Entry(name, found.st_size) if good else refused(name, "not a regular file"))
            except OSError:  # a broken link, or one that leads to itself: opening it gives the reason
                if is_photo(item.name):
                    entries.append(Entry(name, -1))
    return below

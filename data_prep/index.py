"""The names of all photos, kept beside the shards: a rerun does not look at every file again.

What was kept for a source holds while each folder (or the archive) it was read from has the time and the size that it
had: a photo that is added, removed or renamed changes its folder's time, so the source is listed anew. A photo that is
overwritten in place changes no folder: delete `index.json` to have every file looked at.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from univip_jax.common.files import appearing
from univip_jax.data.photos.listing import Entry, Listing, Stamp, stamp_of
from univip_jax.data.photos.sources import list_source

INDEX = "index.json"
_VERSION = 1
# A folder that changed so shortly before it was listed may have changed again within the same tick of its file system.
_TICK_NS = 2 * 10**9


class Index:
    """The listings of some sources, read from `out` where they still hold.

    Attributes:
        listings: one for each source, in their order.
    """

    def __init__(self, sources: Sequence[Path | str], out: Path):
        self._started_ns = time.time_ns()
        self._sources = [hashlib.sha256(os.fsencode(os.path.abspath(source))).hexdigest() for source in sources]
        kept = _read(out / INDEX)
        self.listings: list[Listing] = []
        self._is_new = False
        for key, source in zip(self._sources, sources, strict=True):
            listing = kept.get(key)
            if listing is None or not _holds(source, listing):
                listing, self._is_new = list_source(source), True
            self.listings.append(listing)

    def keep(self, out: Path) -> None:
        """Writes it to `out`, whole or not at all, unless it is there already.

        Raises:
            UserError: it cannot be written.
        """
        if not self._is_new:
            return
        contents = {
            "version": _VERSION,
            "sources": [
                {
                    "source": key,
                    "stamps": listing.stamps,
                    "entries": [_short(entry) for entry in sorted(listing.entries)],
                }
                for key, listing in zip(self._sources, self.listings, strict=True)
            ],
        }
        with appearing(out / INDEX) as tmp:
            tmp.write_text(json.dumps(contents) + "\n")
            os.utime(tmp, ns=(self._started_ns, self._started_ns))  # `_read` wants to know when the names were read


def _short(entry: Entry) -> list:
    """The entry's values without those at its end that are the defaults."""
    return list(entry[:2] if entry[2:] == Entry("", 0)[2:] else entry)


def _read(path: Path) -> dict[str, Listing]:
    """Kept listings by source; without those that were read while their folders were changing. None where damaged."""
    try:
        listed_ns = path.stat().st_mtime_ns
        contents = json.loads(path.read_bytes())
        if contents["version"] != _VERSION:
            return {}
        found = {
            one["source"]: Listing([Entry(*row) for row in one["entries"]], [Stamp(*row) for row in one["stamps"]])
            for one in contents["sources"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {key: one for key, one in found.items() if all(s.mtime_ns < listed_ns - _TICK_NS for s in one.stamps)}


def _holds(source: Path | str, listing: Listing) -> bool:
    """Whether every folder (or the archive) is as it was when the listing was made."""
    try:
        return all(
            stamp == stamp_of(stamp.name, os.stat(os.path.join(source, stamp.name) if stamp.name else source))
            for stamp in listing.stamps
        )
    except OSError:
        return False

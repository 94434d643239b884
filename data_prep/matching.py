"""Which photo a name in a json means: the longest common end of the path decides, and nothing is guessed."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from univip_jax.data.photos import SUFFIXES

_MAX_PREFIXES = 16  # more are no system, but chance


class Matches(NamedTuple):
    """What was found for the photos."""

    names: dict[str, str]  # by image id
    ambiguous: list[str]  # image ids that several names fit equally well, or that share a name with other photos


def match(names: Iterable[str], image_ids: Sequence[str]) -> Matches:
    """The name that belongs to each photo.

    An equal path wins, else the longest common end. Slashes and backslashes are one, and so are Unicode's composed and
    decomposed letters. What is left is tried without regard to letter case; then names without a photo's suffix are
    compared with photos without theirs.
    """
    names, image_ids = set(names), list(image_ids)
    pairs: dict[str, str] = {}
    ambiguous: list[str] = []
    for of_name, of_id in ((form, form), (_folded, _folded), (_without_suffix, _stem)):
        found, unsure = _by_longest_end(_forms(names, of_name), _forms(image_ids, of_id))
        pairs |= found
        ambiguous += unsure
        names -= set(found.values())
        done = found.keys() | set(unsure)
        image_ids = [image_id for image_id in image_ids if image_id not in done]
        if not names or not image_ids:
            break
    return Matches(pairs, ambiguous)


def form(name: str) -> str:
    """A path as paths are compared: forward slashes, NFC, without empty parts and "."; of a URL, its path."""
    if "://" in name:
        name = unquote(name.split("://", 1)[1].partition("/")[2].split("?")[0].split("#")[0])
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    name = name.replace("\\", "/")
    if name.startswith(("/", "./")) or "//" in name or "/./" in name:
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def _folded(name: str) -> str:
    return form(name).casefold()


def _stem(image_id: str) -> str:
    return os.path.splitext(_folded(image_id))[0]


def _without_suffix(name: str) -> str | None:
    """The folded name where it has no photo's suffix."""
    folded = _folded(name)
    return None if folded.endswith(tuple(SUFFIXES)) else folded


def _forms(names: Iterable[str], of_name: Callable[[str], str | None]) -> dict[str, list[str]]:
    """Names by their form."""
    forms: dict[str, list[str]] = {}
    for name in names:
        if (key := of_name(name)) is not None:
            forms.setdefault(key, []).append(name)
    return forms


def _by_longest_end(names: dict[str, list[str]], ids: dict[str, list[str]]) -> tuple[dict[str, str], list[str]]:
    """Pairs of image id and name, and the ambiguous image ids; both by their forms."""
    pairs: dict[str, str] = {}  # forms: photo's to name's
    unsure: list[str] = []
    names_of, ids_of = _by_base(names), _by_base(ids)
    for base, photos in ids_of.items():
        candidates = names_of.get(base, ())
        if len(photos) == len(candidates) == 1:
            pairs[photos[0]] = candidates[0]
        elif candidates:
            found, left = _by_end(candidates, photos)
            pairs |= found
            unsure += left
    pairs |= _by_prefix(pairs, unsure, names)
    good = {one: name for one, name in pairs.items() if len(ids[one]) == len(names[name]) == 1}
    lost = [image_id for one in dict.fromkeys((*pairs, *unsure)) if one not in good for image_id in ids[one]]
    return {ids[one][0]: names[name][0] for one, name in good.items()}, lost


def _by_base(forms: Iterable[str]) -> dict[str, list[str]]:
    groups = defaultdict(list)
    for one in forms:
        groups[one.rsplit("/", 1)[-1]].append(one)
    return groups


def _by_end(names: list[str], photos: list[str]) -> tuple[dict[str, str], list[str]]:
    """Pairs among paths of one base name: each is the only best of the other; and the photos that have several."""
    name_ends, photo_ends = _ends(names), _ends(photos)
    pairs = {photo: photo for photo in set(names) & set(photos)}
    unsure = []
    for photo in photos:
        if photo in pairs:
            continue
        name = _best(photo, name_ends)
        if name in pairs:  # the only best name is another photo's, letter by letter
            continue
        back = name and _best(name, photo_ends)
        if back == photo:
            pairs[photo] = name
        elif back is None:
            unsure.append(photo)
    return pairs, unsure


def _ends(paths: Iterable[str]) -> dict[str, str | None]:
    """Paths by each of their ends; None where several paths have it."""
    ends: dict[str, str | None] = {}
    for path in paths:
        for end in _ends_of(path):
            ends[end] = None if end in ends else path
    return ends


def _ends_of(path: str) -> Iterator[str]:
    """The path, then its ends from the longest to the base name."""
    yield path
    while "/" in path:
        path = path.split("/", 1)[1]
        yield path


def _best(path: str, ends: dict[str, str | None]) -> str | None:
    """The only path with the longest common end; None where several have it."""
    return next(ends[end] for end in _ends_of(path) if end in ends)


def _by_prefix(pairs: dict[str, str], unsure: list[str], names: Iterable[str]) -> dict[str, str]:
    """Pairs for unsure photos where the prefixes that the sure pairs differ by leave one name, and that name to one.

    `images/a.jpg` fits `a.jpg` and `sub/a.jpg`; that `images/sub/b.jpg` means `sub/b.jpg` tells which.
    """
    if not unsure:
        return {}
    prefixes = {_prefixes(photo, name) for photo, name in pairs.items()}
    if len(prefixes) > _MAX_PREFIXES:
        return {}
    taken, fitting = set(pairs.values()), defaultdict(list)
    for photo in unsure:
        fits = {there + photo[len(here) :] for here, there in prefixes if photo.startswith(here)}
        fits = [name for name in fits if name in names and name not in taken]
        if len(fits) == 1:
            fitting[fits[0]].append(photo)
    return {photos[0]: name for name, photos in fitting.items() if len(photos) == 1}


def _prefixes(photo: str, name: str) -> tuple[str, str]:
    """What stands before the common end of two paths."""
    end = next(end for end in _ends_of(photo) if name == end or name.endswith("/" + end))
    return photo[: len(photo) - len(end)], name[: len(name) - len(end)]

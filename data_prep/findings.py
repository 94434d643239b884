"""What was odd in a file: counts by kind with the first names, for people and for the manifest."""

from collections.abc import Sequence
from typing import Any

_FEW = 5  # names that the manifest stores as examples
_LONGEST = 100  # characters of a name


class Findings:
    """Counts of odd things by kind, so that nothing is left out without a word."""

    def __init__(self, source: str, kinds: dict[str, str]):
        """No findings yet.

        Args:
            source: the flag and file, which begins each line.
            kinds: words for each kind; `{s}` in them becomes the plural's s.
        """
        self.source, self._kinds = source, kinds
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, kind: str, *names: Any) -> None:
        """Counts one thing of this kind for each name: a path, an id, or another json value."""
        count, first = self._found.get(kind, (0, []))
        self._found[kind] = count + len(names), first + [shown(name) for name in names[: _FEW - len(first)]]

    def lines(self) -> list[str]:
        """One line per kind that was found, in the order of `kinds`."""
        return [
            f"{self.source}: {count} {words.format(s='s' * (count > 1))} (first: {first[0]})"
            for kind, words in self._kinds.items()
            for count, first in [self._found.get(kind, (0, []))]
            if count
        ]

    def report(self) -> dict[str, Any]:
        """The findings as the manifest stores them: {kind: {"count", "first"}}."""
        return {kind: {"count": count, "first": first} for kind, (count, first) in self._found.items() if count}


def shown(name: Any) -> str:
    """A name of a file or json as one short printable text."""
    text = repr(name)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def label(element: Any, position: int) -> Any:
    """What an element of a json list is called: its id, else its place in the list, counted from 0."""
    known = element.get("id") if isinstance(element, dict) else None
    return f"number {position}" if known is None else known


def first_of(names: Sequence[str]) -> list[str]:
    """The names that a report gives as examples."""
    return list(names[:_FEW])

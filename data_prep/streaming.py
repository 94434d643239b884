"""A json file that exceeds memory, read value by value."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from univip_jax.common.files import at, read_bytes

_CHUNK = 1 << 22  # characters
_LONGEST = 1 << 26  # characters of one value; a damaged file must not fill the memory


class Reader:
    """Reads a json file from its beginning: UTF-8, 16 or 32, with or without a byte order mark.

    All raise ValueError where the file is no json, or one value is longer than 64 Mi characters; OSError where it
    cannot be read.
    """

    def __init__(self, path: Path | str):
        encoding = json.detect_encoding(read_bytes(path, 0, 4))
        self._file = at(path).open(encoding=encoding)
        self._decoder = json.JSONDecoder()
        self._text, self._start = "", 0

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def peek(self) -> str:
        """The first character of what comes next, behind blanks and commas; empty at the end of the file."""
        while True:
            while self._start < len(self._text) and self._text[self._start] in ", \t\r\n":
                self._start += 1
            if self._start < len(self._text) or not self._more():
                return self._text[self._start : self._start + 1]

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._start)
            except ValueError:
                if not self._more():
                    raise
            else:
                # A number that ends with the text may be the beginning of a longer one.
                if end < len(self._text) or not self._more():
                    self._start = end
                    return value

    def elements(self) -> Iterator[Any]:
        """The elements of the list that comes next."""
        self._take("[")
        while self.peek() != "]":
            yield self.value()
        self._take("]")

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; behind each, the caller reads the value before it asks for more."""
        self._take("{")
        while self.peek() != "}":
            name = self.value()
            if not isinstance(name, str):
                raise ValueError(f"a key is no text: {name!r:.40}")
            self._take(":")
            yield name
        self._take("}")

    def _take(self, wanted: str) -> None:
        if (found := self.peek()) != wanted:
            raise ValueError(f"{wanted!r} is missing before {found!r}" if found else "the file ends too early")
        self._start += 1

    def _more(self) -> bool:
        """Reads on; False at the end of the file."""
        if len(self._text) - self._start > _LONGEST:
            raise ValueError(f"one value is longer than {_LONGEST} characters")
        more = self._file.read(_CHUNK)
        self._text, self._start = self._text[self._start :] + more, 0
        return bool(more)

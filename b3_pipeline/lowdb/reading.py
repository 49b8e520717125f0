"""Reading a LowDB file: record by record, in bounded memory, in whatever order its members stand.

What a record may be is for `rules` to say; here the document is taken apart: UTF-8, one JSON object, each collection a list
of it. What is not so is no LowDB file, and rejected whole.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from b3_pipeline.lowdb.model import COLLECTIONS, FILE_NAMES, Collection
from b3_pipeline.parsing.kinds import Kind
from b3_pipeline.parsing.records import EmptyFile, FileRejected

#: Bytes that are read at once, and characters that one value may have: no text of a record comes near it.
BLOCK, LONGEST = 1 << 20, 16 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_BEHIND = frozenset(" \t\r\n,]}")


def _no_chunks(*_args: object) -> NoReturn:
    raise TypeError("a LowDB file becomes tables of PostgreSQL: `lowdb.loading` reads it")


def collections_of(file: str) -> tuple[Collection, ...]:
    """The collections of a file, by its name; each after those that it refers to."""
    return tuple(collection for collection in COLLECTIONS if collection.file == file)


#: The files of a LowDB folder as payloads. They are no chunks for tables of QuestDB, so nothing of that parses them.
KINDS: tuple[Kind, ...] = tuple(
    Kind(
        file.removesuffix(".json"),
        file,
        " and ".join(collection.what for collection in collections_of(file)),
        "lowdb",
        tuple(collection.table for collection in collections_of(file)),
        _no_chunks,
    )
    for file in FILE_NAMES
)


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a collection's list: its place in it, its value as JSON has it, and as it was written."""

    collection: Collection
    place: int
    value: Any
    text: str

    @property
    def pointer(self) -> str:
        return f"/{self.collection.member}/{self.place}"


class LowdbFile:
    """A file that is read once. `only` those collections are given; the others have to be there, too.

    `counters` are the members that say which id comes next, by name; `ignored` those that belong to nothing. Both are
    complete at the end.
    """

    def __init__(self, stream: BinaryIO, file: str, only: Sequence[Collection]) -> None:
        self.counters: dict[str, int] = {}
        self.ignored: list[str] = []
        self._text = _Text(stream)
        self._lists = {collection.member: collection for collection in collections_of(file)}
        self._counters = {collection.counter for collection in self._lists.values()} - {None}
        self._only = only

    def __iter__(self) -> Iterator[Element]:
        """The elements, as they stand. Raises FileRejected, at its end also for a list that is not there."""
        text, seen = self._text, set[str]()
        if not text.peek():
            raise EmptyFile("the file is empty")
        text.expect("{")
        separator = text.expect("}") if text.peek() == "}" else ","
        while separator == ",":
            key = text.key()
            if key in seen:
                text.fail(f"the key {key[:60]!r} stands twice in the file")
            seen.add(key)
            if key in self._lists:
                yield from self._elements(self._lists[key])
            else:
                self._other(key, text.value()[0])
            separator = text.expect(",}")
        if text.peek():
            text.fail("something stands behind the end of the document")
        if missing := [member for member in self._lists if member not in seen]:
            raise FileRejected(f"it has no list {', '.join(missing)}")

    def _elements(self, collection: Collection) -> Iterator[Element]:
        text, wanted = self._text, collection in self._only
        if text.peek() != "[":
            text.fail(f"{collection.member} is no list")
        text.expect("[")
        separator, place = text.expect("]") if text.peek() == "]" else ",", 0
        while separator == ",":
            value, written = text.value()
            if wanted:
                yield Element(collection, place, value, written)
            place += 1
            separator = text.expect(",]")

    def _other(self, key: str, value: object) -> None:
        if key not in self._counters:
            self.ignored.append(key)
        elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
            self._text.fail(f"{key} is no whole number from 1 on")
        else:
            self.counters[key] = value


class _Text:
    """The text of a stream, of which no more is held than a block and a value."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder(object_pairs_hook=_object).raw_decode
        self._held, self._at = "", 0
        self._bytes = self._dropped = 0
        self._ended = False

    def fail(self, why: str) -> NoReturn:
        """Raises FileRejected, with where that is."""
        raise FileRejected(f"{why} (at character {self._dropped + self._at + 1:,})")

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            found = _SPACE.match(self._held, self._at)
            assert found, "it may be empty"
            self._at = found.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more(BLOCK):
                return ""

    def expect(self, any_of: str) -> str:
        """Takes the next character, which is one of these."""
        found = self.peek()
        if not found or found not in any_of:
            wanted = " or ".join(any_of)
            self.fail(f"not JSON: {wanted} should stand here, not {found!r}" if found else "the file is cut off")
        self._at += 1
        return found

    def key(self) -> str:
        """A name and the colon behind it."""
        if self.peek() != '"':
            self.expect('"')
        name, _text = self.value()
        self.expect(":")
        return name

    def value(self) -> tuple[Any, str]:
        """The value that comes next, and its text."""
        bounded, wanted = self.peek() in '{["', BLOCK
        while True:
            try:
                value, end = self._scan(self._held, self._at)
            except json.JSONDecodeError as error:
                if not self._more(wanted):
                    self._no_value(error)
                wanted *= 2  # so that a long value is not tried once for each of its blocks
            except RecursionError:
                self.fail("nested too deep")
            except ValueError as error:  # a key that stands twice, a number of thousands of digits
                self.fail(str(error))
            else:
                # 12 may go on as 12.5 in the next block; what has an end of its own may not
                if bounded or self._held[end : end + 1] in _BEHIND or not self._more(BLOCK):
                    text, self._at = self._held[self._at : end], end
                    return value, text

    def _no_value(self, error: json.JSONDecodeError) -> NoReturn:
        if not self._ended:
            self.fail(f"a value has more than {LONGEST >> 20} million characters, or is no JSON: {error.msg}")
        self._at = error.pos
        self.fail("the file is cut off, or no JSON" if error.pos >= len(self._held) else f"not JSON: {error.msg}")

    def _more(self, size: int) -> bool:
        """Reads on; False when there is no more, or when what is held is as long as a value may be."""
        if self._ended or len(self._held) - self._at > LONGEST:
            return False
        block = self._stream.read(size)
        pending = len(self._decoder.getstate()[0])
        try:
            more = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise FileRejected(f"not UTF-8 (byte {self._bytes - pending + error.start + 1:,})") from None
        if not block:
            self._ended = True
            return False
        self._bytes += len(block)
        self._dropped += self._at
        self._held, self._at = self._held[self._at :] + more, 0
        return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object: which one counts is not said")
    return found

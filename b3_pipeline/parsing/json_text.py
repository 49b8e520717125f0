"""JSON documents as they were written: numbers keep their literal, objects and arrays their place in the text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from json.decoder import JSONArray, JSONObject  # pyright: ignore[reportAttributeAccessIssue]
from json.scanner import py_make_scanner  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any, BinaryIO, TypeAlias

from b3_pipeline.parsing.records import EmptyFile, FileRejected

#: A capture has some kilobytes; what is larger is none, and is not read into memory.
MAX_BYTES = 8 << 20
#: A capture nests four deep; a bomb nests until the stack ends.
MAX_DEPTH = 64


class Number(str):
    """A number as the document writes it: `5.50`, `1e999`, and the literals `NaN`, `Infinity`, `-Infinity`."""


@dataclass(frozen=True)
class Place:
    """A stretch of a document."""

    document: str
    start: int
    end: int

    def __str__(self) -> str:
        return self.document[self.start : self.end]


class Object(dict[str, "Json"]):
    """An object, and where it was written."""

    place: Place


class Array(list["Json"]):
    """An array, and where it was written."""

    place: Place


Json: TypeAlias = Object | Array | Number | str | bool | None


@dataclass(frozen=True)
class Document:
    """A JSON document: its text as received (without a byte order mark), its bytes' SHA-256 in hex, its value."""

    text: str
    sha256: str
    root: Json


def read_document(stream: BinaryIO) -> Document:
    """The document in a stream of bytes; `decode` says what it may be."""
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FileRejected(f"the file is larger than {MAX_BYTES >> 20} MiB: no capture is")
    return decode(data)


def decode(data: bytes) -> Document:
    """The document in UTF-8 (with or without a byte order mark) or Latin-1.

    Raises `FileRejected` for what is no JSON, repeats a key in an object, nests deeper than `MAX_DEPTH`, or
    escapes half a surrogate pair, which no text can hold.
    """
    if not data.strip():
        raise EmptyFile("the file is empty")
    text = _text(data)
    try:
        root = _Decoder().decode(text)
        json.dumps(root, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise FileRejected("not text: a \\u escape stands for half a character") from None
    except json.JSONDecodeError as error:
        raise FileRejected(f"not JSON, or cut off: {error.msg} (line {error.lineno}, column {error.colno})") from None
    return Document(text, hashlib.sha256(data).hexdigest(), root)


def text_of(value: Json) -> str:
    """A value as JSON text (objects and arrays verbatim); of a text itself, what it says."""
    if isinstance(value, Object | Array):
        return str(value.place)
    return value if isinstance(value, str) else json.dumps(value)


def child(pointer: str, name: str | int) -> str:
    """The JSON pointer (RFC 6901) to a member or an element of what `pointer` points to."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class _Decoder(json.JSONDecoder):
    """The standard decoder with its own scanner in Python, whose object and array functions can be wrapped."""

    def __init__(self) -> None:
        super().__init__(
            object_pairs_hook=_object, parse_float=_number, parse_int=_number, parse_constant=_number, strict=True
        )
        self._depth = 0
        self.parse_object = self._placed(JSONObject)
        self.parse_array = self._placed(lambda *args: _array(*JSONArray(*args)))
        self.scan_once = py_make_scanner(self)

    def _placed(self, parse: Callable[..., tuple[Any, int]]) -> Callable[..., tuple[Any, int]]:
        def parse_and_place(text_and_start: tuple[str, int], *args: object) -> tuple[Any, int]:
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise FileRejected(f"nested deeper than {MAX_DEPTH} levels: no capture is")
            value, end = parse(text_and_start, *args)
            self._depth -= 1
            text, after_bracket = text_and_start
            value.place = Place(text, after_bracket - 1, end)
            return value, end

        return parse_and_place


def _object(pairs: list[tuple[str, Json]]) -> Object:
    value = Object(pairs)
    if len(value) < len(pairs):
        key, times = Counter(key for key, _ in pairs).most_common(1)[0]
        raise FileRejected(f"the key {key[:60]!r} stands {times} times in one object: which one counts is not said")
    return value


def _array(values: list[Json], end: int) -> tuple[Array, int]:
    return Array(values), end


def _number(literal: str) -> Number:
    if not literal.isascii():  # the scanner of older Pythons takes digits of any script
        raise FileRejected(f"not JSON: {literal[:60]!r} is no number")
    return Number(literal)

"""The rules of LowDB's records: what one may be, its canonical form, its row in PostgreSQL, its ETag, and how it is found.

All of it is pure: whichever store answers, the same record has the same form, the same ETag and the same words.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache, partial
from typing import Any

from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb.model import Collection, Field, Kind, Record
from b3_pipeline.parsing.json_text import child
from b3_pipeline.parsing.records import Reason
from b3_pipeline.parsing.times import FIRST_YEAR, LAST_YEAR
from b3_pipeline.signals.hiding import without_tokens

#: How deep a member that no field names may nest, and the size of a number in it: what every JSON reader takes.
DEEPEST, LARGEST = 32, 1e308
#: What a record may have at most, so that a page of records stays one that can be answered: bytes of content (its id does
#: not count, which is given later), members that no field names, and tags.
MOST_BYTES, MOST_EXTRA, MOST_TAGS = 128 << 10, 64, 100
#: With so many characters of texts a record is small enough, whatever its tags are and however JSON writes them.
_SMALL = 8_000
#: As many characters of a value are shown of a fault.
_SHOWN = 200
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_WHOLE = re.compile("[1-9][0-9]{0,18}")
_MOMENT = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-][0-9]{2}:?[0-9]{2})"
)
_CANONICAL = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z")
_ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u0327"  # combining ones: grave, acute, circumflex, tilde, diaeresis, cedilla
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", _ACCENTS)
#: Of a word so many characters count: in UTF-8 that is less than a `tsvector` can hold.
_LONGEST_WORD = 500
_WORD = re.compile("[0-9a-z\u0080-\U0010ffff]+")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a member: why, the JSON pointer to it, its value as text (None where it is missing), a sentence."""

    reason: Reason
    pointer: str
    value: str | None
    message: str


class BadRecord(B3Error):
    """A record that may not be stored. `faults` are all that is wrong with it, in the order of the fields."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(" ".join(f"{fault.pointer}: {fault.message}" for fault in faults))
        self.faults = faults


class _Wrong(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def checked(collection: Collection, given: Mapping[str, Any], pointer: str = "") -> Record:
    """The record in canonical form: the fields in their order, then the members that no field names, as they came.

    `pointer` is the JSON pointer to the record. Raises BadRecord.
    """
    record: Record = {}
    faults: list[Fault] = []
    readers = _readers(collection)
    for name, read in readers.items():
        value = given.get(name)
        try:
            record[name] = read(value)
        except _Wrong as wrong:
            faults.append(Fault(wrong.reason, child(pointer, name), _shown(value), str(wrong)))
    for name in [name for name in given if name not in readers]:
        try:
            record[_storable(name)] = _plain(given[name])
        except _Wrong as wrong:
            faults.append(Fault(wrong.reason, child(pointer, name), _shown(given[name]), str(wrong)))
    if not faults and (too_much := _too_much(record, extra=len(record) - len(readers))):
        faults.append(Fault(Reason.OUT_OF_BOUNDS, pointer, None, too_much))
    if faults:
        raise BadRecord(faults)
    return record


def require_sendable(collection: Collection, given: Mapping[str, Any]) -> None:
    """What clients may send is narrower than what LowDB's files may have: each tag is one line that is not blank.

    Members that are missing or wrong otherwise are left to `checked`. Raises BadRecord.
    """
    for field in collection.fields:
        value = given.get(field.name)
        if field.kind is Kind.TAGS and isinstance(value, list):
            try:
                for tag in value:
                    _title(field, tag)
            except _Wrong as wrong:
                raise BadRecord([Fault(wrong.reason, child("", field.name), _shown(value), str(wrong))]) from None


def _too_much(record: Record, extra: int) -> str | None:
    """Why a record is too large; None: it is not."""
    if extra > MOST_EXTRA:
        return f"has more than {MOST_EXTRA} members that no field names."
    texts = sum(len(value) for value in record.values() if isinstance(value, str))
    if not extra and texts <= _SMALL:
        return None
    _id, *members = record.items()
    if len(_content(dict(members))) > MOST_BYTES:
        return f"has more than {MOST_BYTES >> 10} KiB of content."
    return None


@cache
def _readers(collection: Collection) -> Mapping[str, Callable[[object], object]]:
    """By field: what makes its value canonical, or raises `_Wrong`."""
    return {field.name: partial(_of_kind[field.kind], field) for field in collection.fields}


def _whole(field: Field, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Wrong(Reason.BAD_NUMBER, "must be a whole number.")
    if not field.low <= value <= field.high:
        raise _Wrong(Reason.OUT_OF_BOUNDS, f"must be {_bounds(field)}.")
    return value


def _bounds(field: Field) -> str:
    return f"{field.low} or more" if field.high == 2**63 - 1 else f"from {field.low} to {field.high}"


def _text_id(field: Field, value: object) -> str:
    if isinstance(value, str):
        if not _WHOLE.fullmatch(value):
            raise _Wrong(Reason.BAD_NUMBER, 'must be a whole number from 1 on, as a text: "1".')
        value = int(value)
    return str(_whole(field, value))


def _text(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise _Wrong(Reason.BAD_TEXT, "must be a text.")
    if len(value) > field.longest:
        raise _Wrong(Reason.BAD_TEXT, f"has more than {field.longest} characters.")
    return _storable(value)


def _title(field: Field, value: object) -> str:
    text = _text(field, value)
    if not text.strip():
        raise _Wrong(Reason.BAD_TEXT, "must not be blank.")
    if _CONTROLS.search(text):
        raise _Wrong(Reason.BAD_TEXT, "must be one line, without control characters.")
    return text


def _choice(field: Field, value: object) -> object:
    if not isinstance(value, str) or value not in field.choices:
        raise _Wrong(Reason.BAD_TEXT, f"must be one of {', '.join(field.choices)}.")
    return value


def _tags(field: Field, value: object) -> list[str]:
    if not isinstance(value, list):
        raise _Wrong(Reason.BAD_TEXT, "must be a list of texts.")
    if len(value) > MOST_TAGS:
        raise _Wrong(Reason.OUT_OF_BOUNDS, f"has more than {MOST_TAGS} texts.")
    return [_text(field, tag) for tag in value]


def _moment(field: Field, value: object) -> str | None:
    if value is None and not field.required:
        return None
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise _Wrong(Reason.BAD_DATE, "must be a moment with its zone: 2025-09-21T08:54:00.000Z.")
    try:
        in_utc = datetime.fromisoformat(value).astimezone(UTC)
    except ValueError as error:
        raise _Wrong(_day_or_time(value), f"is no moment: {error}.") from None
    except OverflowError:
        raise _Wrong(Reason.BAD_DATE, "lies beyond the years that there are.") from None
    if not FIRST_YEAR <= in_utc.year <= LAST_YEAR:
        raise _Wrong(Reason.BAD_DATE, f"must lie in the years {FIRST_YEAR} to {LAST_YEAR}.")
    return value if _CANONICAL.fullmatch(value) else moment_text(in_utc)


def _day_or_time(text: str) -> Reason:
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return Reason.BAD_DATE
    return Reason.BAD_TIME


_of_kind: Mapping[Kind, Callable[[Field, object], object]] = {
    Kind.TEXT_ID: _text_id,
    Kind.ID: _whole,
    Kind.TITLE: _title,
    Kind.TEXT: _text,
    Kind.CHOICE: _choice,
    Kind.TAGS: _tags,
    Kind.MOMENT: _moment,
    Kind.WHOLE: _whole,
}


def _storable(text: str) -> str:
    """The text, when PostgreSQL and UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Wrong(Reason.BAD_TEXT, "has half a surrogate pair, which no text can hold.") from None
    if "\0" in text:
        raise _Wrong(Reason.BAD_TEXT, "has a NUL character, which PostgreSQL cannot hold.")
    return text


def _plain(value: object, depth: int = 0) -> object:
    """Any JSON value in the form in which it comes back from `jsonb`: a whole number is an int."""
    if depth > DEEPEST:
        raise _Wrong(Reason.BAD_TEXT, f"nests deeper than {DEEPEST} levels.")
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, dict):
        return {_storable(name): _plain(member, depth + 1) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member, depth + 1) for member in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= LARGEST:
            raise _Wrong(Reason.BAD_NUMBER, "has a number that is none, or too large.")
        return int(value) if float(value).is_integer() else value
    return value


def _shown(value: object) -> str | None:
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "(nested too deep)"
    return without_tokens(text)[:_SHOWN].encode("utf-8", "replace").decode()  # hidden first: a part of one is too much


def moment_text(moment: datetime) -> str:
    """An aware moment in the canonical form: milliseconds, or microseconds where there are any; UTC."""
    in_utc = moment.astimezone(UTC).replace(tzinfo=None)
    return f"{in_utc.isoformat(timespec='microseconds' if in_utc.microsecond % 1_000 else 'milliseconds')}Z"


def to_row(collection: Collection, record: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a canonical record: column → Python value; moments are aware UTC, `extra` is a dict."""
    row = {field.column: _stored(field, record[field.name]) for field in collection.fields}
    names = _readers(collection)
    return {**row, "extra": {name: value for name, value in record.items() if name not in names}}


def of_row(collection: Collection, row: Mapping[str, Any]) -> Record:
    """The canonical record of a row as psycopg gives it (a mapping by column)."""
    record = {field.name: _written(field, row[field.column]) for field in collection.fields}
    return record | {name: _plain(value) for name, value in row["extra"].items()}


def _stored(field: Field, value: Any) -> Any:
    if field.kind is Kind.TEXT_ID:
        return int(value)
    return datetime.fromisoformat(value) if field.kind is Kind.MOMENT and value is not None else value


def _written(field: Field, value: Any) -> Any:
    if field.kind is Kind.TEXT_ID:
        return str(value)
    return moment_text(value) if field.kind is Kind.MOMENT and value is not None else value


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two canonical records have the same content; the order of members does not count."""
    return _content(one) == _content(other)  # as JSON, for to Python true is 1


def allowed(collection: Collection, element: object, there: Mapping[str, Container[int]]) -> Record | None:
    """An element of a list as a record beside those whose ids are `there`, by table; None for one that may not be, as the ETL has it.

    Of one id the first stands, and what a record refers to is there.
    """
    try:
        record = checked(collection, element if isinstance(element, dict) else {})
    except BadRecord:
        return None
    repeated = int(record[collection.id.name]) in there[collection.table]
    return None if repeated or dangles(collection, record, there) else record


def dangles(collection: Collection, record: Record, there: Mapping[str, Container[int]]) -> bool:
    """Whether a record refers to an id that is not `there`, by table."""
    return any(f.refers_to and int(record[f.name]) not in there[f.refers_to] for f in collection.fields)


def etag(record: Mapping[str, Any]) -> str:
    """The strong ETag, in its quotes, of a canonical record: of its content alone, so every store gives the same one."""
    return f'"{hashlib.sha256(_content(record)).hexdigest()[:32]}"'


def _content(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def folded(text: str) -> str:
    """The text in lower case and without accents, exactly as the function `ideas.folded` of the database has it."""
    return unicodedata.normalize("NFD", text).translate(_LOWER)


def words(text: str) -> list[str]:
    """The words of a text or of a search, folded, each once, exactly as the function `ideas.words` of the database has them."""
    return list(dict.fromkeys(word[:_LONGEST_WORD] for word in _WORD.findall(folded(text))))


def found(asked: list[str], text: str) -> bool:
    """Whether each word of a search (`words`) is the beginning of a word of the text."""
    there = words(text)
    return all(any(word.startswith(begin) for word in there) for begin in asked)


def query(search: str) -> str:
    """A search as a `tsquery` of PostgreSQL (by a cast: `search @@ %s::tsquery`); empty when it asks for no word."""
    return " & ".join(f"'{word}':*" for word in words(search))

"""The legacy capture against the composed one, field by field (pure functions)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from b3_pipeline.composing import SETTLED_ON
from b3_pipeline.errors import B3Error
from b3_pipeline.parsing.capture import capture_moment
from b3_pipeline.parsing.json_text import child, decode
from b3_pipeline.parsing.numbers import BadNumber, parse_number
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.sessions import session_of, to_local

#: `expected`: the two are bound to differ there, or write one value in two ways.
DifferenceKind = Literal["expected", "different", "missing", "extra"]
_MISSING = object()
#: Of when and by whom a capture is; and what only ours says.
_OWN = ("/timestamp", "/data_coleta", "/hora_coleta", "/fonte")
_SURFACE, _TENOR = "/superficie_volatilidade", "mes"


class NoCapture(B3Error):
    """A document that cannot be compared, for it is no capture."""


@dataclass(frozen=True)
class Difference:
    """A field (JSON pointer; a tenor of the surface by its month) that is not the same in both.

    `missing`: only the legacy capture has it; `extra`: only the composed one.
    """

    pointer: str
    legacy: Any
    composed: Any
    kind: DifferenceKind


@dataclass(frozen=True)
class Comparison:
    """Two captures compared at a moment (aware UTC): `session` is the legacy one's, `fields` are all that either has."""

    at: datetime
    session: date
    legacy_sha256: str
    composed_sha256: str
    fields: int
    differences: tuple[Difference, ...]

    @property
    def different(self) -> int:
        """How many fields differ that should not."""
        return sum(difference.kind != "expected" for difference in self.differences)


def compare(at: datetime, legacy: bytes, composed: bytes) -> Comparison:
    """Compares two captures as received. Raises NoCapture when one of them is none."""
    moment = capture_moment(legacy)
    if moment is None:
        raise NoCapture("The legacy document is no capture, or does not say of when it is.")
    documents = [_document(data) for data in (legacy, composed)]
    fields = {pointer for _sha256, document in documents for pointer, _value in _fields(document)}
    session = session_of(to_local(moment).date())
    (legacy_sha256, ours), (composed_sha256, theirs) = documents
    return Comparison(at, session, legacy_sha256, composed_sha256, len(fields), tuple(differences(ours, theirs)))


def _document(data: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        document = decode(data)
    except FileRejected as error:
        raise NoCapture(f"No capture: {error}.") from None
    value = json.loads(document.text, parse_int=_read, parse_float=_read, parse_constant=str)
    if not isinstance(value, dict):
        raise NoCapture("No capture: the document is no JSON object.")
    return document.sha256, value


def _read(literal: str) -> float | str:
    """A number; as text what no float64 can hold."""
    number = float(literal)
    return number if math.isfinite(number) else literal


def differences(legacy: Mapping[str, Any], composed: Mapping[str, Any]) -> list[Difference]:
    """The fields that differ, in the legacy document's order, then those that only the composed one has."""
    ours, theirs = dict(_fields(composed)), dict(_fields(legacy))
    found = []
    for pointer in dict.fromkeys([*theirs, *ours]):
        a, b = theirs.get(pointer, _MISSING), ours.get(pointer, _MISSING)
        if not _same(a, b):
            found.append(Difference(_kept(pointer), _kept(a), _kept(b), _kind(pointer, a, b)))
    return found


def _kept(value: Any) -> Any:
    """A field's value as it can be kept: PostgreSQL takes no null character."""
    if value is _MISSING:
        return None
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if isinstance(value, str) else value


def _fields(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no object or array, by its pointer; an empty one of these is a value, too."""
    if isinstance(value, Mapping) and value:
        for name, member in value.items():
            yield from _fields(member, child(pointer, name))
    elif isinstance(value, list) and value:
        for place, element in enumerate(value):
            name = element.get(_TENOR) if pointer == _SURFACE and isinstance(element, Mapping) else None
            yield from _fields(element, child(pointer, name if isinstance(name, str) else place))
    else:
        yield pointer, value


def _same(a: Any, b: Any) -> bool:
    """JSON's own equality: `true` is not 1, and NaN is NaN."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return a == b or (a != a and b != b)


def _kind(pointer: str, legacy: Any, composed: Any) -> DifferenceKind:
    if pointer in _OWN or pointer.endswith(f"/{SETTLED_ON}"):
        return "expected"
    if composed is _MISSING:
        return "missing"
    if legacy is _MISSING:
        return "extra"
    numbers = _number(legacy), _number(composed)
    return "expected" if numbers[0] is not None and numbers[0] == numbers[1] else "different"


def _number(value: Any) -> float | None:
    """The number that a field means, as the parser takes it."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    try:
        return parse_number(value) if isinstance(value, str) else None
    except BadNumber:
        return None

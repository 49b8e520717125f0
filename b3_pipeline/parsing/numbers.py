"""Numbers as Brazilian sources write them: `5528.504`, `"5.528,504"`, `+0,26`, and the marks of absence.

One grammar (FORMATS §1), as regular expressions that Python and Arrow's RE2 read alike, for one text and for columns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

pc: Any = pyarrow.compute  # its functions are made at run time, so that no type checker knows them

#: What stands for "no value" (FORMATS §1); any other text where a number belongs is wrong.
ABSENT = ("", "-", "N/A", "null")
# The three notations; a mark of thousands must group by three, and what no notation matches is no number.
_PLAIN = r"^[+-]?[0-9]+(?:[.,][0-9]+)?$"
_DOTS_GROUP = r"^[+-]?[0-9]{1,3}(?:(?:\.[0-9]{3}){2,}|(?:\.[0-9]{3})+,[0-9]+)$"
_COMMAS_GROUP = r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+\.[0-9]+$"
# A notation's pattern, and the marks to take out of it before its decimal comma becomes a dot.
_NOTATIONS = ((_PLAIN, ""), (_DOTS_GROUP, "."), (_COMMAS_GROUP, ","))
_COMPILED = tuple((re.compile(pattern), grouping) for pattern, grouping in _NOTATIONS)


class BadNumber(ValueError):
    """A text that is neither a number nor a mark of absence."""


@dataclass(frozen=True)
class Numbers:
    """A column of numbers: three arrays of one length; every text is a value, absent or bad."""

    values: np.ndarray  # float64, NaN where there is no value
    absent: np.ndarray  # bool
    bad: np.ndarray  # bool


def is_absent(text: str) -> bool:
    """Whether the trimmed text is a mark of absence."""
    return text.strip() in ABSENT


@cache
def _marks() -> Any:
    return pa.array(ABSENT)  # not at import: the first array that pyarrow makes imports pandas


def each_once(texts: Any) -> tuple[Any, np.ndarray]:
    """The different texts of a column (of strings, or a dictionary of them), and each row's place among them.

    Market data repeats itself, so what is asked of a text is asked once. A null is an empty text.
    """
    encoded = texts if pa.types.is_dictionary(texts.type) else texts.fill_null("").dictionary_encode()
    return encoded.dictionary, encoded.indices.to_numpy()


def where_absent(texts: Any) -> np.ndarray:
    """`is_absent` for a column of texts (strings, or a dictionary of them) without nulls: bool."""
    different, places = each_once(texts)
    return to_numpy(pc.is_in(pc.utf8_trim_whitespace(different), value_set=_marks()))[places]


def parse_number(text: str) -> float | None:
    """The number that a text means, None where it is absent; surrounding white space does not count.

    Raises `BadNumber` for anything else. A number too large for a float64 is an infinity.
    """
    trimmed = text.strip()
    if trimmed in ABSENT:
        return None
    for pattern, grouping in _COMPILED:
        # fullmatch, for `$` alone would let a newline through
        if pattern.fullmatch(trimmed):
            return float((trimmed.replace(grouping, "") if grouping else trimmed).replace(",", "."))
    raise BadNumber(f"{text!r} is no number")


def parse_numbers(texts: Any) -> Numbers:
    """`parse_number` for a column of texts (strings, or a dictionary of them; a null is absent)."""
    different, places = each_once(texts)
    unique = _parse_unique(pc.utf8_trim_whitespace(different))
    return Numbers(unique.values[places], unique.absent[places], unique.bad[places])


def _parse_unique(trimmed: Any) -> Numbers:
    absent = to_numpy(pc.is_in(trimmed, value_set=_marks()))
    values = np.full(len(trimmed), np.nan)
    left = np.flatnonzero(~absent)
    for pattern, grouping in _NOTATIONS:
        candidates = trimmed if len(left) == len(trimmed) else trimmed.take(pa.array(left))
        matches = to_numpy(pc.match_substring_regex(candidates, pattern))
        chosen = candidates if matches.all() else candidates.filter(pa.array(matches))
        values[left[matches]] = _as_floats(pc.replace_substring(chosen, grouping, "") if grouping else chosen)
        left = left[~matches]
        if not len(left):
            break
    bad = np.zeros(len(trimmed), dtype=bool)
    bad[left] = True
    return Numbers(values, absent, bad)


def _as_floats(texts: Any) -> np.ndarray:
    """Texts without marks of thousands, as float64."""
    dotted = pc.replace_substring(texts, ",", ".")
    return to_numpy(pc.cast(pc.utf8_ltrim(dotted, characters="+"), pa.float64()))


def to_numpy(array: Any) -> np.ndarray:
    """An Arrow array without nulls as a numpy array that may be written to."""
    return np.array(array.to_numpy(zero_copy_only=False))

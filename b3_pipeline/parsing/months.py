"""Contract months in both forms that the sources use, and the way between them.

A code is `X25` (futures: letter and two-digit year), a tenor is `nov-25` (the volatility surface); both are of the
years 2000 to 2099. Tables keep each as its source writes it (FORMATS §1).
"""

from __future__ import annotations

import re

CODE_LETTERS = "FGHJKMNQUVXZ"
MONTH_NAMES = ("jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez")
_CODE = re.compile(rf"([{CODE_LETTERS}])([0-9]{{2}})")
_TENOR = re.compile(rf"({'|'.join(MONTH_NAMES)})-([0-9]{{2}})")
_CENTURY = 2000


class BadMonth(ValueError):
    """A text that is neither a code nor a tenor, or a month that neither can write."""


def is_code(text: str) -> bool:
    """Whether the text is a month code, `X25`."""
    return _CODE.fullmatch(text) is not None


def is_tenor(text: str) -> bool:
    """Whether the text is a tenor in Portuguese, `nov-25`."""
    return _TENOR.fullmatch(text) is not None


def year_and_month(text: str) -> tuple[int, int]:
    """Year and month (1–12) of a code or a tenor. Raises `BadMonth`."""
    if match := _CODE.fullmatch(text):
        return _CENTURY + int(match[2]), CODE_LETTERS.index(match[1]) + 1
    if match := _TENOR.fullmatch(text):
        return _CENTURY + int(match[2]), MONTH_NAMES.index(match[1]) + 1
    raise BadMonth(f"{text!r} is neither a month code (X25) nor a tenor (nov-25)")


def to_code(year: int, month: int) -> str:
    """The code of a month: (2025, 11) is `X25`. Raises `BadMonth` outside 2000 to 2099."""
    return f"{CODE_LETTERS[_checked(year, month) - 1]}{year - _CENTURY:02d}"


def to_tenor(year: int, month: int) -> str:
    """The tenor of a month: (2025, 11) is `nov-25`. Raises `BadMonth` outside 2000 to 2099."""
    return f"{MONTH_NAMES[_checked(year, month) - 1]}-{year - _CENTURY:02d}"


def as_code(text: str) -> str:
    """The code of a month given in either form. Raises `BadMonth`."""
    return to_code(*year_and_month(text))


def as_tenor(text: str) -> str:
    """The tenor of a month given in either form. Raises `BadMonth`."""
    return to_tenor(*year_and_month(text))


def _checked(year: int, month: int) -> int:
    if not (_CENTURY <= year < _CENTURY + 100 and 1 <= month <= 12):
        raise BadMonth(f"year {year}, month {month} is no month from {_CENTURY} to {_CENTURY + 99}")
    return month

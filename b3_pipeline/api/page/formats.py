"""Numbers, days and moments as a Brazilian reads them, Brasília time; nothing here knows a panel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from b3_pipeline.parsing.months import BadMonth, as_tenor
from b3_pipeline.sessions import to_local

#: The sign that screen readers say and that is as wide as a digit, unlike the hyphen.
MINUS = "−"
NOTHING = "–"
_SWAPPED = str.maketrans({",": ".", ".": ",", "-": MINUS})
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
#: How units are written; others are shown as they come.
UNITS = {
    "points": "pontos",
    "BRL": "R$",
    "BRL/USD": "R$/US$",
    "BRL/1000 USD": "R$/US$ mil",
    "BRL/USD×1000": "R$/US$ mil",
    "% a.a.": "% a.a.",
}


def number(value: float | None, decimals: int = 2, signed: bool = False) -> str:
    """`1.234,56`; with `signed` a plus before what is above zero. What is no number is a dash; there is no `−0`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("-")
    elif signed and value > 0:
        text = f"+{text}"
    return text.translate(_SWAPPED)


def count(value: int | None) -> str:
    """`12.345`."""
    return number(value, 0)


def day(value: date | None) -> str:
    """`14/10/2025`."""
    return f"{value:%d/%m/%Y}" if value else NOTHING


def moment(value: datetime | None, now: datetime | None = None) -> str:
    """A moment (UTC when it has no zone) as Brasília reads it: without its day when that is the day of `now`."""
    if value is None:
        return NOTHING
    local = to_local(value)
    if now is not None:
        today = to_local(now)
        if local.date() == today.date():
            return f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
        if local.year == today.year:
            return f"{local:%d/%m %H:%M}"
    return f"{local:%d/%m/%Y %H:%M}"


def age(seconds: float | None) -> str:
    """`há 12 min`: no finer than that, so that a page which has nothing new to say stays the same for a minute."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < _MINUTE:
        return "há menos de 1 min"
    if seconds < _HOUR:
        return f"há {int(seconds // _MINUTE)} min"
    if seconds < 2 * _DAY:
        return f"há {int(seconds // _HOUR)} h"
    return f"há {int(seconds // _DAY)} dias"


def unit(value: str) -> str:
    """A unit as the desk writes it."""
    return UNITS.get(value, value)


def contract_name(code: str | None) -> str:
    """`nov/25` of `X25` or `nov-25`; a text that is no month stays as it is."""
    if not code:
        return NOTHING
    try:
        return as_tenor(code).replace("-", "/")
    except BadMonth:
        return code


@dataclass(frozen=True)
class Change:
    """A change, told in three ways, for who sees no colours and for who sees nothing: sign, arrow, word."""

    text: str
    direction: Literal["up", "down", "flat"]
    arrow: str
    word: str


def change(value: float | None, decimals: int = 2) -> Change | None:
    """How a change is shown; one that is rounded to nothing is none. None when it is not known."""
    if value is None or not math.isfinite(value):
        return None
    shown = round(value, decimals)
    if shown > 0:
        return Change(number(value, decimals, signed=True), "up", "▲", "alta")
    if shown < 0:
        return Change(number(value, decimals), "down", "▼", "queda")
    return Change(number(0, decimals), "flat", "■", "estável")


def change_of(value: float | None, previous: float | None) -> float | None:
    """A change in percent of the value before; None when there is none, or it is zero."""
    if value is None or not previous:
        return None
    return (value - previous) / abs(previous) * 100

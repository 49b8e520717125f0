"""A synthetic legacy folder for newcomers: the six files and two older captures, in the form of FORMATS §3.

Nothing in it is market data: random walks with a seed, on B3's real sessions, that agree with one another.
"""

from __future__ import annotations

import csv
import io
import json
import random
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.parsing.capture import DELTAS
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA
from b3_pipeline.parsing.legacy_csv import ADJUSTMENTS, DXY, INDICATORS, SURFACE
from b3_pipeline.parsing.months import to_code, to_tenor
from b3_pipeline.sessions import session_before, session_of, to_local

SOURCE = "SINTETICO"
README = "LEIA-ME.txt"
#: By this local time a session's rows are all in; earlier in the day the sample ends at the session before.
COLLECTED_BY = timedelta(hours=12, minutes=30)
OLDER_CAPTURES = 2

_DECIMALS = {"DI1": 2, "DDI": 2, "DOL": 3}
# The capture's labels, in its order, with the CSV column of the same value and its decimals.
_INDICATORS = {
    "TAXA SELIC - (a.a.)": ("taxa_selic", 2),
    "TAXA SOFR": ("taxa_sofr", 2),
    "DÓLAR CUPOM LIMPO": ("dolar_cupom_limpo", 4),
    "DIF OPER CASADA - COMPRA": ("dif_oper_casada", 2),
}
_SMILE = dict(zip(DELTAS, (1.68, 1.43, 1.37, 1.16, 1.08, 1.0, 0.965, 0.94, 0.955, 0.953, 0.95), strict=True))
_FIRST_YEAR = 2000  # the years of month codes have two digits
_PULL = 0.04  # how far a walk is drawn back to its mean each session
_README_TEXT = """\
DADOS SINTÉTICOS: NÃO SÃO DADOS DE MERCADO

Esta pasta foi gerada por `b3 sample`, com números aleatórios nos pregões reais da B3.
Tem a forma da pasta do coletor antigo, para experimentar a migração: b3 migrate --legacy PASTA
Não use estes valores para negociar, marcar posição ou calcular risco.
"""


@dataclass(frozen=True)
class Morning:
    """What the desk collected on one session. Prices are points, volatilities percent a year, `dxy` percent changes."""

    day: date
    prices: Mapping[str, float]
    previous: Mapping[str, float]
    indicators: Mapping[str, float]
    surface: Mapping[str, Mapping[str, float]]  # tenor → delta → volatility
    dxy: tuple[float, ...]

    @property
    def code(self) -> str:
        """The front contract month, which is the next month's: X25 in October 2025."""
        return to_code(*_month_after(self.day, 1))


def make_sample(folder: Path, now: datetime, sessions: int = 60) -> list[Path]:
    """Writes a synthetic legacy folder of so many sessions, the last one complete at `now` (UTC when it has no zone).

    The same last session and count give the same bytes. Returns the files. Raises UsageError for a folder that has
    something in it, and for sessions before 2000.
    """
    days = _sessions(now, sessions)
    if days[0].year < _FIRST_YEAR:
        raise UsageError(f"{sessions} sessions reach back to {days[0]}: ask for fewer, from {_FIRST_YEAR} on.")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is there already and not an empty folder: name another one.")
    dice = random.Random(f"{days[-1]} {sessions}")
    contents = _contents(_mornings(days, dice), dice)
    _write(folder, contents)
    return [folder / name for name in contents]


def _sessions(now: datetime, count: int) -> list[date]:
    days = [session_of((to_local(now) - COLLECTED_BY).date())]
    while len(days) < count:
        days.append(session_before(days[-1]))
    return days[::-1]


def _write(folder: Path, contents: Mapping[str, str]) -> None:
    """Makes the files out of sight and then moves them: a new folder is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    there = folder.exists()
    with tempfile.TemporaryDirectory(dir=folder if there else folder.parent, prefix=".sample-") as hidden:
        whole = Path(hidden, folder.name)
        for name, text in contents.items():
            path = whole / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        # one that is there may be somebody's working directory or a mount: it is filled, not replaced
        for source, target in [(p, folder / p.name) for p in whole.iterdir()] if there else [(whole, folder)]:
            source.rename(target)


def _contents(mornings: list[Morning], dice: random.Random) -> dict[str, str]:
    captures = [(morning, _moment(morning.day, time(9), 600, dice)) for morning in mornings[-OLDER_CAPTURES - 1 :]]
    files = {
        ADJUSTMENTS.file: _csv(_adjustments(mornings, dice)),
        INDICATORS.file: _csv(_indicators(mornings, dice)),
        SURFACE.file: _csv(_surface(mornings, dice)),
        DXY.file: _csv(_dxy(mornings)),
        CAPTURE.file: _json(_capture(*captures[-1])),
        GAMMA.file: _json(_gamma(mornings[-1].day, dice)),
    }
    for morning, at in captures[:-1]:
        files[f"{HISTORY_FOLDER}/ultimo_dado_{at:%Y%m%d_%H%M%S}.json"] = _json(_capture(morning, at))
    return {**files, README: _README_TEXT}


# What the values are


def _mornings(days: list[date], dice: random.Random) -> list[Morning]:
    count = len(days)
    selic = _policy_rate(count, dice)
    ddi, dol = _walk(count, 101_000, 180, dice), _walk(count, 5_500, 28, dice)
    sofr, spread = _walk(count, 4.12, 0.015, dice), _walk(count, 26.5, 0.7, dice)
    atm = _walk(count, 13, 0.3, dice)
    mornings: list[Morning] = []
    for i, day in enumerate(days):
        prices = {"DI1": _unit_price(day, selic[i] - 0.1), "DDI": ddi[i], "DOL": dol[i]}
        prices = {name: round(value, _DECIMALS[name]) for name, value in prices.items()}
        indicators = {
            "taxa_selic": selic[i],
            "taxa_sofr": sofr[i],
            "dolar_cupom_limpo": dol[i] / 1000,
            "dif_oper_casada": spread[i],
        }
        previous = mornings[-1].prices if mornings else prices
        mornings.append(Morning(day, prices, previous, indicators, _smiles(day, atm[i], dice), _changes(dice)))
    return mornings


def _walk(count: int, mean: float, step: float, dice: random.Random) -> list[float]:
    """A random walk that is drawn back to its mean, so that it stays plausible over any number of sessions."""
    values = [mean + dice.gauss(0, step)]
    while len(values) < count:
        values.append(values[-1] + _PULL * (mean - values[-1]) + dice.gauss(0, step))
    return values


def _policy_rate(count: int, dice: random.Random) -> list[float]:
    """Percent a year; it moves by a quarter at a time, about every 45 sessions, between 10.9 and 14.9."""
    quarters = 16
    rates = []
    for _ in range(count):
        if dice.random() < 1 / 45:
            quarters = min(max(quarters + dice.choice((-1, 1)), 0), 16)
        rates.append(10.9 + quarters / 4)
    return rates


def _unit_price(day: date, rate: float) -> float:
    """The points of a DI1 that pays 100 000 on the first of the next month, at a rate in percent a year."""
    year, month = _month_after(day, 1)
    return 100_000 / (1 + rate / 100) ** ((date(year, month, 1) - day).days / 365)


def _smiles(day: date, atm: float, dice: random.Random) -> dict[str, dict[str, float]]:
    levels = {to_tenor(*_month_after(day, months)): atm + dice.gauss(0.3 * months, 0.1) for months in (1, 2)}
    return {
        tenor: {delta: round(level * factor, 2) for delta, factor in _SMILE.items()} for tenor, level in levels.items()
    }


def _changes(dice: random.Random) -> tuple[float, ...]:
    first = min(max(dice.gauss(0, 0.35), -1.5), 1.5)
    return tuple(round(first + dice.uniform(-0.04, 0.04), 2) for _ in range(3))


# How the files write them


def _adjustments(mornings: list[Morning], dice: random.Random) -> Iterable[dict[str, str]]:
    for i, morning in enumerate(mornings):
        row = _when(_moment(morning.day, time(9), 5_400, dice))
        for name in ("DDI", "DI1", "DOL"):
            decimals = _DECIMALS[name]
            row |= {
                f"{name.lower()}_vencimento": morning.code,
                f"{name.lower()}_preco_numerico": _mixed(morning.prices[name], decimals, dice),
                f"{name.lower()}_preco_anterior_numerico": f"{morning.previous[name]:.{decimals}f}",
            }
        yield row | {"status": "migrado" if i < len(mornings) // 2 else "ajustado"}


def _indicators(mornings: list[Morning], dice: random.Random) -> Iterable[dict[str, str]]:
    decimals = dict(_INDICATORS.values())
    for morning in mornings:
        values = {name: _mixed(value, decimals[name], dice) for name, value in morning.indicators.items()}
        yield _when(_moment(morning.day, time(9), 5_400, dice)) | values


def _surface(mornings: list[Morning], dice: random.Random) -> Iterable[dict[str, str]]:
    for morning in mornings:
        when = _when(_moment(morning.day, time(12), 600, dice))
        for tenor, smile in morning.surface.items():
            cells = {delta: _mixed(value, 2, dice) for delta, value in smile.items()}
            yield when | {"mes": tenor} | cells | {"data_atualizacao": f"{morning.day:%d/%m/%Y}"}


def _dxy(mornings: list[Morning]) -> Iterable[dict[str, str]]:
    times = ("08h50", "08h55", "09h00")
    for morning in mornings:
        texts = [f"{change:+.2f}" for change in morning.dxy]
        texts[-1] = texts[-1].replace(".", ",")
        changes = {f"dxy_{at}": text for at, text in zip(times, texts, strict=True)}
        statuses = {f"status_{at}": "sucesso" for at in times}
        yield {"data": f"{morning.day:%d-%m-%Y}", **changes, "fonte": SOURCE, **statuses}


def _capture(morning: Morning, at: datetime) -> dict[str, Any]:
    updated = f"{morning.day:%d/%m/%Y}"
    blocks = {
        name: {
            "vencimento": morning.code,
            "preco": _brazilian(morning.prices[name], decimals),
            "preco_numerico": morning.prices[name],
            "preco_anterior": _brazilian(morning.previous[name], decimals),
            "preco_anterior_numerico": morning.previous[name],
        }
        for name, decimals in _DECIMALS.items()
    }
    indicators = {
        label: {"valor": _brazilian(morning.indicators[name], decimals), "data_atualizacao": updated}
        for label, (name, decimals) in _INDICATORS.items()
    }
    return {
        "timestamp": at.isoformat(),
        "data_coleta": f"{at:%d-%m-%Y}",
        "hora_coleta": f"{at:%H:%M:%S}",
        "status": "sucesso",
        "fonte": SOURCE,
        **blocks,
        "indicadores_financeiros": indicators,
        "superficie_volatilidade": [
            {"mes": tenor, **smile, "data_atualizacao": updated} for tenor, smile in morning.surface.items()
        ],
    }


def _gamma(day: date, dice: random.Random) -> dict[str, Any]:
    put = 6_400 + 50 * dice.randrange(5)
    call = put + 50 * dice.randrange(3, 6)
    flip = put + round(dice.uniform(0.3, 0.7) * (call - put) * 4) / 4
    return {
        "gammalevels": {
            "timestamp": _moment(day, time(9, 5), 60, dice).isoformat(),
            "status": "sucesso",
            "ES_SP500": {
                "call_wall": _brazilian(call, 2),
                "put_wall": _brazilian(put, 2),
                "gamma_flip": _brazilian(flip, 2),
            },
            "VIX": {"call_wall": f"{dice.randrange(22, 31):.1f}", "put_wall": "N/A"},
        }
    }


def _mixed(value: float, decimals: int, dice: random.Random) -> str:
    """A number in one of the notations that stand side by side in the legacy files."""
    return _brazilian(value, decimals) if dice.random() < 0.3 else f"{value:.{decimals}f}"


def _brazilian(value: float, decimals: int) -> str:
    """`5528.504` as `5.528,504`."""
    return f"{value:,.{decimals}f}".translate(str.maketrans(",.", ".,"))


def _moment(day: date, start: time, seconds: int, dice: random.Random) -> datetime:
    """A moment of the day, less than so many seconds after the start."""
    return datetime.combine(day, start) + timedelta(seconds=dice.randrange(seconds))


def _when(moment: datetime) -> dict[str, str]:
    return {"data": f"{moment:%d-%m-%Y}", "hora": f"{moment:%H:%M:%S}"}


def _month_after(day: date, months: int) -> tuple[int, int]:
    """Year and month (1–12) of the month that comes so many months after the day's own."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return year, month + 1


def _csv(rows: Iterable[Mapping[str, str]]) -> str:
    rows = list(rows)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"

"""Synthetic payloads of the live sources, in the form of FORMATS §4: for tests, the demo and the benchmark.

Nothing in them is market data. They agree with one another: a morning's capture says what the reports of the session
before say. The same arguments give the same bytes, and another `seed` other values of the same records.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from b3_pipeline.legacy_documents import brazilian, capture_document, gamma_document
from b3_pipeline.parsing import kinds
from b3_pipeline.parsing.capture import DELTAS
from b3_pipeline.parsing.dxy_chart import EVERY, FIRST, LAST, SYMBOL
from b3_pipeline.parsing.months import to_code, to_tenor
from b3_pipeline.sample import SOURCE
from b3_pipeline.sessions import ZONE, session_before, to_local, trade_date

_DECIMALS = {"DI1": 2, "DDI": 2, "DOL": 3, "WDO": 3, "WIN": 0, "IND": 0}
_QUARTERS = (1, 4, 7, 10)
# Code, description, group, the member that is filled, decimals, mean, and how far it strays.
_INDICATORS = (
    (10014464, "DIF OPER CASADA - COMPRA", "TAXAS DE CÂMBIO", "rate", 2, 26.0, 3.0),
    (10008989, "DÓLAR CUPOM LIMPO", "TAXAS DE CÂMBIO", "value", 4, 5.5, 0.05),
    (10009506, "DÓLAR BMF SPOT - 2 DIAS", "TAXAS DE CÂMBIO", "value", 4, 5.5, 0.05),
    (200001169997, "TAXA SOFR", "TAXAS DE JUROS INTERNACIONAL", "rate", 2, 4.2, 0.1),
    (9800656, "TAXA SELIC", "TAXAS DE JUROS NACIONAL", "rate", 2, 14.9, 0.0),
    (9800334, "TAXA CDI CETIP", "TAXAS DE JUROS NACIONAL", "rate", 2, 14.9, 0.0),
)
# The capture's labels, in its order, by the source's descriptions.
_LABELS = {
    "TAXA SELIC": "TAXA SELIC - (a.a.)",
    "TAXA SOFR": "TAXA SOFR",
    "DÓLAR CUPOM LIMPO": "DÓLAR CUPOM LIMPO",
    "DIF OPER CASADA - COMPRA": "DIF OPER CASADA - COMPRA",
}
_SMILE = (1.68, 1.43, 1.37, 1.16, 1.08, 1.0, 0.965, 0.94, 0.955, 0.953, 0.95)
_MATURITIES, _FILLERS = 24, 6
_CHART_FROM = time(5)
_PREVIOUS_CLOSE = 99.25
_HEADER = (
    '<?xml version="1.0" encoding="utf-8"?><Document xmlns="urn:bvmf.052.01.xsd"><BizFileHdr><Xchg><BizGrpDesc>'
    "<BizGrpDtls><TtlNbOfMsg>{count}</TtlNbOfMsg><BizGrpTp>BVBG.187.01</BizGrpTp></BizGrpDtls></BizGrpDesc>"
)
_FOOTER = "</Xchg></BizFileHdr></Document>"


@dataclass(frozen=True)
class Sample:
    """A payload as the collector would get it: from which source, called what, and when (aware UTC)."""

    source: str
    name: str
    at: datetime
    data: bytes = field(repr=False)


def session_samples(session: date) -> list[Sample]:
    """What a session brings from all live sources and the legacy collector's two documents, in the order of time."""
    morning, later = _utc(session, time(9, 0, 32)), _utc(session, time(9, 5, 12))
    samples = [
        Sample(kinds.CAPTURE.name, kinds.CAPTURE.file, morning, capture(morning)),
        Sample(kinds.GAMMA.name, kinds.GAMMA.file, later, gamma_levels(later)),
        Sample(kinds.GAMMA_LEVELS.name, kinds.GAMMA_LEVELS.file, later, gamma_levels(later, seed=1)),
    ]
    chart = kinds.DXY_CHART
    samples += (Sample(chart.name, chart.file, at, dxy_chart(at)) for at in _chart_times(session))
    for kind, name, out, make in (
        (kinds.VOL_SURFACE, kinds.VOL_SURFACE.file, time(19, 0, 10), vol_surface),
        (kinds.REPORT, f"SPRD{session:%y%m%d}.zip", time(19, 30, 5), settlement_report),
        (kinds.FINANCIAL_INDICATORS, kinds.FINANCIAL_INDICATORS.file, time(20, 0, 15), financial_indicators),
    ):
        samples.append(Sample(kind.name, name, _utc(session, out), make(session)))
    return sorted(samples, key=lambda sample: sample.at)


def settlement_report(session: date, seed: int = 0) -> bytes:
    """B3's price report of a session: a zip with its XML. Futures of all six instruments, and an option."""
    futures = [_report(session, name, month, seed) for name, months in _expiries(session) for month in months]
    option = _price_report(session, f"DOL{to_code(*_month_after(session, 1))}C005500", {"AdjstdQt": "12.5"})
    xml = _HEADER.format(count=len(futures) + 1) + "".join([*futures, option]) + _FOOTER
    return _zipped({f"BVBG.187.01_BV000471{session:%Y%m%d}00010000019253812.xml": xml.encode()})


def financial_indicators(session: date, seed: int = 0) -> bytes:
    """B3's financial indicators, all of them of that session."""
    rows = [
        {
            "securityIdentificationCode": code,
            "description": description,
            "groupDescription": group,
            "value": "",
            "rate": "",
            filled: brazilian(_indicator(description, session, seed), decimals),
            "lastUpdate": f"{session:%d/%m/%Y}",
        }
        for code, description, group, filled, decimals, _, _ in _INDICATORS
    ]
    return json.dumps(rows, ensure_ascii=False).encode()


def vol_surface(session: date, seed: int = 0) -> bytes:
    """B3's volatility surface of a session: an XLSX in a zip, with rows of zeros at its end."""
    from openpyxl import Workbook  # here, as in its parser

    book = Workbook()
    (sheet,) = book.worksheets
    sheet.append([datetime.combine(session, time()), *(int(delta.removeprefix("delta_")) for delta in DELTAS)])
    for year, month, volatilities in _surface(session, seed):
        sheet.append([datetime(year, month, 1), *volatilities.values()])  # noqa: DTZ001 (a cell has no zone)
    for _ in range(_FILLERS):
        sheet.append([0] * (len(DELTAS) + 1))
    return _zipped({f"Superficie_Vol_VTC_{session:%d%m%Y}.xlsx": _workbook(book, session)})


def dxy_chart(until: datetime, seed: int = 0) -> bytes:
    """Yahoo's chart of the dollar index at a moment (UTC when it has no zone): the bars of that local day so far."""
    now = until.replace(tzinfo=until.tzinfo or UTC)
    day = to_local(now).date()
    dice = random.Random(f"dxy {day} {seed}")
    start, level = _utc(day, _CHART_FROM), _PREVIOUS_CLOSE
    times: list[int] = []
    closes: list[float] = []
    while start <= now:
        level += 0.1 * (_PREVIOUS_CLOSE - level) + dice.gauss(0, 0.06)
        times.append(int(start.timestamp()))
        closes.append(round(level, 3))
        start += EVERY
    if times and now.timestamp() > times[-1]:  # the price of this moment, beside the bar that is not over
        times.append(int(now.timestamp()))
        closes.append(closes[-1])
    return _json(_chart(times, closes))


def gamma_levels(at: datetime, seed: int = 0) -> bytes:
    """Gamma levels taken at a moment (UTC when it has no zone), as the provider and the legacy collector give them."""
    dice = random.Random(f"gamma {to_local(at)} {seed}")
    put = 6_400 + 50 * dice.randrange(5)
    call = put + 50 * dice.randrange(3, 6)
    flip = put + round(dice.uniform(0.3, 0.7) * (call - put) * 4) / 4
    spx = {"call_wall": call, "put_wall": put, "gamma_flip": flip}
    levels = {
        "ES_SP500": {name: brazilian(level, 2) for name, level in spx.items()},
        "VIX": {"call_wall": f"{dice.randrange(22, 31):.1f}", "put_wall": "N/A"},
    }
    rows = [{"instrument": name, "status": "sucesso", "raw_payload": json.dumps(w)} for name, w in levels.items()]
    return _json(gamma_document(_naive(at), rows))


def capture(at: datetime, seed: int = 0) -> bytes:
    """The legacy collector's capture taken at a moment (UTC when it has no zone), of the newest session's reports."""
    local = to_local(at)
    day = trade_date(local)
    code, month = to_code(*_month_after(local.date(), 1)), _month_after(local.date(), 1)
    prices = [
        {
            "instrument": name,
            "contract_month": code,
            "price_settlement": _settlement(name, month, day, seed),
            "price_settlement_prev": _settlement(name, month, session_before(day), seed),
            "coleta_data": local.date(),
            "coleta_hora": f"{local:%H:%M:%S}",
            "status": "sucesso",
            "source": SOURCE,
        }
        for name in ("DI1", "DDI", "DOL")
    ]
    indicators = [
        {
            "name": _LABELS[description],
            "display_value": brazilian(_indicator(description, day, seed), decimals),
            "updated_at": day,
        }
        for _, description, _, _, decimals, _, _ in _INDICATORS
        if description in _LABELS
    ]
    surface = [
        {
            "contract_month": to_tenor(year, month),
            "delta_bucket": delta,
            "volatility": volatility,
            "updated_at": day,
        }
        for year, month, volatilities in list(_surface(day, seed))[:2]
        for delta, volatility in volatilities.items()
    ]
    return _json(capture_document(_naive(at), prices, indicators, surface))


# What the values are


def _settlement(name: str, month: tuple[int, int], session: date, seed: int) -> float:
    """A settlement in the contract's points: a mini contract has that of the full one."""
    underlying = {"WDO": "DOL", "WIN": "IND"}.get(name, name)
    chance = random.Random(f"{underlying} {month} {session} {seed}").gauss(0, 1)
    years = (date(*month, 1) - session).days / 365
    points = {
        "DI1": 100_000 / (1 + 0.135 + 0.0005 * chance) ** years,
        "DDI": 100_000 / (1 + 0.05 + 0.0005 * chance) ** years,
        "DOL": 5_500 * (1 + 0.08 * years) + 12 * chance,
        "IND": 140_000 * (1 + 0.1 * years) + 400 * chance,
    }
    return round(points[underlying], _DECIMALS[name])


def _rate(name: str, month: tuple[int, int], session: date, seed: int) -> float:
    """What a DI1 or DDI settlement is in percent a year."""
    years = (date(*month, 1) - session).days / 365
    return round(((100_000 / _settlement(name, month, session, seed)) ** (1 / years) - 1) * 100, 3)


def _indicator(description: str, session: date, seed: int) -> float:
    decimals, mean, stray = next(row[4:] for row in _INDICATORS if row[1] == description)
    return round(mean + stray * random.Random(f"{description} {session} {seed}").uniform(-1, 1), decimals)


def _surface(session: date, seed: int) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Year, month and the volatility of each delta, in percent a year, of each maturity."""
    dice = random.Random(f"surface {session} {seed}")
    level = dice.uniform(11, 14)
    for months in range(1, _MATURITIES + 1):
        at_the_money = level + 0.12 * months + dice.gauss(0, 0.05)
        smile = {delta: round(at_the_money * factor, 2) for delta, factor in zip(DELTAS, _SMILE, strict=True)}
        yield *_month_after(session, months), smile


def _expiries(session: date) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """The months in which each instrument has a contract: rates reach far, index futures are of even months."""
    months = [_month_after(session, ahead) for ahead in range(1, 121)]
    far = months[:24] + [month for month in months[24:] if month[1] in _QUARTERS]
    even = [month for month in months if month[1] % 2 == 0]
    return iter(
        {"DI1": far, "DDI": far, "DOL": months[:24], "WDO": months[:24], "WIN": even[:6], "IND": even[:6]}.items()
    )


def _month_after(day: date, months: int) -> tuple[int, int]:
    """Year and month (1–12) of the month that comes so many months after the day's own."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return year, month + 1


# How the sources write them


def _report(session: date, name: str, month: tuple[int, int], seed: int) -> str:
    dice = random.Random(f"interest {name} {month} {session}")
    cells = {
        "OpnIntrst": dice.randrange(1, 1_000_000),
        "AdjstdQt": _settlement(name, month, session, seed),
        "PrvsAdjstdQt": _settlement(name, month, session_before(session), seed),
    }
    if name in ("DI1", "DDI"):
        cells |= {"AdjstdQtTax": _rate(name, month, session, seed)}
    return _price_report(session, f"{name}{to_code(*month)}", cells)


def _price_report(session: date, ticker: str, cells: Mapping[str, object]) -> str:
    attributes = "".join(f"<{name}>{value}</{name}>" for name, value in cells.items())
    return (
        '<BizGrp><AppHdr/><Document xmlns="urn:bvmf.217.01.xsd"><PricRpt>'
        f"<TradDt><Dt>{session}</Dt></TradDt><SctyId><TckrSymb>{ticker}</TckrSymb></SctyId><TradDtls/>"
        f"<FinInstrmAttrbts>{attributes}</FinInstrmAttrbts></PricRpt></Document></BizGrp>"
    )


def _chart(times: list[int], closes: list[float]) -> dict[str, Any]:
    meta = {
        "currency": "USD",
        "symbol": SYMBOL,
        "exchangeName": "NYB",
        "instrumentType": "INDEX",
        "regularMarketTime": times[-1] if times else None,
        "timezone": "EST",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketPrice": closes[-1] if closes else None,
        "chartPreviousClose": _PREVIOUS_CLOSE,
        "previousClose": _PREVIOUS_CLOSE,
        "dataGranularity": "5m",
        "range": "1d",
    }
    result = {"meta": meta, "timestamp": times, "indicators": {"quote": [{"close": closes}]}}
    return {"chart": {"result": [result], "error": None}}


def _chart_times(session: date) -> Iterable[datetime]:
    """When the collector asks for the chart: shortly after each bucket."""
    moment = _utc(session, FIRST)
    while moment <= _utc(session, LAST):
        yield moment + timedelta(seconds=20)
        moment += EVERY


def _workbook(book: Any, session: date) -> bytes:
    """A workbook's bytes, the same at any time."""
    from openpyxl.writer.excel import ExcelWriter  # `Workbook.save` would write the present time into it

    book.properties.created = book.properties.modified = datetime.combine(session, time())
    target = io.BytesIO()
    ExcelWriter(book, zipfile.ZipFile(target, "w")).save()
    with zipfile.ZipFile(target) as archive:
        return _zipped({name: archive.read(name) for name in archive.namelist()})


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip whose files have no time of their making."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def _utc(day: date, moment: time) -> datetime:
    return datetime.combine(day, moment, ZONE).astimezone(UTC)


def _naive(at: datetime) -> datetime:
    """Naive UTC, as the tables have it."""
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=2).encode()

"""Overviews for the page's tests: of recorded values, and of nothing at all.

Settlements and the DI curve are those of B3's report of 2026-01-12; indicators, surface and gamma levels those of the
capture of 2025-10-13, under the same day. Made up: the curve of the session before, the later tenors, and the dollar
index between its recorded readings, which lacks the readings from 11:00 to 11:40.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from b3_pipeline.api.v1.figures import INSTRUMENTS, PER_CONTRACT, curve
from b3_pipeline.api.v1.models import (
    Curve,
    Dataset,
    Dxy,
    DxyPoint,
    GammaLevel,
    KnownLevels,
    KnownSettlement,
    KnownSignal,
    KnownVolatility,
    Kpi,
    Overview,
    Settlement,
    Surface,
)
from b3_pipeline.parsing.numbers import parse_number
from b3_pipeline.parsing.settlement_report import parse_settlement_report
from b3_pipeline.tables import TABLES

SESSION, BEFORE = date(2026, 1, 12), date(2026, 1, 9)
#: 19:40 in Brasília, after the report; the morning's capture was at 09:00:32.
NOW = datetime(2026, 1, 12, 22, 40, 32, tzinfo=UTC)
MORNING, EVENING = datetime(2026, 1, 12, 12, 0, 32, tzinfo=UTC), datetime(2026, 1, 12, 22, 30, tzinfo=UTC)
FIRST_READING = datetime(2026, 1, 12, 11, 50, tzinfo=UTC)
DAGSTER = "http://127.0.0.1:8801"
TENORS = ["nov-25", "dez-25", "jan-26", "fev-26", "abr-26", "jul-26", "jan-27"]
DELTAS = [1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99]
LABELS = {
    "b3_adjustments": ("Ajustes", "SPRD, B3"),
    "b3_indicators_daily": ("Indicadores diários", "indicadores financeiros, B3"),
    "b3_vol_surface": ("Superfície de volatilidade", "planilha, B3"),
    "b3_gamma_levels": ("Níveis de gamma", "provedor"),
    "b3_dxy_ticks": ("DXY", "Yahoo Finance"),
    "b3_snapshots": ("Última captura", "coletor legado"),
}


def full(shared: Path, **changes: Any) -> Overview:
    """An overview in which every panel has something; `changes` are fields that are other."""
    return _full(shared).model_copy(update=changes)


def empty(**changes: Any) -> Overview:
    """An overview of a home in which nothing has come yet."""
    nothing: dict[str, Any] = dict.fromkeys(("di_curve", "di_curve_before", "surface"))
    lists: dict[str, Any] = {name: [] for name in ("kpis", "settlements", "gamma", "datasets")}
    dxy = Dxy(session=None, points=[])
    fields = {"at": NOW, "session": SESSION, "phase": "legacy", "dxy": dxy, "mismatches": 0, "dagster_url": DAGSTER}
    return Overview(**nothing, **lists, **fields).model_copy(update=changes)


def kpi(
    name: str, label: str, value: float | None, previous: float | None, unit: str, decimals: int, **more: Any
) -> Kpi:
    """A figure that came in the morning and is fresh."""
    change = None if value is None or previous is None else round(value - previous, 8)
    about = {"at": MORNING, "session": BEFORE, "age_s": (NOW - MORNING).total_seconds(), "feed": "legacy_capture"}
    about |= {"fresh": True, "due": NOW + timedelta(hours=14), **more}
    return Kpi(
        id=name, label=label, value=value, previous=previous, change=change, unit=unit, decimals=decimals, **about
    )


def dataset(table: str, **more: Any) -> Dataset:
    """A table that is fresh, and whose checks passed."""
    label, source = LABELS[table]
    about: dict[str, Any] = {"rows": 12_345, "newest": EVENING, "age_s": 632.0, "due": NOW + timedelta(hours=22)}
    about |= {
        "label": label,
        "source": source,
        "fresh": True,
        "checks_passed": 9,
        "checks_failed": [],
        "dagster_url": f"{DAGSTER}/assets/{table}",
    }
    return Dataset(table=table, **(about | more))


def dxy_point(at: datetime, value: float | None) -> DxyPoint:
    local = at - timedelta(hours=3)
    return DxyPoint(at=at, bucket=f"dxy_{local:%Hh%M}", value=value)


@cache
def _full(shared: Path) -> Overview:
    capture = json.loads((shared / "data/legacy/clean/ultimo_dado.json").read_text(encoding="utf-8"))
    settlements = _settlements(shared / "data/b3/SPRD260112.zip")
    today = curve(settlements)
    assert today is not None
    return empty(
        phase="shadow",
        kpis=_kpis(capture, settlements),
        di_curve=today,
        di_curve_before=_before(today),
        settlements=settlements,
        surface=_surface(capture["superficie_volatilidade"]),
        gamma=_gamma(shared / "data/legacy/clean/gamma.json"),
        dxy=_dxy(),
        datasets=[dataset(table) for table in LABELS],
        signals=_signals(),
    )


def _signals() -> list[KnownSignal]:
    """An option of the morning with all that was known then, and a message before anything was."""
    dollar = {"instrument": "DOL", "contract_month": "G26", "price": 5387.107, "session": BEFORE, "feed": "b3_sprd"}
    rate = {"instrument": "DI1", "contract_month": "G26", "price": 99176.82, "session": BEFORE, "feed": "b3_sprd"}
    levels = {"instrument": "ES_SP500", "call_wall": 6700.0, "put_wall": 6500.0, "gamma_flip": 6628.5}
    about = {
        "channel": "TP CAPITAL | OPCOES",
        "signal_type": "Day Trade",
        "buy_min": 1.52,
        "buy_max": 1.63,
        "stop": None,
    }
    return [
        KnownSignal(
            at=MORNING + timedelta(minutes=40),
            asset="PETRB340",
            kind="option",
            targets=[2.13, 3.04],
            settlements=[KnownSettlement(at=MORNING, **dollar), KnownSettlement(at=MORNING, **rate)],
            gamma=[KnownLevels(at=MORNING, feed="gammalevels", **levels)],
            volatility=KnownVolatility(tenor="fev-26", value=12.76, at=MORNING, feed="b3_vol_xlsx"),
            **about,
        ),
        KnownSignal(
            at=MORNING - timedelta(days=30),
            asset="<b>",
            kind="other",
            targets=[],
            settlements=[],
            gamma=[],
            volatility=None,
            **about,
        ),
    ]


def _settlements(report: Path) -> list[Settlement]:
    with report.open("rb") as stream:
        [chunk] = parse_settlement_report(stream, TABLES["b3_adjustments"])
    rows = sorted(
        chunk.records.to_pylist(),
        key=lambda r: (INSTRUMENTS.index(r["instrument"]), r["contract_month"][1:], r["contract_month"]),
    )
    return [_settlement(row) for row in rows]


def _settlement(row: dict[str, Any]) -> Settlement:
    price, previous, per = row["price_settlement"], row["price_prev"], PER_CONTRACT.get(row["instrument"])
    change = None if previous is None else round(price - previous, 8)
    return Settlement(
        instrument=row["instrument"],
        contract_month=row["contract_month"],
        price=price,
        previous=previous,
        change=change,
        value_per_contract=None if change is None or per is None else round(abs(change) * per, 8),
        rate=row["settlement_rate"] if row["instrument"] == "DI1" else None,
        open_interest=row["open_interest"],
        session=SESSION,
        at=EVENING,
        feed="b3_sprd",
    )


def _before(today: Curve) -> Curve:
    """The session before: what is near was lower, what is far was higher."""
    points = [p.model_copy(update={"rate": round(p.rate - 0.09 + 0.007 * i, 4)}) for i, p in enumerate(today.points)]
    return Curve(session=BEFORE, points=points)


def _kpis(capture: dict[str, Any], settlements: Iterable[Settlement]) -> list[Kpi]:
    front = {s.instrument: s for s in settlements if s.contract_month == "G26"}
    values = [parse_number(block["valor"]) for block in capture["indicadores_financeiros"].values()]
    selic, sofr, dollar, casada = values
    report = {"at": EVENING, "session": SESSION, "age_s": 632.0, "feed": "b3_sprd", "contract_month": "G26"}
    prices = [
        kpi(
            f"{name.lower()}_settlement",
            f"{name} ajuste",
            front[name].price,
            front[name].previous,
            unit,
            digits,
            **report,
        )
        for name, unit, digits in (("DOL", "BRL/1000 USD", 3), ("DI1", "PU", 2), ("DDI", "points", 2))
    ]
    return [
        *prices,
        kpi("selic", "SELIC", selic, 14.9, "% a.a.", 2),
        kpi("sofr", "SOFR", sofr, 4.12, "% a.a.", 2),
        kpi("clean_dollar", "Dólar limpo", dollar, 5.4987, "BRL/USD", 4),
        kpi("casada", "Casada", casada, 27.1, "BRL/1000 USD", 2),
        kpi("dxy", "DXY agora", _dxy().points[-1].value, -0.59, "%", 2, feed="yahoo_dxy", session=SESSION, age_s=632.0),
    ]


def _surface(tenors: list[dict[str, Any]]) -> Surface:
    recorded = [[tenor[f"delta_{delta}"] for delta in DELTAS] for tenor in tenors]
    later = [[round(v + 0.22 * step, 2) for v in recorded[-1]] for step in range(1, len(TENORS) - len(recorded) + 1)]
    values: list[list[float | None]] = [*recorded, *later]
    values[-1][0] = None  # a cell that its source leaves empty
    return Surface(at=EVENING, updated_at=SESSION, feed="b3_vol_xlsx", tenors=TENORS, deltas=DELTAS, values=values)


def _gamma(file: Path) -> list[GammaLevel]:
    block = json.loads(file.read_text(encoding="utf-8"))["gammalevels"]
    names = ("call_wall", "put_wall", "gamma_flip")
    return [
        GammaLevel(
            instrument=instrument,
            at=MORNING,
            status=block["status"],
            feed="legacy_capture",
            **{name: _wall(block[instrument].get(name)) for name in names},
        )
        for instrument in ("ES_SP500", "VIX")
    ]


def _wall(text: str | None) -> float | None:
    return None if text in (None, "N/A") else parse_number(text)


def _dxy() -> Dxy:
    """Every five minutes from 08:50 to 18:30, at 09:00 the recorded +0,26."""
    points = []
    for step in range(117):
        at = FIRST_READING + timedelta(minutes=5 * step)
        gap = "11:00" <= f"{at - timedelta(hours=3):%H:%M}" <= "11:40"
        points.append(
            dxy_point(
                at,
                None
                if gap
                else round(0.26 + 0.11 * math.sin(step / 9) + 0.02 * ((step * 7) % 5 - 2) - 0.004 * (step - 2), 2),
            )
        )
    points[2] = dxy_point(points[2].at, 0.26)
    return Dxy(session=SESSION, points=points)

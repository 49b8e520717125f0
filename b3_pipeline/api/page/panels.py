"""What the templates are given of an overview: what belongs together brought together, nothing looked up."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

from b3_pipeline.api.page import formats
from b3_pipeline.api.page.charts import chosen_tenor, levels_of
from b3_pipeline.api.v1.models import Curve, Dataset, Kpi, Overview, Settlement
from b3_pipeline.parsing.months import BadMonth, year_and_month

T = TypeVar("T", Kpi, Dataset)
PHASES: Mapping[str, tuple[str, str]] = {
    "legacy": ("legado", "os coletores antigos respondem"),
    "shadow": ("sombra", "os antigos respondem, os nossos são comparados ao lado"),
    "active": ("ativo", "este sistema responde, os antigos continuam"),
    "frozen": ("congelado", "só este sistema responde"),
}
#: How many decimals an instrument's settlement has, in the exchange's unit.
PRICE_DECIMALS = {"DI1": 2, "DDI": 2, "DOL": 3, "WDO": 3, "WIN": 0, "IND": 0}
#: A panel's dataset, for its badge and its link.
TABLE_OF = {
    "curva": "b3_adjustments",
    "ajustes": "b3_adjustments",
    "volatilidade": "b3_vol_surface",
    "gamma": "b3_gamma_levels",
    "dxy": "b3_dxy_ticks",
    "sinais": "tp_capital_signals",
}
#: A body of the legacy contract is shown up to so many characters.
SHOWN_BODY = 20_000


@dataclass(frozen=True)
class CurveRow:
    """A contract of the DI curve: its rates in both sessions (% a year), and the change in basis points."""

    contract_month: str
    expiry: date
    rate: float | None
    before: float | None

    @property
    def basis_points(self) -> float | None:
        return None if self.rate is None or self.before is None else (self.rate - self.before) * 100


@dataclass(frozen=True)
class SettlementRow:
    """A settlement as its row shows it; `order` sorts its contract by time."""

    of: Settlement
    decimals: int
    order: int

    @property
    def change(self) -> formats.Change | None:
        return formats.change(self.of.change, self.decimals)


@dataclass(frozen=True)
class Mismatch:
    """An answer of the legacy contract that ours did not equal, as `/paridade` shows it."""

    id: str
    at: datetime | None
    endpoint: str
    count: int
    differences: list[str]
    legacy: str
    ours: str
    last_at: datetime | None
    settled: str | None  # who saw it and why it may stand, or which rules explain it; None: it is open


def context(known: Overview, tenor: str | None, stale_s: float | None = None) -> dict[str, Any]:
    """What the fragment's template needs; `stale_s`: QuestDB is away, and this overview is the last known, so old."""
    stale = stale_s is not None
    now = known.at + timedelta(seconds=stale_s or 0)
    overview = as_of(known, now) if stale else known
    datasets = {dataset.table: dataset for dataset in overview.datasets}
    surface = overview.surface
    return {
        "overview": overview,
        "now": now,
        "phase": PHASES[overview.phase],
        "curve": curve_rows(overview.di_curve, overview.di_curve_before),
        "settlements": [settlement_row(settlement) for settlement in overview.settlements],
        "instruments": list(dict.fromkeys(settlement.instrument for settlement in overview.settlements)),
        "tenor": chosen_tenor(surface, tenor) if surface and surface.tenors else None,
        "gamma": [(level, levels_of(level)) for level in overview.gamma],
        "gaps": sum(point.value is None for point in overview.dxy.points),
        "last_dxy": next((p for p in reversed(overview.dxy.points) if p.value is not None), None),
        "datasets": datasets,
        "dataset_of": {panel: datasets.get(table) for panel, table in TABLE_OF.items()},
        "late": [dataset for dataset in overview.datasets if dataset.fresh is False],
        "red": [dataset for dataset in overview.datasets if dataset.checks_failed],
        "stale": stale,
    }


def as_of(overview: Overview, now: datetime) -> Overview:
    """An overview as it is to be read at a later moment: everything is older, and late if it has been due since."""
    passed = (now - overview.at) / timedelta(seconds=1)

    def later(one: T) -> T:
        age = None if one.age_s is None else one.age_s + passed
        late = one.fresh is not None and one.due is not None and one.due < now
        return one.model_copy(update={"age_s": age, "fresh": one.fresh and not late})

    return overview.model_copy(
        update={"kpis": [later(kpi) for kpi in overview.kpis], "datasets": [later(d) for d in overview.datasets]}
    )


def standing(fresh: bool | None, stale: bool) -> tuple[str, str]:
    """How a badge looks (good, bad, or neither) and what it says. Nobody knows what is fresh while QuestDB is away."""
    if fresh is None:
        return "", "sem prazo"
    if not fresh:
        return "bad", "atrasado"
    return ("", "não se sabe") if stale else ("good", "em dia")


def curve_rows(today: Curve | None, before: Curve | None) -> list[CurveRow]:
    """Both curves side by side, by expiry."""
    rates = [{p.contract_month: p for p in curve.points} if curve else {} for curve in (today, before)]
    now, then = rates
    points = {**then, **now}
    rows = [
        CurveRow(code, p.expiry, now[code].rate if code in now else None, then[code].rate if code in then else None)
        for code, p in points.items()
    ]
    return sorted(rows, key=lambda row: row.expiry)


def price_decimals(instrument: str) -> int:
    """How many decimals a settlement of an instrument is shown with."""
    return PRICE_DECIMALS.get(instrument, 2)


def settlement_row(settlement: Settlement) -> SettlementRow:
    """A settlement's row."""
    try:
        year, month = year_and_month(settlement.contract_month)
    except BadMonth:
        year, month = 0, 0
    return SettlementRow(settlement, price_decimals(settlement.instrument), year * 100 + month)


def since(dataset: Dataset | None, now: datetime) -> str:
    """What an empty panel says."""
    if dataset is None or dataset.newest is None:
        return "sem dados: nada chegou até agora"
    return f"sem dados desde {formats.moment(dataset.newest, now)}"


def mismatches(rows: Iterable[Mapping[str, Any]]) -> list[Mismatch]:
    """The mismatches that the service lists."""
    return [
        Mismatch(
            str(row.get("id", "")),
            row.get("at"),
            str(row.get("endpoint", "")),
            int(row.get("count") or 1),
            [_line(difference) for difference in row.get("differences") or []],
            _body(row.get("legacy")),
            _body(row.get("ours")),
            row.get("last_at"),
            _settled(row),
        )
        for row in rows
    ]


def _settled(row: Mapping[str, Any]) -> str | None:
    if row.get("seen_at"):
        return f"vista por {row.get('seen_by')}: {row.get('seen_why')}"
    if rules := row.get("ignored_by"):
        return f"explicada por {', '.join(rules)}"
    return None


def _line(difference: Any) -> str:
    """A difference in one line, whether it comes as a text or as an object."""
    if isinstance(difference, str):
        return difference
    if isinstance(difference, Mapping):
        return " · ".join(
            f"{name}: {json.dumps(value, ensure_ascii=False, default=str)}" for name, value in difference.items()
        )
    return json.dumps(difference, ensure_ascii=False, default=str)


def _body(body: Any) -> str:
    """A kept body as people read it: JSON indented, what is no JSON as it came, a long one cut."""
    if body is None:
        return ""
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    try:
        value = json.loads(body) if isinstance(body, str) else body
        text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except (ValueError, TypeError):
        text = str(body)
    return text if len(text) <= SHOWN_BODY else f"{text[:SHOWN_BODY]}\n… (cortado)"

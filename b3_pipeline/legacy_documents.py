"""The legacy documents made anew from the tables' rows, as the legacy collector wrote them (pure functions).

Source of the form: `FORMATS.md` §7. Rows are mappings of the tables' columns. What the tables do not hold (keys that no
column has, another precision) is not in the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from b3_pipeline.parsing.capture import INSTRUMENTS
from b3_pipeline.parsing.gamma import INSTRUMENTS as GAMMA_INSTRUMENTS
from b3_pipeline.parsing.months import year_and_month
from b3_pipeline.sessions import to_local

Row = Mapping[str, Any]
_DECIMALS = {"DI1": 2, "DDI": 2, "DOL": 3}
#: The collector's order of its labels; others follow in the order of the rows.
LABELS = ("TAXA SELIC - (a.a.)", "TAXA SOFR", "DÓLAR CUPOM LIMPO", "DIF OPER CASADA - COMPRA")


def capture_document(ts: datetime, prices: Iterable[Row], indicators: Iterable[Row], surface: Iterable[Row]) -> dict:
    """`ultimo_dado.json` of one capture (`ts`: naive UTC), from its rows of snapshots, indicators and surface."""
    blocks = {row["instrument"]: row for row in prices}
    head = next(iter(blocks.values()), {})
    labels = _in_order(((row["name"], row) for row in indicators), LABELS)
    document = {
        "timestamp": _local(ts),
        "data_coleta": _day(head.get("coleta_data"), "-"),
        "hora_coleta": head.get("coleta_hora"),
        "status": head.get("status"),
        "fonte": head.get("source"),
        **{name: _price_block(row) for name, row in _in_order(blocks.items(), INSTRUMENTS).items()},
        "indicadores_financeiros": {name: _indicator(row) for name, row in labels.items()} or None,
        "superficie_volatilidade": _tenors(surface) or None,
    }
    return _given(document)


def gamma_document(ts: datetime, levels: Iterable[Row]) -> dict:
    """`gamma.json` of one capture (`ts`: naive UTC), from its rows of gamma levels."""
    rows = _in_order(((row["instrument"], row) for row in levels), GAMMA_INSTRUMENTS)
    status = next((row["status"] for row in rows.values()), None)
    instruments = {name: json.loads(row["raw_payload"]) for name, row in rows.items()}
    return {"gammalevels": _given({"timestamp": _local(ts), "status": status}) | instruments}


def _price_block(row: Row) -> dict[str, Any]:
    decimals = _DECIMALS.get(row["instrument"], 2)
    block: dict[str, Any] = {"vencimento": row["contract_month"]}
    for key, price in (("preco", row["price_settlement"]), ("preco_anterior", row["price_settlement_prev"])):
        block |= {key: price if price is None else brazilian(price, decimals), f"{key}_numerico": price}
    return _given(block)


def _indicator(row: Row) -> dict[str, Any]:
    return _given({"valor": row["display_value"], "data_atualizacao": _day(row["updated_at"], "/")})


def _tenors(surface: Iterable[Row]) -> list[dict[str, Any]]:
    """Tenors by date, and in each the deltas by number."""
    tenors: dict[str, dict[int, Row]] = {}
    for row in surface:
        tenors.setdefault(row["contract_month"], {})[int(row["delta_bucket"].removeprefix("delta_"))] = row
    return [_tenor(tenor, tenors[tenor]) for tenor in sorted(tenors, key=year_and_month)]


def _tenor(tenor: str, deltas: Mapping[int, Row]) -> dict[str, Any]:
    values = {f"delta_{delta}": deltas[delta]["volatility"] for delta in sorted(deltas)}
    updated = next(iter(deltas.values()))["updated_at"]
    return _given({"mes": tenor, **values, "data_atualizacao": _day(updated, "/")})


def brazilian(number: float, decimals: int) -> str:
    """A number as pt-BR writes it: 5.528,504."""
    return f"{number:,.{decimals}f}".translate(str.maketrans(",.", ".,"))


def _in_order(named: Iterable[tuple[str, Row]], order: Sequence[str]) -> dict[str, Row]:
    """Known names first, in their order; the others as they come."""
    rows = dict(named)
    return {name: rows[name] for name in (*(n for n in order if n in rows), *(n for n in rows if n not in order))}


def _given(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _local(ts: datetime) -> str:
    return to_local(ts).isoformat()


def _day(day: date | None, mark: str) -> str | None:
    return None if day is None else day.strftime(f"%d{mark}%m{mark}%Y")

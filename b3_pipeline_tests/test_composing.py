"""The composed capture: made of the newest stored values, each block with the date of its own data."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from b3_pipeline.composing import Composed, Inputs, compose, read_inputs, when_due
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import payload, survey
from b3_pipeline.parsing.capture import parse_capture
from b3_pipeline.parsing.kinds import CAPTURE, REPORT
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES

NOW = datetime(2025, 10, 13, 12, 0, 32, 500_000, tzinfo=UTC)
FRIDAY_EVENING = datetime(2025, 10, 10, 22, 30)
STORED = datetime(2025, 10, 10, 22, 40)


def settlement(instrument: str, price: float, previous: float | None, **more: Any) -> dict[str, Any]:
    row = {"ts": FRIDAY_EVENING, "instrument": instrument, "contract_month": "X25", "price_settlement": price}
    row |= {"price_prev": previous, "status": "ajustado", "trade_date": date(2025, 10, 10), "feed": "b3_sprd"}
    return row | {"ingested_at": STORED, "load_id": 1} | more


def indicator(name: str, value: float, **more: Any) -> dict[str, Any]:
    row = {"ts": datetime(2025, 10, 10, 23), "indicator": name, "value": value, "feed": "b3_indicators"}
    return row | {"ingested_at": STORED, "load_id": 2} | more


def volatility(tenor: str, delta: int, value: float, **more: Any) -> dict[str, Any]:
    row = {"ts": datetime(2025, 10, 10, 22), "contract_month": tenor, "delta_bucket": f"delta_{delta}"}
    row |= {"volatility": value, "updated_at": date(2025, 10, 10), "feed": "b3_vol_xlsx"}
    return row | {"ingested_at": STORED, "load_id": 3} | more


INPUTS = Inputs(
    (
        settlement("DI1", 99121.69, 99164.79),
        settlement("DDI", 102356.24, None),
        settlement("DOL", 5528.504, 5530.704),
    ),
    (
        indicator("taxa_selic", 14.9),
        indicator("taxa_sofr", 4.1365, ts=datetime(2025, 10, 9, 23)),
        indicator("dolar_cupom_limpo", 5.5021),
        indicator("dif_oper_casada", 26.4),
    ),
    (volatility("dez-25", 25, 14.97), volatility("nov-25", 1, 21.4), volatility("nov-25", 25, 14.82)),
)


def records(composed: Composed, table: str) -> list[dict]:
    chunks = list(parse_capture(io.BytesIO(composed.data()), TABLES[table]))
    assert not any(chunk.rejects for chunk in chunks)
    return [row for chunk in chunks for row in chunk.records.to_pylist()]


def test_a_composed_capture_has_the_shape_of_the_legacy_one_and_each_block_its_own_date() -> None:
    composed = compose(NOW, INPUTS)
    assert composed is not None
    assert json.loads(composed.data()) == {
        "timestamp": "2025-10-13T09:00:32",
        "data_coleta": "13-10-2025",
        "hora_coleta": "09:00:32",
        "status": "sucesso",
        "fonte": "B3",
        "DI1": {
            "vencimento": "X25",
            "preco": "99.121,69",
            "preco_numerico": 99121.69,
            "preco_anterior": "99.164,79",
            "preco_anterior_numerico": 99164.79,
            "data_ajuste": "10/10/2025",
        },
        "DDI": {
            "vencimento": "X25",
            "preco": "102.356,24",
            "preco_numerico": 102356.24,
            "data_ajuste": "10/10/2025",
        },
        "DOL": {
            "vencimento": "X25",
            "preco": "5.528,504",
            "preco_numerico": 5528.504,
            "preco_anterior": "5.530,704",
            "preco_anterior_numerico": 5530.704,
            "data_ajuste": "10/10/2025",
        },
        "indicadores_financeiros": {
            "TAXA SELIC - (a.a.)": {"valor": "14,90", "data_atualizacao": "10/10/2025"},
            "TAXA SOFR": {"valor": "4,1365", "data_atualizacao": "09/10/2025"},
            "DÓLAR CUPOM LIMPO": {"valor": "5,5021", "data_atualizacao": "10/10/2025"},
            "DIF OPER CASADA - COMPRA": {"valor": "26,40", "data_atualizacao": "10/10/2025"},
        },
        "superficie_volatilidade": [
            {"mes": "nov-25", "delta_1": 21.4, "delta_25": 14.82, "data_atualizacao": "10/10/2025"},
            {"mes": "dez-25", "delta_25": 14.97, "data_atualizacao": "10/10/2025"},
        ],
    }


def test_its_members_stand_in_the_order_of_the_legacy_capture(shared: Path) -> None:
    legacy = json.loads((shared / "data" / "legacy" / "clean" / "ultimo_dado.json").read_text("utf-8"))
    composed = compose(NOW, INPUTS)
    assert composed is not None
    assert list(composed.document) == list(legacy)
    assert list(composed.document["indicadores_financeiros"]) == list(legacy["indicadores_financeiros"])
    assert [*composed.document["DI1"]] == [*legacy["DI1"], "data_ajuste"]


def test_our_own_parser_reads_it_and_no_value_is_lost() -> None:
    composed = compose(NOW, INPUTS)
    assert composed is not None
    prices = {row["instrument"]: row for row in records(composed, "b3_snapshots")}
    assert {name: row["price_settlement"] for name, row in prices.items()} == {
        row["instrument"]: row["price_settlement"] for row in INPUTS.adjustments
    }
    assert prices["DI1"]["ts"] == composed.ts == datetime(2025, 10, 13, 12, 0, 32)
    assert prices["DDI"]["price_settlement_prev"] is None
    values = [row["value"] for row in records(composed, "b3_indicators")]
    assert values == [row["value"] for row in INPUTS.indicators]
    assert len(records(composed, "b3_vol_surface")) == 3
    assert len(records(composed, "b3_captures")) == 1


def test_without_a_price_it_is_a_failed_capture_with_whatever_there_is() -> None:
    composed = compose(NOW, Inputs(indicators=INPUTS.indicators))
    assert composed is not None
    assert composed.document["status"] == "falha"
    assert "DI1" not in composed.document
    assert len(records(composed, "b3_indicators")) == 4


def test_of_nothing_nothing_is_composed() -> None:
    assert compose(NOW, Inputs()) is None


def test_it_says_which_feed_each_block_is_from() -> None:
    composed = compose(NOW, Inputs(INPUTS.adjustments[:1], INPUTS.indicators[:1], INPUTS.surface))
    assert composed is not None
    assert composed.feeds == {
        "DI1": "b3_sprd",
        "TAXA SELIC - (a.a.)": "b3_indicators",
        "superficie_volatilidade": "b3_vol_xlsx",
    }


def local(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2025, 10, day, 3, minute, tzinfo=UTC) + timedelta(hours=hour)


@pytest.mark.parametrize(
    ("now", "last", "newest", "due"),
    [
        (local(13, 8, 59), local(10, 20), local(10, 19), False),
        (local(13, 9), local(10, 20), local(10, 19), True),
        (local(13, 14), local(10, 20), local(10, 19), True),
        (local(13, 9, 1), local(13, 9), local(10, 19), False),
        (local(12, 9), local(10, 20), local(10, 19), False),
        (local(12, 9), local(10, 20), local(10, 21), True),
        (local(13, 20), local(13, 9), local(13, 19), True),
        (local(13, 20), local(13, 19), local(13, 19), False),
        (local(13, 8), None, local(10, 19), True),
        (local(13, 9), None, None, False),
        (local(13, 9), local(10, 20), None, False),
    ],
)
def test_one_is_due_at_nine_on_sessions_and_when_something_newer_was_stored(
    now: datetime, last: datetime | None, newest: datetime | None, due: bool
) -> None:
    assert when_due(now, last, newest) is due
    naive = [moment and moment.replace(tzinfo=None) for moment in (last, newest)]
    assert when_due(now.replace(tzinfo=None), *naive) is due


# What is read


def store(db: QuestDB, table: str, *rows: Mapping[str, Any]) -> None:
    schema = TABLES[table].arrow_schema()
    empty: dict[str, Any] = dict.fromkeys(schema.names)
    db.send(table, pa.Table.from_pylist([{**empty, **row} for row in rows], schema=schema))
    db.wait_applied(table)


def test_what_is_stored_is_read_as_it_is(db: QuestDB) -> None:
    store(db, "b3_adjustments", *INPUTS.adjustments)
    store(db, "b3_indicators_daily", *INPUTS.indicators)
    store(db, "b3_vol_surface", *INPUTS.surface)
    found = read_inputs(db, NOW)
    assert found.newest == STORED
    composed, wanted = compose(NOW, found), compose(NOW, INPUTS)
    assert composed is not None
    assert wanted is not None
    assert composed == wanted


def test_the_live_value_of_a_session_goes_before_the_legacy_row_of_the_next_morning(db: QuestDB) -> None:
    morning = datetime(2025, 10, 13, 11, 30)
    store(
        db,
        "b3_adjustments",
        settlement("DI1", 1.5e4, None),
        settlement("DI1", 2.5e4, None, ts=morning, feed="legacy_csv"),
        settlement("DDI", 3.5e4, None, ts=morning, feed="legacy_csv"),
    )
    store(
        db,
        "b3_indicators_daily",
        indicator("taxa_selic", 14.9),
        indicator("taxa_selic", 15.0, ts=morning, feed="legacy_csv"),
        indicator("taxa_sofr", 4.0, ts=morning, feed="legacy_csv"),
    )
    store(
        db,
        "b3_vol_surface",
        volatility("nov-25", 1, 20.0),
        volatility("nov-25", 1, 30.0, ts=morning, feed="legacy_csv", updated_at=date(2025, 10, 13)),
        volatility("nov-25", 1, 40.0, ts=morning, feed="legacy_capture", updated_at=date(2025, 10, 13)),
    )
    found = read_inputs(db, NOW)
    assert {row["instrument"]: row["price_settlement"] for row in found.adjustments} == {"DI1": 1.5e4, "DDI": 3.5e4}
    assert [row["value"] for row in found.indicators] == [14.9, 4.0]
    assert [row["volatility"] for row in found.surface] == [20.0]
    composed = compose(NOW, found)
    assert composed is not None
    assert composed.document["indicadores_financeiros"]["TAXA SOFR"]["data_atualizacao"] == "10/10/2025"


def test_what_the_legacy_capture_or_we_ourselves_composed_is_no_input(db: QuestDB) -> None:
    store(db, "b3_vol_surface", volatility("nov-25", 1, 20.0, feed="legacy_capture"))
    store(db, "b3_adjustments", settlement("DI1", 1.5e4, None, feed="composed"))
    assert read_inputs(db, NOW) == Inputs()


def test_other_contracts_older_values_and_what_is_to_come_are_no_input(db: QuestDB) -> None:
    old, later = FRIDAY_EVENING - timedelta(days=60), FRIDAY_EVENING + timedelta(days=3)
    store(
        db,
        "b3_adjustments",
        settlement("DI1", 1.5e4, None, contract_month="Z25"),
        settlement("DDI", 1.5e4, None, ts=old),
        settlement("DOL", 5.5e3, None, ts=later),
        settlement("WIN", 1.5e5, None),
    )
    store(db, "b3_indicators_daily", indicator("taxa_cdi_cetip", 14.9))
    assert read_inputs(db, NOW) == Inputs()


def test_a_surface_is_one_whole_of_one_moment(db: QuestDB) -> None:
    older = datetime(2025, 10, 9, 22)
    store(
        db,
        "b3_vol_surface",
        volatility("nov-25", 1, 20.0),
        volatility("dez-25", 1, 30.0, ts=older, updated_at=date(2025, 10, 9)),
    )
    assert [row["contract_month"] for row in read_inputs(db, NOW).surface] == ["nov-25"]


def test_of_the_recorded_folder_and_report_a_capture_is_composed_that_loads_as_one(
    db: QuestDB, shared: Path, tmp_path: Path
) -> None:
    loader = Loader(db, tmp_path, lambda: NOW)
    found = [p for f in survey(shared / "data" / "legacy" / "clean") if (p := f.loadable)]
    found.append(payload(shared / "data" / "b3" / "SPRD260112.zip", REPORT))
    for each in found:
        for name in each.kind.tables:
            load_all(loader, [each], TABLES[name])
    composed = compose(NOW, read_inputs(db, NOW))
    assert composed is not None
    assert composed.document["status"] == "sucesso"
    assert set(composed.feeds.values()) == {"legacy_csv"}
    evening = datetime(2026, 1, 12, 23, tzinfo=UTC)
    later = compose(evening, read_inputs(db, evening))
    assert later is not None
    assert {later.document[name]["data_ajuste"] for name in ("DI1", "DDI", "DOL")} == {"12/01/2026"}
    assert later.document["DI1"]["preco_numerico"] == 99176.82
    file = tmp_path / "composed.json"
    file.write_bytes(composed.data())
    [report] = load_all(loader, [payload(file, CAPTURE)], TABLES["b3_snapshots"])
    assert report.counted.counts == {"candidates": 3, "loaded": 3, "rejected": 0, "duplicate": 0, "absent": 0}

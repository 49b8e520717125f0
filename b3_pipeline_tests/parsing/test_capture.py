from __future__ import annotations

import copy
import hashlib
import io
import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.capture import (
    CAPTURE_TABLES,
    DELTAS,
    INSTRUMENTS,
    capture_moment,
    parse_capture,
)
from b3_pipeline.parsing.months import to_code, to_tenor
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, Reject, record_schema
from b3_pipeline.tables import PRICE_BOUNDS, TABLES, VOLATILITY, indicator_slug

TS = datetime.fromisoformat("2025-10-13T12:00:32")
DAY = date(2025, 10, 13)
CAPTURE: dict[str, Any] = {
    "timestamp": "2025-10-13T09:00:32",
    "data_coleta": "13-10-2025",
    "hora_coleta": "09:00:32",
    "status": "sucesso",
    "fonte": "B3",
    "DI1": {"vencimento": "X25", "preco": "?", "preco_numerico": 99121.69, "preco_anterior_numerico": "99.164,79"},
    "DDI": {"vencimento": "X25", "preco_numerico": 102356.24, "preco_anterior_numerico": None},
    "DOL": {"vencimento": "X25", "preco_numerico": "5.528,504", "preco_anterior_numerico": 5530.704},
    "indicadores_financeiros": {
        "TAXA SELIC - (a.a.)": {"valor": "14,90", "data_atualizacao": "13/10/2025"},
        "DIF OPER CASADA - COMPRA": {"valor": 26.40},
    },
    "superficie_volatilidade": [
        {"mes": "nov-25", **dict.fromkeys(DELTAS, 12.5), "data_atualizacao": "13/10/2025"},
    ],
}
ENTRIES = {"b3_snapshots": 3, "b3_indicators": 2, "b3_vol_surface": 11, "b3_captures": 1}


def parsed(document: object, table: str) -> Chunk:
    data = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    (chunk,) = parse_capture(io.BytesIO(data), TABLES[table])
    assert chunk.records.schema == record_schema(TABLES[table])
    return chunk


def changed(**members: object) -> dict[str, Any]:
    return {**copy.deepcopy(CAPTURE), **members}


def without(*members: str) -> dict[str, Any]:
    return {name: value for name, value in CAPTURE.items() if name not in members}


def with_price(instrument: str, **cells: object) -> dict[str, Any]:
    return changed(**{instrument: {**CAPTURE[instrument], **cells}})


def with_tenor(**cells: object) -> dict[str, Any]:
    return changed(superficie_volatilidade=[{**CAPTURE["superficie_volatilidade"][0], **cells}])


def origin_free(chunk: Chunk) -> list[dict[str, Any]]:
    return chunk.records.drop_columns([LINE, COLUMN, TEXT]).to_pylist()


def the_reject(chunk: Chunk) -> Reject:
    (reject,) = chunk.rejects
    return reject


@pytest.mark.parametrize("folder", ["clean", "dirty"])
def test_the_recorded_captures_give_the_records_that_are_expected_of_them(shared: Path, folder: str) -> None:
    files = sorted((shared / "data" / "legacy" / folder).rglob("ultimo_dado*.json"))
    expected = json.loads((shared / "data" / "legacy" / folder / "EXPECTED.json").read_text())["tables"]
    for table, entries in {"b3_snapshots": 3, "b3_indicators": 4, "b3_vol_surface": 22, "b3_captures": 1}.items():
        chunks, cut = [], 0
        for file in files:
            try:
                chunks.append(parsed(file.read_bytes(), table))
            except FileRejected:
                cut += 1
        assert [(chunk.records.num_rows, chunk.candidates) for chunk in chunks] == [(entries, entries)] * len(chunks)
        assert cut == {"clean": 0, "dirty": 1}[folder]
        if table in ("b3_snapshots", "b3_indicators"):
            assert sum(chunk.candidates for chunk in chunks) == expected[table]["candidates"]


def test_a_price_block_is_a_snapshot() -> None:
    chunk = parsed(CAPTURE, "b3_snapshots")
    common = {"ts": TS, "coleta_data": DAY, "coleta_hora": "09:00:32", "contract_month": "X25"}
    common |= {"status": "sucesso", "source": "B3"}
    assert origin_free(chunk) == [
        common | {"instrument": "DI1", "price_settlement": 99121.69, "price_settlement_prev": 99164.79},
        common | {"instrument": "DDI", "price_settlement": 102356.24, "price_settlement_prev": None},
        common | {"instrument": "DOL", "price_settlement": 5528.504, "price_settlement_prev": 5530.704},
    ]


def test_an_indicator_keeps_its_label_and_its_text() -> None:
    assert origin_free(parsed(CAPTURE, "b3_indicators")) == [
        {"ts": TS, "name": "TAXA SELIC - (a.a.)", "value": 14.9, "display_value": "14,90", "updated_at": DAY},
        {"ts": TS, "name": "DIF OPER CASADA - COMPRA", "value": 26.4, "display_value": "26.4", "updated_at": None},
    ]


def test_a_tenor_is_eleven_volatilities() -> None:
    assert origin_free(parsed(CAPTURE, "b3_vol_surface")) == [
        {"ts": TS, "contract_month": "nov-25", "delta_bucket": delta, "volatility": 12.5, "updated_at": DAY}
        for delta in DELTAS
    ]


def test_a_record_says_where_it_came_from() -> None:
    data = json.dumps(CAPTURE, indent=1).encode()
    snapshot = parsed(data, "b3_snapshots").records.to_pylist()[0]
    volatility = parsed(data, "b3_vol_surface").records.to_pylist()[10]
    assert (snapshot[LINE], snapshot[COLUMN]) == (None, "/DI1/preco_numerico")
    assert snapshot[TEXT] in data.decode()
    assert json.loads(snapshot[TEXT]) == CAPTURE["DI1"]
    assert volatility[COLUMN] == "/superficie_volatilidade/0/delta_99"
    assert json.loads(volatility[TEXT]) == CAPTURE["superficie_volatilidade"][0]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_document_itself_is_kept_as_received(mark: bytes) -> None:
    text = json.dumps(CAPTURE, indent=3, ensure_ascii=False)
    data = mark + text.encode()
    (row,) = origin_free(parsed(data, "b3_captures"))
    assert row == {
        "ts": TS,
        "endpoint": "ultimo-dado",
        "payload": text,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_a_latin_1_capture_is_kept_as_text() -> None:
    data = json.dumps(changed(fonte="Açúcar"), ensure_ascii=False).encode("latin-1")
    assert parsed(data, "b3_snapshots").records["source"][0].as_py() == "Açúcar"
    assert "Açúcar" in parsed(data, "b3_captures").records["payload"][0].as_py()


def test_a_failed_capture_is_kept_with_whatever_it_has() -> None:
    failed = {"timestamp": CAPTURE["timestamp"], "status": "falha", "DOL": CAPTURE["DOL"]}
    counts = {table: parsed(failed, table).candidates for table in CAPTURE_TABLES}
    assert counts == {"b3_snapshots": 1, "b3_indicators": 0, "b3_vol_surface": 0, "b3_captures": 1}
    snapshot = origin_free(parsed(failed, "b3_snapshots"))[0]
    assert (snapshot["status"], snapshot["source"], snapshot["coleta_data"]) == ("falha", None, None)


@pytest.mark.parametrize("value", [None, "missing"])
@pytest.mark.parametrize(
    ("block", "table", "left"),
    [
        ("DDI", "b3_snapshots", 2),
        ("indicadores_financeiros", "b3_indicators", 0),
        ("superficie_volatilidade", "b3_vol_surface", 0),
    ],
)
def test_a_missing_block_has_no_candidates(value: str | None, block: str, table: str, left: int) -> None:
    document = without(block) if value else changed(**{block: None})
    assert parsed(document, table).candidates == left


@pytest.mark.parametrize(
    ("block", "value", "table"),
    [
        ("DDI", 102356.24, "b3_snapshots"),
        ("DDI", [], "b3_snapshots"),
        ("indicadores_financeiros", [{}], "b3_indicators"),
        ("superficie_volatilidade", {"mes": "nov-25"}, "b3_vol_surface"),
        ("superficie_volatilidade", "n.d.", "b3_vol_surface"),
    ],
)
def test_a_block_of_another_type_is_rejected_as_one_record(block: str, value: object, table: str) -> None:
    reject = the_reject(parsed(changed(**{block: value}), table))
    assert (reject.line, reject.column, reject.reason) == (None, f"/{block}", Reason.BAD_TEXT)
    assert reject.text == (value if isinstance(value, str) else json.dumps(value))


def test_an_entry_that_is_no_object_is_one_record_absent_when_null() -> None:
    indicators = parsed(changed(indicadores_financeiros={"TAXA SOFR": None, "a/b": "4,13"}), "b3_indicators")
    surface = parsed(changed(superficie_volatilidade=[None, 5, {}]), "b3_vol_surface")
    assert (indicators.absent, the_reject(indicators).column) == (1, "/indicadores_financeiros/a~1b")
    assert (surface.absent, the_reject(surface).column) == (12, "/superficie_volatilidade/1")
    assert {the_reject(indicators).reason, the_reject(surface).reason} == {Reason.BAD_TEXT}


@pytest.mark.parametrize("absent", [None, "", "-", "N/A", "null", " "])
def test_a_record_without_its_value_is_absent_whatever_else_is_there(absent: str | None) -> None:
    snapshots = parsed(with_price("DI1", preco_numerico=absent, vencimento="??"), "b3_snapshots")
    indicators = parsed(
        changed(indicadores_financeiros={"TAXA SOFR": {"valor": absent, "data_atualizacao": "?"}}), "b3_indicators"
    )
    surface = parsed(with_tenor(delta_25=absent), "b3_vol_surface")
    assert [(c.absent, len(c.rejects)) for c in (snapshots, indicators, surface)] == [(1, 0)] * 3


def test_a_delta_that_is_missing_is_absent() -> None:
    chunk = parsed(changed(superficie_volatilidade=[{"mes": "nov-25", "delta_50": 12.0}]), "b3_vol_surface")
    assert (chunk.records.num_rows, chunk.absent) == (1, 10)


@pytest.mark.parametrize(
    ("cells", "column", "reason", "value"),
    [
        ({"vencimento": None}, "vencimento", Reason.MISSING_CONTRACT, None),
        ({"vencimento": "nov-25"}, "vencimento", Reason.BAD_CONTRACT, "nov-25"),
        ({"preco_numerico": True}, "preco_numerico", Reason.BAD_NUMBER, "true"),
        ({"preco_numerico": "n.d."}, "preco_numerico", Reason.BAD_NUMBER, "n.d."),
        ({"preco_numerico": float("nan")}, "preco_numerico", Reason.BAD_NUMBER, "NaN"),
        ({"preco_numerico": 10**1000}, "preco_numerico", Reason.OUT_OF_BOUNDS, str(10**1000)),
        ({"preco_numerico": 5528.504}, "preco_numerico", Reason.OUT_OF_BOUNDS, "5528.504"),
        ({"preco_anterior_numerico": "abc"}, "preco_anterior_numerico", Reason.BAD_NUMBER, "abc"),
        ({"preco_anterior_numerico": 0}, "preco_anterior_numerico", Reason.OUT_OF_BOUNDS, "0"),
    ],
)
def test_a_wrong_cell_rejects_its_snapshot_alone(
    cells: dict[str, object], column: str, reason: Reason, value: str | None
) -> None:
    document = with_price("DDI", **cells)
    chunk = parsed(document, "b3_snapshots")
    assert the_reject(chunk) == Reject(None, f"/DDI/{column}", json.dumps(document["DDI"]), reason, value)
    assert chunk.records["instrument"].to_pylist() == ["DI1", "DOL"]


@pytest.mark.parametrize(
    ("label", "valor", "reason"),
    [
        ("TAXA SELIC - (a.a.)", "149,0", Reason.OUT_OF_BOUNDS),
        ("DÓLAR CUPOM LIMPO", 0.4, Reason.OUT_OF_BOUNDS),
        ("DIF OPER CASADA - COMPRA", -1000.5, Reason.OUT_OF_BOUNDS),
        ("IBOVESPA", 1e300, None),
        ("IBOVESPA", "1.2.3", Reason.BAD_NUMBER),
        ("", 1, Reason.BAD_TEXT),
        ("TAXA\tSOFR", 1, Reason.BAD_TEXT),
    ],
)
def test_an_indicator_is_bounded_by_what_its_label_means(label: str, valor: object, reason: Reason | None) -> None:
    chunk = parsed(changed(indicadores_financeiros={label: {"valor": valor}}), "b3_indicators")
    assert [reject.reason for reject in chunk.rejects] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("TAXA SELIC - (a.a.)", "taxa_selic"),
        ("TAXA SOFR", "taxa_sofr"),
        ("TAXA CDI CETIP", "taxa_cdi_cetip"),
        ("DÓLAR CUPOM LIMPO", "dolar_cupom_limpo"),
        ("DIF OPER CASADA - COMPRA", "dif_oper_casada"),
    ],
)
def test_a_label_has_a_short_name(label: str, slug: str) -> None:
    assert indicator_slug(label) == slug


def test_a_wrong_date_of_update_rejects_its_records() -> None:
    surface = parsed(with_tenor(data_atualizacao="2025-10-13"), "b3_vol_surface")
    indicators = parsed(
        changed(indicadores_financeiros={"A": {"valor": 1, "data_atualizacao": "31/02/2025"}}), "b3_indicators"
    )
    assert [(r.reason, r.column) for r in surface.rejects] == [
        (Reason.BAD_DATE, "/superficie_volatilidade/0/data_atualizacao")
    ] * 11
    assert the_reject(indicators).column == "/indicadores_financeiros/A/data_atualizacao"


@pytest.mark.parametrize(
    ("mes", "reason"),
    [(None, Reason.MISSING_CONTRACT), ("X25", Reason.BAD_CONTRACT), ("nov-2025", Reason.BAD_CONTRACT)],
)
def test_a_tenor_without_a_right_month_rejects_what_it_has(mes: str | None, reason: Reason) -> None:
    chunk = parsed(with_tenor(mes=mes, delta_1=None), "b3_vol_surface")
    assert [reject.reason for reject in chunk.rejects] == [reason] * 10
    assert chunk.absent == 1


@pytest.mark.parametrize("volatility", [0, -1.0, 500, "n.d.", [12.5]])
def test_a_wrong_volatility_rejects_itself_alone(volatility: object) -> None:
    chunk = parsed(with_tenor(delta_37=volatility), "b3_vol_surface")
    assert the_reject(chunk).column == "/superficie_volatilidade/0/delta_37"
    assert chunk.records.num_rows == 10


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [
        (None, Reason.BAD_DATE),
        ("2025-02-30T09:00:32", Reason.BAD_DATE),
        ("2025-10-13T09:61:32", Reason.BAD_TIME),
        ("2018-11-04T00:30:00", Reason.NONEXISTENT_TIME),
    ],
)
@pytest.mark.parametrize("table", CAPTURE_TABLES)
def test_a_wrong_timestamp_rejects_every_record(table: str, timestamp: str | None, reason: Reason) -> None:
    document = changed(timestamp=timestamp, DDI={})
    chunk = parsed(document, table)
    assert {(r.column, r.reason, r.value) for r in chunk.rejects} == {("/timestamp", reason, timestamp)}
    assert len(chunk.rejects) == chunk.candidates == ENTRIES[table]
    assert capture_moment(json.dumps(document).encode()) is None


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"data_coleta": "2025-10-13"}, Reason.BAD_DATE),
        ({"hora_coleta": "9h"}, Reason.BAD_TIME),
        ({"status": 1}, Reason.BAD_TEXT),
        ({"fonte": ["B3"]}, Reason.BAD_TEXT),
    ],
)
def test_a_wrong_head_rejects_the_snapshots_and_nothing_else(cells: dict[str, object], reason: Reason) -> None:
    document = changed(**cells)
    snapshots = parsed(document, "b3_snapshots")
    assert {(r.column, r.reason) for r in snapshots.rejects} == {(f"/{next(iter(cells))}", reason)}
    assert snapshots.records.num_rows == 0
    for table in ("b3_indicators", "b3_vol_surface", "b3_captures"):
        assert parsed(document, table).records.num_rows == ENTRIES[table]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([CAPTURE], "no JSON object"),
        ("sucesso", "no JSON object"),
        (without("timestamp"), "no /timestamp"),
        ({}, "no /timestamp"),
        ({"gammalevels": {"timestamp": "2025-10-13T09:05:12"}}, "gamma.json"),
    ],
)
@pytest.mark.parametrize("table", CAPTURE_TABLES)
def test_what_is_no_capture_is_rejected_whole(document: object, said: str, table: str) -> None:
    with pytest.raises(FileRejected, match=said):
        parsed(document, table)
    assert capture_moment(json.dumps(document).encode()) is None


def test_a_capture_says_when_it_was_taken() -> None:
    assert capture_moment(json.dumps(CAPTURE).encode()) == TS
    assert capture_moment(b"{") is None


CELLS = st.sampled_from(
    [None, True, "", "-", "n.d.", "X25", "nov-25", "13/10/2025", "5.528,504", 12, 99000.5, -1, 1e308, [], {}, "\x00"]
)
BLOCKS = CELLS | st.dictionaries(st.sampled_from(["vencimento", "preco_numerico", "preco_anterior_numerico"]), CELLS)
LABELS = st.sampled_from(["TAXA SOFR", "TAXA SELIC - (a.a.)", "", "~/", "\n"])
TENORS = CELLS | st.dictionaries(st.sampled_from(["mes", "data_atualizacao", *DELTAS]), CELLS)
DOCUMENTS = st.fixed_dictionaries(
    {"timestamp": st.sampled_from([CAPTURE["timestamp"]] * 3 + ["?", None, 5])},
    optional={
        "data_coleta": CELLS | st.just("13-10-2025"),
        "hora_coleta": CELLS | st.just("09:00:32"),
        "status": CELLS,
        "fonte": CELLS,
        **dict.fromkeys(INSTRUMENTS, BLOCKS),
        "indicadores_financeiros": CELLS
        | st.dictionaries(
            LABELS, CELLS | st.dictionaries(st.sampled_from(["valor", "data_atualizacao"]), CELLS), max_size=4
        ),
        "superficie_volatilidade": CELLS | st.lists(TENORS, max_size=3),
    },
)


def counted(document: dict[str, Any], table: str) -> int:
    """How many candidates a document has, by the rules alone."""
    if table == "b3_captures":
        return 1
    if table == "b3_snapshots":
        return sum(document.get(instrument) is not None for instrument in INSTRUMENTS)
    name, kind = {
        "b3_indicators": ("indicadores_financeiros", dict),
        "b3_vol_surface": ("superficie_volatilidade", list),
    }[table]
    block: Any = document.get(name)
    if not isinstance(block, kind):
        return int(block is not None)
    return sum(11 if table == "b3_vol_surface" and isinstance(entry, dict) else 1 for entry in block)


@given(DOCUMENTS, st.sampled_from(sorted(CAPTURE_TABLES)))
def test_every_candidate_of_any_capture_is_accounted_for(document: dict[str, Any], table: str) -> None:
    chunk = parsed(document, table)
    assert chunk.records.num_rows + len(chunk.rejects) + chunk.absent == counted(document, table)
    assert all(reject.column and reject.line is None for reject in chunk.rejects)


@given(
    st.binary(max_size=40)
    | st.recursive(
        CELLS, lambda inner: st.dictionaries(st.sampled_from(["timestamp", "DI1", "gammalevels"]), inner)
    ).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(sorted(CAPTURE_TABLES)),
)
def test_any_bytes_are_parsed_or_rejected(data: bytes, table: str) -> None:
    try:
        chunk = parsed(data, table)
    except FileRejected:
        return
    assert isinstance(json.loads(data), dict)
    assert chunk.candidates >= int(table == "b3_captures")


def in_some_notation(value: float, notation: str) -> object:
    if notation == "number":
        return value
    text = f"{value:,.3f}"
    return text if notation == "english" else text.translate(str.maketrans(",.", ".,"))


@st.composite
def prices(draw: st.DrawFn, instrument: str) -> tuple[float, object]:
    bounds = PRICE_BOUNDS[instrument]
    value = draw(st.integers(int(bounds.low) * 1000, int(bounds.high) * 1000)) / 1000
    return value, in_some_notation(value, draw(st.sampled_from(["number", "english", "brazilian"])))


@given(st.fixed_dictionaries({instrument: prices(instrument) for instrument in INSTRUMENTS}), st.data())
def test_a_valid_price_is_read_exactly_in_any_notation(
    given_prices: dict[str, tuple[float, object]], data: st.DataObject
) -> None:
    month = to_code(data.draw(st.integers(2000, 2099)), data.draw(st.integers(1, 12)))
    blocks = {name: {"vencimento": month, "preco_numerico": cell} for name, (_, cell) in given_prices.items()}
    records = parsed(changed(**blocks), "b3_snapshots").records
    assert records["price_settlement"].to_pylist() == [given_prices[instrument][0] for instrument in INSTRUMENTS]
    assert set(records["contract_month"].to_pylist()) == {month}


@given(
    st.lists(st.floats(VOLATILITY.low, VOLATILITY.high, exclude_min=True, exclude_max=True), min_size=11, max_size=11),
    st.builds(to_tenor, st.integers(2000, 2099), st.integers(1, 12)),
    st.permutations(range(11)),
)
def test_a_valid_tenor_is_read_exactly_whatever_the_order_of_its_keys(
    values: list[float], month: str, order: list[int]
) -> None:
    tenor = {DELTAS[at]: values[at] for at in order} | {"mes": month}
    records = parsed(changed(superficie_volatilidade=[tenor]), "b3_vol_surface").records
    assert records["volatility"].to_pylist() == values
    assert records["delta_bucket"].to_pylist() == list(DELTAS)
    assert set(records["contract_month"].to_pylist()) == {month}

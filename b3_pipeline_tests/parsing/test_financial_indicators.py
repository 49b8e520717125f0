from __future__ import annotations

import io
import json
from datetime import date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.financial_indicators import indicator_name, parse_financial_indicators
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, record_schema
from b3_pipeline.sessions import to_local
from b3_pipeline.tables import TABLES

TABLE = TABLES["b3_indicators_daily"]


def indicator(description: object, value: object = "", rate: object = "", updated: object = "02/05/2025") -> dict:
    return {
        "securityIdentificationCode": 10014464,
        "description": description,
        "groupDescription": "TAXAS DE CÂMBIO",
        "value": value,
        "rate": rate,
        "lastUpdate": updated,
    }


#: As recorded on 2025-05-02 (FORMATS §4).
RECORDED = [
    indicator("DIF OPER CASADA - COMPRA", rate="38,06"),
    indicator("DÓLAR CUPOM LIMPO", value="5,6530"),
    indicator("TAXA SOFR", rate="4,39"),
    indicator("TAXA SELIC", rate="14,15"),
    indicator("TAXA CDI CETIP", rate="14,15"),
]


def parsed(document: object) -> Chunk:
    data = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    (chunk,) = parse_financial_indicators(io.BytesIO(data), TABLE)
    assert chunk.records.schema == record_schema(TABLE)
    return chunk


def test_the_recorded_indicators_are_read_by_their_short_names() -> None:
    chunk = parsed(RECORDED)
    assert {row["indicator"]: row["value"] for row in chunk.records.to_pylist()} == {
        "dif_oper_casada": 38.06,
        "dolar_cupom_limpo": 5.653,
        "taxa_sofr": 4.39,
        "taxa_selic": 14.15,
        "taxa_cdi_cetip": 14.15,
    }
    assert (chunk.rejects, chunk.absent) == ([], 0)


def test_an_indicator_is_of_the_evening_of_its_last_change() -> None:
    (row,) = parsed([RECORDED[0]]).records.to_pylist()
    assert to_local(row["ts"]) == datetime(2025, 5, 2, 20)
    assert (row[LINE], row[COLUMN], json.loads(row[TEXT])) == (None, "/0/rate", RECORDED[0])


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("DIF OPER CASADA - COMPRA", "dif_oper_casada"),
        ("DIF OPER CASADA - VENDA", "dif_oper_casada_venda"),
        ("TAXA SELIC - (a.a.)", "taxa_selic"),
        ("DÓLAR BMF SPOT - 2 DIAS", "dolar_bmf_spot_2_dias"),
        ("DÓLAR BMF SPOT - 1 DIA", "dolar_bmf_spot_1_dia"),
        ("IGP-M (índice)", "igp_m_indice"),
        ("美元", ""),
    ],
)
def test_two_indicators_never_share_a_name(description: str, name: str) -> None:
    assert indicator_name(description) == name


def test_an_indicator_without_a_number_is_absent() -> None:
    chunk = parsed([indicator("TAXA SELIC"), indicator("TAXA SOFR", None, "-"), {"lastUpdate": "02/05/2025"}, None])
    assert (chunk.records.num_rows, chunk.rejects, chunk.absent) == (0, [], 4)


@pytest.mark.parametrize(
    ("wrong", "column", "reason"),
    [
        (indicator("TAXA SELIC", rate="14,15", updated=None), "/0/lastUpdate", Reason.BAD_DATE),
        (indicator("TAXA SELIC", rate="14,15", updated=""), "/0/lastUpdate", Reason.BAD_DATE),
        (indicator("TAXA SELIC", rate="14,15", updated="2025-05-02"), "/0/lastUpdate", Reason.BAD_DATE),
        (indicator("TAXA SELIC", rate="14,15", updated="31/02/2025"), "/0/lastUpdate", Reason.BAD_DATE),
        (indicator(None, rate="14,15"), "/0/description", Reason.BAD_TEXT),
        (indicator(" ", rate="14,15"), "/0/description", Reason.BAD_TEXT),
        (indicator(7, rate="14,15"), "/0/description", Reason.BAD_TEXT),
        (indicator("TAXA SELIC", rate="n.d."), "/0/rate", Reason.BAD_NUMBER),
        (indicator("TAXA SELIC", value=True), "/0/value", Reason.BAD_NUMBER),
        (indicator("TAXA SELIC", rate="140,15"), "/0/rate", Reason.OUT_OF_BOUNDS),
        (indicator("DÓLAR CUPOM LIMPO", value="56.530"), "/0/value", Reason.OUT_OF_BOUNDS),
        (indicator("TAXA SELIC", value="14,15", rate="14,15"), "/0/rate", Reason.FIELD_COUNT),
        ("TAXA SELIC", "/0", Reason.BAD_TEXT),
    ],
)
def test_a_wrong_indicator_is_rejected_alone(wrong: object, column: str, reason: Reason) -> None:
    chunk = parsed([wrong, *RECORDED])
    assert chunk.records.num_rows == len(RECORDED)
    assert [(r.column, r.reason) for r in chunk.rejects] == [(column, reason)]


@pytest.mark.parametrize("document", [{}, {"data": []}, "x", None, b"", b"<html></html>", b'[{"description": "TAXA'])
def test_what_is_no_list_is_rejected_whole(document: object) -> None:
    with pytest.raises(FileRejected):
        parsed(document)


CELLS: Any = st.sampled_from([None, True, "", "-", "n.d.", "14,15", "4.39", 5.65, 1e300, [], {}, "\x00", "TAXA SELIC"])
MEMBERS: Any = st.fixed_dictionaries(
    {},
    optional={
        "description": CELLS,
        "value": CELLS,
        "rate": CELLS,
        "lastUpdate": st.sampled_from(["02/05/2025", "", "x", None, 1, "29/02/2025"]),
    },
)


@given(st.lists(MEMBERS | CELLS))
def test_every_element_of_any_list_is_accounted_for(elements: list[Any]) -> None:
    assert parsed(elements).candidates == len(elements)


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_anything_is_read_or_rejected(data: bytes) -> None:
    try:
        parsed(data)
    except FileRejected:
        return


@given(st.dates(date(2010, 1, 1), date(2040, 12, 31)), st.decimals(-5, 100, places=4))
def test_a_valid_rate_is_read_exactly(day: date, rate: Any) -> None:
    (row,) = parsed(
        [indicator("TAXA SELIC", rate=f"{rate}".replace(".", ","), updated=f"{day:%d/%m/%Y}")]
    ).records.to_pylist()
    assert (row["value"], to_local(row["ts"]).date()) == (float(rate), day)

from __future__ import annotations

import hashlib
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.gamma import GAMMA_TABLES, WALLS, parse_gamma
from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, Reject, record_schema
from b3_pipeline.tables import TABLES

TS = datetime.fromisoformat("2025-10-13T12:05:12")
ES = {"call_wall": "6.700,00", "put_wall": 6500, "gamma_flip": "6.628,50"}
VIX = {"call_wall": "25.0", "put_wall": "N/A"}
HEAD = {"timestamp": "2025-10-13T09:05:12", "status": "sucesso"}


def parsed(document: object, table: str = "b3_gamma_levels") -> Chunk:
    data = document if isinstance(document, bytes) else json.dumps(document, ensure_ascii=False).encode()
    (chunk,) = parse_gamma(io.BytesIO(data), TABLES[table])
    assert chunk.records.schema == record_schema(TABLES[table])
    return chunk


def levels(**members: object) -> Chunk:
    return parsed({"gammalevels": {**HEAD, **members}})


@pytest.mark.parametrize(("folder", "instruments"), [("clean", ["ES_SP500", "VIX"]), ("dirty", ["VIX"])])
def test_the_recorded_levels_give_the_records_that_are_expected_of_them(
    shared: Path, folder: str, instruments: list[str]
) -> None:
    source = shared / "data" / "legacy" / folder
    expected = json.loads((source / "EXPECTED.json").read_text())["tables"]["b3_gamma_levels"]
    chunk = parsed((source / "gamma.json").read_bytes())
    assert chunk.records["instrument"].to_pylist() == instruments
    counts = (chunk.candidates, chunk.records.num_rows, len(chunk.rejects), chunk.absent)
    assert counts == tuple(expected[name] for name in ("candidates", "loaded", "rejected", "absent"))
    assert parsed((source / "gamma.json").read_bytes(), "b3_captures").records.num_rows == 1


def test_an_instrument_keeps_its_walls_and_its_object_verbatim() -> None:
    verbatim = '{ "call_wall" : "25.0",\n "put_wall":"N/A" , "nota": "\\u00e7"}'
    document = f'{{"gammalevels": {{"timestamp": "2025-10-13T09:05:12", "VIX": {verbatim}, "status": "sucesso"}}}}'
    (row,) = parsed(document.encode()).records.to_pylist()
    assert row == {
        "ts": TS,
        "instrument": "VIX",
        "call_wall": 25.0,
        "put_wall": None,
        "gamma_flip": None,
        "raw_payload": verbatim,
        "status": "sucesso",
        LINE: None,
        COLUMN: "/gammalevels/VIX",
        TEXT: verbatim,
    }


def test_the_document_itself_is_kept_as_received() -> None:
    data = json.dumps({"gammalevels": HEAD}, indent=2).encode()
    (row,) = parsed(data, "b3_captures").records.drop_columns([LINE, COLUMN, TEXT]).to_pylist()
    assert row == {
        "ts": TS,
        "endpoint": "gamma",
        "payload": data.decode(),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


@pytest.mark.parametrize("instrument", [{}, {"call_wall": None, "put_wall": "-", "gamma_flip": ""}, {"outro": 1}])
def test_an_instrument_without_any_wall_is_absent(instrument: dict[str, object]) -> None:
    chunk = levels(ES_SP500=ES, VIX=instrument)
    assert (chunk.records.num_rows, chunk.absent, chunk.rejects) == (1, 1, [])


@pytest.mark.parametrize(
    ("wall", "value", "reason"),
    [
        ("put_wall", "n.d.", Reason.BAD_NUMBER),
        ("gamma_flip", False, Reason.BAD_NUMBER),
        ("call_wall", "6.700", Reason.OUT_OF_BOUNDS),
        ("put_wall", -6500, Reason.OUT_OF_BOUNDS),
    ],
)
def test_one_wrong_wall_rejects_its_instrument_alone(wall: str, value: Any, reason: Reason) -> None:
    instrument = {**ES, wall: value}
    chunk = levels(ES_SP500=instrument, VIX=VIX)
    text = value if isinstance(value, str) else json.dumps(value)
    assert chunk.rejects == [Reject(None, f"/gammalevels/ES_SP500/{wall}", json.dumps(instrument), reason, text)]
    assert chunk.records["instrument"].to_pylist() == ["VIX"]


def test_an_unknown_instrument_is_taken_with_any_price_above_zero() -> None:
    chunk = levels(NDX={"call_wall": 1e6}, RUT={"call_wall": 0}, fonte="x", nota=3)
    assert chunk.records["instrument"].to_pylist() == ["NDX"]
    assert [(r.column, r.reason) for r in chunk.rejects] == [("/gammalevels/RUT/call_wall", Reason.OUT_OF_BOUNDS)]


def test_a_known_instrument_that_is_no_object_is_rejected_and_a_null_one_is_missing() -> None:
    chunk = levels(ES_SP500="6.700,00", VIX=None)
    assert [(r.column, r.reason, r.text) for r in chunk.rejects] == [
        ("/gammalevels/ES_SP500", Reason.BAD_TEXT, "6.700,00")
    ]
    assert chunk.candidates == 1


@pytest.mark.parametrize(
    ("head", "column", "reason"),
    [
        ({"timestamp": "13/10/2025"}, "/gammalevels/timestamp", Reason.BAD_DATE),
        ({"timestamp": "2025-10-13T24:01:00"}, "/gammalevels/timestamp", Reason.BAD_TIME),
        ({"timestamp": {}}, "/gammalevels/timestamp", Reason.BAD_DATE),
        ({"status": 7}, "/gammalevels/status", Reason.BAD_TEXT),
    ],
)
def test_a_wrong_head_rejects_every_instrument(head: dict[str, object], column: str, reason: Reason) -> None:
    chunk = levels(**head, ES_SP500=ES, VIX=VIX)
    assert [(r.column, r.reason) for r in chunk.rejects] == [(column, reason)] * 2
    assert chunk.records.num_rows == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no object 'gammalevels'"),
        ({"timestamp": "2025-10-13T09:00:32"}, "no object 'gammalevels'"),
        ({"gammalevels": None}, "no object 'gammalevels'"),
        ({"gammalevels": {"VIX": VIX}}, "no /gammalevels/timestamp"),
    ],
)
@pytest.mark.parametrize("table", GAMMA_TABLES)
def test_what_is_no_document_of_gamma_levels_is_rejected_whole(document: object, said: str, table: str) -> None:
    with pytest.raises(FileRejected, match=said):
        parsed(document, table)


CELLS = st.sampled_from([None, True, "", "n.d.", "N/A", "6.700,00", 25.0, 0, -1, 1e308, [], {}, "\x00"])
INSTRUMENTS = CELLS | st.dictionaries(st.sampled_from([*WALLS, "x"]), CELLS)


@given(
    st.sampled_from([HEAD["timestamp"]] * 3 + [None, "?"]),
    st.dictionaries(st.sampled_from(["ES_SP500", "VIX", "NDX", "", "a/b"]), INSTRUMENTS),
)
def test_every_instrument_of_any_document_is_accounted_for(timestamp: str | None, members: dict[str, Any]) -> None:
    chunk = parsed({"gammalevels": {"timestamp": timestamp, **members}})
    expected = sum(
        isinstance(value, dict) or (name in ("ES_SP500", "VIX") and value is not None)
        for name, value in members.items()
    )
    assert chunk.records.num_rows + len(chunk.rejects) + chunk.absent == expected


@given(st.fixed_dictionaries({wall: st.none() | st.floats(5, 200) for wall in WALLS}))
def test_valid_walls_are_read_exactly(walls: dict[str, float | None]) -> None:
    chunk = levels(VIX=walls)
    if any(value is not None for value in walls.values()):
        assert chunk.records.select(list(WALLS)).to_pylist() == [walls]
    else:
        assert chunk.absent == 1

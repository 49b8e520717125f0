from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing.records import COLUMN, LINE, TEXT, Chunk, FileRejected, Reason, record_schema
from b3_pipeline.parsing.settlement_report import parse_settlement_report
from b3_pipeline.sessions import to_local
from b3_pipeline.tables import PRICE_BOUNDS, TABLES

TABLE = TABLES["b3_adjustments"]
DI1: dict[str, object] = {
    "OpnIntrst": 1167315,
    "AdjstdQt": "99176.82",
    "AdjstdQtTax": "14.897",
    "PrvsAdjstdQt": "99176.95",
}
HEAD = '<?xml version="1.0" encoding="utf-8"?>'


def instrument(ticker: str, attributes: dict[str, Any] | None = None, day: str = "2026-01-12") -> str:
    cells = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in (attributes or {}).items())
    return (
        f'<BizGrp><AppHdr/><Document xmlns="urn:bvmf.217.01.xsd"><PricRpt><TradDt><Dt>{day}</Dt></TradDt>'
        f"<SctyId><TckrSymb>{ticker}</TckrSymb></SctyId><TradDtls/>"
        f"<FinInstrmAttrbts>{cells}</FinInstrmAttrbts></PricRpt></Document></BizGrp>"
    )


def report(*instruments: str, total: object = None, kind: str = "BVBG.187.01", head: str = HEAD) -> bytes:
    announced = len(instruments) if total is None else total
    return (
        f'{head}<Document xmlns="urn:bvmf.052.01.xsd"><BizFileHdr><Xchg><BizGrpDesc><BizGrpDtls>'
        f"<TtlNbOfMsg>{announced}</TtlNbOfMsg><BizGrpTp>{kind}</BizGrpTp></BizGrpDtls></BizGrpDesc>"
        f"{''.join(instruments)}</Xchg></BizFileHdr></Document>"
    ).encode()


def zipped(xml: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("BVBG.187.01_BV000471202601120001.xml", xml)
    return target.getvalue()


def parsed(data: bytes) -> Chunk:
    (chunk,) = parse_settlement_report(io.BytesIO(data), TABLE)
    assert chunk.records.schema == record_schema(TABLE)
    return chunk


@pytest.mark.parametrize(
    ("name", "day", "counts"),
    [
        ("SPRD260112.zip", date(2026, 1, 12), {"DI1": 42, "DDI": 42, "DOL": 25, "WDO": 25, "WIN": 9, "IND": 12}),
        ("SPRD230202.zip", date(2023, 2, 2), {"DI1": 38, "DDI": 38, "DOL": 20, "WDO": 10, "WIN": 12, "IND": 12}),
    ],
)
def test_a_real_report_gives_every_future_and_nothing_else(
    shared: Path, name: str, day: date, counts: dict[str, int]
) -> None:
    with (shared / "data" / "b3" / name).open("rb") as stream:
        (chunk,) = parse_settlement_report(stream, TABLE)
    assert set(chunk.records["trade_date"].to_pylist()) == {day}
    assert Counter(chunk.records["instrument"].to_pylist()) == counts
    assert (chunk.rejects, chunk.absent) == ([], 0)
    assert set(chunk.records["trade_date"].to_pylist()) == {day}


def test_the_known_settlement_of_di1_is_read_exactly(shared: Path) -> None:
    chunk = parsed((shared / "data" / "b3" / "SPRD260112.zip").read_bytes())
    (row,) = (r for r in chunk.records.to_pylist() if (r["instrument"], r["contract_month"]) == ("DI1", "G26"))
    assert (row["price_settlement"], row["price_prev"], row["settlement_rate"]) == (99176.82, 99176.95, 14.897)


def test_a_future_becomes_a_record_of_its_publication() -> None:
    (row,) = parsed(zipped(report(instrument("DI1G26", DI1)))).records.to_pylist()
    text = row.pop(TEXT)
    assert row == {
        "ts": datetime.fromisoformat("2026-01-12T22:30:00"),
        "instrument": "DI1",
        "contract_month": "G26",
        "price_settlement": 99176.82,
        "price_prev": 99176.95,
        "status": "ajustado",
        "trade_date": date(2026, 1, 12),
        "settlement_rate": 14.897,
        "open_interest": 1167315,
        LINE: None,
        COLUMN: "FinInstrmAttrbts/AdjstdQt",
    }
    assert text.startswith("<PricRpt><TradDt><Dt>2026-01-12</Dt>")
    assert text.endswith("</PricRpt>")


@pytest.mark.parametrize("wrap", [bytes, zipped])
def test_xml_alone_is_read_as_well_as_zipped(wrap: Any) -> None:
    assert parsed(wrap(report(instrument("DI1G26", DI1)))).candidates == 1


def test_namespaces_and_their_prefixes_do_not_matter() -> None:
    plain = report(instrument("DI1G26", DI1)).replace(b' xmlns="urn:bvmf.217.01.xsd"', b"")
    prefixed = (
        report(instrument("DI1G26", DI1))
        .replace(b"<PricRpt>", b'<p:PricRpt xmlns:p="urn:other">')
        .replace(b"</PricRpt>", b"</p:PricRpt>")
    )
    assert parsed(plain).records.num_rows == parsed(prefixed).records.num_rows == 1


@pytest.mark.parametrize("ticker", ["DOLG26C005500", "DI1G2", "BGIH26", "DI1A26", "WDOG26P0", "di1g26", "DAPF27", ""])
def test_what_is_no_such_future_is_no_candidate(ticker: str) -> None:
    assert parsed(report(instrument(ticker, DI1))).candidates == 0


def test_a_summer_settlement_was_out_at_the_local_time_of_its_day() -> None:
    chunk = parsed(report(instrument("DI1F19", DI1, day="2018-12-03")))
    assert chunk.records["ts"][0].as_py() == datetime.fromisoformat("2018-12-03T21:30:00")


@pytest.mark.parametrize("settlement", [None, "", " - "])
def test_a_future_without_a_settlement_is_absent(settlement: str | None) -> None:
    cells = {name: value for name, value in DI1.items() if name != "AdjstdQt"} | {"OpnIntrst": "?"}
    chunk = parsed(report(instrument("DI1G26", cells if settlement is None else {**cells, "AdjstdQt": settlement})))
    assert (chunk.records.num_rows, chunk.rejects, chunk.absent) == (0, [], 1)


def test_what_a_future_has_not_is_null() -> None:
    (row,) = parsed(report(instrument("DOLG26", {"AdjstdQt": "5400.5", "PrvsAdjstdQt": ""}))).records.to_pylist()
    assert [row[name] for name in ("price_prev", "settlement_rate", "open_interest")] == [None, None, None]


@pytest.mark.parametrize(
    ("cell", "value", "reason"),
    [
        ("AdjstdQt", "n.d.", Reason.BAD_NUMBER),
        ("AdjstdQt", "9.9e4", Reason.BAD_NUMBER),
        ("AdjstdQt", "100000.01", Reason.OUT_OF_BOUNDS),
        ("AdjstdQt", "9" * 400, Reason.OUT_OF_BOUNDS),
        ("PrvsAdjstdQt", "abc", Reason.BAD_NUMBER),
        ("PrvsAdjstdQt", "0", Reason.OUT_OF_BOUNDS),
        ("AdjstdQtTax", "NaN", Reason.BAD_NUMBER),
        ("OpnIntrst", "1.5", Reason.BAD_NUMBER),
        ("OpnIntrst", "-1", Reason.OUT_OF_BOUNDS),
        ("OpnIntrst", "9" * 30, Reason.OUT_OF_BOUNDS),
    ],
)
def test_a_wrong_cell_rejects_its_future_alone(cell: str, value: str, reason: Reason) -> None:
    chunk = parsed(report(instrument("DI1G26", {**DI1, cell: value}), instrument("DI1H26", DI1)))
    (reject,) = chunk.rejects
    assert (reject.line, reject.column, reject.reason, reject.value) == (
        None,
        f"FinInstrmAttrbts/{cell}",
        reason,
        value,
    )
    assert f"<{cell}>{value}</{cell}>" in reject.text
    assert chunk.records["contract_month"].to_pylist() == ["H26"]


@pytest.mark.parametrize("day", ["", "2026-02-30", "12/01/2026", "1066-10-14"])
def test_a_wrong_trade_date_rejects_its_future(day: str) -> None:
    data = report(instrument("DI1G26", DI1, day=day), instrument("DI1H26", DI1))
    (reject,) = parsed(data).rejects
    assert (reject.column, reject.reason, reject.value) == ("TradDt/Dt", Reason.BAD_DATE, day)


def test_a_report_of_nothing_has_no_candidates() -> None:
    assert parsed(report()).candidates == 0


WHOLE = report(instrument("DI1G26", DI1), instrument("DI1H26", DI1))
BOMB = '<!DOCTYPE b [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE b [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "neither a zip nor whole XML"),
        (b"settlements", "neither a zip nor whole XML"),
        (WHOLE[:-20], "neither a zip nor whole XML"),
        (zipped(WHOLE[: len(WHOLE) // 2]), "neither a zip nor whole XML"),
        (zipped(WHOLE)[:200], "cut off or damaged"),
        (HEAD.replace("utf-8", "klingon").encode() + b"<Document/>", "neither a zip nor whole XML"),
        (HEAD.replace("utf-8", "utf-7").encode() + b"<Document/>", "neither a zip nor whole XML"),
        (b"<!DOCTYPE html><html><body>em manuten\xe7\xe3o</body></html>", "HTML page"),
        (b"<HTML><body></body></HTML>", "HTML page"),
        (b"<gammalevels/>", "the XML is a 'gammalevels'"),
        (report(head=HEAD + BOMB), "DTD"),
        (report(head=HEAD + EXTERNAL), "DTD"),
        (b"<Document/>", "does not say that it is BVBG.187"),
        (report(instrument("DI1G26", DI1), kind="BVBG.086.01"), "another report: 'BVBG.086.01'"),
        (report(instrument("DI1G26", DI1), kind="BVBG.1870"), "another report"),
        (report(instrument("DI1G26", DI1), total=2), "announces 2 instruments and has 1"),
        (report(instrument("DI1G26", DI1), total=0), "announces 0 instruments and has 1"),
        (report(instrument("DI1G26", DI1), total=""), "does not announce"),
        (report(total="-1"), "does not announce"),
        (report("<a>" * 100 + "</a>" * 100), "deeper"),
        (report(instrument("DI1G26").replace("<TradDtls/>", "<a/>" * 1000)), "more in one instrument"),
    ],
)
def test_what_is_no_whole_report_is_rejected_before_its_first_record(data: bytes, said: str) -> None:
    chunks = parse_settlement_report(io.BytesIO(data), TABLE)
    with pytest.raises(FileRejected, match=said):
        next(chunks)


def test_memory_does_not_grow_with_a_report() -> None:
    def peak(instruments: int) -> int:
        data = report(*[instrument("BGIH26", DI1)] * instruments)
        tracemalloc.start()
        parsed(data)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(10)
    assert peak(1000) < peak(100) * 1.5


@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, len(WHOLE)), st.binary(max_size=3)).map(
        lambda change: WHOLE[: change[0]] + change[1] + WHOLE[change[0] + len(change[1]) :]
    )
)
def test_any_bytes_are_parsed_or_rejected(data: bytes) -> None:
    try:
        chunk = parsed(data)
    except FileRejected:
        return
    assert chunk.candidates <= 2


CELLS = st.sampled_from(["99176.82", "5400", "0", "-1", "", "-", "n.d.", "1e5", "99.176,82", "<&>", "9" * 320])
TICKERS = st.sampled_from(["DI1G26", "DDIF27", "DOLH26", "WDOJ26", "WINZ26", "INDM26", "DOLG26C005500", "BGIH26", ""])


@given(
    st.lists(
        st.tuples(TICKERS, st.dictionaries(st.sampled_from(sorted(DI1)), CELLS), st.sampled_from(["2026-01-12", "?"])),
        max_size=6,
    )
)
def test_every_candidate_of_any_report_is_accounted_for(rows: list[tuple[str, dict[str, str], str]]) -> None:
    chunk = parsed(report(*[instrument(*row) for row in rows]))
    futures = sum(len(ticker) == 6 and not ticker.startswith("BGI") for ticker, _, _ in rows)
    assert chunk.records.num_rows + len(chunk.rejects) + chunk.absent == futures


@st.composite
def futures(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(PRICE_BOUNDS)))
    prices = st.integers(int(PRICE_BOUNDS[name].low) * 1000, int(PRICE_BOUNDS[name].high) * 1000).map(
        lambda thousandths: thousandths / 1000
    )
    return {
        "instrument": name,
        "contract_month": draw(st.sampled_from("FGHJKMNQUVXZ")) + f"{draw(st.integers(0, 99)):02d}",
        "price_settlement": draw(prices),
        "price_prev": draw(st.none() | prices),
        "settlement_rate": draw(st.none() | st.integers(-5000, 100_000).map(lambda thousandths: thousandths / 1000)),
        "open_interest": draw(st.none() | st.integers(0, 2**53)),
        "trade_date": draw(st.dates(date(1971, 1, 1), date(2261, 12, 30))),
    }


SOURCES = {
    "AdjstdQt": "price_settlement",
    "PrvsAdjstdQt": "price_prev",
    "AdjstdQtTax": "settlement_rate",
    "OpnIntrst": "open_interest",
}


@given(st.lists(futures(), max_size=4))
def test_a_valid_report_is_read_exactly(rows: list[dict[str, Any]]) -> None:
    instruments = [
        instrument(
            row["instrument"] + row["contract_month"],
            {cell: row[name] for cell, name in SOURCES.items() if row[name] is not None},
            row["trade_date"].isoformat(),
        )
        for row in rows
    ]
    records = parsed(zipped(report(*instruments))).records
    assert records.select(["instrument", "contract_month", *SOURCES.values(), "trade_date"]).to_pylist() == [
        {name: row[name] for name in ["instrument", "contract_month", *SOURCES.values(), "trade_date"]} for row in rows
    ]
    local = [to_local(moment) for moment in records["ts"].to_pylist()]
    assert local == [datetime.fromisoformat(f"{row['trade_date']}T19:30:00") for row in rows]

"""A legacy file gets what it lacks, where its time is, and keeps every other byte."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from b3_pipeline.cutover import merging
from b3_pipeline.cutover.merging import Lack
from b3_pipeline.parsing.records import LINE, FileRejected
from b3_pipeline.sessions import to_utc, trade_date
from b3_pipeline.shadow.forms import FORMS, Form

ADJUSTMENTS, DXY = FORMS["b3_adjustments"], FORMS["b3_dxy_ticks"]
SURFACE = FORMS["b3_vol_surface"]


def rows(form: Form, *given: dict[str, Any]) -> pa.Table:
    columns = (*form.table.parsed, form.table.column("feed"))
    schema = form.table.arrow_schema(columns)
    empty = dict.fromkeys(schema.names)
    return pa.Table.from_pylist(
        [empty | {"ts": to_utc(one["at"])} | {k: v for k, v in one.items() if k != "at"} for one in given],
        schema=schema,
    )


def settlement(
    at: datetime, price: float = 99_000.5, instrument: str = "DI1", month: str = "X25", feed: str = "b3_sprd"
) -> dict[str, Any]:
    more = {"price_settlement": price, "status": "ajustado", "trade_date": trade_date(at), "feed": feed}
    return {"at": at, "instrument": instrument, "contract_month": month, **more}


def tick(bucket: str, at: datetime, value: float, provider: str = "Yahoo Finance") -> dict[str, Any]:
    return {"at": at, "bucket": bucket, "value": value, "status": "sucesso", "provider": provider, "feed": "yahoo_dxy"}


def lack(form: Form, text: bytes | None, *given: dict[str, Any]) -> Lack:
    found = Lack.of(form, None if text is None else merging.read(form, text))
    found.add(rows(form, *given))
    return found


HEADER = b"data,dxy_08h50,dxy_08h55,dxy_09h00,fonte,status_08h50,status_08h55,status_09h00\n"


def test_a_new_line_goes_where_its_time_is_and_all_others_stay_as_they_are(shared: Path) -> None:
    before = (shared / "data" / "legacy" / "clean" / ADJUSTMENTS.file).read_bytes()
    days = (datetime(2025, 10, 9, 19, 30), datetime(2025, 10, 13, 19, 30))
    found = lack(ADJUSTMENTS, before, *map(settlement, days))
    after = found.merged()
    new = [line for line in after.splitlines() if b"19:30:00" in line]
    assert [line for line in after.splitlines() if line not in new] == before.splitlines()
    lines = after.splitlines()
    assert lines[lines.index(new[0]) - 1].startswith(b"09-10-2025,09")
    assert lines[lines.index(new[0]) + 1].startswith(b"10-10-2025")
    assert lines[-1] == new[1]
    assert (len(found.added), found.filled, found.rows.num_rows, found.gathered.beyond) == (2, {}, 2, 0)
    again = lack(ADJUSTMENTS, after, *map(settlement, days))
    assert (again.merged(), again.added, again.stands) == (after, {}, 0)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("cut", [False, True])
def test_separator_line_ends_mark_and_other_columns_are_those_of_the_file(end: bytes, mark: bytes, cut: bool) -> None:
    header = b"dxy_09h00;data;dxy_08h50;dxy_08h55;nota;fonte;status_08h50;status_08h55;status_09h00"
    line = "-0,48;03-10-2025;-0.49;-0.49;café;Yahoo Finance;sucesso;sucesso;sucesso".encode("latin-1")
    before = mark + header + end + line + (b"" if cut else end)
    found = lack(DXY, before, tick("dxy_08h50", datetime(2025, 10, 6, 8, 50), -0.5))
    assert found.merged() == mark + header + end + line + end + b";06-10-2025;-0.5;;;Yahoo Finance;sucesso;;" + end


def test_what_a_line_lacks_is_filled_in_and_what_it_says_stands() -> None:
    before = HEADER + b'03-10-2025,-0.49,,"-0,48",Yahoo Finance,sucesso,falha,sucesso\n'
    day = datetime(2025, 10, 3)
    given = [tick("dxy_08h55", day.replace(hour=8, minute=55), 0.25), tick("dxy_09h00", day.replace(hour=9), 7.5)]
    found = lack(DXY, before, *given)
    assert found.merged() == HEADER + b'03-10-2025,-0.49,0.25,"-0,48",Yahoo Finance,sucesso,sucesso,sucesso\n'.replace(
        b'"-0,48"', b'"-0,48"'
    )
    assert (found.added, len(found.filled), found.rows.num_rows, found.stands) == ({}, 1, 1, 1)


def test_a_row_that_disagrees_with_its_line_is_beyond() -> None:
    before = HEADER + b"03-10-2025,-0.49,,,Yahoo Finance,sucesso,,\n"
    found = lack(DXY, before, tick("dxy_08h55", datetime(2025, 10, 3, 8, 55), 0.25, provider="another"))
    assert (found.merged(), found.gathered.beyond, found.rows.num_rows) == (before, 1, 0)


def test_a_rejected_record_is_put_right_by_what_is_stored() -> None:
    before = HEADER + b"03-10-2025,abc,-0.49,-0.48,Yahoo Finance,sucesso,sucesso,sucesso\n"
    corrected = tick("dxy_08h50", datetime(2025, 10, 3, 8, 50), -0.5) | {"feed": "legacy_csv"}
    found = lack(DXY, before, corrected)
    assert found.merged() == before.replace(b"abc", b"-0.5")


def test_lines_that_are_no_rows_stay_where_they_are() -> None:
    before = (
        HEADER
        + b"\n31-02-2025,1,1,1,x,y,z,w\n03-10-2025,1\n"
        + b"07-10-2025,0.1,0.1,0.1,Yahoo Finance,sucesso,sucesso,sucesso\n"
    )
    found = lack(DXY, before, tick("dxy_08h50", datetime(2025, 10, 6, 8, 50), -0.5))
    lines = found.merged().splitlines(keepends=True)
    assert lines[-2] == b"06-10-2025,-0.5,,,Yahoo Finance,sucesso,,\n"
    assert b"".join(lines[:-2] + lines[-1:]) == before


def test_a_file_that_is_not_there_is_made_of_all_that_its_form_holds() -> None:
    at = datetime(2025, 10, 13, 19, 30)
    found = lack(ADJUSTMENTS, None, settlement(at), settlement(at, month="F27"), settlement(at, instrument="WDO"))
    assert found.merged().splitlines()[1].startswith(b"13-10-2025,19:30:00,,,,X25,99000.5,")
    assert (found.rows.num_rows, found.gathered.beyond) == (1, 2)


def test_a_surfaces_line_is_found_by_its_tenor() -> None:
    before = ",".join(SURFACE.header).encode() + b"\n"
    moment = datetime(2025, 10, 13, 19)
    common = {"at": moment, "volatility": 12.5, "updated_at": moment.date(), "feed": "b3_vol_xlsx"}
    given = [common | {"contract_month": m, "delta_bucket": "delta_1"} for m in ("dez-25", "nov-25", "jan-26")]
    after = lack(SURFACE, before, *given).merged()
    assert [line.split(b",")[2] for line in after.splitlines()[1:]] == [b"nov-25", b"dez-25", b"jan-26"]
    more = [one | {"delta_bucket": "delta_99"} for one in given]
    filled = lack(SURFACE, after, *given, *more)
    assert (len(filled.added), len(filled.filled), filled.merged().count(b"12.5")) == (0, 3, 6)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_what_is_added_and_filled_in_is_in_the_files_encoding(encoding: str) -> None:
    line = "03-10-2025,-0.49,,,São,falha,,\n".encode(encoding)
    plain = b"02-10-2025,,-0.5,,x,,sucesso,\n"
    given = [
        tick("dxy_08h50", datetime(2025, 10, 2, 8, 50), -0.25, provider="x") | {"status": "atenção"},
        tick("dxy_08h50", datetime(2025, 10, 6, 8, 50), -0.5, provider="Bolsa é"),
    ]
    found = lack(DXY, HEADER + plain + line, *given)
    filled = "02-10-2025,-0.25,-0.5,,x,atenção,sucesso,\n"
    assert found.merged() == (
        HEADER + filled.encode(encoding) + line + "06-10-2025,-0.5,,,Bolsa é,sucesso,,\n".encode(encoding)
    )
    again = lack(DXY, found.merged(), *given)
    assert (again.added, again.filled, again.stands) == ({}, {}, 0)


def test_what_the_files_encoding_cannot_hold_is_beyond() -> None:
    before = HEADER + "03-10-2025,-0.49,,,café,sucesso,,\n".encode("latin-1")
    given = [
        tick("dxy_08h55", datetime(2025, 10, 3, 8, 55), 0.25, provider="café") | {"status": "≈"},
        tick("dxy_08h50", datetime(2025, 10, 6, 8, 50), 0.25, provider="日本"),
        tick("dxy_09h00", datetime(2025, 10, 6, 9), 0.25, provider="Ã£"),  # which is ã, read as UTF-8
    ]
    found = lack(DXY, before, *given)
    assert (found.merged(), found.beyond, found.rows.num_rows) == (before, 3, 0)
    assert lack(DXY, HEADER, *given[1:2]).merged().endswith("06-10-2025,0.25,,,日本,sucesso,,\n".encode())


def test_a_file_of_something_else_is_refused() -> None:
    with pytest.raises(FileRejected):
        merging.read(DXY, b"a,b\n1,2\n")


def test_each_line_with_a_record_has_its_place(shared: Path) -> None:
    data = (shared / "data" / "legacy" / "dirty" / ADJUSTMENTS.file).read_bytes()
    found = merging.read(ADJUSTMENTS, data)
    assert b"".join(found.lines) == data
    keys = {key for line in found.records.column(LINE).to_pylist() if (key := merging.key_of(found, line - 1))}
    assert keys == keys & found.places.keys()
    assert len(keys) > 150

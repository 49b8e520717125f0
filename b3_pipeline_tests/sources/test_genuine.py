"""What is not what it claims to be is refused; what is not out yet is no failure."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline import sample_payloads
from b3_pipeline.sources import genuine
from b3_pipeline.sources.fetching import Asked, NotYet, Refused

DAY = date(2026, 1, 12)
DUE = datetime(2026, 1, 12, 23, 30, tzinfo=UTC)
EARLY, LATE = (Asked(datetime(2026, 1, 12, hour, tzinfo=UTC), DAY, due=DUE) for hour in (22, 23))
OVERDUE = Asked(DUE, DAY, due=DUE)
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Servi\xc3\xa7o indispon\xc3\xadvel</body></html>"
MORNING = datetime(2026, 1, 12, 12, 0, 32, tzinfo=UTC)
REPORT = sample_payloads.settlement_report(DAY)
SURFACE = sample_payloads.vol_surface(DAY)


def zipped(**files: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


CHECKS: dict[str, tuple[Callable[[bytes], date | None], bytes]] = {
    "settlements": (lambda data: genuine.settlements(data, OVERDUE), REPORT),
    "indicators": (genuine.indicators, sample_payloads.financial_indicators(DAY)),
    "vol_surface": (lambda data: genuine.vol_surface(data, OVERDUE), SURFACE),
    "dxy": (genuine.dxy, sample_payloads.dxy_chart(MORNING)),
    "gamma": (genuine.gamma, sample_payloads.gamma_levels(MORNING)),
    "legacy_capture": (genuine.legacy_capture, sample_payloads.capture(MORNING)),
    "legacy_gamma": (genuine.legacy_gamma, sample_payloads.gamma_levels(MORNING)),
}


@pytest.mark.parametrize("source", CHECKS)
def test_a_genuine_payload_is_of_its_session(source: str) -> None:
    check, data = CHECKS[source]
    assert check(data) == DAY


@pytest.mark.parametrize("source", CHECKS)
@pytest.mark.parametrize(
    ("garble", "said"),
    [
        (lambda _data: b"", "the file is empty|neither a zip"),
        (lambda _data: PAGE, "An HTML page instead of"),
        (lambda data: data[: len(data) // 2], "cut off|damaged|neither a zip"),
        (lambda _data: b"Too Many Requests\r\n", "not JSON|damaged|neither a zip"),
        (lambda _data: b"{}", "Not|no list"),
        (lambda _data: b"null", "Not"),
        (lambda _data: b"\x00" * 5_000, "Not"),
    ],
)
def test_what_is_no_payload_of_a_source_is_refused_and_kept_to_look_at(
    source: str, garble: Callable[[bytes], bytes], said: str
) -> None:
    check, data = CHECKS[source]
    garbled = garble(data)
    with pytest.raises(Refused, match=said) as refused:
        check(garbled)
    assert refused.value.data == garbled


@pytest.mark.parametrize("source", CHECKS)
def test_the_payload_of_another_source_is_refused(source: str) -> None:
    check, own = CHECKS[source]
    for _, data in CHECKS.values():
        if data != own:
            with pytest.raises(Refused):
                check(data)


@pytest.mark.parametrize("name", ["SPRD260112.zip", "SPRD230202.zip"])
def test_a_real_report_is_genuine_on_its_own_day_and_half_of_it_is_not(shared: Path, name: str) -> None:
    data = (shared / "data" / "b3" / name).read_bytes()
    day = date.fromisoformat(f"20{name[4:6]}-{name[6:8]}-{name[8:10]}")
    assert genuine.settlements(data, Asked(LATE.now, day)) == day
    with pytest.raises(Refused, match="cut off or damaged"):
        genuine.settlements(data[: len(data) // 2], Asked(LATE.now, day))


def test_a_report_whose_content_does_not_match_its_checksum_is_refused() -> None:
    with zipfile.ZipFile(io.BytesIO(REPORT)) as archive:
        ((name, xml),) = ((n, archive.read(n)) for n in archive.namelist())
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, xml)
    damaged = target.getvalue().replace(b"<TradDtls/>", b"<TradDtlz/>", 1)
    with pytest.raises(Refused, match="damaged"):
        genuine.settlements(damaged, OVERDUE)


@pytest.mark.parametrize("check", [genuine.settlements, genuine.vol_surface])
@pytest.mark.parametrize("nothing", [zipped(), zipped(**{"SPRD260112.zip": zipped()}), zipped(**{"LEIAME.txt": b"-"})])
def test_a_small_zip_with_nothing_in_it_says_that_there_is_nothing_yet(
    check: Callable[[bytes, Asked], date], nothing: bytes
) -> None:
    for asked in (EARLY, OVERDUE):
        with pytest.raises(NotYet, match="is not there yet"):
            check(nothing, asked)


def test_a_zip_without_the_file_is_refused() -> None:
    with pytest.raises(Refused, match="holds no XML"):
        genuine.settlements(zipped(**{"a.pdf": bytes(range(256)) * 20, "b.pdf": REPORT}), EARLY)
    with pytest.raises(Refused, match="holds no XLSX"):
        genuine.vol_surface(REPORT, EARLY)


@pytest.mark.parametrize(
    ("check", "make"),
    [(genuine.settlements, sample_payloads.settlement_report), (genuine.vol_surface, sample_payloads.vol_surface)],
)
def test_yesterdays_file_under_todays_name_is_not_yet_todays_and_refused_once_that_is_due(
    check: Callable[[bytes, Asked], date], make: Callable[[date], bytes]
) -> None:
    yesterdays = make(date(2026, 1, 9))
    for asked in (EARLY, LATE, Asked(DUE, DAY)):
        with pytest.raises(NotYet, match="is of 2026-01-09, not of 2026-01-12, which is not out yet"):
            check(yesterdays, asked)
    with pytest.raises(Refused, match="is of 2026-01-09, not of 2026-01-12") as refused:
        check(yesterdays, OVERDUE)
    assert refused.value.data == yesterdays


@pytest.mark.parametrize(
    ("check", "make"),
    [(genuine.settlements, sample_payloads.settlement_report), (genuine.vol_surface, sample_payloads.vol_surface)],
)
def test_a_file_of_a_later_session_is_refused(
    check: Callable[[bytes, Asked], date], make: Callable[[date], bytes]
) -> None:
    with pytest.raises(Refused, match="is of 2026-01-13, not of 2026-01-12"):
        check(make(date(2026, 1, 13)), EARLY)


def test_a_report_of_two_days_or_of_no_future_is_refused() -> None:
    with zipfile.ZipFile(io.BytesIO(REPORT)) as archive:
        xml = archive.read(archive.namelist()[0])
    mixed = xml.replace(b"<Dt>2026-01-12</Dt>", b"<Dt>2026-01-09</Dt>", 1)
    with pytest.raises(Refused, match="futures of 2 days"):
        genuine.settlements(zipped(**{"a.xml": mixed}), OVERDUE)
    none = xml.replace(b"<TckrSymb>", b"<TckrSymb>X")
    with pytest.raises(Refused, match="futures of 0 days"):
        genuine.settlements(zipped(**{"a.xml": none}), OVERDUE)


def test_a_list_without_one_value_is_no_list_of_indicators() -> None:
    for document in (b"[]", b'[{"description": "TAXA SELIC", "rate": "", "lastUpdate": "12/01/2026"}]', b"[1]"):
        with pytest.raises(Refused, match="not one of them has a value"):
            genuine.indicators(document)


def test_yahoos_error_its_other_symbols_and_its_empty_charts_are_refused() -> None:
    chart = json.loads(sample_payloads.dxy_chart(MORNING))
    chart["chart"]["result"][0]["meta"]["symbol"] = "^GSPC"
    error = {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}}
    empty = json.loads(sample_payloads.dxy_chart(datetime(2026, 1, 12, 7, tzinfo=UTC)))
    for document, said in ((chart, "no chart of DX-Y.NYB"), (error, "No data found"), (empty, "no prices")):
        with pytest.raises(Refused, match=said):
            genuine.dxy(json.dumps(document).encode())


def test_gamma_levels_must_say_of_when_they_are_unless_the_legacy_collector_wrote_them() -> None:
    data = b'{"gammalevels": {"timestamp": "hoje", "VIX": {"call_wall": 25}}}'
    with pytest.raises(Refused, match="of when they are"):
        genuine.gamma(data)
    assert genuine.legacy_gamma(data) is None
    assert genuine.gamma(b'{"gammalevels": {"timestamp": "2026-01-12T09:05:12", "status": "falha"}}') == DAY


def test_a_surface_of_nothing_but_zeros_is_refused() -> None:
    from openpyxl import Workbook

    book = Workbook()
    (sheet,) = book.worksheets
    sheet.append([DAY, 1, 5, 10, 25, 37, 50, 63, 75, 90, 95, 99])
    sheet.append([0] * 12)
    target = io.BytesIO()
    book.save(target)
    with pytest.raises(Refused, match="all of it is zero"):
        genuine.vol_surface(target.getvalue(), OVERDUE)


@given(
    st.sampled_from(sorted(CHECKS)),
    st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), max_size=3),
    st.integers(0, 3_000),
)
def test_a_garbled_payload_is_genuine_or_refused(source: str, changes: list[tuple[int, int]], cut: int) -> None:
    check, data = CHECKS[source]
    garbled = bytearray(data)
    for at, value in changes:
        garbled[at % len(garbled)] = value
    try:
        check(bytes(garbled[: max(0, len(garbled) - cut)]))
    except (Refused, NotYet):
        return

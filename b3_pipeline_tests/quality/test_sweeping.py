"""A sweep fills gaps from the archive, the shadow and the sources, marks what nobody has, and may run at any time again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Found, Payload, payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, LEGACY_KINDS, REPORT, Kind
from b3_pipeline.postgres.known_gaps import KnownGaps, KnownGapsError, open_known_gaps
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.sweeping import SweepReport, Ways, look, sweep
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import to_utc, window
from b3_pipeline.sources.archive import ArchiveDamaged
from b3_pipeline.sources.fetching import NotYet, Unreachable
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.parsing.test_settlement_report import DI1, instrument, report, zipped

[DXY] = [kind for kind in LEGACY_KINDS if kind.file == "dxy_coleta.csv"]
#: Two sessions of August that stay, and a week of September that is lost.
KEPT = [date(2025, 8, 28), date(2025, 8, 29)]
LOST = [date(2025, 9, day) for day in (1, 2, 3, 4, 5)]
NOW = to_utc(datetime(2025, 9, 8, 12)).replace(tzinfo=UTC)


def given(kind: Kind, name: str, data: bytes) -> Payload:
    return Payload(name, Path(name), kind, hashlib.sha256(data).hexdigest(), len(data), data)


def settlement(day: date) -> Payload:
    """A report of B3 with one instrument."""
    xml = report(instrument("DI1V25", DI1, day.isoformat()))
    return given(REPORT, f"SPRD{day:%y%m%d}.zip", zipped(xml))


def capture(day: date) -> Payload:
    """A morning capture with one price."""
    block = {"vencimento": "V25", "preco_numerico": 99121.69, "preco_anterior_numerico": 99164.79}
    head = {"timestamp": f"{day}T09:00:32", "data_coleta": f"{day:%d-%m-%Y}", "hora_coleta": "09:00:32"}
    document = {**head, "status": "sucesso", "fonte": "B3", "DI1": block}
    return given(CAPTURE, f"ultimo_dado_{day:%Y%m%d}_090032.json", json.dumps(document).encode())


def dxy_text(days: Iterable[date]) -> str:
    head = "data,dxy_08h50,dxy_08h55,dxy_09h00,fonte,status_08h50,status_08h55,status_09h00\n"
    row = ",0.1,0.2,0.3,Yahoo Finance,sucesso,sucesso,sucesso\n"
    return head + "".join(f"{day:%d-%m-%Y}{row}" for day in days)


def ticks(folder: Path, days: Iterable[date]) -> Payload:
    """A legacy file with the dollar index of some days."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DXY.file).write_text(dxy_text(days))
    return payload(folder / DXY.file, DXY)


@dataclass
class Asking:
    """The archive and the sources as a sweep is given them; `calls` are what it asked of them."""

    archive: dict[tuple[str, date], Sequence[Payload]] = field(default_factory=dict)
    source: dict[tuple[str, date], Payload | Exception] = field(default_factory=dict)
    calls: list[tuple[str, str, date]] = field(default_factory=list)

    def from_archive(self, source: str, session: date) -> Iterable[Payload]:
        self.calls.append(("archive", source, session))
        return self.archive.get((source, session), ())

    def fetch(self, source: str, session: date) -> Payload | None:
        self.calls.append(("source", source, session))
        answer = self.source.get((source, session))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ways(self, shadow: Path | None = None, **more: Any) -> Ways:
        return Ways(self.from_archive, shadow, self.fetch, **more)


@dataclass
class Home:
    """Tables that have lost something, and the marks."""

    db: QuestDB
    path: Path
    known: KnownGaps

    def load(self, *payloads: Payload) -> None:
        for one in payloads:
            for name in one.kind.tables:
                [done] = load_all(self.loader(NOW), [one], TABLES[name])
                assert done.outcome in ("loaded", "unchanged"), done.reason

    def loader(self, now: datetime) -> Loader:
        return Loader(self.db, self.path, lambda: now, "sweep")

    def lose(self, table: str, *partitions: str) -> None:
        names = ", ".join(f"'{name}'" for name in partitions)
        self.db.execute(f"alter table {table} drop partition list {names}")
        self.db.wait_applied(table)

    def sweep(
        self,
        ways: Ways,
        now: datetime = NOW,
        files: Sequence[Found] = (),
        announce: Callable[[str], None] = lambda _what: None,
        **more: Any,
    ) -> SweepReport:
        context = Context(self.db, self.path, now, files)
        return sweep(context, self.loader(now), self.known, ways, announce=announce, **more)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        return self.db.query(f"select * from {table} order by ts, feed")  # pyright: ignore[reportArgumentType]

    def loads(self) -> int:
        self.db.wait_applied("b3_loads")
        return self.db.scalar("select count() from b3_loads")


@pytest.fixture
def home(db: QuestDB, postgres: str, tmp_path: Path) -> Iterator[Home]:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists b3.known_gaps, b3.gap_attempts")
    with open_known_gaps(postgres) as known:
        yield Home(db, tmp_path / "home", known)


@pytest.fixture
def settled(home: Home) -> Home:
    """Settlements of August, and of September only the 5th: four sessions are missing."""
    home.load(*map(settlement, KEPT), settlement(LOST[-1]))
    return home


@pytest.fixture
def ticked(home: Home, tmp_path: Path) -> Home:
    """The dollar index by the legacy file, of which all of September is lost."""
    home.load(ticks(tmp_path / "legacy", [*KEPT, *LOST]))
    home.lose("b3_dxy_ticks", "2025-09")
    return home


def sessions(found: Iterable[tuple[Any, str]]) -> list[tuple[date, str]]:
    return sorted({(gap.session, why) for gap, why in found})


def days(found: Iterable[tuple[Any, str]]) -> list[date]:
    return sorted({gap.session for gap, _why in found})


# Where it looks, and in which order


def test_the_archive_is_asked_before_the_shadow_and_the_shadow_before_the_source(home: Home, tmp_path: Path) -> None:
    home.load(*map(capture, [*KEPT, *LOST]))
    lost = [f"{day}" for day in LOST[:4]]
    for table in ("b3_captures", "b3_snapshots"):
        home.lose(table, *lost)
    shadow, folder = tmp_path / "shadow", tmp_path / "legacy"
    for place, some in ((shadow, LOST[:2]), (folder, LOST[:3])):
        (place / "historico").mkdir(parents=True)
        for day in some:
            one = capture(day)
            (place / "historico" / one.name).write_bytes(one.data or b"")
    asking = Asking({("ultimo_dado", LOST[0]): [capture(LOST[0])]})
    done = home.sweep(asking.ways(shadow), files=survey(folder))
    assert sessions(done.repaired) == [(LOST[0], "archive"), (LOST[1], "shadow"), (LOST[2], "folder")]
    assert days(done.known) == [LOST[3]]
    assert {table for gap, _way in done.repaired for table in [gap.table]} == {"b3_captures", "b3_snapshots"}
    assert home.db.scalar("select count() from b3_snapshots") == 6


def test_a_source_is_asked_only_for_what_the_archive_has_not(settled: Home) -> None:
    name = REPORT.name
    asking = Asking(
        {(name, LOST[0]): [settlement(LOST[0])]}, {(name, day): settlement(day) for day in (LOST[0], LOST[1])}
    )
    done = settled.sweep(asking.ways())
    assert sessions(done.repaired) == [(LOST[0], "archive"), (LOST[1], "source")]
    assert days(done.open) == LOST[2:4]
    assert asking.calls == [
        *(("archive", name, day) for day in LOST[:4]),
        *(("source", name, day) for day in LOST[1:4]),
    ]


def test_what_is_loaded_is_of_the_payloads_own_moment_and_nothing_is_carried_forward(settled: Home) -> None:
    settled.sweep(Asking(source={(REPORT.name, LOST[0]): settlement(LOST[1])}).ways())  # another day's under its name
    found = {ts.date() for (ts,) in settled.db.query("select ts from b3_adjustments")}
    assert found == {*KEPT, LOST[-1]}


def test_a_long_file_is_read_once_for_all_sessions(ticked: Home, tmp_path: Path) -> None:
    whole = ticks(tmp_path / "archived", [*KEPT, *LOST])
    asking = Asking({(DXY.name, day): [whole] for day in LOST})
    before = ticked.loads()
    reads = 0

    def reading(_done: int) -> None:
        nonlocal reads
        reads += 1

    context = Context(ticked.db, ticked.path, NOW)
    loader = replace(ticked.loader(NOW), progress=reading)
    done = sweep(context, loader, ticked.known, asking.ways())
    assert sessions(done.repaired) == [(day, "archive") for day in LOST]
    assert ticked.loads() == before  # under the load's own id
    assert reads <= 4


def test_a_report_that_was_loaded_by_hand_is_kept_and_found_again(home: Home) -> None:
    home.load(*map(settlement, [*KEPT, *LOST]))
    home.lose("b3_adjustments", "2025-09")
    kept = [Found(one.name, REPORT, one) for one in map(settlement, LOST)]
    done = home.sweep(Asking().ways(), files=kept)
    assert sessions(done.repaired) == [(day, "archive") for day in LOST]


# The shadow


def test_a_shadow_file_fills_only_the_session_that_is_missing(ticked: Home, tmp_path: Path) -> None:
    ticks(tmp_path / "shadow", [*KEPT, *LOST[:2], date(2025, 8, 27)])
    done = ticked.sweep(Asking().ways(tmp_path / "shadow"))
    assert sessions(done.repaired) == [(LOST[0], "shadow"), (LOST[1], "shadow")]
    assert ticked.db.scalar("select min(ts) from b3_dxy_ticks").date() == KEPT[0]
    assert ticked.db.query("select distinct feed from b3_dxy_ticks") == [("legacy_csv",)]


def test_a_shadow_file_fills_nothing_that_another_feed_has(ticked: Home, tmp_path: Path) -> None:
    ticks(tmp_path / "shadow", LOST)
    moment = f"{to_utc(datetime.combine(LOST[1], time(8, 50))):%Y-%m-%dT%H:%M:%S}.000000Z"
    ticked.db.execute(
        f"insert into b3_dxy_ticks (ts, bucket, value, feed, load_id) values ('{moment}', 'dxy_08h50', 1, 'yahoo_dxy', 1)"
    )
    ticked.db.wait_applied("b3_dxy_ticks")
    done = ticked.sweep(Asking().ways(tmp_path / "shadow"), feed="legacy_csv")
    assert days(done.repaired) == [LOST[0], *LOST[2:]]
    [(_gap, why), *_] = done.known
    assert "another feed" in why


def test_where_the_legacy_folder_is_at_hand_its_shadow_says_nothing(ticked: Home, tmp_path: Path) -> None:
    ticks(tmp_path / "shadow", LOST)
    file = ticks(tmp_path / "legacy", [*KEPT, LOST[0]])
    done = ticked.sweep(Asking().ways(tmp_path / "shadow"), files=[Found(file.name, DXY, file)])
    assert sessions(done.repaired) == [(LOST[0], "folder")]


def test_of_half_a_session_the_other_half_stays_missing(home: Home, tmp_path: Path) -> None:
    home.load(ticks(tmp_path / "legacy", [*KEPT, *LOST]))
    home.lose("b3_dxy_ticks", "2025-09")
    half = dxy_text([LOST[0]]).replace(",0.1,0.2,", ",0.1,-,")
    (tmp_path / DXY.file).write_text(half)
    asking = Asking({(DXY.name, LOST[0]): [payload(tmp_path / DXY.file, DXY)]})
    done = home.sweep(asking.ways(), within=window(LOST[0], LOST[0]))
    assert (done.repaired, [(gap.session, gap.part) for gap, _why in done.known]) == ([], [(LOST[0], "dxy_08h55")])


# What cannot be repaired


def test_what_no_source_gives_any_more_is_marked_once_with_what_was_tried(ticked: Home, tmp_path: Path) -> None:
    done = ticked.sweep(Asking().ways(tmp_path / "no-shadow"))
    assert done.ok
    assert days(done.known) == LOST
    first = ticked.known.marks()
    assert [(mark.session, mark.part, mark.who) for mark in first] == [(day, "", "sweep") for day in LOST]
    assert {each["way"] for mark in first for each in mark.tried} == {"archive", "folder"}
    again = ticked.sweep(Asking().ways())
    assert days(again.known) == LOST
    assert ticked.known.marks() == first


def test_a_sweep_after_a_sweep_changes_nothing(settled: Home) -> None:
    asking = Asking({(REPORT.name, LOST[0]): [settlement(LOST[0])]})
    settled.sweep(asking.ways())
    rows, loads, marks = settled.rows("b3_adjustments"), settled.loads(), settled.known.marks()
    again = settled.sweep(asking.ways())
    assert (again.repaired, days(again.open)) == ([], LOST[1:4])
    assert (settled.rows("b3_adjustments"), settled.loads(), settled.known.marks()) == (rows, loads, marks)


def test_a_known_gap_whose_data_comes_later_is_unmarked(ticked: Home, tmp_path: Path) -> None:
    ticked.sweep(Asking().ways())
    ticked.load(ticks(tmp_path / "later", LOST[:1]))
    again = ticked.sweep(Asking().ways())
    assert [key.session for key in again.unmarked] == [LOST[0]]
    assert sorted(key.session for key in ticked.known.marked()) == LOST[1:]
    assert ticked.sweep(Asking().ways()).unmarked == []


def test_while_a_source_still_has_it_a_gap_stays_open_with_its_deadline(settled: Home) -> None:
    failing = Asking(source={(REPORT.name, day): Unreachable("B3 does not answer: 503") for day in LOST})
    done = settled.sweep(failing.ways())
    assert (done.known, days(done.open)) == ([], LOST[:4])
    why = dict(done.open)[next(gap for gap, _why in done.open if gap.session == LOST[0])]
    assert "until 2025-09-30: 16 sessions left" in why
    assert "503" in why
    after = settled.sweep(failing.ways(), to_utc(datetime(2025, 10, 1, 12)).replace(tzinfo=UTC))
    assert LOST[0] in days(after.known)
    assert LOST[1] in days(after.open)
    [mark] = [mark for mark in settled.known.marks() if mark.session == LOST[0]]
    assert [each["detail"] for each in mark.tried if each["way"] == "source"] == ["B3 does not answer: 503"]


def test_a_source_that_is_past_its_days_is_not_asked(settled: Home) -> None:
    asking = Asking()
    settled.sweep(asking.ways(), to_utc(datetime(2026, 9, 8, 12)).replace(tzinfo=UTC), within=window(LOST[0], LOST[4]))
    assert {way for way, _source, _session in asking.calls} == {"archive"}


def test_one_answer_without_it_may_be_half_an_answer_and_a_second_days_is_believed(settled: Home) -> None:
    asking = Asking(source={(REPORT.name, LOST[0]): settlement(LOST[-1])})
    only: Any = {"within": window(LOST[0], LOST[0])}
    assert days(settled.sweep(asking.ways(), **only).open) == [LOST[0]]
    assert days(settled.sweep(asking.ways(), NOW + timedelta(hours=1), **only).open) == [LOST[0]]
    done = settled.sweep(asking.ways(), NOW + timedelta(days=1), **only)
    assert days(done.known) == [LOST[0]]
    assert "two days" in done.known[0][1]


def test_an_answer_that_is_rejected_is_none(settled: Home) -> None:
    page = given(REPORT, f"SPRD{LOST[0]:%y%m%d}.zip", b"<html>wartung</html>")
    asking = Asking(source={(REPORT.name, LOST[0]): page})
    for later in range(3):
        done = settled.sweep(asking.ways(), NOW + timedelta(days=later), within=window(LOST[0], LOST[0]))
        assert days(done.open) == [LOST[0]]


def test_that_a_source_has_nothing_yet_is_no_failure_and_not_final(settled: Home) -> None:
    asking = Asking(source={(REPORT.name, LOST[0]): NotYet("B3 sent an empty zip")})
    for later in range(3):
        done = settled.sweep(asking.ways(), NOW + timedelta(days=later), within=window(LOST[0], LOST[0]))
        assert days(done.open) == [LOST[0]]


def test_the_present_session_is_not_marked_before_people_have_seen_it(ticked: Home) -> None:
    saturday = to_utc(datetime(2025, 9, 6, 12)).replace(tzinfo=UTC)
    done = ticked.sweep(Asking().ways(), saturday)
    assert (days(done.known), days(done.open)) == (LOST[:4], [LOST[4]])


def test_what_went_wrong_on_the_way_is_not_marked(ticked: Home) -> None:
    def damaged(_source: str, _session: date) -> Iterable[Payload]:
        raise ArchiveDamaged("entry 7 is damaged")

    done = ticked.sweep(Ways(damaged), within=window(LOST[0], LOST[0]))
    [(_gap, why)] = done.open
    assert "entry 7 is damaged" in why
    assert ticked.known.marked() == frozenset()


def test_what_we_have_and_cannot_load_is_not_marked_for_its_parser_may_be_mended(settled: Home) -> None:
    page = given(REPORT, f"SPRD{LOST[0]:%y%m%d}.zip", b"<html>wartung</html>")
    later = to_utc(datetime(2026, 9, 8, 12)).replace(tzinfo=UTC)
    asking = Asking({(REPORT.name, LOST[0]): [page]})
    only: Any = {"within": window(LOST[0], LOST[0])}
    assert days(settled.sweep(asking.ways(), later, **only).open) == [LOST[0]]
    gone = settled.sweep(Asking().ways(), later + timedelta(days=1), **only)
    assert days(gone.known) == [LOST[0]], "the archive was pruned: what it had then is void"


def test_a_way_that_failed_once_and_is_tried_no_more_keeps_nothing_open(ticked: Home, tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    ticks(tmp_path / "shadow", LOST[:1])
    only: Any = {"within": window(LOST[0], LOST[0])}
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("b3_pipeline.quality.sweeping.survey", lambda _folder: 1 / 0)
        done = ticked.sweep(Asking().ways(tmp_path / "shadow"), **only)
    assert days(done.open) == [LOST[0]]
    assert len(done.failed) == 1
    assert "shadow" in done.failed[0]
    again = ticked.sweep(Asking().ways(), NOW + timedelta(hours=1), **only)
    assert (days(again.known), again.failed) == ([LOST[0]], [])


def test_a_gap_that_is_given_today_for_the_last_time_is_a_last_chance(settled: Home) -> None:
    only: Any = {"within": window(LOST[0], LOST[0])}
    done = settled.sweep(Asking().ways(), to_utc(datetime(2025, 9, 30, 12)).replace(tzinfo=UTC), **only)
    assert [gap.session for gap in done.last_chances] == [LOST[0]]
    assert settled.sweep(Asking().ways(), **only).last_chances == []


def test_a_defect_in_one_source_does_not_keep_the_others_from_being_repaired(home: Home, tmp_path: Path) -> None:
    home.load(ticks(tmp_path / "legacy", [*KEPT, *LOST]), *map(settlement, [*KEPT, LOST[-1]]))
    home.lose("b3_dxy_ticks", "2025-09")
    whole = ticks(tmp_path / "archived", LOST)

    def archive(source: str, _session: date) -> Iterable[Payload]:
        if source == REPORT.name:
            raise ZeroDivisionError
        return [whole]

    done = home.sweep(Ways(archive))
    assert sessions(done.repaired) == [(day, "archive") for day in LOST]
    assert all("defect" in why for gap, why in done.open if gap.feed == "b3_sprd")


def test_sources_are_asked_so_often_a_sweep_and_the_next_one_goes_on(settled: Home) -> None:
    asking = Asking(source={(REPORT.name, day): settlement(day) for day in LOST})
    done = settled.sweep(asking.ways(most_fetches=3))
    assert days(done.repaired) == LOST[:3]
    assert days(settled.sweep(asking.ways(most_fetches=3)).repaired) == [LOST[3]]


def test_a_sweep_that_was_killed_is_finished_by_the_next(settled: Home) -> None:
    class Killed(BaseException):
        pass

    asking = Asking(source={(REPORT.name, day): settlement(day) for day in LOST})

    def fetch(source: str, session: date) -> Payload | None:
        if session == LOST[2]:
            raise Killed
        return asking.fetch(source, session)

    with pytest.raises(Killed):
        settled.sweep(Ways(fetch=fetch))
    done = settled.sweep(asking.ways())
    assert days(done.repaired) == LOST[2:4]
    assert settled.sweep(asking.ways()).found == []


def test_two_sweeps_are_not_at_it_at_once(settled: Home, postgres: str) -> None:
    with open_known_gaps(postgres) as other, other.alone(), pytest.raises(KnownGapsError, match="Another sweep"):
        settled.sweep(Asking().ways())


# What it says


def test_a_look_changes_nothing_and_lists_what_is_known_apart(settled: Home) -> None:
    context = Context(settled.db, settled.path, NOW)
    first, *_ = look(context, settled.known).found
    settled.known.mark(first.key, "B3 had a fault", "ana", NOW)
    report = look(context, settled.known)
    assert [why for _gap, why in report.known] == ["B3 had a fault"]
    assert days(report.open) == LOST[1:4]
    assert not report.ok


def test_its_document_has_every_gap_with_its_state_the_most_urgent_first(settled: Home) -> None:
    asking = Asking({(REPORT.name, LOST[2]): [settlement(LOST[2])]})
    document = settled.sweep(asking.ways()).document()
    assert set(document) == {"ok", "gaps", "unmarked"}
    assert [(gap["session"], gap["state"], gap["sessions_left"]) for gap in document["gaps"]] == [
        (LOST[0], "open", 16),
        (LOST[1], "open", 17),
        (LOST[3], "open", 19),
        (LOST[2], "repaired", 18),
    ]


def test_it_says_what_it_is_at(settled: Home) -> None:
    said: list[str] = []
    settled.sweep(Asking().ways(), announce=said.append)
    assert said[0] == "settlement_report: 4 gaps, archive"

"""One source: asked at its times, again after a failure, and what it answered is archived, noted or kept aside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b3_pipeline.parsing.kinds import ADJUSTMENTS, CAPTURE, LEGACY_KINDS, REPORT
from b3_pipeline.sessions import is_session, to_local
from b3_pipeline.settings import Settings
from b3_pipeline.sources import archive, collecting
from b3_pipeline.sources.archive import FOLDER, Archive, ArchiveFull
from b3_pipeline.sources.catalog import SOURCES, Source
from b3_pipeline.sources.collecting import Collecting, Outcome, due_of, of_session
from b3_pipeline.sources.fetching import Asked, Fetched, Getter, NotYet, Refused, Unchanged, Unreachable
from b3_pipeline.sources.state import State
from b3_pipeline.sources.times import Due, Times

TIMES = Times(time(19, 25), time(23, 45), timedelta(minutes=5), once=True)
CSV = next(kind for kind in LEGACY_KINDS if kind.file == ADJUSTMENTS.file)


def local(text: str) -> datetime:
    """A moment in Brasília, aware UTC: three hours behind all year in 2025."""
    return datetime.fromisoformat(f"{text}-03:00").astimezone(UTC)


class Bench:
    """A source with a script of answers, a clock that a test moves, and the state in its home."""

    def __init__(self, home: Path, source: Source | None = None, times: Times = TIMES) -> None:
        self.settings = Settings(home=home)
        self.archive = Archive(home / FOLDER)
        self.asked: list[Asked] = []
        self.answer: Fetched | Exception | Callable[[Asked], Fetched] = NotYet("not there yet")
        self.told: list[str] = []
        self.source = source or Source(REPORT, "a report", self._fetch, times=times, due=Due(time(20, 30)))
        self.start()

    def start(self) -> None:
        """As after a restart of the collector."""

        def tell(_source: str, message: str) -> None:
            self.told.append(message)

        getter = Getter(self.settings)
        self.one = Collecting(self.source, self.settings, self.archive, getter, tell, chance=lambda: 0.5)

    def _fetch(self, _settings: Settings, _getter: Getter, asked: Asked) -> Fetched:
        self.asked.append(asked)
        answer = self.answer(asked) if callable(self.answer) else self.answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def at(self, moment: str) -> Outcome | None:
        """Takes a step at a local time."""
        self.settings.now = local(moment)
        attempt = self.one.step()
        return attempt.outcome if attempt else None

    def times_asked(self, first: str, last: str, every_s: int = 30) -> list[str]:
        """Steps through a stretch of local time; gives when the source was asked."""
        moment, before = datetime.fromisoformat(first), len(self.asked)
        while moment <= datetime.fromisoformat(last):
            self.at(moment.isoformat())
            moment += timedelta(seconds=every_s)
        return [f"{to_local(asked.now):%H:%M:%S}" for asked in self.asked[before:]]

    @property
    def state(self) -> State:
        return State.read(self.archive.place(self.source.name))


def report(day: date, data: bytes = b"zip") -> Fetched:
    return Fetched(
        f"SPRD{day:%y%m%d}.zip", data, "https://example.org/report", 200, day, '"tag"', "Tue", "application/zip"
    )


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power."""
    monkeypatch.setattr(archive.os, "fsync", lambda _descriptor: None)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "home")


def test_a_source_is_asked_at_its_times_until_the_sessions_payload_is_there(bench: Bench) -> None:
    assert bench.times_asked("2025-10-14T19:00", "2025-10-14T19:38") == ["19:25:00", "19:30:00", "19:35:00"]
    bench.answer = report(date(2025, 10, 14))
    assert bench.times_asked("2025-10-14T19:38", "2025-10-14T23:59") == ["19:40:00"]
    bench.answer = report(date(2025, 10, 15), b"other")
    assert bench.times_asked("2025-10-15T00:00", "2025-10-15T23:59", 60) == ["19:25:00"]
    entries = list(bench.archive.after("settlement_report", 0))
    assert [(e.seq, e.name, e.session) for e in entries] == [
        (1, "SPRD251014.zip", date(2025, 10, 14)),
        (2, "SPRD251015.zip", date(2025, 10, 15)),
    ]
    assert entries[0].at == local("2025-10-14T19:40:00")
    assert (entries[0].url, entries[0].etag, entries[0].content_type) == (
        "https://example.org/report",
        '"tag"',
        "application/zip",
    )


def test_days_without_a_session_are_quiet(bench: Bench) -> None:
    bench.answer = Unreachable("it is switched off")
    assert bench.times_asked("2025-10-11T00:00", "2025-10-12T23:59", 120) == []  # a weekend
    assert bench.times_asked("2025-12-24T00:00", "2025-12-25T23:59", 120) == []
    assert bench.state == State()


def test_it_is_told_what_is_there_already(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    bench.answer = report(date(2025, 10, 14))
    assert bench.at("2025-10-14T19:25") == Outcome.NEW
    bench.answer = Unchanged()
    assert bench.at("2025-10-15T19:25") == Outcome.UNCHANGED
    first, second = bench.asked
    assert (first.etag, first.sha256, first.session) == (None, None, date(2025, 10, 14))
    assert first.due == local("2025-10-14T20:30:00")
    [entry] = bench.archive.after("settlement_report", 0)
    assert (second.etag, second.last_modified, second.sha256) == ('"tag"', "Tue", entry.sha256)
    assert second.session == date(2025, 10, 15)


def test_the_same_bytes_again_are_nothing_new(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    bench.answer = replace(report(date(2025, 10, 14)), session=None)
    outcomes = [bench.at(f"2025-10-14T19:{minute}") for minute in (25, 30, 35)]
    assert outcomes == [Outcome.NEW, Outcome.UNCHANGED, Outcome.UNCHANGED]
    assert bench.archive.last("settlement_report") == 1
    assert bench.state.changed == local("2025-10-14T19:25:00")
    assert bench.state.success == bench.state.attempt == local("2025-10-14T19:35:00")


def test_after_a_failure_it_is_asked_sooner_then_ever_later_and_no_later_than_usual(tmp_path: Path) -> None:
    bench = Bench(tmp_path, times=replace(TIMES, every=timedelta(hours=2)))
    bench.answer = Unreachable("no answer")
    asked = bench.times_asked("2025-10-14T19:00", "2025-10-14T20:30", 10)
    assert asked == [
        "19:25:00", "19:25:30", "19:26:30", "19:28:30", "19:32:30", "19:40:30", "19:50:30", "20:00:30", "20:10:30", "20:20:30"
    ]  # fmt: skip
    assert (bench.state.failures, bench.state.problem) == (10, "no answer")
    assert bench.state.failing_since == local("2025-10-14T19:25:00")
    assert bench.told == ["failed: no answer"]  # not ten times
    bench.answer = report(date(2025, 10, 14))
    assert bench.times_asked("2025-10-14T20:30", "2025-10-15T10:00", 10) == ["20:30:30"]
    assert (bench.state.failures, bench.state.problem, bench.state.failing_since) == (0, None, None)


def test_after_its_deadline_a_source_that_fails_is_left_alone_until_the_next_session(bench: Bench) -> None:
    bench.answer = Unreachable("no answer")
    bench.at("2025-10-14T23:00")
    assert bench.times_asked("2025-10-14T23:44", "2025-10-14T23:59", 10)[-1] < "23:51"
    assert bench.times_asked("2025-10-15T00:00", "2025-10-15T19:24", 60) == []


def test_chance_spreads_the_pauses(bench: Bench) -> None:
    bench.answer = Unreachable("no answer")
    waits = []
    for chance in (0.0, 1.0):
        bench.start()
        bench.one._chance = lambda chance=chance: chance
        bench.state.__class__().write(bench.archive.place("settlement_report"))
        bench.at("2025-10-14T19:25")
        waits.append(bench.one.wait())
    assert waits == [15, 45]


def test_not_yet_is_no_failure(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    assert bench.at("2025-10-14T19:25") == Outcome.NOT_YET
    assert (bench.state.failures, bench.state.problem, bench.state.success) == (0, None, None)
    assert bench.state.attempt == local("2025-10-14T19:25:00")


def test_what_is_refused_is_counted_kept_aside_and_never_archived(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    bench.answer = Refused("it is HTML, and no zip", b"<html>")
    assert bench.at("2025-10-14T19:25") == Outcome.REFUSED
    assert bench.at("2025-10-14T19:30") == Outcome.REFUSED
    assert (bench.state.refused, bench.state.failures) == (2, 2)
    place = bench.archive.place("settlement_report")
    [kept] = (place / "refused").glob("*.bin")
    assert kept.read_bytes() == b"<html>"
    assert json.loads(kept.with_suffix(".json").read_text("utf-8"))["problem"] == "it is HTML, and no zip"
    assert bench.archive.sources() == []


def test_an_error_in_the_code_is_said_without_its_text_and_tried_again(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    bench.answer = ZeroDivisionError("https://user:secret@host")
    assert bench.at("2025-10-14T19:25") == Outcome.FAILED
    problem = str(bench.state.problem)
    assert problem.startswith("unexpected ZeroDivisionError in test_collecting.py, line ")
    assert "secret" not in json.dumps(bench.told)
    bench.answer = report(date(2025, 10, 14))
    assert bench.times_asked("2025-10-14T19:25", "2025-10-14T19:29", 10) == ["19:25:30"]


def test_when_the_archive_is_full_nothing_is_noted_as_brought(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_given: object) -> None:
        raise ArchiveFull("No room to archive what settlement_report gave.")

    bench.at("2025-10-14T19:00")
    bench.answer = report(date(2025, 10, 14))
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "append", full)
        assert bench.at("2025-10-14T19:25") == Outcome.FAILED
    assert (bench.state.etag, bench.state.problem) == (None, "No room to archive what settlement_report gave.")
    assert bench.times_asked("2025-10-14T19:25", "2025-10-14T19:29", 10) == ["19:25:30"]
    assert bench.archive.last("settlement_report") == 1


def test_what_was_missed_while_nobody_was_there_is_fetched_at_the_start(bench: Bench) -> None:
    assert bench.at("2025-10-14T21:03:20") == Outcome.NOT_YET
    bench.start()
    assert bench.at("2025-10-14T21:04") is None  # it was asked at 21:03: nothing is missed
    bench.start()
    assert bench.at("2025-10-14T21:06") == Outcome.NOT_YET
    bench.answer = report(date(2025, 10, 14))
    assert bench.at("2025-10-14T21:10") == Outcome.NEW
    bench.start()
    assert bench.at("2025-10-14T22:10") is None  # it is there


@pytest.mark.parametrize("moment", ["2025-10-14T12:00", "2025-10-14T23:59", "2025-10-12T21:00"])
def test_nothing_is_fetched_at_the_start_outside_of_the_days_window(bench: Bench, moment: str) -> None:
    assert bench.at(moment) is None
    assert not bench.asked


def test_a_machine_that_slept_over_a_time_does_not_ask_in_the_night(bench: Bench) -> None:
    bench.at("2025-10-14T19:00")
    assert bench.at("2025-10-15T03:00") is None
    assert bench.at("2025-10-15T19:25") == Outcome.NOT_YET


def test_a_clock_that_is_set_back_is_followed(bench: Bench) -> None:
    bench.at("2025-10-20T12:00")
    bench.at("2025-10-14T12:00")
    assert bench.at("2025-10-14T19:25") == Outcome.NOT_YET


def test_an_older_report_that_was_fetched_to_fill_a_gap_does_not_hide_todays(bench: Bench) -> None:
    for session in (date(2025, 10, 14), date(2025, 10, 1)):
        name = f"SPRD{session:%y%m%d}.zip"
        bench.archive.append(
            "settlement_report", name.encode(), name=name, at=local("2025-10-14T20:00"), session=session
        )
    bench.start()
    assert bench.times_asked("2025-10-14T21:00", "2025-10-14T23:00", 60) == []


def damage(bench: Bench, seq: int) -> None:
    entry = bench.archive.entry(bench.source.name, seq)
    assert entry is not None
    bench.archive.entry_path(entry).write_bytes(b"{")


@pytest.mark.parametrize("seq", [1, 2])
def test_a_damaged_entry_does_not_keep_a_source_from_being_collected(bench: Bench, seq: int) -> None:
    bench.at("2025-10-10T19:00")
    for session in (date(2025, 10, 10), date(2025, 10, 13)):
        bench.answer = report(session, str(session).encode())
        assert bench.at(f"{session}T19:25") == Outcome.NEW
    damage(bench, seq)
    bench.start()
    bench.answer = report(date(2025, 10, 14), b"today's")
    assert bench.times_asked("2025-10-14T19:00", "2025-10-14T20:00") == ["19:25:00"]
    known = bench.asked[-1].sha256, bench.asked[-1].etag
    assert (known == (None, None)) == (seq == 2)  # of a damaged newest one nothing is known
    assert [e.seq for s in (1, 2, 3) if s != seq and (e := bench.archive.entry("settlement_report", s))][-1] == 3


def test_a_gap_is_filled_from_the_source_beside_a_damaged_entry(bench: Bench) -> None:
    bench.answer = report(date(2025, 10, 14))
    for session in (date(2025, 10, 13), date(2025, 10, 14)):
        bench.archive.append(
            "settlement_report", b"zip", name=f"SPRD{session:%y%m%d}.zip", at=local("2025-10-14T20:00")
        )
    damage(bench, 1)
    bench.settings.now = local("2025-10-15T12:00")
    found = of_session(bench.source, bench.settings, bench.archive, date(2025, 10, 14))
    assert found is not None
    assert found.seq == 2


@pytest.fixture
def surface(tmp_path: Path) -> Bench:
    """The surface: its file stays at the source until the next session's is out."""
    bench = Bench(tmp_path / "home")
    bench.source = replace(SOURCES["vol_surface"], fetch=bench._fetch)
    bench.start()
    return bench


def test_a_surface_that_was_missed_in_the_evening_is_asked_for_on_the_next_day(surface: Bench) -> None:
    surface.at("2025-10-10T17:50")
    surface.answer = report(date(2025, 10, 10), b"Friday's")
    assert surface.at("2025-10-10T18:00") == Outcome.NEW
    surface.start()  # nobody was there on Monday
    surface.answer = report(date(2025, 10, 13), b"Monday's")
    assert surface.times_asked("2025-10-14T07:00", "2025-10-14T17:55", 300) == ["08:00:00"]
    assert surface.asked[-1].session == date(2025, 10, 13)
    surface.answer = report(date(2025, 10, 14), b"Tuesday's")
    assert surface.times_asked("2025-10-14T17:55", "2025-10-15T12:00", 300) == ["18:00:00"]
    assert surface.asked[-1].session == date(2025, 10, 14)


def test_a_collector_that_starts_at_noon_asks_for_the_missed_surface_at_once(surface: Bench) -> None:
    surface.archive.append(
        "vol_surface", b"Friday's", name="x.zip", at=local("2025-10-10T18:00"), session=date(2025, 10, 10)
    )
    assert surface.times_asked("2025-10-14T12:20", "2025-10-14T14:30", 300) == ["12:20:00", "13:00:00", "14:00:00"]
    assert {asked.session for asked in surface.asked} == {date(2025, 10, 13)}


def test_a_surface_that_is_there_is_not_asked_for_again_on_the_next_day(surface: Bench) -> None:
    surface.archive.append(
        "vol_surface", b"Monday's", name="x.zip", at=local("2025-10-13T18:00"), session=date(2025, 10, 13)
    )
    assert surface.times_asked("2025-10-14T00:00", "2025-10-14T17:55", 300) == []


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["new", "not yet", "unreachable", "refused", "unchanged"]), max_size=30))
def test_whatever_it_answers_a_source_is_asked_in_its_window_and_never_faster_than_its_shortest_pause(
    tmp_path_factory: pytest.TempPathFactory, script: list[str]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("home"), times=replace(TIMES, once=False))
    answers = iter(script)

    def answer(asked: Asked) -> Fetched:
        kind = next(answers, "unreachable")
        if kind == "new":
            return report(asked.session, str(asked.now).encode())
        raise {"not yet": NotYet("-"), "refused": Refused("-"), "unchanged": Unchanged()}.get(kind, Unreachable("-"))

    bench.answer = answer
    bench.settings.now = local("2025-10-10T19:00")
    while bench.settings.now < local("2025-10-13T20:00"):  # over a weekend
        bench.one.step()
        bench.settings.now += timedelta(seconds=max(1.0, bench.one.wait()))
    moments = [asked.now for asked in bench.asked]
    pauses = [b - a for a, b in pairwise(moments) if to_local(a).date() == to_local(b).date()]
    assert all(timedelta(seconds=15) <= pause <= timedelta(minutes=5) for pause in pauses)
    assert len(pauses) >= 52
    assert all(is_session(to_local(moment).date()) and to_local(moment).time() >= time(19, 25) for moment in moments)


def test_a_file_of_the_legacy_folder_is_read_once_a_day_unless_somebody_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    legacy = tmp_path / "legacy"
    legacy.mkdir()
    times = Times(time(20), time(23, 30), timedelta(minutes=30), once=True)
    bench = Bench(tmp_path / "home", Source(CSV, "a file", file=CSV.file, times=times))
    bench.settings.legacy_dir = legacy
    bench.at("2025-10-14T19:00")
    assert bench.at("2025-10-14T20:00") == Outcome.FAILED
    assert bench.state.problem == f"{CSV.file} cannot be read: No such file or directory."
    (legacy / CSV.file).write_bytes(b"data,hora\n")
    assert bench.at("2025-10-14T20:30") == Outcome.NOT_YET
    monkeypatch.setattr(collecting, "_SETTLED_S", -1.0)
    assert bench.at("2025-10-14T21:00") == Outcome.NEW
    assert bench.at("2025-10-14T21:30") is None
    newest = bench.archive.newest(CSV.name)
    assert newest is not None
    assert (newest.name, newest.session, newest.size) == (CSV.file, date(2025, 10, 14), 10)


def test_a_watched_file_can_be_read_by_hand(tmp_path: Path) -> None:
    (tmp_path / "legacy").mkdir()
    (tmp_path / "legacy/ultimo_dado.json").write_bytes(b"{}")
    source = Source(CAPTURE, "a file", lambda *_: pytest.fail("it was fetched"), file=CAPTURE.file, times=TIMES)
    bench = Bench(tmp_path / "home", source)
    bench.settings.legacy_dir = tmp_path / "legacy"
    assert [bench.one.collect().outcome for _ in range(2)] == [Outcome.NEW, Outcome.UNCHANGED]


def test_data_that_is_due_a_session_later_is_due_then() -> None:
    assert due_of(Due(time(10), back=1), date(2025, 10, 10)) == local("2025-10-13T10:00")  # over a weekend
    assert due_of(Due(time(20, 30)), date(2025, 10, 10)) == local("2025-10-10T20:30")


def test_a_damaged_state_is_none_and_a_full_disk_is_no_error(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"attempt": 1}'):
        (tmp_path / "state.json").write_text(text)
        assert State.read(tmp_path) == State()
    state = State().failed(local("2025-10-14T10:00"), "broken", refused=True)
    state.write(tmp_path)
    assert State.read(tmp_path) == state
    (tmp_path / "file").touch()
    state.write(tmp_path / "file" / "below")

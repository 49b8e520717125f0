"""Flags: a history that only grows, and readers that never fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from b3_pipeline.postgres import flags
from b3_pipeline.postgres.dsn import BadDsn
from b3_pipeline.postgres.flags import DEFAULTS, Flags, FlagsError, UnknownFlag, history, set_flag

NOW = datetime(2025, 10, 13, 12, tzinfo=UTC)
NOWHERE = "postgresql://u:hunter2@127.0.0.1:1/x"


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    def forget() -> None:
        with psycopg.connect(postgres, autocommit=True) as db:
            db.execute("drop table if exists b3.flags")

    forget()
    yield postgres
    forget()


def test_before_anybody_set_one_every_flag_is_its_default_in_every_domain(dsn: str, tmp_path: Path) -> None:
    current = Flags(tmp_path, dsn).current()
    assert not current.stale
    assert current.entries == DEFAULTS
    assert {domain: current.phase(domain) for domain in flags.DOMAINS} == {"market": "legacy", "ideas": "legacy"}
    assert not current.is_on("shadow_files")
    assert history(dsn) == []


def test_what_was_set_last_stands_in_its_domain_and_the_history_has_everything(dsn: str, tmp_path: Path) -> None:
    first = set_flag(dsn, "phase", "shadow", why="agreed", who="ana", at=NOW)
    second = set_flag(dsn, "phase", "legacy", why="too early", who="rui", at=NOW)
    third = set_flag(dsn, "shadow_files", "on", why="try", who="ana", at=NOW)
    current = Flags(tmp_path, dsn).current()
    assert current.entries["market", "phase"] == second
    assert current.is_on("shadow_files")
    assert not current.is_on("shadow_files", "ideas")
    assert history(dsn) == [third, second, first]
    assert history(dsn, 1) == [third]
    assert history(dsn, 1, "market", "phase") == [second]
    assert history(dsn, 9, "ideas") == []


def test_who_is_the_user_of_the_process_unless_given(dsn: str) -> None:
    assert set_flag(dsn, "shadow_files", "on", why="try", at=NOW).who == flags.user()
    assert flags.user()


@pytest.mark.parametrize(
    ("name", "value", "domain", "why", "said"),
    [
        ("phases", "shadow", "market", "x", "There is no flag 'phases': phase or shadow_files"),
        ("phase", "on", "market", "x", "phase cannot be 'on': legacy, shadow, active, frozen"),
        ("shadow_files", "maybe", "market", "x", "off, on"),
        ("phase", "shadow", "stocks", "x", "market or ideas"),
        ("phase", "shadow", "market", "  ", "Say why"),
        ("phase", "shadow", "market", "a\nb", "one line"),
        ("phase", "shadow", "market", "x" * 501, "500"),
    ],
)
def test_what_cannot_be_set_is_a_sentence_with_what_can(
    name: str, value: str, domain: str, why: str, said: str
) -> None:
    with pytest.raises(UnknownFlag, match=said):
        set_flag(NOWHERE, name, value, domain=domain, why=why, at=NOW)


def test_a_reader_asks_again_after_a_second_and_not_before(dsn: str, tmp_path: Path, clock: Clock) -> None:
    reader = Flags(tmp_path, dsn, clock)
    assert reader.current().phase() == "legacy"
    set_flag(dsn, "phase", "shadow", why="x", at=NOW)
    clock.now += 0.9
    assert reader.current().phase() == "legacy"
    clock.now += 0.1
    assert reader.current().phase() == "shadow"


def test_without_postgresql_a_reader_goes_on_with_what_it_knows(
    dsn: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_flag(dsn, "phase", "active", why="x", who="ana", at=NOW)
    reader = Flags(tmp_path, dsn, clock)
    fresh = reader.current()

    def away(*_values: object, **_options: object) -> None:
        raise psycopg.OperationalError("away")

    with monkeypatch.context() as stopped:
        stopped.setattr(psycopg, "connect", away)
        clock.now += 2
        stale = reader.current()
        assert (stale.stale, stale.entries) == (True, fresh.entries)
        newcomer = Flags(tmp_path, dsn, clock).current()
        assert (newcomer.stale, newcomer.entries) == (True, fresh.entries)
        assert Flags(tmp_path / "other", dsn, clock).current().entries == DEFAULTS
    clock.now += 2
    assert reader.current() == fresh


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[1]", '[{"domain": "market"}]', "null", "\udcff"])
def test_a_spoilt_file_of_the_last_known_state_stops_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / flags.FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    current = Flags(tmp_path, None).current()
    assert (current.stale, current.entries) == (True, DEFAULTS)


def test_the_last_known_state_is_written_only_when_it_changed_and_for_nobody_else_to_read(
    dsn: str, tmp_path: Path, clock: Clock
) -> None:
    reader, file = Flags(tmp_path, dsn, clock), tmp_path / flags.FILE
    reader.current()
    first = file.stat().st_ino
    clock.now += 2
    reader.current()
    assert file.stat().st_ino == first
    set_flag(dsn, "phase", "shadow", why="x", at=NOW)
    clock.now += 2
    reader.current()
    assert file.stat().st_ino != first
    assert file.stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_written_stops_no_reader(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file in the way")
    assert not Flags(tmp_path / "home", dsn).current().stale


def test_what_another_release_has_set_does_not_count_here(dsn: str, tmp_path: Path) -> None:
    set_flag(dsn, "phase", "shadow", why="x", at=NOW)
    insert = "insert into b3.flags (at, domain, name, value, who, why) values (now(), %s, %s, %s, 'x', 'x')"
    with psycopg.connect(dsn, autocommit=True) as db:
        for row in (("market", "new_flag", "on"), ("market", "shadow_files", "sometimes"), ("moon", "phase", "shadow")):
            db.execute(insert, row)
    current = Flags(tmp_path, dsn).current()
    assert current.entries.keys() == DEFAULTS.keys()
    assert (current.phase(), current.value("shadow_files")) == ("shadow", "off")


def test_of_many_that_set_at_once_every_row_stays(dsn: str) -> None:
    def set_one(number: int) -> None:
        set_flag(dsn, "phase", "shadow", why=f"thread {number}", at=NOW)

    threads = [threading.Thread(target=set_one, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert {entry.why for entry in history(dsn)} == {f"thread {number}" for number in range(8)}


def test_setting_while_postgresql_is_away_is_a_sentence_without_its_password() -> None:
    with pytest.raises(FlagsError, match="does not answer") as failed:
        set_flag(NOWHERE, "phase", "shadow", why="x", at=NOW)
    assert "hunter2" not in str(failed.value)
    with pytest.raises(FlagsError, match="does not answer"):
        history(NOWHERE)
    with pytest.raises(BadDsn):
        Flags(Path("x"), "postgresql://u:a@b@host/x")


def test_the_file_is_json_of_one_object_a_flag(dsn: str, tmp_path: Path) -> None:
    set_flag(dsn, "phase", "shadow", why="x", who="ana", at=NOW)
    Flags(tmp_path, dsn).current()
    given = {(e["domain"], e["name"]): e for e in json.loads((tmp_path / flags.FILE).read_text())}
    assert given["market", "phase"]["since"] == NOW.isoformat()
    assert given["ideas", "phase"]["who"] is None

"""Connections to PostgreSQL: their settings, what they make, and what their errors say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest

from b3_pipeline.errors import B3Error
from b3_pipeline.postgres.connections import connected
from b3_pipeline.postgres.dsn import BadDsn
from b3_pipeline_tests.waiting import until

ONE: tuple[LiteralString, ...] = ("create table if not exists b3.one (n int primary key)",)
OTHER: tuple[LiteralString, ...] = ("create table if not exists b3.other (n int primary key)",)
NAME = "b3_connections"


class Failed(B3Error):
    """What the tests' connections raise."""


def opened(dsn: str, **options: Any) -> Any:
    return connected(dsn, error=Failed, what="a number", **options)


@pytest.fixture
def dsn(postgres: str) -> Iterator[str]:
    """A database in which nobody has made anything yet."""
    with psycopg.connect(postgres, autocommit=True) as db:
        db.execute(f"create database {NAME}")
        yield urlsplit(postgres)._replace(path=f"/{NAME}").geturl()
        db.execute(f"drop database {NAME} with (force)")
        db.execute("drop role if exists b3_reader")


def test_moments_are_utc_and_a_statement_ends_in_time_whatever_the_dsn_says_else(dsn: str) -> None:
    theirs = f"{dsn}&options=-c%20timezone%3DAsia%2FTokyo%20-c%20statement_timeout%3D7s%20-c%20work_mem%3D5MB"
    shown = "select current_setting('statement_timeout'), current_setting('work_mem'), now()"
    with opened(theirs) as db:
        [(timeout, memory, now)] = db.execute(shown).fetchall()
    assert (timeout, memory, now.tzinfo.utcoffset(now)) == ("7s", "5MB", datetime.now(UTC).utcoffset())
    with opened(theirs, statement_timeout_ms=90) as db:
        [(timeout, memory, _)] = db.execute(shown).fetchall()
    assert (timeout, memory) == ("90ms", "5MB")


def test_what_takes_longer_than_it_may_is_a_postgresql_that_does_not_answer(dsn: str) -> None:
    with (
        pytest.raises(Failed, match="does not answer: canceling statement"),
        opened(dsn, statement_timeout_ms=50) as db,
    ):
        db.execute("select pg_sleep(60)")


def test_tables_are_made_once_and_by_all_that_come_at_once_to_a_new_database(dsn: str) -> None:
    met, done = threading.Barrier(8), []

    def add(number: int) -> None:
        table, ddl = ("one", ONE) if number % 2 else ("other", OTHER)
        met.wait(30)
        with opened(dsn, ddl=ddl) as db:
            done.append(db.execute(f"insert into b3.{table} values (%s)", (number,)).rowcount)

    threads = [threading.Thread(target=add, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert done == [1] * 8


def test_who_waits_for_a_table_holds_up_nobody_who_uses_another(dsn: str) -> None:
    waits: LiteralString = "select 1 from pg_locks where not granted and relation = 'b3.one'::regclass"

    def make_index() -> None:
        with opened(dsn, ddl=[*ONE, "create index if not exists one_n on b3.one (n)"]):
            pass

    with opened(dsn, ddl=ONE) as db:
        with db.transaction():
            db.execute("insert into b3.one values (1)")
            waiting = threading.Thread(target=make_index)
            waiting.start()
            until(lambda: db.execute(waits).fetchone())
            with opened(dsn, ddl=OTHER, statement_timeout_ms=5_000) as other:
                assert other.execute("select * from b3.other").fetchall() == []
        waiting.join(30)
        assert db.execute("select to_regclass('b3.one_n') is not null").fetchall() == [(True,)]


def test_without_a_table_to_make_nothing_is_made(dsn: str) -> None:
    with opened(dsn) as db:
        assert db.execute("select to_regnamespace('b3')").fetchall() == [(None,)]


def test_what_postgresql_refuses_is_a_sentence_in_its_words(dsn: str) -> None:
    with opened(dsn, ddl=ONE) as db:
        db.execute("create role b3_reader")
    reader, said = f"{dsn}&options=-c%20role%3Db3_reader", "permission denied for schema b3"
    with pytest.raises(Failed, match=f"refused a number: {said}. May this user"), opened(reader) as db:
        db.execute("select * from b3.one")


def test_who_may_make_no_tables_takes_those_that_are_there(dsn: str) -> None:
    with opened(dsn, ddl=ONE) as db:
        db.execute("create role b3_reader")
        db.execute("grant usage on schema b3 to b3_reader")
        db.execute("grant select on b3.one to b3_reader")
    with opened(f"{dsn}&options=-c%20role%3Db3_reader", ddl=(*ONE, *OTHER)) as db:
        assert db.execute("select * from b3.one").fetchall() == []
        assert db.execute("select to_regclass('b3.other')").fetchall() == [(None,)]


def test_of_a_database_in_which_a_user_may_make_nothing_the_error_says_so(dsn: str) -> None:
    with opened(dsn) as db:
        db.execute("create role b3_reader")
    reader = f"{dsn}&options=-c%20role%3Db3_reader"
    with pytest.raises(Failed, match=f"permission denied for database {NAME}"), opened(reader, ddl=ONE):
        pass


def test_an_error_of_another_kind_goes_through_as_it_is(dsn: str) -> None:
    with pytest.raises(ZeroDivisionError), opened(dsn):
        raise ZeroDivisionError


def test_of_a_dsn_no_error_says_the_password() -> None:
    for dsn, error in (
        ("postgresql://u:hunter2@127.0.0.1:1/x", Failed),
        ("postgresql://u:p@hunter2@127.0.0.1/x", BadDsn),
    ):
        with pytest.raises(error) as failed, opened(dsn):
            pass
        assert "hunter2" not in str(failed.value)
        assert failed.value.__cause__ is None

"""What only the tables have: the history, several processes, and a server that is away, hangs, or has no tables yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.lowdb import tables as module
from b3_pipeline.lowdb.model import DOCUMENTATION_IDEAS, IDEAS, PRIORITIES, STATUSES, Record
from b3_pipeline.lowdb.store import Asked, Busy, Change, Changed, NoSuchRecord, Refused, Store, StoreAway
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline.ports import HOST
from b3_pipeline_tests.api.silent import refused_port, silent_port
from b3_pipeline_tests.lowdb import stores
from b3_pipeline_tests.lowdb.stores import Clock, Made, idea

SOON_S = 1.0


@pytest.fixture
def made(postgres: str, tmp_path: Any) -> Made:
    stores.empty(postgres)
    return Made(stores.TABLES, postgres, tmp_path)


def test_the_history_says_who_changed_what_and_outlives_the_idea(made: Made) -> None:
    async def story(store: Store) -> None:
        first = await store.create(IDEAS, idea(theirs=1), "ana")
        second = await store.replace(IDEAS, 1, idea(title="Nova"), None, "rui")
        await store.replace(IDEAS, 1, idea(title="Nova"), None, "ninguém")
        await store.remove(IDEAS, 1, None, "ana")
        removed, changed, made = await store.history(1, 10)
        assert (made.who, made.action, made.before, made.after) == ("ana", "insert", None, first.record)
        assert (changed.who, changed.action, changed.before, changed.after) == (
            "rui",
            "update",
            first.record,
            second.record,
        )
        assert (removed.action, removed.before, removed.after) == ("delete", second.record, None)
        assert made.at <= changed.at <= removed.at
        assert [each.id for each in await store.history(1, 1)] == [removed.id]
        with pytest.raises(NoSuchRecord):
            await store.history(2, 10)

    made.run(story)


def test_the_tags_of_an_idea_follow_its_changes(made: Made) -> None:
    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(tags=["a", "b"]), "ana")
        await store.replace(IDEAS, 1, idea(tags=["b", "c", "b"]), None, "ana")
        for tag, times in (("a", 0), ("b", 1), ("c", 1)):
            assert (await store.page(IDEAS, Asked(filters={"tag": tag})))[1] == times

    made.run(story)


def test_all_records_are_as_of_one_moment(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2)

    async def story(store: Store) -> None:
        for _ in range(5):
            await store.create(IDEAS, idea(), "ana")
        seen: list[Record] = []
        async for record in store.records(IDEAS):
            if not seen:
                await store.replace(IDEAS, 5, idea(title="Depois"), None, "ana")
            seen.append(record)
        assert [record["title"] for record in seen] == [idea()["title"]] * 5

    made.run(story)


@pytest.mark.parametrize("few", [0, 2, 10])
def test_a_search_finds_the_same_whether_few_or_many_records_have_its_words(
    made: Made, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(module, "FEW", few)

    async def story(store: Store) -> None:
        for number in range(6):
            await store.create(IDEAS, idea(title=f"Gama {number}", priority=PRIORITIES[number % 2]), "ana")
        for limit, offset, count_to, expected, total in (
            (2, 0, None, [0, 1], 6),
            (2, 4, None, [4, 5], 6),
            (3, 4, None, [4, 5], 6),
            (2, 9, None, [], 6),
            (2, 2, 3, [2, 3], 4),
            (9, 0, 6, [0, 1, 2, 3, 4, 5], 6),
        ):
            found, counted = await store.page(IDEAS, Asked(limit, offset, {}, "gam", count_to))
            assert [each.record["title"][-1] for each in found] == [str(number) for number in expected]
            assert counted == total
        narrowed, counted = await store.page(IDEAS, Asked(9, 0, {"priority": PRIORITIES[1]}, "GAMA painel", None))
        assert (narrowed, counted) == ([], 0)
        assert len((await store.page(IDEAS, Asked(9, 0, {"priority": PRIORITIES[1]}, "GAMA ajus")))[0]) == 3

    made.run(story)


# Concurrent edits: whatever they are, the history replayed is what stands.


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["status", "priority", "title", "tags", "remove"]),
        st.integers(0, 3),
        st.booleans(),  # whether the writer looks first, and gives way to others
    ),
    min_size=2,
    max_size=12,
)


async def _edit(store: Store, edit: tuple[str, int, bool], writer: str) -> None:
    what, number, careful = edit
    values: dict[str, Any] = {
        "status": STATUSES[number],
        "priority": PRIORITIES[number],
        "title": f"título {number}",
        "tags": ["x"] * number,
    }
    try:
        seen = await store.get(DOCUMENTATION_IDEAS if what == "other" else IDEAS, 1)
        match = seen.etag if careful else None
        if what == "remove":
            if number == 3:
                await store.remove(IDEAS, 1, match, writer)
        else:
            await store.replace(IDEAS, 1, {**seen.record, what: values[what]}, match, writer)
    except (Changed, NoSuchRecord):
        return


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_a_history_of_concurrent_edits_replayed_is_the_row_that_stands(made: Made, edits: list[Any]) -> None:
    stores.empty(made.dsn)

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(), "ana")
        await asyncio.gather(*(_edit(store, edit, f"writer {n}") for n, edit in enumerate(edits)))
        history = (await store.history(1, 1_000))[::-1]
        stands = _replayed(history)
        try:
            assert (await store.get(IDEAS, 1)).record == stands
        except NoSuchRecord:
            assert stands is None

    made.run(story)


def _replayed(history: list[Change]) -> Record | None:
    """What stands after all changes; each begins with what the one before has left, so none was lost in between."""
    stands: Record | None = None
    for change in history:
        assert change.before == stands
        stands = change.after
    return stands


# Away.


@pytest.mark.parametrize("away", [silent_port, refused_port])
def test_without_postgres_who_asks_is_told_so_in_time(away: Callable[[], AbstractContextManager[int]]) -> None:
    async def story(port: int) -> float:
        async with Tables(f"postgresql://u:secret@{HOST}:{port}/b3", Clock()) as store:
            began = time.monotonic()
            for asked in (store.get(IDEAS, 1), store.create(IDEAS, idea(), "ana")):
                with pytest.raises(StoreAway) as told:
                    await asked
                assert (type(told.value), "secret" in str(told.value)) == (StoreAway, False)
            return time.monotonic() - began

    with away() as port:
        assert asyncio.run(story(port)) < 2 * (module.WAIT_S + SOON_S)


def test_a_store_without_a_dsn_is_away() -> None:
    async def story() -> None:
        async with Tables(None, Clock()) as store:
            with pytest.raises(StoreAway):
                await store.page(IDEAS, Asked())

    asyncio.run(story())


def test_a_row_that_somebody_holds_is_given_up_in_time_and_the_change_is_not_made(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.5)

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(), "ana")
        with psycopg.connect(made.dsn) as other:
            other.execute("select 1 from ideas.ideas where id = 1 for update")
            with pytest.raises(Busy):
                await store.replace(IDEAS, 1, idea(title="Nova"), None, "ana")
            assert (await store.get(IDEAS, 1)).record["title"] == idea()["title"]
        monkeypatch.setattr(module, "ANSWER_S", 5.0)
        assert (await store.replace(IDEAS, 1, idea(title="Nova"), None, "ana")).record["title"] == "Nova"

    made.run(story, size=2)


def test_a_statement_that_the_server_gives_up_is_no_server_that_is_away(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATEMENT_MS", 100)

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(), "ana")
        with psycopg.connect(made.dsn) as other:
            other.execute("select 1 from ideas.ideas where id = 1 for update")
            with pytest.raises(Busy):
                await store.remove(IDEAS, 1, None, "ana")

    made.run(story)


def test_a_pool_that_is_full_is_no_server_that_is_away(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.2)

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(), "ana")
        with psycopg.connect(made.dsn) as other:
            other.execute("select 1 from ideas.ideas where id = 1 for update")
            waiting = asyncio.create_task(store.remove(IDEAS, 1, None, "ana"))
            await asyncio.sleep(0.1)
            with pytest.raises(Busy, match="Too much"):
                await store.get(IDEAS, 1)
        await waiting

    made.run(story, size=1)


def test_a_connection_that_the_server_ends_is_one_that_is_away(made: Made) -> None:
    async def story(store: Store) -> None:
        await store.page(IDEAS, Asked())
        with psycopg.connect(made.dsn, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and datname = current_database() and query like '%ideas%'"
            )
        with pytest.raises(StoreAway) as told:
            await store.page(IDEAS, Asked())
        assert not isinstance(told.value, Busy)
        assert (await store.page(IDEAS, Asked()))[1] == 0

    made.run(story, size=1)


def test_without_the_schema_it_is_said_what_makes_it(made: Made) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(Busy, match="b3 lowdb migrate"):
            await store.page(IDEAS, Asked())

    with psycopg.connect(made.dsn, autocommit=True) as db:
        db.execute("alter schema ideas rename to not_ideas")
        try:
            made.run(story)
        finally:
            db.execute("alter schema not_ideas rename to ideas")


def test_what_is_beyond_a_limit_of_postgresql_is_refused(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    async def limited(db: Any, *_record: Any) -> None:
        await db.execute("select repeat('word ', 500000)::tsvector")

    async def story(store: Store) -> None:
        with pytest.raises(Refused, match="words"):
            await store.create(IDEAS, idea(), "ana")
        monkeypatch.undo()
        await store.create(IDEAS, idea(), "ana")

    monkeypatch.setattr(module, "_insert", limited)
    made.run(story)

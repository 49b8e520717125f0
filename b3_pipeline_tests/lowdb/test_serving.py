"""The store that follows the phase: who answers and who is written in each, and what happens while PostgreSQL is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from b3_pipeline.alerts import spool
from b3_pipeline.lowdb import mirroring, serving, shadowing
from b3_pipeline.lowdb.fence import Fence
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.model import DOCUMENTATION_IDEAS, IDEAS, LINKS
from b3_pipeline.lowdb.serving import Rollout, opened
from b3_pipeline.lowdb.store import Asked, Busy, NoHistory, NoSuchRecord, StoreAway
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline.postgres import compared, mismatches
from b3_pipeline.postgres.compared import Counts
from b3_pipeline.postgres.flags import DEFAULTS, Current, Entry
from b3_pipeline.settings import Settings
from b3_pipeline_tests.lowdb.stores import BEGIN, Clock, empty, idea, link

NOWHERE = "postgresql://u:p@127.0.0.1:1/x"


@dataclass
class Desk:
    """A home with a LowDB folder and empty tables, in a phase that a test sets."""

    settings: Settings
    dsn: str
    phase: str = "legacy"
    stale: bool = False

    @property
    def folder(self) -> Path:
        assert self.settings.lowdb_dir is not None
        return self.settings.lowdb_dir

    def flags(self) -> Current:
        entries = {**DEFAULTS, ("ideas", "phase"): Entry("ideas", "phase", self.phase, BEGIN)}
        return Current(entries, self.stale)

    def run(self, story: Callable[[Any], Awaitable[None]], dsn: str | None = None) -> None:
        """Runs a story with the store of the phase."""

        async def told() -> None:
            async with opened(self.settings, dsn or self.dsn, self.flags) as store:
                await story(store)

        asyncio.run(told())

    def in_files(self, collection: Any = IDEAS) -> list[Any]:
        async def found() -> list[Any]:
            return [record async for record in Files(self.folder, Clock()).records(collection)]

        return asyncio.run(found())

    def in_tables(self, collection: Any = IDEAS) -> list[Any]:
        async def found() -> list[Any]:
            async with Tables(self.dsn, Clock()) as tables:
                return [record async for record in tables.records(collection)]

        return asyncio.run(found())

    def change(self, statement: str) -> None:
        """Changes the tables past the service."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            db.execute(statement.encode())

    @property
    def mismatches(self) -> list[mismatches.Mismatch]:
        return mismatches.latest(self.dsn)


@pytest.fixture
def desk(tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    folder = tmp_path / "lowdb"
    folder.mkdir()
    (folder / "ideas.json").write_text('{"ideas": []}')
    (folder / "db.json").write_text('{"systems": [], "ideas": [], "links": [], "files": [], "nextId": 1}')
    monkeypatch.setenv("B3_NOW", BEGIN.isoformat())
    monkeypatch.setattr(shadowing, "AGAIN_S", 0.01)
    empty(postgres)
    forget = "drop table if exists b3.payload_mismatches, b3.compared"
    made = Desk(Settings(home=tmp_path / "home", lowdb_dir=folder), postgres)
    made.change("create schema if not exists b3")
    made.change(forget)
    yield made
    made.change(forget)


async def wrote(store: Rollout) -> None:
    """A client's life of an idea: made, changed; a second one taken away."""
    one = await store.create(IDEAS, idea(), "ana")
    gone = await store.create(IDEAS, idea(title="weg"), "ana")
    await store.replace(IDEAS, 1, idea(title="Outro"), one.etag, "ana")
    await store.remove(IDEAS, 2, gone.etag, "ana")
    assert (await store.get(IDEAS, 1)).record["title"] == "Outro"
    with pytest.raises(NoSuchRecord):
        await store.get(IDEAS, 2)
    found, count = await store.page(IDEAS, Asked())
    assert ([each.record["id"] for each in found], count) == (["1"], 1)
    assert (await store.counts(IDEAS, "status", Asked()))["new"] == 1
    assert [record["id"] async for record in store.records(IDEAS)] == ["1"]


@pytest.mark.parametrize(
    ("phase", "files", "tables"),
    [("legacy", True, False), ("shadow", True, True), ("active", False, True), ("frozen", False, True)],
)
def test_the_phase_says_who_answers_and_who_is_written(desk: Desk, phase: str, files: bool, tables: bool) -> None:
    desk.phase = phase
    desk.run(wrote)
    assert [record["title"] for record in desk.in_files()] == (["Outro"] if files else [])
    assert [record["title"] for record in desk.in_tables()] == (["Outro"] if tables else [])
    assert mismatches.open_count(desk.dsn, "ideas") == 0


def test_without_a_folder_the_tables_are_all_there_is(desk: Desk) -> None:
    desk.settings.lowdb_dir = None
    desk.run(wrote)
    assert [record["title"] for record in desk.in_tables()] == ["Outro"]


def test_in_shadow_both_sides_have_the_same_ids_stamps_and_history_of_who(desk: Desk) -> None:
    desk.phase = "shadow"

    async def story(store: Rollout) -> None:
        await wrote(store)
        parent = await store.create(DOCUMENTATION_IDEAS, idea(), "bia")
        await store.create(LINKS, link(parent.record["id"]), "bia")
        changes = await store.history(1, 10)
        assert [(change.action, change.who) for change in changes] == [("update", "ana"), ("insert", "ana")]
        await store.remove(DOCUMENTATION_IDEAS, 1, None, "bia")  # its link goes with it

    desk.run(story)
    for collection in (IDEAS, DOCUMENTATION_IDEAS, LINKS):
        assert desk.in_files(collection) == desk.in_tables(collection)
    desk.phase = "legacy"

    async def history(store: Rollout) -> None:
        with pytest.raises(NoHistory):
            await store.history(1, 10)

    desk.run(history)


def test_what_differs_is_kept_with_both_answers_and_counted_for_the_gate(desk: Desk) -> None:
    desk.phase = "shadow"

    async def story(store: Rollout) -> None:
        await wrote(store)
        await store.shadowing.settled()
        desk.change("update ideas.ideas set title = 'Errado' where id = 1")
        assert (await store.get(IDEAS, 1)).record["title"] == "Outro"
        await store.page(IDEAS, Asked(filters={"status": "new"}))
        await store.shadowing.settled()

    desk.run(story)
    kept = {found.endpoint: found for found in desk.mismatches}
    assert kept.keys() == {"/api/v1/ideas/1", "/api/v1/ideas?status=new&limit=20&offset=0"}
    one = kept["/api/v1/ideas/1"]
    assert one.ours is not None
    assert (json.loads(one.legacy)["title"], json.loads(one.ours)["title"]) == ("Outro", "Errado")
    assert [each["pointer"] for each in one.differences] == ["/title"]
    counts = compared.of_phase(desk.dsn, "ideas", BEGIN)
    assert (counts.different, counts.equal > 0, counts.failed) == (2, True, 0)
    assert (mismatches.open_count(desk.dsn, "ideas"), mismatches.open_count(desk.dsn, "market")) == (2, 0)


def test_a_write_that_is_under_way_is_no_mismatch(desk: Desk) -> None:
    desk.phase = "shadow"

    async def story(store: Rollout) -> None:
        await store.create(IDEAS, idea(), "ana")
        desk.change("update ideas.ideas set title = 'noch nicht' where id = 1")

        async def arrives(_seconds: float) -> None:
            desk.change("update ideas.ideas set title = 'Exportação do painel' where id = 1")

        store.shadowing._sleep = arrives
        await store.get(IDEAS, 1)
        await store.shadowing.settled()
        assert store.shadowing.counts == Counts(superseded=1)

    desk.run(story)
    assert desk.mismatches == []


def test_too_many_comparisons_at_once_are_dropped_and_counted(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.phase = "shadow"
    monkeypatch.setattr(shadowing, "COMPARING", 1)

    async def story(store: Rollout) -> None:
        for _ in range(3):
            await store.page(IDEAS, Asked())
        assert store.shadowing.counts.dropped >= 1
        await store.shadowing.settled()

    desk.run(story)


def test_a_write_that_the_tables_do_not_get_is_no_failure_and_follows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.phase = "shadow"
    monkeypatch.setattr(serving, "EVERY_S", 0.01)
    monkeypatch.setattr(serving, "REST_S", 0.0)
    copy = mirroring.Mirror.copy
    away = [True]

    async def copied(self: mirroring.Mirror, *given: Any) -> None:
        if away[0]:
            raise StoreAway("PostgreSQL did not take a copy.")
        await copy(self, *given)

    monkeypatch.setattr(mirroring.Mirror, "copy", copied)

    async def story(store: Rollout) -> None:
        await store.create(IDEAS, idea(), "ana")
        assert store.owed == {("ideas", 1): "ana"}
        async with asyncio.timeout(10):
            while not red():
                await asyncio.sleep(0.01)
            away[0] = False
            while store.owed or red():
                await asyncio.sleep(0.01)

    def red() -> bool:
        return told_of(desk)[-1:] == [True]

    desk.run(story)
    assert desk.in_tables() == desk.in_files() != []
    assert compared.of_phase(desk.dsn, "ideas", BEGIN).unmirrored == 1
    [kept] = desk.mismatches
    assert (kept.endpoint, kept.ours) == ("/api/v1/ideas/1", None)


def told_of(desk: Desk) -> list[bool]:
    """What the monitor was told of the mirror: whether it is red, each time."""
    return [one.red for one in spool.take(desk.settings.home).conditions if one.name == "ideas:mirror"]


def test_what_a_process_before_was_owed_is_found_before_anything_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run(wrote)  # in legacy: no table has it
    desk.phase = "shadow"
    monkeypatch.setattr(serving, "EVERY_S", 0.01)
    monkeypatch.setattr(serving, "REST_S", 0.0)
    monkeypatch.setattr(serving, "OWED", 1)
    look, may = mirroring.Mirror.owing, asyncio.Event()
    looked = asyncio.Event()

    async def slow(self: mirroring.Mirror, *given: Any) -> Any:
        looked.set()
        await may.wait()
        return await look(self, *given)

    monkeypatch.setattr(mirroring.Mirror, "owing", slow)

    async def story(store: Rollout) -> None:
        await store._files.create(IDEAS, idea(title="Mehr"), "ana")
        await looked.wait()
        assert store.owing is None
        assert told_of(desk) == []
        may.set()
        async with asyncio.timeout(10):
            while False not in told_of(desk):
                await asyncio.sleep(0.01)

    desk.run(story)
    assert desk.in_tables() == desk.in_files()
    assert len(desk.in_files()) == 2


def test_what_a_client_writes_while_an_older_copy_is_made_stays_owed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.phase = "shadow"
    copying, going_on = asyncio.Event(), asyncio.Event()
    away = [StoreAway("PostgreSQL does not answer."), None, Busy("PostgreSQL does not take this copy.")]
    copy = mirroring.Mirror.copy

    async def copied(self: mirroring.Mirror, *given: Any) -> None:
        error = away.pop(0)
        if error:
            raise error
        await copy(self, *given)
        copying.set()
        await going_on.wait()

    async def story(store: Rollout) -> None:
        store._unsure = False
        await store.create(IDEAS, idea(), "ana")
        store._away_until = 0.0
        paying = asyncio.create_task(store.repay())
        await copying.wait()
        await store.replace(IDEAS, 1, idea(title="Neu"), None, "bia")
        going_on.set()
        await paying
        assert store.owed == {("ideas", 1): "bia"}
        away.append(None)
        await store.repay()
        assert store.owed == {}

    monkeypatch.setattr(mirroring.Mirror, "copy", copied)
    monkeypatch.setattr(serving, "EVERY_S", 60.0)
    desk.run(story)
    assert desk.in_tables() == desk.in_files() != []


def test_a_record_that_the_tables_do_not_take_keeps_no_other_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.phase = "shadow"
    monkeypatch.setattr(serving, "EVERY_S", 60.0)

    async def story(store: Rollout) -> None:
        store._unsure = False
        parent = await store._files.create(DOCUMENTATION_IDEAS, idea(), "ana")  # the tables do not know it
        await store.create(LINKS, link(parent.record["id"]), "ana")
        await store.create(IDEAS, idea(), "ana")  # no rest: PostgreSQL is there
        assert list(store.owed) == [("documentation_links", 1)]
        store.owed["ideas", 1] = "ana"
        desk.change("delete from ideas.ideas")
        await store.repay()
        assert list(store.owed) == [("documentation_links", 1)]

    desk.run(story)
    assert desk.in_tables() == desk.in_files() != []


@pytest.mark.parametrize("phase", ["legacy", "shadow"])
def test_with_the_files_in_charge_nothing_needs_postgresql(
    desk: Desk, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.lowdb.tables.WAIT_S", 0.1)
    monkeypatch.setattr(mirroring, "WAIT_S", 0.1)
    desk.phase = phase
    desk.run(wrote, NOWHERE)
    assert [record["title"] for record in desk.in_files()] == ["Outro"]


def test_in_active_the_files_answer_while_postgresql_is_away_and_writes_are_refused(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.lowdb.tables.WAIT_S", 0.2)
    desk.run(wrote)  # in legacy: the files have it
    desk.phase = "active"
    before = desk.in_files()

    async def away(store: Rollout) -> None:
        assert store.as_of is None
        assert (await store.get(IDEAS, 1)).record == before[0]
        assert store.as_of == BEGIN
        assert (await store.page(IDEAS, Asked()))[1] == 1
        with pytest.raises(StoreAway):
            await store.create(IDEAS, idea(), "ana")

    desk.run(away, NOWHERE)
    assert desk.in_files() == before

    async def there(store: Rollout) -> None:
        await store.page(IDEAS, Asked())
        assert store.as_of is None

    desk.run(there)


async def nothing_is_away(self: Any, *_given: Any) -> Any:
    """What Tables.get is while PostgreSQL does not answer one question in time."""
    raise Busy("PostgreSQL does not answer in time.")


def test_in_active_a_question_that_takes_too_long_brings_no_old_answers(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run(wrote)  # in legacy: the files have an older bank
    desk.phase = "active"

    async def story(store: Rollout) -> None:
        made = await store.create(IDEAS, idea(title="Nova"), "ana")
        with monkeypatch.context() as patch:
            patch.setattr(Tables, "get", nothing_is_away)
            with pytest.raises(Busy):
                await store.get(IDEAS, 1)
        assert await store.get(IDEAS, int(made.record["id"])) == made
        assert ([each.record["title"] for each in (await store.page(IDEAS, Asked()))[0]], store.as_of) == (
            ["Nova"],
            None,
        )

    desk.run(story)


def test_a_change_is_never_made_on_what_the_files_have_for_the_tables(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.lowdb.tables.WAIT_S", 0.2)
    desk.run(wrote)
    before = desk.in_files()[0]

    async def files(store: Rollout) -> None:
        assert (await store.current(IDEAS, 1)).record == before

    for desk.phase in ("legacy", "shadow"):
        desk.run(files)
    desk.phase = "active"

    async def away(store: Rollout) -> None:
        assert (await store.get(IDEAS, 1)).record == before
        with pytest.raises(StoreAway):
            await store.current(IDEAS, 1)

    desk.run(away, NOWHERE)


def test_of_two_requests_that_is_marked_which_the_files_have_answered(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run(wrote)
    desk.phase = "active"
    monkeypatch.setattr(serving, "REST_S", 0.0)
    page, away, both = Tables.page, [True, False], asyncio.Barrier(2)

    async def answered(self: Tables, *given: Any) -> Any:
        if away.pop(0):
            raise StoreAway("PostgreSQL does not answer.")
        return await page(self, *given)

    monkeypatch.setattr(Tables, "page", answered)

    async def story(store: Rollout) -> None:
        async def request() -> Any:
            found = await store.page(IDEAS, Asked())
            await both.wait()
            return found[1], store.as_of

        assert await asyncio.gather(request(), request()) == [(1, BEGIN), (0, None)]

    desk.run(story)


def test_in_frozen_the_files_answer_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("b3_pipeline.lowdb.tables.WAIT_S", 0.2)
    desk.phase = "frozen"

    async def away(store: Rollout) -> None:
        with pytest.raises(StoreAway):
            await store.get(IDEAS, 1)

    desk.run(away, NOWHERE)


def test_a_step_that_was_cut_off_leaves_it_to_postgresql_where_writes_go(desk: Desk) -> None:
    desk.phase = "shadow"
    Fence(desk.settings.home).tell("shadow", BEGIN, moving=True)

    async def sure(store: Rollout) -> None:
        store._ask_phase = lambda: Desk(desk.settings, desk.dsn, "active").flags()
        await store.create(IDEAS, idea(), "ana")

    desk.run(sure)
    assert (desk.in_files(), len(desk.in_tables())) == ([], 1)

    async def unsure(store: Rollout) -> None:
        store._ask_phase = lambda: Desk(desk.settings, desk.dsn, "shadow", stale=True).flags()
        with pytest.raises(StoreAway, match="cut off"):
            await store.create(IDEAS, idea(), "ana")

    desk.run(unsure)
    assert len(desk.in_tables()) == 1


def test_a_client_that_leaves_does_not_cut_its_write_in_two(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.phase = "shadow"
    copy = mirroring.Mirror.copy
    copied = asyncio.Event()

    async def slow(self: mirroring.Mirror, *given: Any) -> None:
        await asyncio.sleep(0.1)
        await copy(self, *given)
        copied.set()

    monkeypatch.setattr(mirroring.Mirror, "copy", slow)

    async def story(store: Rollout) -> None:
        writing = asyncio.create_task(store.create(IDEAS, idea(), "ana"))
        await asyncio.sleep(0.05)
        writing.cancel()
        async with asyncio.timeout(10):
            await copied.wait()

    desk.run(story)
    assert desk.in_tables() == desk.in_files() != []

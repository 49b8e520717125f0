"""The cutover of the ideas on real servers: forward and back, killed anywhere, and under load on a test's clock."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from b3_pipeline import migration_log
from b3_pipeline.cutover import advance as forward
from b3_pipeline.cutover import journal
from b3_pipeline.cutover import rollback as backward
from b3_pipeline.cutover.advance import advance
from b3_pipeline.cutover.ideas import SET_ASIDE
from b3_pipeline.cutover.rollback import RolledBack, rollback
from b3_pipeline.errors import UsageError
from b3_pipeline.failpoints import VARIABLE
from b3_pipeline.lowdb import levelling, rules
from b3_pipeline.lowdb.levelling import NotLevel, TooLarge
from b3_pipeline.lowdb.model import DOCUMENTATION_IDEAS, IDEAS, Collection, Record
from b3_pipeline.lowdb.serving import opened
from b3_pipeline.lowdb.store import Asked, NoSuchRecord, Store, StoreAway
from b3_pipeline.places import backups_of
from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.flags import Flags, history
from b3_pipeline.postgres.mismatches import Found
from b3_pipeline_tests.cli.commands import b3
from b3_pipeline_tests.cutover.conftest import NOW
from b3_pipeline_tests.cutover.ideas import Bank
from b3_pipeline_tests.faults import some
from b3_pipeline_tests.lowdb.stores import idea


def red(done: forward.Advanced) -> list[str]:
    return [gate.name for gate in done.red]


def served(bank: Bank, story: Callable[[Store], Any]) -> Any:
    """What a story gets from the store that the service would have now."""

    async def told() -> Any:
        flags = Flags(bank.home, bank.dsn)
        async with opened(bank.settings, bank.dsn, flags.current) as store:
            return await story(store)

    return asyncio.run(told())


def written(bank: Bank, gone: int = 2) -> None:
    """A client makes an idea, changes one, and takes one away."""

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(title="Nova"), "ana")
        await store.replace(IDEAS, 1, idea(title="Mudada"), None, "ana")
        await store.remove(IDEAS, gone, None, "ana")

    served(bank, story)


def titles(bank: Bank) -> dict[str, str]:
    return {record["id"]: record["title"] for record in bank.records()["ideas"]}


def level(bank: Bank) -> bool:
    return all(parity.ok for parity in bank.parity().values())


def test_all_the_way_when_every_gate_is_green(bank: Bank) -> None:
    written(bank)  # in legacy: the tables know nothing of it
    assert red(advance(bank.desk(), dry_run=True)) == ["parity"]
    bank.load()
    done = advance(bank.desk(), why="agreed", who="ana")
    assert (done.red, done.moved, bank.now()) == ([], True, "shadow"), done.red
    assert red(advance(bank.desk(), dry_run=True)) == ["comparisons"]
    written(bank, gone=3)
    bank.compared()
    done = advance(bank.desk(), why="agreed", who="ana")
    assert (done.red, bank.now()) == ([], "active"), done.red
    assert level(bank)
    done = advance(bank.desk(), why="agreed", who="ana")
    assert (done.red, bank.now()) == ([], "frozen"), done.red
    assert bank.files() == {}
    assert sorted(path.name.split("-", 2)[2] for path in (bank.folder / SET_ASIDE).iterdir()) == [
        "db.json",
        "ideas.json",
    ]
    entry = history(bank.dsn, 1)[0]
    assert (entry.domain, entry.who, entry.why) == ("ideas", "ana", "agreed")
    assert bank.desk().entry().value == "frozen"
    assert Flags(bank.home, bank.dsn).current().phase() == "legacy"  # the market data stay where they are
    steps = migration_log.steps(bank.home)
    assert [step["title"] for step in steps if step["kind"] == "cutover"] != []
    to_active = next(step for step in steps if step["title"] == "The ideas data from shadow to active")
    assert to_active["checksums"].keys() == {"ideas.json", "db.json"}
    assert "--domain ideas" in to_active["way_back"]
    with pytest.raises(UsageError, match="none follows"):
        advance(bank.desk())


def mismatch(bank: Bank) -> None:
    mismatches.record(bank.dsn, Found(NOW, "/api/v1/ideas/1", b"1", b"2", [{"pointer": "", "legacy": 1, "ours": 2}]))


def older_schema(bank: Bank) -> None:
    with psycopg.connect(bank.dsn, autocommit=True) as db:
        db.execute("update ideas.alembic_version set version_num = 'x'")


def somebody_writes(bank: Bank) -> None:
    path = bank.folder / "ideas.json"
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("phase", "breaks", "name"),
    [
        ("shadow", mismatch, "mismatches"),
        ("active", mismatch, "mismatches"),
        ("active", somebody_writes, "files"),
    ],
)
def test_each_red_gate_refuses_and_names_itself(
    bank: Bank, phase: str, breaks: Callable[[Bank], None], name: str
) -> None:
    bank.phase("shadow")
    bank.compared()
    if phase == "active":
        assert advance(bank.desk()).moved
    breaks(bank)
    done = advance(bank.desk())
    assert (red(done), done.moved, bank.now()) == ([name], False, phase)
    assert "--domain" not in done.red[0].what_to_do
    assert done.red[0].what_to_do


def test_an_older_schema_refuses(bank: Bank) -> None:
    with psycopg.connect(bank.dsn, autocommit=True) as db:
        [(version,)] = db.execute("select version_num from ideas.alembic_version").fetchall()
        db.execute("update ideas.alembic_version set version_num = 'x'")
        try:
            assert red(advance(bank.desk())) == ["schema"]
        finally:
            db.execute("update ideas.alembic_version set version_num = %s", (version,))


def test_mismatches_of_the_market_data_are_no_concern_of_the_ideas(bank: Bank) -> None:
    mismatches.record(bank.dsn, Found(NOW, "gamma", b"1", b"2", [{"pointer": "", "legacy": 1, "ours": 2}]))
    bank.phase("shadow")
    bank.compared()
    assert red(advance(bank.desk(), dry_run=True)) == []


def test_an_override_levels_both_sides_all_the_same(bank: Bank) -> None:
    bank.phase("shadow")
    with psycopg.connect(bank.dsn, autocommit=True) as db:
        db.execute("update ideas.ideas set title = 'Errado' where id = 1")
        db.execute("delete from ideas.documentation_ideas where id < 9")
    done = advance(bank.desk(), override=True, why="the desk knows")
    assert (set(red(done)), done.moved, level(bank)) == ({"parity", "comparisons"}, True, True)


@pytest.mark.parametrize("gone", ["ideas.json", "db.json"])
def test_a_file_that_is_gone_is_no_empty_one(bank: Bank, gone: str) -> None:
    bank.phase("shadow")
    (bank.folder / gone).unlink()
    with pytest.raises(UsageError, match=gone):
        advance(bank.desk(), override=True, why="a test")
    assert bank.now() == "shadow"


def test_a_step_that_fails_leaves_the_phase_and_lets_writes_go_on(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.phase("shadow")

    def differ(*_: object) -> None:
        raise NotLevel("they differ")

    with monkeypatch.context() as patch:
        patch.setattr(levelling, "require_level", differ)
        with pytest.raises(NotLevel):
            advance(bank.desk(), override=True, why="a test")
    assert bank.now() == "shadow"
    written(bank)
    assert titles(bank)["1"] == "Mudada"
    assert level(bank)


@pytest.mark.parametrize("phase", ["active", "frozen"])
def test_what_was_written_since_is_in_the_files_again_and_parity_is_proven(bank: Bank, phase: str) -> None:
    bank.phase("shadow")
    for to in ("active", "frozen"):
        advance(bank.desk(), override=True, why="a test")
        if to == phase:
            break
    before = bank.files()
    written(bank)
    assert bank.files() == before
    told: list[RolledBack] = []
    done = rollback(bank.desk(), why="the desk asks", who="ana", announce=told.append)
    assert (done.was, done.phase, bank.now()) == (phase, "legacy", "legacy")
    assert told[0].stays["ideas.json"]["beyond"] > 240
    assert "history" in told[0].stays["ideas.json"]["what"]
    part = told[0].parts[0]
    if phase == "active":
        assert (part.added, part.filled, part.removed) == (1, 1, 1)
    found = titles(bank)
    assert (found["1"], "2" in found, found["241"]) == ("Mudada", False, "Nova")
    assert done.proven["ideas"] == {"source_keys": 240, "missing": 0, "extra": 0, "different": 0}
    assert level(bank)
    assert json.loads((bank.folder / "db.json").read_text("utf-8"))["nextId"] == 121
    assert backups_of(bank.settings).sha256(done.backup["name"]) == done.backup["sha256"]
    assert journal.under_way(bank.home, "ideas") is None
    written_after = served(bank, lambda store: store.create(IDEAS, idea(title="Depois"), "ana"))
    assert titles(bank)[written_after.record["id"]] == "Depois"
    assert rollback(bank.desk()).log is None  # there is nothing to go back from


def test_the_files_as_they_were_are_saved_first(bank: Bank, tmp_path: Path) -> None:
    bank.phase("active")
    before = bank.files()
    written(bank)
    done = rollback(bank.desk())
    backups_of(bank.settings).get(done.backup["name"], tmp_path / "saved.tar.gz")
    with tarfile.open(tmp_path / "saved.tar.gz") as tar:
        saved = {member.name: (tar.extractfile(member) or pytest.fail("a file")).read() for member in tar}
    assert saved == before


def test_members_of_the_files_that_nobody_knows_stay(bank: Bank) -> None:
    path = bank.folder / "db.json"
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({"version": 7, **document, "nextSystemId": 99}))
    bank.phase("shadow")
    advance(bank.desk(), override=True, why="a test")
    rollback(bank.desk())
    after = json.loads(path.read_text("utf-8"))
    assert (after["version"], after["nextSystemId"], after["systems"]) == (7, 99, document["systems"])


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document))


def members(bank: Bank, file: str, member: str) -> list[Any]:
    return json.loads((bank.folder / file).read_text("utf-8"))[member]


@pytest.mark.parametrize("phase", ["active", "frozen"])
def test_what_was_refused_in_the_files_stays_there(bank: Bank, phase: str) -> None:
    first = bank.records()["ideas"][0]
    other, again = first | {"id": "3", "title": "Outra"}, first | {"id": "2", "title": "De novo"}
    changed(bank.folder / "ideas.json", lambda given: given["ideas"].extend(["nada", other, again, again]))
    link = {"id": 9_999, "idea_id": "9999", "url": "http://x", "title": "x"}
    changed(bank.folder / "db.json", lambda given: given["links"].append(link))
    bank.load()
    bank.phase("shadow")
    while bank.now() != phase:
        advance(bank.desk(), override=True, why="a test")
    written(bank)  # takes 2 away: what has its id would be a record in its place
    before = bank.files()
    plan = rollback(bank.desk(), dry_run=True)
    assert bank.files() == before
    assert [(part.added, part.filled, part.removed) for part in plan.parts] == [(1, 1, 3), (0, 0, 0)]
    assert rollback(bank.desk()).parts == plan.parts
    assert [each for each in members(bank, "ideas.json", "ideas") if each in ("nada", other, again)] == ["nada", other]
    assert link in members(bank, "db.json", "links")
    assert (level(bank), bank.records()["ideas"][1]["title"]) == (True, titles(bank)["3"])


def test_a_link_that_is_refused_does_not_become_one_by_a_new_idea(bank: Bank) -> None:
    link = {"id": 9_999, "idea_id": "121", "url": "http://x", "title": "x"}
    changed(bank.folder / "db.json", lambda given: given["links"].append(link))
    bank.phase("active")
    served(bank, lambda store: store.create(DOCUMENTATION_IDEAS, idea(), "ana"))
    rollback(bank.desk())
    assert bank.records()["documentation_ideas"][-1]["id"] == "121"
    assert level(bank)
    assert link not in members(bank, "db.json", "links")


def test_files_that_are_too_large_go_no_step_forward(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    written(bank)
    monkeypatch.setattr(levelling, "MOVED_BYTES", 10_000)
    done = advance(bank.desk())
    assert (red(done), "more than" in done.red[0].evidence) == (["parity"], True)
    with pytest.raises(TooLarge, match=r"ideas\.json"):
        advance(bank.desk(), override=True, why="a test")
    assert (bank.now(), level(bank)) == ("legacy", False)


def test_tables_that_fit_into_no_file_stay_in_charge(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.phase("active")
    written(bank)
    before = bank.files()
    monkeypatch.setattr(levelling, "MAX_BYTES", 10_000)
    for dry_run in (True, False):
        with pytest.raises(TooLarge, match=r"ideas\.json"):
            rollback(bank.desk(), dry_run=dry_run)
    assert (bank.now(), bank.files(), journal.under_way(bank.home, "ideas")) == ("active", before, None)


def test_a_write_by_somebody_else_during_a_step_stops_it(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.phase("shadow")
    into_tables = levelling.into_tables

    def beside(*given: Any) -> Any:
        done = into_tables(*given)
        somebody_writes(bank)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(levelling, "into_tables", beside)
        with pytest.raises(NotLevel, match=r"Somebody else has written ideas\.json"):
            advance(bank.desk(), override=True, why="a test")
    assert bank.now() == "shadow"
    assert advance(bank.desk(), override=True, why="a test").moved


def test_files_that_somebody_writes_during_a_rollback_are_left_alone(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.phase("active")
    written(bank)
    drafts = levelling.drafts
    calls = list[None]()

    def beside(*given: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:  # the first is the plan's
            somebody_writes(bank)
        return drafts(*given)

    with monkeypatch.context() as patch:
        patch.setattr(levelling, "drafts", beside)
        with pytest.raises(NotLevel, match=r"written ideas\.json meanwhile"):
            rollback(bank.desk())
    assert bank.now() == "active"
    assert bank.files()["ideas.json"].endswith(b"\n")


def test_each_attempt_of_a_rollback_saves_the_files_as_it_finds_them(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bank.phase("active")
    before = bank.files()["ideas.json"]
    written(bank)

    def differ(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(levelling, "replace_synced", differ)
        with pytest.raises(StoreAway):
            rollback(bank.desk())
    somebody_writes(bank)
    done = rollback(bank.desk())
    step = next(step for step in migration_log.steps(bank.home) if step["kind"] == "rollback")
    assert next(iter(step["checksums"])) == done.backup["name"]
    saved = []
    for name in step["checksums"]:
        backups_of(bank.settings).get(name, tmp_path / "saved.tar.gz")
        with tarfile.open(tmp_path / "saved.tar.gz") as tar:
            saved.append((tar.extractfile("ideas.json") or pytest.fail("a file")).read())
    assert saved == [before, before + b"\n"]


def test_the_gate_parity_does_not_count_a_write_that_is_under_way(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    bank.phase("shadow")
    bank.compared()
    parities = levelling.parities

    def beside(*given: Any) -> Any:
        if len(given) == 2:  # the files were read, the tables are not yet
            written(bank)
        return parities(*given)

    monkeypatch.setattr(levelling, "parities", beside)
    assert red(advance(bank.desk(), dry_run=True)) == []


def test_a_step_reads_a_file_at_one_moment(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    link = {"id": 9_999, "idea_id": "9999", "url": "http://x", "title": "x"}
    new = bank.records()["documentation_ideas"][0] | {"id": "9999"}
    checked, calls = rules.checked, list[None]()

    def beside(collection: Collection, *given: Any) -> Record:
        if collection is DOCUMENTATION_IDEAS and not calls:
            calls.append(None)
            changed(
                bank.folder / "db.json",
                lambda found: (found["ideas"].append(new), found["links"].append(link)),
            )
        return checked(collection, *given)

    with monkeypatch.context() as patch:
        patch.setattr(rules, "checked", beside)
        bank.load()
    assert not level(bank)
    bank.load()
    assert level(bank)


def test_out_of_shadow_only_the_phase_goes_back(bank: Bank) -> None:
    bank.phase("shadow")
    before = bank.files()
    done = rollback(bank.desk())
    assert (done.was, bank.now(), bank.files(), done.parts) == ("shadow", "legacy", before, [])
    assert done.log is not None


def test_a_dry_run_only_says_what_would_be(bank: Bank) -> None:
    bank.phase("active")
    written(bank)
    before = bank.files()
    done = rollback(bank.desk(), dry_run=True)
    assert (done.parts[0].added, bank.now(), bank.files()) == (1, "active", before)
    assert migration_log.steps(bank.home) == []


def test_where_the_files_cannot_be_written_the_tables_stay_in_charge(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.phase("active")
    written(bank)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(levelling, "replace_synced", full)
        with pytest.raises(StoreAway, match="No space"):
            rollback(bank.desk())
    assert bank.now() == "active"
    written_since = served(bank, lambda store: store.create(IDEAS, idea(title="Mais"), "ana"))
    done = rollback(bank.desk())  # the same command does the rest
    assert titles(bank)[written_since.record["id"]] == "Mais"
    assert done.proven


def run(step: str, *arguments: str) -> int:
    env = {**os.environ, VARIABLE: step}
    command = [sys.executable, "-m", "b3_pipeline", "cutover", *arguments, "--domain", "ideas"]
    return subprocess.run(command, env=env, capture_output=True, timeout=120, check=False).returncode


def state(bank: Bank) -> tuple[Any, ...]:
    """All that a step or a rollback leaves behind."""
    outcomes = [(step["title"], step["outcome"]) for step in migration_log.steps(bank.home)]
    return bank.now(), outcomes, bank.files(), level(bank), journal.under_way(bank.home, "ideas")


def forget_logs(bank: Bank) -> None:
    for path in (bank.home / migration_log.FOLDER).glob("*.md"):
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("was", "to"), [("shadow", "active"), ("active", "frozen")])
def test_a_step_that_is_killed_anywhere_is_finished_by_the_same_command(bank: Bank, was: str, to: str) -> None:
    arguments = ("advance", "--override", "--why", "a test")
    before = bank.files()
    names = forward.MOVES["ideas"].steps if to == "active" else ("advance: writes stopped", "advance: note left")
    for step in some(names, 3):
        for name, data in before.items():
            (bank.folder / name).write_bytes(data)
        bank.load()
        bank.phase(was)
        assert run(step, *arguments) == -signal.SIGKILL, step
        served(bank, lambda store: store.create(IDEAS, idea(title="Entre"), "ana"))  # nobody waits for the next command
        b3("cutover", *arguments, "--domain", "ideas")
        phase, outcomes, files, same, under_way = state(bank)
        assert (phase, outcomes[0][1], len(outcomes), under_way) == (to, "done", 1, None), step
        assert files.keys() == ({"ideas.json", "db.json"} if to == "active" else set()), step
        kept = served(bank, lambda store: store.page(IDEAS, Asked(search="entre")))
        assert kept[1] == 1, step
        assert same or to == "frozen" or phase_had_moved(step), step
        forget_logs(bank)


def phase_had_moved(step: str) -> bool:
    steps = forward.MOVES["ideas"].steps
    return steps.index(step) >= steps.index("advance: phase set")


@pytest.mark.slow
def test_a_rollback_that_is_killed_anywhere_is_finished_by_the_same_command(bank: Bank) -> None:
    before = bank.files()
    for step in some(backward.WAYS["ideas"].steps, 3):
        for name, data in before.items():
            (bank.folder / name).write_bytes(data)
        bank.load()
        bank.phase("active")
        written(bank)
        assert run(step, "rollback", "--why", "a test") == -signal.SIGKILL, step
        served(bank, lambda store: store.create(IDEAS, idea(title="Entre"), "ana"))
        b3("cutover", "rollback", "--why", "a test", "--domain", "ideas")
        phase, outcomes, _files, same, under_way = state(bank)
        assert (phase, [outcome for _title, outcome in outcomes], under_way) == ("legacy", ["done"], None), step
        assert {"Nova", "Entre", "Mudada"} <= set(titles(bank).values()), step
        assert same or step in ("rollback: phase set", "rollback: logged"), step
        forget_logs(bank)


@dataclass
class Office:
    """Sixteen clients at once: each reads, and has an idea of its own that it changes again and again."""

    store: Store
    failed: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    wrote: dict[int, str] = field(default_factory=dict)
    stop: bool = False

    async def client(self, number: int) -> None:
        made = await self.write(lambda: self.store.create(IDEAS, idea(title=f"c{number} 0"), f"client {number}"))
        id = int(made.record["id"])
        self.wrote[id] = made.record["title"]
        turn = 0
        while not self.stop:
            turn += 1
            title = f"c{number} {turn}"
            await self.write(lambda title=title: self.store.replace(IDEAS, id, idea(title=title), None, "ana"))
            self.wrote[id] = title
            await self.read(id, title)
            await asyncio.sleep(0.01)

    async def write(self, write: Callable[[], Any]) -> Any:
        """As a client that comes again when it is told so."""
        while True:
            try:
                found = await write()
                self.done["written"] += 1
                return found
            except StoreAway:
                self.done["held"] += 1
                await asyncio.sleep(0.05)

    async def read(self, id: int, title: str) -> None:
        """What was written is read, whoever answers."""
        try:
            if (found := (await self.store.get(IDEAS, id)).record["title"]) != title:
                self.failed.append(f"{id} is {found}, and was written as {title}")
            await self.store.page(IDEAS, Asked(limit=5))
            self.done["read"] += 1
        except (StoreAway, NoSuchRecord) as error:
            self.failed.append(str(error))


def test_sixteen_clients_lose_nothing_on_the_way_forward_and_back(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still but for the steps; two processes' worth of stores share the work."""

    async def step(move: Callable[[], Any]) -> None:
        await asyncio.sleep(0.4)
        monkeypatch.setenv("B3_NOW", (bank.settings.clock() + timedelta(hours=1)).isoformat())
        await asyncio.to_thread(move)

    def on() -> None:
        phase = bank.now()
        if phase == "shadow":
            bank.compared()
        # in legacy the tables know nothing of what was written since they were loaded, so parity is red by right
        done = advance(bank.desk(), override=phase == "legacy", why="a test")
        assert done.moved, done.red

    def back() -> None:
        assert rollback(bank.desk(), why="a test").proven is not None

    async def told(moves: Sequence[Callable[[], Any]]) -> Office:
        flags = [Flags(bank.home, bank.dsn) for _ in range(2)]
        async with (
            opened(bank.settings, bank.dsn, flags[0].current) as one,
            opened(bank.settings, bank.dsn, flags[1].current) as other,
        ):
            offices = [Office(one), Office(other)]
            clients = [asyncio.create_task(offices[n % 2].client(n)) for n in range(16)]
            for move in moves:
                await step(move)
            await asyncio.sleep(0.4)
            for office in offices:
                office.stop = True
            await asyncio.gather(*clients)
        both = Office(one)
        both.failed = offices[0].failed + offices[1].failed
        both.done = offices[0].done + offices[1].done
        both.wrote = offices[0].wrote | offices[1].wrote
        return both

    monkeypatch.setattr("b3_pipeline.lowdb.mirroring.WAIT_S", 30.0)  # a busy machine is no PostgreSQL that is away
    found = asyncio.run(told([on, on, back, on, on, on]))
    assert bank.now() == "frozen"
    assert found.failed == []
    assert len(found.wrote) == 16
    stored = served(bank, lambda store: store.page(IDEAS, Asked(limit=1000)))[0]
    by_id = {int(each.record["id"]): each.record["title"] for each in stored}
    assert {id: by_id.get(id) for id in found.wrote} == found.wrote
    rollback(bank.desk(), why="a test")
    assert level(bank)
    assert {id: titles(bank)[str(id)] for id in found.wrote} == found.wrote
    assert mismatches.open_count(bank.dsn, "ideas") == 0

"""What only the files have: LowDB's own form, other programs that write them, records that may not be, damage."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.lowdb import files as module
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.model import DOCUMENTATION_IDEAS, IDEAS, LINKS, SYSTEMS, Collection
from b3_pipeline.lowdb.store import Asked, NoHistory, NoSuchRecord, Store, StoreAway
from b3_pipeline_tests.lowdb.stores import Clock, idea, link, system


def ask(store: Store, collection: Collection, **asked: Any) -> list[dict[str, Any]]:
    found, _ = asyncio.run(store.page(collection, Asked(limit=100, **asked)))
    return [each.record for each in found]


def stored(**more: Any) -> dict[str, Any]:
    """An idea as the file has it."""
    return {**idea(), "createdAt": "2025-09-21T08:54:00.000Z", "updatedAt": None, **more}


def write(folder: Path, **members: Any) -> None:
    name = "ideas.json" if set(members) == {"ideas"} else "db.json"
    (folder / name).write_text(json.dumps(members))


@pytest.fixture
def store(tmp_path: Path) -> Files:
    return Files(tmp_path, Clock())


def test_a_file_that_is_changed_keeps_the_form_that_lowdb_gives_it(store: Files, tmp_path: Path, shared: Path) -> None:
    clean = shared / "data" / "lowdb" / "clean"
    for name in ("ideas.json", "db.json"):
        (tmp_path / name).write_bytes((clean / name).read_bytes())
    (tmp_path / "db.json").chmod(0o664)
    made = asyncio.run(store.create(SYSTEMS, system(), "ana"))
    before, after = json.loads((clean / "db.json").read_text()), json.loads((tmp_path / "db.json").read_text())
    assert after.pop("nextSystemId") == before.pop("nextSystemId") + 1 == made.record["id"] + 1
    assert after.pop("systems") == [*before.pop("systems"), made.record]
    assert after == before
    asyncio.run(store.remove(SYSTEMS, made.record["id"], None, "ana"))
    text = (tmp_path / "db.json").read_text()
    assert text.replace('"nextSystemId": 20', '"nextSystemId": 19') == (clean / "db.json").read_text()
    assert (tmp_path / "db.json").stat().st_mode & 0o777 == 0o664
    assert (tmp_path / "ideas.json").read_bytes() == (clean / "ideas.json").read_bytes()


def test_all_recorded_records_are_answered(shared: Path) -> None:
    store = Files(shared / "data" / "lowdb" / "clean", Clock())
    assert asyncio.run(store.page(IDEAS, Asked()))[1] == 240
    assert asyncio.run(store.page(LINKS, Asked()))[1] == 40


def test_of_the_dirty_files_those_are_answered_that_the_tables_would_have(shared: Path) -> None:
    folder = shared / "data" / "lowdb" / "dirty"
    expected = json.loads((folder / "EXPECTED.json").read_text())["tables"]
    store = Files(folder, Clock())
    for collection in (IDEAS, SYSTEMS, DOCUMENTATION_IDEAS, LINKS):
        assert asyncio.run(store.page(collection, Asked()))[1] == expected[collection.table]["loaded"]


def test_what_others_write_is_answered_at_once(store: Files, tmp_path: Path) -> None:
    assert ask(store, IDEAS) == []
    for title in ("Uma", "Duas"):
        write(tmp_path, ideas=[stored(id="7", title=title)])
        assert [each["title"] for each in ask(store, IDEAS)] == [title]
    assert asyncio.run(store.create(IDEAS, idea(), "ana")).record["id"] == "8"


def test_records_that_may_not_be_stay_in_the_file_and_are_answered_by_nobody(store: Files, tmp_path: Path) -> None:
    bad = [stored(id="3", category="x"), 7, {"id": "nine"}, stored(id="40", title=" "), {"half": "\ud800"}]
    write(tmp_path, ideas=[stored(id="1"), *bad, stored(id="1", title="Outra")])
    assert [each["title"] for each in ask(store, IDEAS)] == [idea()["title"]]
    asyncio.run(store.replace(IDEAS, 1, idea(title="Nova"), None, "ana"))
    assert asyncio.run(store.create(IDEAS, idea(), "ana")).record["id"] == "41"
    written = json.loads((tmp_path / "ideas.json").read_text())["ideas"]
    assert written[1:6] == bad
    assert [written[0]["title"], written[6]["title"]] == ["Nova", "Outra"]
    asyncio.run(store.remove(IDEAS, 1, None, "ana"))  # with the one that had the same id, or that would come up now
    assert [each["id"] for each in ask(store, IDEAS)] == ["41"]
    with pytest.raises(NoSuchRecord):
        asyncio.run(store.get(IDEAS, 1))


@pytest.mark.parametrize(
    "text", ["", "{", '{"ideas": {}}', "[]", '{"ideas": [], "ideas": []}', "\xff", '{"ideas": [NaN]}']
)
def test_a_damaged_file_is_told_and_never_written_over(store: Files, tmp_path: Path, text: str) -> None:
    (tmp_path / "ideas.json").write_text(text, "latin-1")
    for asked in (store.page(IDEAS, Asked()), store.create(IDEAS, idea(), "ana")):
        with pytest.raises(StoreAway, match=r"ideas\.json of LowDB is damaged"):
            asyncio.run(asked)
    assert (tmp_path / "ideas.json").read_text("latin-1") == text


def test_a_file_that_is_too_large_is_not_read(store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(StoreAway, match="MiB"):
        asyncio.run(store.get(IDEAS, 1))


def test_a_folder_that_is_not_there_is_away(tmp_path: Path) -> None:
    store = Files(tmp_path / "nothing", Clock())
    with pytest.raises(StoreAway):
        asyncio.run(store.create(IDEAS, idea(), "ana"))


def test_while_somebody_holds_the_files_reading_goes_on_and_changes_are_refused_in_time(
    store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    monkeypatch.setattr(module, "LOCK_S", 0.1)
    with Files(tmp_path, Clock()).held():
        assert len(ask(store, IDEAS)) == 1
        with pytest.raises(StoreAway, match="held"):
            asyncio.run(store.remove(IDEAS, 1, None, "ana"))
    asyncio.run(store.remove(IDEAS, 1, None, "ana"))
    assert ask(store, IDEAS) == []


def test_changes_that_wait_for_the_files_are_in_no_readers_way(
    store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    monkeypatch.setattr(module, "LOCK_S", 0.5)

    async def story() -> None:
        with Files(tmp_path, Clock()).held():
            creating = [asyncio.create_task(store.create(IDEAS, idea(), "ana")) for _ in range(64)]
            await asyncio.sleep(0)
            assert (await store.get(IDEAS, 1)).record["id"] == "1"
            assert not any(task.done() for task in creating)
            began = time.monotonic()
            refused = await asyncio.gather(*creating, return_exceptions=True)
        assert {type(each) for each in refused} == {StoreAway}
        assert time.monotonic() - began < 5  # all of them in the time of one

    asyncio.run(story())


def test_what_another_program_writes_between_reading_and_writing_is_not_lost(
    store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    between = [lambda: write(tmp_path, ideas=[stored(id="1"), stored(id="2", title="Deles")])]
    written = module.written

    def slow(document: Any) -> bytes:
        if between:
            between.pop()()
        return written(document)

    monkeypatch.setattr(module, "written", slow)
    made = asyncio.run(store.create(IDEAS, idea(title="Nossa"), "ana"))
    assert made.record["id"] == "3"
    assert [each["title"] for each in ask(store, IDEAS)] == [idea()["title"], "Deles", "Nossa"]


def test_a_file_that_others_write_all_the_time_is_given_up(
    store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    written = module.written
    times = iter(range(2, 99))

    def slow(document: Any) -> bytes:
        write(tmp_path, ideas=[stored(id="1", title="x" * next(times))])
        return written(document)

    monkeypatch.setattr(module, "written", slow)
    with pytest.raises(StoreAway, match="all the time"):
        asyncio.run(store.remove(IDEAS, 1, None, "ana"))
    assert len(ask(store, IDEAS)) == 1


def test_a_file_that_is_a_link_stays_one(store: Files, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, ideas=[stored(id="1")])
    (tmp_path / "ideas.json").symlink_to(elsewhere / "ideas.json")
    asyncio.run(store.create(IDEAS, idea(title="Nova"), "ana"))
    assert (tmp_path / "ideas.json").is_symlink()
    there = json.loads((elsewhere / "ideas.json").read_text())["ideas"]
    assert [each["title"] for each in there] == [idea()["title"], "Nova"]


def test_a_write_that_fails_leaves_the_file_as_it_was(
    store: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ideas=[stored(id="1")])
    before = (tmp_path / "ideas.json").read_bytes()

    def full(*_given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replace_synced", full)
    with pytest.raises(StoreAway, match="No space left"):
        asyncio.run(store.remove(IDEAS, 1, None, "ana"))
    assert (tmp_path / "ideas.json").read_bytes() == before


def test_links_of_a_record_that_may_not_be_are_answered_by_nobody(store: Files, tmp_path: Path) -> None:
    links = [{"id": 1, **link("1")}, {"id": 2, **link("2")}]
    members: dict[str, Any] = {"systems": [], "ideas": [stored(id="1"), stored(id="2", title="")], "files": []}
    write(tmp_path, **members, links=links, nextId=3, nextLinkId=3)
    assert [each["id"] for each in ask(store, LINKS)] == [1]


def test_files_keep_no_history_and_say_so(store: Files) -> None:
    with pytest.raises(NoHistory, match="no history"):
        asyncio.run(store.history(1, 10))

"""Tables and files are one store to whoever asks: the same ids, stamps, tags, filters, searches, conflicts and refusals."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.model import COLLECTIONS, DOCUMENTATION_IDEAS, FILES, IDEAS, LINKS, STATUSES, SYSTEMS
from b3_pipeline.lowdb.rules import BadRecord
from b3_pipeline.lowdb.store import Asked, Changed, NoSuchRecord, Refused, Store, Stored
from b3_pipeline_tests.lowdb import stores
from b3_pipeline_tests.lowdb.stores import Made, file, idea, link, system

WHO = "desk"


@pytest.fixture(params=[stores.TABLES, stores.FILES])
def made(request: pytest.FixtureRequest, postgres: str, tmp_path: Path) -> Made:
    if request.param == stores.TABLES:
        stores.empty(postgres)
    return Made(request.param, postgres, tmp_path)


async def titles(store: Store, **asked: Any) -> list[str]:
    found, total = await store.page(IDEAS, Asked(limit=100, **asked))
    assert total == len(found)
    return [each.record["title"] for each in found]


def test_a_record_gets_the_next_id_and_the_time_and_is_found_again(made: Made) -> None:
    async def story(store: Store) -> None:
        first = await store.create(IDEAS, idea(), WHO)
        second = await store.create(IDEAS, idea(title="Outra", extra_of_theirs={"a": [1, 2.5, None, True]}), WHO)
        assert [first.record["id"], second.record["id"]] == ["1", "2"]
        assert first.record["createdAt"] == "2025-10-14T15:00:01.000Z"
        assert first.record["updatedAt"] is None
        assert list(first.record) == [field.name for field in IDEAS.fields]
        for stored in (first, second):
            assert await store.get(IDEAS, int(stored.record["id"])) == stored
            assert stored.etag == rules.etag(stored.record)
        assert second.record["extra_of_theirs"] == {"a": [1, 2.5, None, True]}

    made.run(story)


def test_what_a_client_says_of_id_and_times_is_not_what_is_stored(made: Made) -> None:
    async def story(store: Store) -> None:
        stored = await store.create(IDEAS, idea(id="77", createdAt="1999-01-01T00:00:00Z", updatedAt="never"), WHO)
        assert (stored.record["id"], stored.record["updatedAt"]) == ("1", None)
        after = await store.replace(IDEAS, 1, idea(id="9", title="Nova", createdAt="x"), None, WHO)
        assert (after.record["id"], after.record["createdAt"]) == ("1", stored.record["createdAt"])

    made.run(story)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection.route)
def test_every_collection_takes_gives_changes_and_removes_records(made: Made, collection: Any) -> None:
    samples = {
        IDEAS: idea(),
        DOCUMENTATION_IDEAS: idea(),
        SYSTEMS: system(),
        LINKS: link("1"),
        FILES: file("1"),
    }

    async def story(store: Store) -> None:
        if collection in (LINKS, FILES):
            await store.create(DOCUMENTATION_IDEAS, idea(), WHO)
        stored = await store.create(collection, samples[collection], WHO)
        id = int(stored.record[collection.id.name])
        text = next(field.name for field in collection.fields if field.name in ("title", "name", "filename"))
        changed = await store.replace(collection, id, {**stored.record, text: "Outro nome"}, stored.etag, WHO)
        assert changed.record[text] == "Outro nome"
        assert await store.get(collection, id) == changed
        assert [record async for record in store.records(collection)] == [changed.record]
        assert await store.remove(collection, id, changed.etag, WHO) == changed
        with pytest.raises(NoSuchRecord):
            await store.get(collection, id)

    made.run(story)


def test_an_id_is_not_given_again_when_its_record_is_gone(made: Made) -> None:
    async def story(store: Store) -> None:
        for name in ("A", "B"):
            await store.create(SYSTEMS, system(name=name), WHO)
        await store.remove(SYSTEMS, 2, None, WHO)
        assert (await store.create(SYSTEMS, system(name="C"), WHO)).record["id"] == 3

    made.run(story)


def test_a_page_is_by_id_with_how_many_there_are_in_all(made: Made) -> None:
    async def story(store: Store) -> None:
        for number in range(7):
            await store.create(IDEAS, idea(title=f"Ideia {number}"), WHO)
        for limit, offset, expected in ((3, 0, "012"), (3, 3, "345"), (3, 6, "6"), (3, 9, ""), (100, 0, "0123456")):
            found, total = await store.page(IDEAS, Asked(limit, offset))
            assert [each.record["title"][-1] for each in found] == list(expected)
            assert total == 7
            assert (await store.page(IDEAS, Asked(limit, offset, count_to=4)))[1] == 5
            assert (await store.page(IDEAS, Asked(limit, offset, count_to=7)))[1] == 7

    made.run(story)


def test_filters_and_search_must_all_hold(made: Made) -> None:
    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(title="Superfície", tags=["gamma", "dólar"]), WHO)
        await store.create(IDEAS, idea(title="PARTIÇÃO", status="review", description="Índice, à parte"), WHO)
        await store.create(IDEAS, idea(title="Índice a/b example.org", priority="low", tags=["dólar"]), WHO)
        assert await titles(store, filters={"status": "review"}) == ["PARTIÇÃO"]
        assert await titles(store, filters={"category": "banco-dados"}) == []
        assert await titles(store, filters={"tag": "dólar"}) == ["Superfície", "Índice a/b example.org"]
        assert await titles(store, filters={"tag": "dólar", "priority": "low"}) == ["Índice a/b example.org"]
        assert await titles(store, search="indice") == ["PARTIÇÃO", "Índice a/b example.org"]
        assert await titles(store, search="ÍND part") == ["PARTIÇÃO"]
        assert await titles(store, search="b org") == ["Índice a/b example.org"]
        assert await titles(store, search="ficie") == []
        assert await titles(store, search="'; drop :* & | !") == []
        assert len(await titles(store, search=" ' :* & ")) == 3
        assert await titles(store, filters={"status": "new"}, search="indice") == ["Índice a/b example.org"]

    made.run(story)


def test_the_other_collections_are_filtered_and_searched_by_what_they_have(made: Made) -> None:
    async def story(store: Store) -> None:
        for _ in range(2):
            await store.create(DOCUMENTATION_IDEAS, idea(tags=["gamma"]), WHO)
        for idea_id in ("1", "2", "2"):
            await store.create(LINKS, link(idea_id, title=f"para {idea_id}"), WHO)
            await store.create(FILES, file(idea_id), WHO)
        await store.create(SYSTEMS, system(name="Latência do painel", shortName="LAT"), WHO)
        for collection, asked, expected in (
            (LINKS, Asked(filters={"idea_id": "2"}), 2),
            (FILES, Asked(filters={"idea_id": "1"}), 1),
            (FILES, Asked(search="opcoes"), 3),
            (LINKS, Asked(search="para 1"), 1),
            (SYSTEMS, Asked(search="latencia"), 1),
            (SYSTEMS, Asked(search="lat pain"), 1),
            (SYSTEMS, Asked(search="volatilidade"), 0),
            (SYSTEMS, Asked(filters={"status": "online"}), 1),
            (DOCUMENTATION_IDEAS, Asked(filters={"tag": "gamma"}), 2),
        ):
            found, total = await store.page(collection, asked)
            assert (len(found), total) == (expected, expected), (collection.route, asked)

    made.run(story)


def test_counts_are_in_the_order_of_the_board_and_of_the_alphabet_where_there_is_none(made: Made) -> None:
    async def story(store: Store) -> None:
        for status in ("rejected", "new", "new"):
            await store.create(IDEAS, idea(status=status, priority="low"), WHO)
        for status in ("online", "degraded", "online"):
            await store.create(SYSTEMS, system(status=status), WHO)
        counts = await store.counts(IDEAS, "status", Asked())
        assert list(counts) == list(STATUSES)
        assert (counts["new"], counts["review"], counts["rejected"]) == (2, 0, 1)
        assert (await store.counts(IDEAS, "status", Asked(filters={"priority": "high"})))["new"] == 0
        assert list((await store.counts(SYSTEMS, "status", Asked())).items()) == [("degraded", 1), ("online", 2)]

    made.run(story)


def test_a_change_is_stamped_and_the_same_again_changes_nothing(made: Made) -> None:
    async def story(store: Store) -> None:
        before = await store.create(IDEAS, idea(), WHO)
        after = await store.replace(IDEAS, 1, {**before.record, "title": "Nova"}, before.etag, WHO)
        assert after.etag != before.etag
        assert after.record["updatedAt"] == "2025-10-14T15:00:02.000Z"
        assert await store.replace(IDEAS, 1, after.record, None, WHO) == after
        assert await store.get(IDEAS, 1) == after

    made.run(story)


def test_who_has_seen_something_else_changes_nothing_and_is_shown_what_is(made: Made) -> None:
    async def story(store: Store) -> None:
        seen = await store.create(IDEAS, idea(), WHO)
        other = await store.replace(IDEAS, 1, idea(title="De outro"), seen.etag, "other")
        with pytest.raises(Changed) as refused:
            await store.replace(IDEAS, 1, idea(title="Minha"), seen.etag, WHO)
        assert refused.value.current == other
        with pytest.raises(Changed):
            await store.remove(IDEAS, 1, f"W/{other.etag}", WHO)  # a weak tag is none that a change may go by
        named = await store.replace(IDEAS, 1, idea(title="Minha"), f'"x", {other.etag}', WHO)
        assert await store.remove(IDEAS, 1, "*", WHO) == named

    made.run(story)


def test_what_is_not_there_is_neither_given_changed_nor_removed(made: Made) -> None:
    async def story(store: Store) -> None:
        for asked in (
            store.get(IDEAS, 1),
            store.get(IDEAS, 2**70),
            store.replace(IDEAS, 1, idea(), None, WHO),
            store.remove(IDEAS, 1, None, WHO),
        ):
            with pytest.raises(NoSuchRecord):
                await asked

    made.run(story)


def test_what_a_record_refers_to_must_be_there_and_takes_it_along_when_it_goes(made: Made) -> None:
    async def story(store: Store) -> None:
        with pytest.raises(Refused):
            await store.create(LINKS, link("1"), WHO)
        for _ in range(2):
            await store.create(DOCUMENTATION_IDEAS, idea(), WHO)
        for idea_id in ("1", "2"):
            await store.create(LINKS, link(idea_id), WHO)
            await store.create(FILES, file(idea_id), WHO)
        number = (await store.page(LINKS, Asked()))[0][0].record["id"]
        with pytest.raises(Refused):
            await store.replace(LINKS, number, link("3"), None, WHO)
        await store.remove(DOCUMENTATION_IDEAS, 1, None, WHO)
        for collection in (LINKS, FILES):
            assert [each.record["idea_id"] for each in (await store.page(collection, Asked()))[0]] == ["2"]

    made.run(story)


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": " "},
        {"category": "x"},
        {"priority": None},
        {"tags": "x"},
        {"tags": [1]},
        {"title": "a\0"},
        {"x": "\ud800"},
    ],
)
def test_what_may_not_be_is_refused_and_leaves_no_trace(made: Made, wrong: dict[str, Any]) -> None:
    async def story(store: Store) -> None:
        before = await store.create(IDEAS, idea(), WHO)
        with pytest.raises(BadRecord):
            await store.create(IDEAS, idea(**wrong), WHO)
        with pytest.raises(BadRecord):
            await store.replace(IDEAS, 1, idea(**wrong), None, WHO)
        assert await store.page(IDEAS, Asked()) == ([before], 1)

    made.run(story)


def test_the_same_records_have_the_same_tags_in_both(postgres: str, tmp_path: Path) -> None:
    stores.empty(postgres)
    odd = {"whole": 1.0, "large": 10**30, "small": 1e-7, "text": "\u2028 ✓", "nested": {"b": [], "a": {"x": -0.0}}}
    found: list[list[Stored]] = []

    async def story(store: Store) -> None:
        await store.create(IDEAS, idea(**odd), WHO)
        await store.replace(IDEAS, 1, idea(**odd, title="Nova"), None, WHO)
        found.append((await store.page(IDEAS, Asked()))[0])

    for kind in (stores.TABLES, stores.FILES):
        Made(kind, postgres, tmp_path).run(story)
    assert found[0] == found[1]


# Many writers at once.

WRITERS, ROUNDS = 32, 3


def test_of_many_writers_who_have_seen_the_same_exactly_one_wins_each_round(made: Made) -> None:
    async def story(store: Store) -> None:
        seen = await store.create(IDEAS, idea(), WHO)
        for turn in range(ROUNDS):

            async def write(number: int, seen: Stored = seen, turn: int = turn) -> Stored | None:
                try:
                    record = {**seen.record, "title": f"{turn} de {number}"}
                    return await store.replace(IDEAS, 1, record, seen.etag, f"writer {number}")
                except Changed:
                    return None

            won = [each for each in await asyncio.gather(*map(write, range(WRITERS))) if each]
            assert len(won) == 1
            seen = await store.get(IDEAS, 1)
            assert seen == won[0]

    made.run(story)


def test_no_change_of_many_writers_is_lost_whether_of_one_idea_or_of_many(made: Made) -> None:
    async def story(store: Store) -> None:
        for _ in range(WRITERS):
            await store.create(IDEAS, idea(tags=[]), WHO)

        async def add_tag(id: int, tag: str) -> None:
            while True:
                seen = await store.get(IDEAS, id)
                try:
                    record = {**seen.record, "tags": [*seen.record["tags"], tag]}
                    await store.replace(IDEAS, id, record, seen.etag, tag)
                    return
                except Changed:
                    continue

        same = [add_tag(1, f"writer {number}") for number in range(WRITERS)]
        await asyncio.gather(*same, *(add_tag(number + 1, "seu") for number in range(WRITERS)))
        every = {f"writer {number}" for number in range(WRITERS)} | {"seu"}
        tags = (await store.get(IDEAS, 1)).record["tags"]
        assert (set(tags), len(tags)) == (every, len(every))
        assert len((await store.page(IDEAS, Asked(100, 0, {"tag": "seu"})))[0]) == WRITERS

    made.run(story)

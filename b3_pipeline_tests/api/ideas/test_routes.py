"""The routes of the ideas over both stores: the clients' envelope, conflicts, refusals, keys, and a store that is away."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from b3_pipeline.api.around import BODY_LIMIT
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.model import BY_ROUTE, CATEGORIES, PRIORITIES, STATUSES
from b3_pipeline.lowdb.store import StoreAway
from b3_pipeline.lowdb.tables import Tables
from b3_pipeline_tests.api.ideas.conftest import KEY, Ideas
from b3_pipeline_tests.api.v1.conftest import NOW
from b3_pipeline_tests.lowdb.stores import file, idea, link, system

JSON = {"content-type": "application/json"}
BOUNDED = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def add(ideas: Ideas, route: str = "ideas", **more: Any) -> dict[str, Any]:
    made = {"ideas": idea, "documentation-ideas": idea, "systems": system}[route]
    return ideas.ask("POST", route, 201, json=made(**more))["data"]


def test_a_list_is_in_the_clients_envelope(ideas: Ideas) -> None:
    for number in range(23):
        add(ideas, title=f"Ideia {number}", status=STATUSES[number % 2])
    found = ideas.ask("GET", "ideas")
    assert set(found) == {"success", "data", "count", "filters"}
    assert (found["count"], len(found["data"]), found["filters"]) == (20, 20, {})
    page = ideas.client.get("/api/v1/ideas", params={"status": "review", "limit": 5, "offset": 10, "search": "ideia"})
    assert page.json()["filters"] == {"status": "review", "search": "ideia"}
    assert [each["id"] for each in page.json()["data"]] == ["22"]
    assert page.headers["x-total-count"] == "11"
    assert ideas.ask("GET", "ideas", params={"limit": 100, "priority": "low"})["data"] == []


def test_the_board_has_every_status_in_its_order(ideas: Ideas) -> None:
    for status in ("rejected", "new", "new", "in-progress"):
        add(ideas, status=status)
    add(ideas, status="new", priority="low")
    board = ideas.ask("GET", "ideas/kanban", params={"priority": "high", "limit": 1})
    assert list(board["data"]) == list(STATUSES)
    assert [each["id"] for each in board["data"]["new"]] == ["2"]
    assert (board["count"], board["counts"]["new"], board["filters"]) == (4, 2, {"priority": "high"})
    assert ideas.ask("GET", "documentation-ideas/kanban")["count"] == 0
    assert ideas.client.get("/api/v1/systems/kanban").status_code == 400


def test_a_record_is_made_read_changed_and_removed(ideas: Ideas) -> None:
    answer = ideas.client.post("/api/v1/ideas", json=idea(theirs=[1]))
    assert (answer.status_code, answer.headers["location"]) == (201, "/api/v1/ideas/1")
    made = answer.json()["data"]
    assert ideas.ask("GET", "ideas/1") == {"success": True, "data": made}
    assert ideas.tag("ideas/1") == answer.headers["etag"]
    changed = ideas.ask("PUT", "ideas/1", json={**made, "title": "Nova"})["data"]
    assert {**changed, "title": made["title"], "updatedAt": None} == made
    assert changed["updatedAt"] is not None
    assert ideas.ask("DELETE", "ideas/1")["data"] == changed
    ideas.ask("GET", "ideas/1", 404)
    ideas.ask("PUT", "ideas/1", 404, json=made)
    ideas.ask("DELETE", "ideas/1", 404)


def test_members_that_are_left_out_of_a_change_stay_as_they_are(ideas: Ideas) -> None:
    made = add(ideas, theirs=1)
    moved = ideas.ask("PUT", "ideas/1", json={"status": "completed"})["data"]
    assert moved == {**made, "status": "completed", "updatedAt": moved["updatedAt"]}
    assert ideas.ask("PUT", "ideas/1", json={})["data"] == moved


def test_systems_are_found_by_status_and_words_and_counted(ideas: Ideas) -> None:
    for status, name in (("online", "Coleta"), ("offline", "Latência"), ("online", "Painel de coleta")):
        add(ideas, "systems", name=name, status=status)
    assert [each["id"] for each in ideas.ask("GET", "systems/status/online")["data"]] == [1, 3]
    assert [each["id"] for each in ideas.ask("GET", "systems/search", params={"q": "LATENCIA"})["data"]] == [2]
    assert ideas.ask("GET", "systems", params={"status": "online"})["count"] == 2
    assert ideas.ask("GET", "systems/statistics")["data"] == {
        "total": 3,
        "by_status": {"offline": 1, "online": 2},
    }
    assert ideas.ask("GET", "systems/2")["data"]["name"] == "Latência"


def test_links_and_files_belong_to_ideas_that_are_there(ideas: Ideas) -> None:
    refused = ideas.ask("POST", "links", 409, json=link("1"))
    assert "not there" in refused["detail"]
    for _ in range(2):
        add(ideas, "documentation-ideas")
    for route, made in (("links", link), ("files", file)):
        for idea_id in ("1", "2"):
            ideas.ask("POST", route, 201, json=made(idea_id))
        found = ideas.ask("GET", route, params={"idea_id": "2"})["data"]
        assert [each["idea_id"] for each in found] == ["2"]
    ideas.ask("DELETE", "documentation-ideas/1")
    assert ideas.ask("GET", "files")["count"] == ideas.ask("GET", "links")["count"] == 1


# Conflicts.


def test_a_change_of_what_somebody_else_has_changed_is_refused_with_what_is_now(ideas: Ideas) -> None:
    add(ideas)
    seen = ideas.tag("ideas/1")
    now = ideas.ask("PUT", "ideas/1", json={"title": "De outro"}, headers={"If-Match": seen})["data"]
    for method, sent in (("PUT", {"title": "Minha"}), ("DELETE", None)):
        answer = ideas.client.request(method, "/api/v1/ideas/1", headers={"If-Match": seen}, json=sent)
        assert (answer.status_code, answer.json()["current"]) == (412, now)
        assert answer.headers["etag"] == ideas.tag("ideas/1")
    ideas.ask("PUT", "ideas/1", json={"title": "Minha"}, headers={"If-Match": answer.headers["etag"]})
    ideas.ask("DELETE", "ideas/1", headers={"If-Match": "*"})


def test_who_has_the_record_gets_no_body(ideas: Ideas) -> None:
    add(ideas)
    for path in ("ideas/1", "ideas", "ideas/kanban"):
        tag = ideas.tag(path)
        answer = ideas.client.get(f"/api/v1/{path}", headers={"If-None-Match": tag})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)


def test_changes_of_different_members_without_if_match_are_none_of_them_lost(ideas: Ideas) -> None:
    add(ideas)
    barrier = threading.Barrier(8)

    def change(number: int) -> int:
        barrier.wait()
        return ideas.client.put("/api/v1/ideas/1", json={f"member {number}": number}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change, range(8))) == {200}
    assert {f"member {number}" for number in range(8)} <= set(ideas.ask("GET", "ideas/1")["data"])


def test_the_history_says_who_changed_what_where_the_store_keeps_one(ideas: Ideas) -> None:
    ideas.ask("POST", "ideas", 201, json=idea(), headers={"X-B3-Who": "João".encode()})
    ideas.ask("PUT", "ideas/1", json={"title": "Nova"})
    ideas.ask("DELETE", "ideas/1", headers={"X-B3-Who": "ana"})
    if not isinstance(ideas.store, Tables):
        assert "no history" in ideas.ask("GET", "ideas/1/history", 404)["detail"]
        return
    found = ideas.ask("GET", "ideas/1/history", params={"limit": 2})
    assert [(each["who"], each["action"]) for each in found["data"]] == [("ana", "delete"), ("api", "update")]
    assert ideas.ask("GET", "ideas/1/history")["data"][2]["who"] == "João"
    assert found["data"][1]["before"]["title"] == idea()["title"]
    assert found["data"][1]["after"]["title"] == "Nova"
    ideas.ask("GET", "ideas/2/history", 404)


# Refusals.


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("ideas?status=x", "status"),
        ("ideas?limit=101", "limit"),
        ("ideas?limit=0", "limit"),
        ("ideas/kanban?limit=101", "limit"),
        ("ideas/1/history?limit=101", "limit"),
        ("ideas?offset=-1", "offset"),
        ("ideas?colour=red", "colour"),
        ("ideas?status=new&status=new", "status"),
        ("ideas?tag=", "tag"),
        (f"ideas?search={'x' * 201}", "search"),
        ("files?idea_id=x", "idea_id"),
        ("ideas/kanban?status=new", "status"),
        ("ideas/1?x=1", "x"),
        ("ideas/0", "id"),
        ("ideas/x", "id"),
        ("ideas/-1", "id"),
        ("systems/search?p=x", "p"),
    ],
)
def test_what_cannot_be_asked_is_named_with_what_can(ideas: Ideas, path: str, named: str) -> None:
    refused = ideas.ask("GET", path, 400)
    assert [error["parameter"] for error in refused["errors"]] == [named]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"title": "  "}, ["title"]),
        ({"title": None, "category": "x"}, ["title", "category"]),
        ({"tags": "a"}, ["tags"]),
        ({"description": 1}, ["description"]),
        ({"x": {"y": "\0"}}, ["x"]),
        ({"x": "y" * rules.MOST_BYTES}, ["body"]),
        ({"tags": ["a", " "]}, ["tags"]),
        ({"tags": ["a\nb"]}, ["tags"]),
        ({"id": "9"}, ["id"]),
    ],
)
def test_a_record_that_may_not_be_is_refused_with_all_that_is_wrong(
    ideas: Ideas, wrong: dict[str, Any], named: list[str]
) -> None:
    refused = ideas.ask("POST", "ideas", 400, json=idea(**wrong))
    assert [error["parameter"] for error in refused["errors"]] == named
    assert all(error["allowed"] for error in refused["errors"])
    assert ideas.ask("GET", "ideas")["count"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"title": NaN}',
        b'{"title": 1e999}',
        b'{"title": "a", "title": "b"}',
        b"\xff",
        b"[" * 100_000,
        b'{"x":' * 40 + b"1" + b"}" * 40,
        b'{"x": ' + b"9" * 5_000 + b"}",
        b'{"tags": ' + b"[" * 956 + b"]" * 956 + b"}",
        b'{"tags": ' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"x": "\\ud800"}',
        b'{"\\u0000": 1}',
    ],
    ids=range(15),
)
def test_a_body_that_is_no_object_of_json_is_refused(ideas: Ideas, body: bytes) -> None:
    ideas.ask("POST", "ideas", 400, content=body, headers=JSON)
    add(ideas)
    ideas.ask("PUT", "ideas/1", 400, content=body, headers=JSON)


def test_a_body_of_another_kind_or_too_long_is_refused(ideas: Ideas) -> None:
    whole = json.dumps(idea()).encode()
    for kind in ("text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded"):
        ideas.ask("POST", "ideas", 415, content=whole, headers={"content-type": kind})
    ideas.ask("POST", "ideas", 415, content=whole)
    ideas.ask("POST", "ideas", 201, content=whole, headers={"content-type": 'application/json; charset="UTF-8"'})
    ideas.ask("POST", "ideas", 413, content=b" " * (BODY_LIMIT + 1), headers=JSON)


def test_an_id_that_is_not_the_address_is_refused(ideas: Ideas) -> None:
    add(ideas)
    refused = ideas.ask("PUT", "ideas/1", 400, json={"id": "2"})
    assert refused["errors"][0]["allowed"] == "1"


@pytest.mark.parametrize("who", ["", "x" * 101, "a\tb"])
def test_who_makes_a_change_is_one_short_line(ideas: Ideas, who: str) -> None:
    ideas.ask("POST", "ideas", 400, json=idea(), headers={"X-B3-Who": who})


def test_without_the_key_nothing_is_changed(ideas: Ideas) -> None:
    add(ideas)
    for method, path in (("POST", "ideas"), ("PUT", "ideas/1"), ("DELETE", "ideas/1")):
        refused = ideas.ask(method, path, 403, json=idea(), headers={"X-API-Key": "x" * 20})
        assert KEY not in str(refused)
    assert ideas.ask("GET", "ideas", headers={"X-API-Key": "x" * 20})["count"] == 1


def test_a_whole_number_of_any_size_is_kept_and_quoted(ideas: Ideas) -> None:
    add(ideas, theirs=10**40)
    assert ideas.ask("GET", "ideas/1")["data"]["theirs"] == 10**40
    refused = ideas.ask("PUT", "ideas/1", 412, json={}, headers={"If-Match": '"x"'})
    assert refused["current"]["theirs"] == 10**40


@pytest.mark.parametrize("route", BY_ROUTE)
def test_while_the_store_is_away_it_is_said_so(ideas: Ideas, route: str) -> None:
    ideas.store = Tables(None, lambda: NOW)
    body = {**system(), **link("1"), **file("1"), **idea()}
    for method, path in (
        ("GET", route),
        ("GET", f"{route}/1"),
        ("POST", route),
        ("PUT", f"{route}/1"),
        ("DELETE", f"{route}/1"),
    ):
        answer = ideas.client.request(method, f"/api/v1/{path}", json=body if method in ("POST", "PUT") else None)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        assert answer.json()["success"] is False


def test_a_change_is_refused_while_only_old_records_can_be_read(ideas: Ideas, monkeypatch: pytest.MonkeyPatch) -> None:
    add(ideas)

    async def away(*_given: object) -> Any:
        raise StoreAway("PostgreSQL does not answer.")

    monkeypatch.setattr(type(ideas.store), "current", away)
    ideas.ask("GET", "ideas/1")
    for headers in ({}, {"If-Match": '"another"'}):
        ideas.ask("PUT", "ideas/1", 503, json={"title": "Nova"}, headers=headers)


def test_answers_that_are_older_than_they_should_be_say_so(ideas: Ideas, monkeypatch: pytest.MonkeyPatch) -> None:
    add(ideas)
    monkeypatch.setattr(type(ideas.store), "as_of", NOW - timedelta(minutes=2))
    for path in ("ideas", "ideas/1", "ideas/kanban"):
        headers = ideas.client.get(f"/api/v1/{path}").headers
        assert (headers["age"], headers["warning"]) == ("120", '110 - "Response is Stale"')


# Whatever is sent.

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TITLES = st.text(max_size=20)


@BOUNDED
@given(
    changes=st.dictionaries(
        st.sampled_from(["title", "description", "category", "priority", "status", "tags", "createdAt", "theirs"]),
        ANYTHING,
    )
)
def test_any_change_is_made_as_it_was_sent_or_refused_with_what_is_wrong(ideas: Ideas, changes: dict[str, Any]) -> None:
    if not ideas.ask("GET", "ideas")["count"]:
        add(ideas)
    number = ideas.ask("GET", "ideas")["data"][0]["id"]
    answer = ideas.client.put(f"/api/v1/ideas/{number}", content=json.dumps(changes), headers=JSON)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert {error["parameter"] for error in answer.json()["errors"]} <= set(changes)
    else:
        kept = {name: value for name, value in changes.items() if name != "createdAt"}
        assert {name: answer.json()["data"][name] for name in kept} == kept
        assert ideas.ask("GET", f"ideas/{number}")["data"] == answer.json()["data"]


@BOUNDED
@given(
    title=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip),
    category=st.sampled_from(CATEGORIES),
    priority=st.sampled_from(PRIORITIES),
    status=st.sampled_from(STATUSES),
    tags=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10).filter(str.strip),
        max_size=4,
    ),
)
def test_whatever_may_be_is_stored_as_it_was_sent_and_found_by_its_title(ideas: Ideas, **members: Any) -> None:
    made = ideas.ask("POST", "ideas", 201, json=idea(**members))["data"]
    assert {name: made[name] for name in members} == members
    for name in ("category", "priority", "status"):
        found = ideas.ask("GET", "ideas", params={name: members[name], "search": members["title"], "limit": 100})
        assert made["id"] in [each["id"] for each in found["data"]]
    ideas.ask("DELETE", f"ideas/{made['id']}")

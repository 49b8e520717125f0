"""Signals handed in and deleted, bots and channels: over real servers; and whatever is generated, the routes keep to what they say."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import given
from pydantic import SecretStr
from schemathesis.generation import GenerationMode
from starlette.testclient import TestClient

from b3_pipeline.api import service as service_module
from b3_pipeline.api import writers
from b3_pipeline.api.store import StoreSlow
from b3_pipeline.api.v1 import signals_bots, signals_models, signals_routes
from b3_pipeline.loading.archived import archive_of, drain
from b3_pipeline.loading.load import Loader
from b3_pipeline.parsing.kinds import SIGNALS
from b3_pipeline.postgres.vault import open_vault
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.settings import Settings
from b3_pipeline.signals.tokens import token_keys
from b3_pipeline_tests.api.v1.conftest import Api, Away, application
from b3_pipeline_tests.api.v1.test_openapi import BOUNDED, CHECKS
from b3_pipeline_tests.signals.exports import OTHER, SIGNAL, TOKEN, empty_vault
from b3_pipeline_tests.waiting import until

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)
ROUTERS = (signals_routes.router, signals_bots.router)
OPERATIONS = sorted(
    (route.path, method)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
)
BOT = {"username": "@Bot", "token": TOKEN, "bot_type": "Sender"}
CHANNEL = {"label": "Canal", "channel_id": -1001234567000, "channel_type": "source"}
KEY = {"ts": SIGNAL["timestamp"], "channel": SIGNAL["channel"], "signal_type": "Swing Trade", "asset": "ITUBX36"}
JSON = {"content-type": "application/json"}
Ask = Callable[..., Any]


@pytest.fixture
def api(db: QuestDB, home: Path, postgres: str) -> Iterator[Api]:
    """The routes over a home that may be written, whose clock is the tests'."""
    empty_vault(postgres)
    passed = [0.0]
    app = application(Settings(), db.address, postgres, passed)
    for router in ROUTERS:
        app.include_router(router)
    with TestClient(app, raise_server_exceptions=False, base_url="http://127.0.0.1") as client:
        yield Api(client, app.state.service, passed)


@pytest.fixture
def ask(api: Api) -> Ask:
    """The status of a request, and its document."""

    def asked(method: str, path: str, **more: Any) -> tuple[int, Any]:
        api.later()
        answer = api.client.request(method, f"/api/v1/{path}", **more)
        return answer.status_code, answer.json() if answer.content else None

    return asked


def loaded(db: QuestDB, home: Path) -> None:
    """What the sensor's next turn does."""
    drain(Loader(db, home, lambda: NOW, "run-1"), archive_of(home), SIGNALS.name, 0, lambda: False)


def items(document: dict[str, Any]) -> list[str]:
    return [one["outcome"] for one in document["items"]]


def test_signals_are_safe_in_the_archive_before_the_answer_and_in_the_table_after_a_turn(
    db: QuestDB, home: Path, ask: Ask
) -> None:
    status, told = ask("POST", "signals", json=[SIGNAL, {**SIGNAL, "asset": "PETR4"}, {**SIGNAL, "buyMin": "x"}])
    assert (status, told["entry"], items(told)) == (202, 1, ["accepted", "accepted", "rejected"])
    assert told["items"][2] == {"outcome": "rejected", "reason": "bad_number", "pointer": "/2/buyMin"}
    assert archive_of(home).last(SIGNALS.name) == 1
    assert ask("POST", "signals", json=SIGNAL)[0] == 202  # not in the table yet: it is taken, and loads as a duplicate
    loaded(db, home)
    assert sorted(one["asset"] for one in ask("GET", "signals")[1]["items"]) == ["ITUBX36", "PETR4"]
    status, told = ask("POST", "signals", json=SIGNAL)
    assert (status, told["entry"], items(told)) == (200, None, ["duplicate"])
    status, told = ask("POST", "signals", json={**SIGNAL, "stop": 0.1})
    assert (status, told["errors"][0]["problem"]) == (400, "conflicting_duplicate")
    assert archive_of(home).last(SIGNALS.name) == 2


def test_the_same_request_once_more_has_the_same_entry(home: Path, ask: Ask) -> None:
    assert [ask("POST", "signals", json=SIGNAL)[1]["entry"] for _ in range(3)] == [1, 1, 1]
    assert archive_of(home).last(SIGNALS.name) == 1


def test_signals_are_taken_while_questdb_is_away_and_refused_while_the_disk_is(home: Path, api: Api, ask: Ask) -> None:
    vars(api.service).update(store=Away())
    assert ask("POST", "signals", json=SIGNAL)[0] == 202
    (home / "archive" / SIGNALS.name / "lock").unlink()
    (home / "archive" / SIGNALS.name / "lock").mkdir()
    status, told = ask("POST", "signals", json={**SIGNAL, "asset": "PETR4"})
    assert (status, str(home) in json.dumps(told)) == (503, False)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", json.dumps([SIGNAL] * 1001).encode()])
def test_what_is_no_batch_is_a_problem(api: Api, body: bytes) -> None:
    answer = api.client.post("/api/v1/signals", content=body, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_signals_come_as_json_and_so_from_no_form_of_another_site(api: Api, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    assert api.client.post("/api/v1/signals", content=json.dumps(SIGNAL), headers=headers).status_code == 415


def test_signals_are_compared_with_the_stored_ones_of_their_keys_alone(
    db: QuestDB, home: Path, api: Api, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [{**SIGNAL, "timestamp": f"2025-10-{day}T12:00:00Z"} for day in range(10, 20)]
    ask("POST", "signals", json=stored)
    loaded(db, home)
    read: list[int] = []
    rows = api.service.store.rows

    async def counted(*asked: Any) -> list[dict[str, Any]]:
        found = await rows(*asked)
        read.append(len(found))
        return found

    monkeypatch.setattr(api.service.store, "rows", counted)
    assert items(ask("POST", "signals", json=[stored[0], stored[-1]])[1]) == ["duplicate"] * 2
    assert read == [2]
    monkeypatch.setattr(signals_routes, "_MOST_STORED", 1)
    assert ask("POST", "signals", json=[stored[0], stored[-1]])[0] == 413


def test_a_slow_look_at_the_stored_signals_takes_none_unseen(home: Path, api: Api, ask: Ask) -> None:
    class Slow(Away):
        async def rows(self, *_asked: object) -> list[dict[str, Any]]:
            raise StoreSlow("QuestDB does not answer in time.")

    vars(api.service).update(store=Slow())
    assert ask("POST", "signals", json=SIGNAL)[0] == 503
    assert archive_of(home).last(SIGNALS.name) == 0


def test_while_the_archive_is_held_signals_are_refused_soon_and_readers_go_on(
    home: Path, api: Api, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ARCHIVE_PATIENCE_S", 0.1)
    monkeypatch.setattr(writers, "MOST", 1)
    with archive_of(home).locked(SIGNALS.name):
        assert ask("POST", "signals", json=SIGNAL)[0] == 503
    held = threading.Event()
    taken = api.client.portal.start_task_soon(api.service.writers.run, held.wait)  # pyright: ignore[reportOptionalMemberAccess]
    until(lambda: ask("POST", "channels", json=CHANNEL)[0] == 503)
    assert ask("GET", "channels")[0] == 200
    held.set()
    assert taken.result(10)
    assert ask("POST", "signals", json=SIGNAL)[0] == 202


def test_signals_are_filtered_and_searched(db: QuestDB, home: Path, ask: Ask) -> None:
    other = {
        **SIGNAL,
        "signalType": "Day Trade",
        "timestamp": "2025-10-12T12:00:00Z",
        "rawMessage": "Ação 100% _agora_",
    }
    ask("POST", "signals", json=[SIGNAL, other])
    loaded(db, home)
    for question, found in (
        ({"type": "Day Trade"}, 1),
        ({"search": "AÇÃO"}, 1),
        ({"search": "ativo itub"}, 1),
        ({"search": "100%"}, 1),
        ({"search": "%"}, 1),
        ({"search": "_"}, 1),
        ({"search": "x' or '1'='1"}, 0),
        ({"channel": SIGNAL["channel"], "asset": "ITUBX36", "from": "2025-10-12"}, 1),
        ({"to": "2025-10-11"}, 1),
    ):
        assert len(ask("GET", "signals", params=question)[1]["items"]) == found, question


def test_a_deleted_signal_is_hidden_listed_as_deleted_and_stays_so(db: QuestDB, home: Path, ask: Ask) -> None:
    ask("POST", "signals", json=SIGNAL)
    loaded(db, home)
    status, told = ask("DELETE", "signals", params=KEY)
    assert (status, told["deleted"], told["signal"]["deleted_at"]) == (200, True, "2025-10-14T15:00:00Z")
    assert ask("DELETE", "signals", params=KEY)[1]["deleted"] is False
    assert ask("GET", "signals")[1]["items"] == []
    assert ask("GET", "signals/deleted")[1]["items"] == [told["signal"]]
    assert items(ask("POST", "signals", json=SIGNAL)[1]) == ["duplicate"]
    assert ask("DELETE", "signals", params={**KEY, "asset": "PETR4"})[0] == 404
    status, problem = ask("DELETE", "signals", params={"asset": "PETR4", "ts": "2025-10-11"})
    assert status == 400
    assert {one["parameter"] for one in problem["errors"]} == {"ts", "channel", "signal_type"}


@pytest.mark.parametrize(
    ("route", "new", "changed"), [("bots", BOT, {"username": "@Outro"}), ("channels", CHANNEL, {"label": "Outro"})]
)
def test_each_change_is_a_new_version(
    db: QuestDB, ask: Ask, route: str, new: dict[str, Any], changed: dict[str, Any]
) -> None:
    status, made = ask("POST", route, json=new)
    assert status == 201
    place = f"{route}/{made['id']}"
    assert ask("GET", place) == (200, made)
    assert ask("POST", route, json={**new, "id": made["id"]})[0] == 409
    rest = {name: value for name, value in new.items() if name != "token"}
    status, put = ask("PUT", place, json={**rest, **changed, "status": "inactive"})
    assert (status, put["created_at"], put["status"]) == (200, made["created_at"], "inactive")
    assert datetime.fromisoformat(put["updated_at"]) > datetime.fromisoformat(made["updated_at"])
    assert put.get("has_token", True)
    assert ask("GET", route)[1] == {"items": [put], "count": 1}
    assert ask("GET", route, params={"status": "active"})[1]["count"] == 0
    assert ask("GET", route, params={"search": "OUTRO"})[1]["count"] == 1
    assert ask("DELETE", place)[0] == 204
    assert [
        ask(method, place, **more)[0] for method, more in (("GET", {}), ("DELETE", {}), ("PUT", {"json": rest}))
    ] == [404] * 3
    assert ask("GET", route)[1]["count"] == 0
    assert ask("GET", route, params={"status": "deleted"})[1]["count"] == 1
    assert db.scalar(named("select count() from {t}", t=f"telegram_{route}")) == 3
    assert ask("POST", route, json={**new, "id": made["id"]})[0] == 201


def test_a_change_of_what_somebody_else_has_changed_is_refused_with_what_it_is_now(api: Api) -> None:
    made = api.client.post("/api/v1/channels", json=CHANNEL)
    place, old = made.headers["location"], made.headers["etag"]
    second = api.client.put(place, json=CHANNEL, headers={"if-match": old})
    assert second.status_code == 200
    third = api.client.put(place, json=CHANNEL, headers={"if-match": old})
    assert (third.status_code, third.json()["current"]) == (412, second.json())
    assert api.client.delete(place, headers={"if-match": second.headers["etag"]}).status_code == 204


@pytest.mark.parametrize(
    ("route", "wrong"),
    [
        ("bots", {**BOT, "bot_type": "Other"}),
        ("bots", {**BOT, "username": "a\nb"}),
        ("bots", {**BOT, "username": " "}),
        ("bots", {**BOT, "status": "deleted"}),
        ("bots", {**BOT, TOKEN: TOKEN}),
        ("bots", {**BOT, "token": "\ud800abcdef"}),
        ("bots", {**BOT, "token": "abcdef\n"}),
        ("bots", {**BOT, "username": "\ud800"}),
        ("bots", {**BOT, "description": "\ud800"}),
        ("bots", {**BOT, "id": TOKEN}),
        ("bots", [BOT]),
        ("channels", {**CHANNEL, "channel_id": 2**63}),
        ("channels", {**CHANNEL, "signal_count": -1}),
    ],
)
def test_what_breaks_a_rule_is_a_problem_that_shows_no_value(api: Api, route: str, wrong: Any) -> None:
    answer = api.client.post(f"/api/v1/{route}", content=json.dumps(wrong), headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert TOKEN not in answer.text


def test_a_token_goes_into_the_vault_and_comes_out_nowhere(
    db: QuestDB, home: Path, api: Api, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heard = []
    made = api.client.post("/api/v1/bots", json={**BOT, "id": "bot-1", "description": f"usa {TOKEN}"})
    heard.append(made)
    heard.append(api.client.put("/api/v1/bots/bot-1", json={**BOT, "token": OTHER, "description": OTHER}))
    heard.append(api.client.post("/api/v1/signals", json={**SIGNAL, "rawMessage": f"fale com {TOKEN}", "token": OTHER}))
    heard.append(api.client.post("/api/v1/signals", content=f'{{"{TOKEN}": 1, "{TOKEN}": '.encode(), headers=JSON))
    loaded(db, home)
    heard += [api.client.get(f"/api/v1/{route}") for route in ("bots", "bots/bot-1", "signals", "loads")]
    assert [answer.status_code for answer in heard] == [201, 200, 202, 400, 200, 200, 200, 200]
    texts = [answer.text + str(answer.headers) for answer in heard]
    texts += [record.getMessage() for record in caplog.records]
    for table in ("telegram_bots", "tp_capital_signals", "b3_loads", "b3_revisions"):
        texts += [str(row) for row in db.query(f"select * from {table}")]
    archive = archive_of(home)
    texts += [archive.read(entry).decode() for entry in archive.after(SIGNALS.name, 0)]
    texts += [path.read_bytes().decode("latin-1") for path in home.rglob("*") if path.is_file()]
    for token in (TOKEN, OTHER):
        assert not [text for text in texts if token in text]
    references = [reference for (reference,) in db.query("select token from telegram_bots order by updated_at")]
    with open_vault(postgres, lambda: token_keys(home)) as vault:
        assert [vault.reveal(reference) for reference in references] == [TOKEN, OTHER]


def test_a_token_of_a_bot_that_is_refused_is_not_kept(api: Api, ask: Ask, postgres: str) -> None:
    assert ask("POST", "bots", json={**BOT, "username": "a\x01b"})[0] == 400
    with psycopg.connect(postgres) as connection:
        kept = connection.execute("select count(*) from b3.secrets where name like 'vault:%'").fetchone()
    assert kept == (0,)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize(("route", "new"), [("bots", BOT), ("channels", CHANNEL)])
def test_an_id_with_controls_is_nobodys(ask: Ask, method: str, route: str, new: dict[str, Any]) -> None:
    assert ask(method, f"{route}/a%00", **({"json": new} if method == "PUT" else {}))[0] == 404


def test_without_postgresql_no_token_is_taken_and_all_else_is(api: Api, ask: Ask) -> None:
    vars(api.service).update(postgres_dsn=None)
    assert ask("POST", "bots", json=BOT)[0] == 503
    assert ask("GET", "bots")[1]["count"] == 0
    assert ask("POST", "channels", json=CHANNEL)[0] == 201


def test_questdb_away_is_said_so(api: Api, ask: Ask) -> None:
    away = SecretStr("http://x:y@127.0.0.1:1?pg_port=1")
    api.service.settings = api.service.settings.model_copy(update={"questdb_url": away})
    vars(api.service).update(store=Away())
    for method, path, more in (
        ("GET", "bots", {}),
        ("GET", "channels/1", {}),
        ("POST", "channels", {"json": CHANNEL}),
        ("DELETE", "channels/1", {}),
        ("DELETE", "signals", {"params": KEY}),
    ):
        assert ask(method, path, **more)[0] == 503


def test_who_changes_anything_needs_the_key(home: Path, db: QuestDB) -> None:
    from b3_pipeline.api.app import everything

    with TestClient(everything(), base_url="http://127.0.0.1") as client:
        for method, path in (
            ("POST", "signals"),
            ("DELETE", "signals"),
            ("POST", "bots"),
            ("PUT", "bots/1"),
            ("DELETE", "channels/1"),
        ):
            assert client.request(method, f"/api/v1/{path}").status_code == 401
            assert client.request(method, f"/api/v1/{path}", headers={"x-api-key": "wrong"}).status_code == 403
        key = {"x-api-key": (home / "secrets" / "api_key").read_text("ascii")}
        assert client.post("/api/v1/signals", json=SIGNAL, headers=key).status_code == 202
        assert client.get("/api/v1/bots").status_code == 200
        elsewhere = {"sec-fetch-site": "cross-site"}
        assert client.post("/api/v1/signals", json=SIGNAL, headers=key | elsewhere).status_code == 403
        assert client.get("/api/v1/bots", headers=elsewhere).status_code == 200


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_is_described_with_examples_and_its_errors_as_problems(api: Api, path: str, method: str) -> None:
    operation = api.client.get("/openapi.json").json()["paths"][path][method.lower()]
    assert operation["summary"]
    assert operation["description"]
    assert {"400", "401", "413", "414", "421", "429", "503"} <= set(operation["responses"])
    for status, response in operation["responses"].items():
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"], status
        elif status not in ("204", "304"):
            content = response["content"]["application/json"]
            model = getattr(signals_models, content["schema"]["$ref"].rsplit("/", 1)[1])
            assert model.model_validate(content["example"]).model_dump(mode="json") == content["example"]


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        (*operation, mode)
        for operation in OPERATIONS
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if (operation[1], mode) != ("GET", GenerationMode.NEGATIVE) or "{" not in operation[0]  # any text is an id
    ],
)
def test_whatever_is_generated_from_it_is_answered_as_it_says(
    api: Api, path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(api.client.get("/openapi.json").json())[path][method]

    @BOUNDED
    @given(operation.as_strategy(mode))
    def keeps_to_it(case: schemathesis.Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        answer = api.client.request(
            sent["method"], sent["url"], params=sent.get("params"), json=sent.get("json"), content=sent.get("data")
        )
        case.validate_response(answer, checks=CHECKS)

    keeps_to_it()

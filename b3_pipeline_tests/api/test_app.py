"""What lies around every route: keys, headers, sizes, how often one may ask, and what is counted and logged."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from b3_pipeline.api import logs, metrics
from b3_pipeline.api.app import everything, legacy_only
from b3_pipeline.api.around import BODY_LIMIT, CSP, Around, Rate
from b3_pipeline.api.legacy import ROUTES
from b3_pipeline.api.logs import JsonLines, Lines
from b3_pipeline.api.v1 import overview
from b3_pipeline.metrics import files, instruments
from b3_pipeline.ports import HOST
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.api.legacy_desk import load_folder
from b3_pipeline_tests.conftest import free_port_base
from b3_pipeline_tests.waiting import until

KEY, READ = "k" * 20, "r" * 20


@pytest.fixture
def desk(home: Path, db: QuestDB, shared: Path) -> Path:
    """A home with the recorded folder loaded."""
    load_folder(db, home, shared / "data" / "legacy" / "clean")
    return home


def client_of(**how: Any) -> TestClient:
    """Who asks the page's port, as a browser on this machine does."""
    return TestClient(everything(), base_url=f"http://{HOST}:8800", **how)


@pytest.fixture
def client(desk: Path) -> Iterator[TestClient]:
    with client_of(raise_server_exceptions=False) as client:
        yield client
    instruments.stop()


def test_every_answer_has_the_security_headers_and_an_id(client: TestClient) -> None:
    for path in ("/", "/ultimo-dado", "/api/v1/overview", "/nothing", "/metrics", "/docs"):
        answer = client.get(path)
        assert answer.headers["content-security-policy"] == CSP, path
        assert "unsafe-inline" not in CSP.split("style-src")[0]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert len(answer.headers["x-request-id"]) == 16
    assert client.get("/", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/", headers={"x-request-id": "<script>"}).headers["x-request-id"] != "<script>"


def test_only_the_legacy_routes_are_open_to_scripts_of_other_places(client: TestClient) -> None:
    assert client.get("/ultimo-dado").headers["access-control-allow-origin"] == "*"
    for path in ("/", "/api/v1/overview", "/api/v1/health"):
        assert "access-control-allow-origin" not in client.get(path, headers={"origin": "http://other"}).headers


def test_what_is_too_long_is_refused_with_a_problem(client: TestClient) -> None:
    refused = client.post("/api/v1/overview", content=b"x" * (BODY_LIMIT + 1))
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert client.get("/api/v1/snapshots", params={"from": "x" * 9_000}).status_code == 414


def test_a_body_whose_length_nobody_announced_is_refused_as_soon_as_it_is_too_long(
    client: TestClient, desk: Path
) -> None:
    key = (desk / "secrets" / "api_key").read_text()
    parts = (b" " * 65_536 for _ in range(BODY_LIMIT // 65_536 + 1))
    refused = client.post("/api/v1/parity/1/seen", content=parts, headers={"x-api-key": key})
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    assert str(BODY_LIMIT) in refused.json()["detail"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8800", "127.0.0.1.evil.example", "[::2]:80", "[", ""])
def test_who_means_another_host_is_refused_but_for_the_legacy_routes(client: TestClient, host: str) -> None:
    for path in ("/", "/api/v1/overview", "/api/v1/health", "/metrics", "/docs"):
        refused = client.get(path, headers={"host": host})
        assert (refused.status_code, refused.headers["content-type"]) == (421, "application/problem+json"), path
    for path in ROUTES:
        assert client.get(path, headers={"host": host}).status_code == 200, path


def test_the_names_of_this_machine_and_those_of_the_settings_are_its_own(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_PUBLIC_URL", "https://Dagster.Desk.example:3000/x")
    monkeypatch.setenv("B3_ALLOWED_HOSTS", "market.desk.example, [fe80::1]")
    hosts = ("127.0.0.1:1", "LOCALHOST", "[::1]:8800", "dagster.desk.example", "Market.desk.example:80", "[fe80::1]")
    with client_of() as client:
        for host in hosts:
            assert client.get("/api/v1/overview", headers={"host": host}).status_code == 200, host
        assert client.get("/api/v1/overview", headers={"host": "desk.example"}).status_code == 421
    instruments.stop()


def test_reading_is_free_until_a_key_is_set_and_changing_never_is(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_API_KEY", KEY)
    with client_of() as client:
        assert client.get("/api/v1/overview").status_code == 200
        assert client.post("/api/v1/overview").status_code == 401
        assert client.post("/api/v1/overview", headers={"x-api-key": "wrong"}).status_code == 403
        assert client.post("/api/v1/overview", headers={"x-api-key": KEY}).status_code == 405
        seen = {"who": "desk", "why": "looked at"}
        assert client.post("/api/v1/parity/1/seen", json=seen).status_code == 401
        assert client.post("/api/v1/parity/999999/seen", json=seen, headers={"x-api-key": KEY}).status_code == 404
    monkeypatch.setenv("B3_API_READ_KEY", READ)
    with client_of() as client:
        for path in ("/", "/api/v1/overview", "/api/v1/openapi.json", "/docs", "/metrics"):
            assert client.get(path).status_code == 401, path
            assert client.get(path, headers={"authorization": f"Bearer {READ}"}).status_code == 200, path
            assert client.get(path, auth=("desk", READ)).status_code == 200, path
        assert client.post("/api/v1/overview", headers={"x-api-key": READ}).status_code == 403
        assert client.get("/api/v1/health").status_code == 200
        assert client.get("/ultimo-dado").status_code == 200
    instruments.stop()


def test_a_key_for_changes_is_made_and_nobody_else_can_read_it(client: TestClient, desk: Path) -> None:
    kept = desk / "secrets" / "api_key"
    assert kept.stat().st_mode & 0o077 == 0
    assert client.post("/api/v1/overview", headers={"x-api-key": kept.read_text()}).status_code == 405


def test_one_address_puts_so_many_questions_a_second_and_what_is_shared_is_free(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Rate, "take", lambda _self, client: asked.append(client) or len(asked) <= 2)
    with client_of() as client:
        found = [client.get("/api/v1/snapshots").status_code for _ in range(3)]
        assert found == [200, 200, 429]
        limited = client.get("/api/v1/snapshots")
        assert (limited.headers["retry-after"], limited.json()["status"]) == ("1", 429)
        for path in ("/api/v1/overview", "/ultimo-dado", "/api/v1/health", "/"):
            assert client.get(path).status_code == 200, path
    instruments.stop()


def test_who_tries_keys_is_stopped_also_where_asking_is_free(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_API_READ_KEY", READ)
    monkeypatch.setenv("B3_API_KEY", KEY)
    taken: list[str] = []
    monkeypatch.setattr(Rate, "take", lambda _self, client: taken.append(client) or len(taken) <= 4)
    with client_of() as client:
        right, wrong = {"x-api-key": READ}, {"x-api-key": "wrong"}
        assert [client.get("/api/v1/overview", headers=right).status_code for _ in range(3)] == [200] * 3
        assert taken == []
        assert client.get("/api/v1/overview", headers=wrong).status_code == 401
        assert client.get("/").status_code == 401
        assert client.get("/api/v1/snapshots", headers=wrong).status_code == 401
        assert client.post("/api/v1/overview", headers=right).status_code == 403
        for path in ("/api/v1/overview", "/api/v1/snapshots", "/"):
            assert client.get(path, headers=wrong).status_code == 429, path
        assert client.get("/api/v1/snapshots", headers=right).status_code == 429
        assert client.get("/api/v1/overview", headers=right).status_code == 200
    instruments.stop()


def test_a_rate_counts_each_address_by_itself() -> None:
    rate = Rate(1)
    assert [rate.take("a"), rate.take("b")] == [True, True]


def test_requests_are_counted_by_route_and_never_by_what_was_asked(client: TestClient, desk: Path) -> None:
    client.get("/api/v1/adjustments", params={"instrument": "DOL"})
    client.get("/wp-login.php")
    client.__exit__(None, None, None)
    found = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for family in files.read(desk / files.FOLDER)
        for sample in family.samples
        if sample.name == instruments.REQUESTS.name
    }
    client.__enter__()
    assert found["/api/v1/adjustments", "200"] == 1
    assert not [route for route, _ in found if "wp-login" in route]
    assert metrics.EVERY_S <= 1


def test_metrics_have_what_was_counted_also_without_the_monitor(client: TestClient) -> None:
    client.get("/api/v1/health")
    counted = client.get("/metrics").text
    assert 'b3_api_requests_total{method="GET",route="/api/v1/health",status="200"} 1.0' in counted


def test_a_method_that_somebody_made_up_is_counted_with_all_others_that_are(client: TestClient) -> None:
    for number in range(3):
        client.request(f"MADEUP{number}", "/api/v1/overview")
    counted = client.get("/metrics").text
    assert "MADEUP" not in counted
    assert re.search(r'b3_api_requests_total\{method="other".*\} 3.0', counted)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of requests as they are written."""
    return [json.loads(JsonLines().format(record)) for record in caplog.records if record.message == "request"]


def test_a_log_line_is_json_and_quotes_no_query(caplog: pytest.LogCaptureFixture, client: TestClient) -> None:
    client.get("/api/v1/overview", params={"token": "hunter2"}, headers={"x-request-id": "mine-1"})
    [line] = lines_of(caplog)
    assert (line["path"], line["status"], line["method"], line["id"]) == ("/api/v1/overview", 400, "GET", "mine-1")
    assert "hunter2" not in json.dumps(line)


def test_what_is_asked_all_day_is_counted_and_gets_no_line(
    caplog: pytest.LogCaptureFixture, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SLOW_S", 60)
    for path in ("/ultimo-dado", "/api/v1/overview", "/"):
        assert client.get(path).status_code == 200
    assert lines_of(caplog) == []
    client.post("/ultimo-dado")
    monkeypatch.setattr(logs, "SLOW_S", 0)
    client.get("/gamma")
    assert [(line["method"], line["path"]) for line in lines_of(caplog)] == [
        ("POST", "/ultimo-dado"),
        ("GET", "/gamma"),
    ]


def test_of_a_flood_so_many_lines_are_written_and_the_next_says_how_many_were_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    passed = [7.0]
    lines = Lines(lambda: passed[0])
    with caplog.at_level(logging.INFO, logger=logs.log.name):
        for number in range(logs.LINES_A_SECOND + 5):
            lines.write({"number": number})
        passed[0] = 8.0
        for number in range(2):
            lines.write({"number": number})
    found = lines_of(caplog)
    assert len(found) == logs.LINES_A_SECOND + 2
    assert [line.get("left_out") for line in found[-3:]] == [None, 5, None]


def test_a_defect_is_logged_once_with_its_id_and_answered_once(
    caplog: pytest.LogCaptureFixture, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_asked: object) -> None:
        raise RuntimeError("select secret from /var/somewhere")

    monkeypatch.setattr(overview, "response", broken)
    monkeypatch.setattr("b3_pipeline.api.v1.front.response", broken)
    answer = client.get("/api/v1/overview", headers={"x-request-id": "mine-2"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert (answer.json()["instance"], answer.headers["x-request-id"]) == ("mine-2", "mine-2")
    assert "secret" not in answer.text
    through_routes = client.get("/api/v1/overview?", headers={"x-request-id": "mine-3"})
    assert through_routes.status_code == 500
    told = [json.loads(JsonLines().format(record)) for record in caplog.records if record.exc_info]
    assert [(line["id"], line["level"]) for line in told] == [("mine-2", "ERROR"), ("mine-3", "ERROR")]
    assert all("RuntimeError" in line["error"] for line in told)


def test_an_answer_is_begun_once_though_its_route_fails_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []

    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        raise RuntimeError("somewhere in the middle")

    async def nothing() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def keep(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
    asyncio.run(Around(broken, lambda *_counted: None)(scope, nothing, keep))
    assert sent == ["http.response.start"]
    assert [record.message for record in caplog.records if record.exc_info] == ["unexpected"]


@pytest.fixture
def served(desk: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The service as `b3 up` starts it: its address, and its log."""
    base, log = free_port_base(), tmp_path / "api.log"
    environment = {**os.environ, "B3_HOME": str(desk), "B3_PORT_BASE": str(base)}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "b3_pipeline.api"], stderr=file, env=environment)
        try:
            address = f"http://{HOST}:{base}"
            until(lambda: process.poll() is not None or _answers(address))
            yield address, log
        finally:
            process.terminate()
            process.wait(30)


def _answers(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/ultimo-dado", trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def test_the_workers_log_has_the_lines_of_requests_with_their_ids(served: tuple[str, Path]) -> None:
    address, log = served
    httpx2.get(f"{address}/nothing", headers={"x-request-id": "mine-4"}, trust_env=False)
    until(lambda: b"mine-4" in log.read_bytes())
    [line] = [json.loads(text) for text in log.read_text().splitlines() if "mine-4" in text]
    assert (line["level"], line["message"], line["path"], line["status"]) == ("INFO", "request", "/nothing", 404)


def test_the_legacy_port_has_the_legacy_routes_and_no_other(desk: Path) -> None:
    with TestClient(legacy_only()) as client:
        assert client.get("/ultimo-dado").status_code == 200
        assert client.get("/api/v1/overview").json() == {"erro": "rota desconhecida"}
        assert client.get("/").status_code == 404
    instruments.stop()


def test_the_reference_shows_every_route_with_its_parameters(client: TestClient) -> None:
    text = client.get("/docs").text
    for path in client.get("/api/v1/openapi.json").json()["paths"]:
        assert path in text
    assert "<caption>Body</caption>" in text
    assert "<script" not in text

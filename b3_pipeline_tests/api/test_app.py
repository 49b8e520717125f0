"""What lies around every route: keys, headers, sizes, how often one may ask, and what is counted and logged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from b3_pipeline.api import around, metrics
from b3_pipeline.api.app import everything, legacy_only
from b3_pipeline.api.around import BODY_LIMIT, CSP, JsonLines, Rate
from b3_pipeline.metrics import files, instruments
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline_tests.api.legacy_desk import load_folder

KEY, READ = "k" * 20, "r" * 20


@pytest.fixture
def desk(home: Path, db: QuestDB, shared: Path) -> Path:
    """A home with the recorded folder loaded."""
    load_folder(db, home, shared / "data" / "legacy" / "clean")
    return home


@pytest.fixture
def client(desk: Path) -> Iterator[TestClient]:
    with TestClient(everything(), raise_server_exceptions=False) as client:
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


def test_reading_is_free_until_a_key_is_set_and_changing_never_is(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_API_KEY", KEY)
    with TestClient(everything()) as client:
        assert client.get("/api/v1/overview").status_code == 200
        assert client.post("/api/v1/overview").status_code == 401
        assert client.post("/api/v1/overview", headers={"x-api-key": "wrong"}).status_code == 403
        assert client.post("/api/v1/overview", headers={"x-api-key": KEY}).status_code == 405
        seen = {"who": "desk", "why": "looked at"}
        assert client.post("/api/v1/parity/1/seen", json=seen).status_code == 401
        assert client.post("/api/v1/parity/999999/seen", json=seen, headers={"x-api-key": KEY}).status_code == 404
    monkeypatch.setenv("B3_API_READ_KEY", READ)
    with TestClient(everything()) as client:
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
    with TestClient(everything()) as client:
        found = [client.get("/api/v1/snapshots").status_code for _ in range(3)]
        assert found == [200, 200, 429]
        limited = client.get("/api/v1/snapshots")
        assert (limited.headers["retry-after"], limited.json()["status"]) == ("1", 429)
        for path in ("/api/v1/overview", "/ultimo-dado", "/api/v1/health", "/"):
            assert client.get(path).status_code == 200, path
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


def test_a_log_line_is_json_and_quotes_no_query(caplog: pytest.LogCaptureFixture, client: TestClient) -> None:
    with caplog.at_level(logging.INFO, logger=around.log.name):
        client.get("/api/v1/overview", params={"token": "hunter2"})
    line = json.loads(JsonLines().format(next(r for r in caplog.records if r.message == "request")))
    assert (line["path"], line["status"], line["method"]) == ("/api/v1/overview", 400, "GET")
    assert "hunter2" not in json.dumps(line)


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

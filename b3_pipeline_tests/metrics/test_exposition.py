from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from b3_pipeline.metrics import exposition, files, instruments
from b3_pipeline.metrics.exposition import Probes, served
from b3_pipeline.ports import HOST, PortBusy
from b3_pipeline.settings import Settings

ANSWERS: dict[str, Mapping[str, Any]] = {
    "tables": {
        "b3_adjustments": {"rows": 5, "age_s": 12.5, "due": None, "fresh": True},
        "b3_dxy_ticks": {"age_s": None, "fresh": None},
    },
    "archive": {"dxy": {"newest": "x", "behind": 3, "behind_bytes": 300}},
    "wal_suspended": {"b3_adjustments": False},
    "services": {"questdb": True, "dagster-daemon": False},
    "heartbeats": {"collector": 1.5},
    "disk": {"free": 1e9, "needed": 1e6},
    "alerts": {"ERROR": 2, "WARN": 0},
    "channels": {"slack": {"up": False, "queued": 4}},
}


@contextmanager
def server(settings: Settings, port: int, **probes: Any) -> Iterator[httpx2.Client]:
    with (
        served(port, settings.home / files.FOLDER, Probes(**probes), lambda: True),
        httpx2.Client(base_url=f"http://{HOST}:{port}", trust_env=False) as client,
    ):
        yield client


def scraped(client: httpx2.Client) -> dict[tuple[str, ...], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.text))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


def test_a_scrape_shows_what_was_counted_and_what_the_probes_say(counting: Settings, port_base: int) -> None:
    instruments.fetched("dxy", "new", 0.1)
    answers = {name: lambda said=said: said for name, said in ANSWERS.items()}
    assert set(answers) == {field.name for field in fields(Probes)}
    with server(counting, port_base, **answers) as client:
        found = scraped(client)
    assert found["b3_fetches_total", "new", "dxy"] == 1
    assert found["b3_table_age_seconds", "b3_adjustments"] == 12.5
    assert found["b3_table_fresh", "b3_adjustments"] == 1
    assert ("b3_table_fresh", "b3_dxy_ticks") not in found
    assert found["b3_archive_behind_entries", "dxy"] == 3
    assert found["b3_archive_behind_bytes", "dxy"] == 300
    assert found["b3_wal_suspended", "b3_adjustments"] == 0
    assert found["b3_service_up", "questdb"] == 1
    assert found["b3_service_up", "dagster-daemon"] == 0
    assert found["b3_heartbeat_age_seconds", "collector"] == 1.5
    assert found["b3_disk_free_bytes",] == 1e9
    assert found["b3_alerts_open", "ERROR"] == 2
    assert found["b3_alert_channel_up", "slack"] == 0
    assert found["b3_alert_channel_queued", "slack"] == 4
    assert {name for name, *_ in found} >= {one.name for one in instruments.ALL if one.asked}
    assert ("b3_probe_failures_total", "tables") not in found


def test_a_probe_that_fails_leaves_its_metrics_out_and_is_counted(counting: Settings, port_base: int) -> None:
    def broken() -> Mapping[str, bool]:
        raise ConnectionError("postgresql://user:secret@host refused")

    odd = lambda: {"collector": "long ago"}  # noqa: E731
    with server(counting, port_base, services=broken, heartbeats=odd, alerts=lambda: {"WARN": 1}) as client:
        text = client.get("/metrics").text
        found = scraped(client)
    assert "secret" not in text
    assert found["b3_probe_failures_total", "services"] == 1
    assert found["b3_probe_failures_total", "heartbeats"] == 1
    assert found["b3_alerts_open", "WARN"] == 1
    assert ("b3_service_up", "questdb") not in found


def test_a_probe_that_hangs_delays_no_scrape_beyond_its_limit_and_is_asked_once(
    counting: Settings, port_base: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "PROBES_S", 0.2)
    monkeypatch.setattr(exposition, "YOUNG_S", 0)
    release, calls = threading.Event(), []

    def hangs() -> Mapping[str, bool]:
        calls.append(1)
        release.wait(30)
        return {"questdb": True}

    with server(counting, port_base, services=hangs) as client:
        began = time.monotonic()
        assert ("b3_service_up", "questdb") not in scraped(client)
        assert ("b3_service_up", "questdb") not in scraped(client)
        assert time.monotonic() - began < exposition.SCRAPE_S
        assert len(calls) == 1
        release.set()
        for thread in threading.enumerate():
            if thread.name == "probe services":
                thread.join()
        assert scraped(client)["b3_service_up", "questdb"] == 1


def test_the_limits_leave_a_scrape_three_seconds() -> None:
    assert exposition.PROBES_S < exposition.SCRAPE_S <= 3


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/favicon.ico"), ("POST", "/metrics"), ("PUT", "/x")]
)
def test_anything_else_is_not_there_and_nothing_is_said_about_it(
    counting: Settings, port_base: int, method: str, path: str
) -> None:
    with server(counting, port_base) as client:
        answer = client.request(method, path)
    assert (answer.status_code, answer.text) == (404, "")


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_health_tells_whether_the_monitor_works(counting: Settings, port_base: int, healthy: bool, status: int) -> None:
    folder = counting.home / files.FOLDER
    with served(port_base, folder, Probes(), lambda: healthy):
        assert httpx2.get(f"http://{HOST}:{port_base}/health", trust_env=False).status_code == status


def test_a_port_that_is_taken_is_said(counting: Settings, port_base: int) -> None:
    with socket.create_server((HOST, port_base)), pytest.raises(PortBusy), server(counting, port_base):
        pass


def test_a_client_that_says_nothing_keeps_no_other_waiting(counting: Settings, port_base: int) -> None:
    with server(counting, port_base) as client, socket.create_connection((HOST, port_base)):
        assert client.get("/health").status_code == 200


def test_scrapes_go_on_while_files_of_the_dead_are_merged(counting: Settings, port_base: int) -> None:
    for _ in range(5):
        instruments.retried("dxy")
        instruments.stop()
        instruments.ready(counting)
    with server(counting, port_base) as client:
        merging = threading.Thread(target=files.merge_dead, args=(counting.home / files.FOLDER,))
        merging.start()
        seen = {scraped(client).get(("b3_fetch_retries_total", "dxy")) for _ in range(10)}
        merging.join()
    assert seen == {5}

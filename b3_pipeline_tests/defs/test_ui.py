"""What an engineer on call does and sees: a running web server and daemon, asked over GraphQL and looked at in a browser."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from playwright.sync_api import Page, expect

from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.questdb.server import QuestDBServer
from b3_pipeline.settings import Ports
from b3_pipeline.tables import TABLES, Table
from b3_pipeline_tests.browser import chromium
from b3_pipeline_tests.conftest import environment_of, free_port_base, temporary_home
from b3_pipeline_tests.waiting import until

pytestmark = [pytest.mark.xdist_group("up"), pytest.mark.slow]

TICKS, SURFACE = TABLES["b3_dxy_ticks"], TABLES["b3_vol_surface"]
PATIENCE_MS = 90_000
LAUNCH = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
BACKFILL = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status error { message } } } }"""
PARTITIONS = """query($key: [String!]!) { assetNodeOrError(assetKey: {path: $key}) { ... on AssetNode {
  partitionStats { numMaterialized numFailed } assetMaterializations(limit: 1000) { partition runId metadataEntries {
    label ... on IntMetadataEntry { intValue } } } } } }"""
CHECKS = """query($key: [String!]!) { assetNodeOrError(assetKey: {path: $key}) { ... on AssetNode {
  assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }"""


@dataclass(frozen=True)
class Up:
    """A running `b3 up` with a sample loaded: where it is, and QuestDB behind it."""

    home: Path
    url: str
    db: QuestDB

    def ask(self, query: str, **variables: Any) -> Any:
        """The one field of a GraphQL answer."""
        answer = httpx2.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        body = answer.raise_for_status().json()
        assert "errors" not in body, body["errors"]
        [field] = body["data"].values()
        return field

    def backfill(self, table: Table, sessions: list[str]) -> str:
        """Launches the sessions of a table as the UI does; returns the backfill's id."""
        params = {"assetSelection": [{"path": [table.name]}], "partitionNames": sessions}
        return self.ask(LAUNCH, params=params)["backfillId"]

    def ended(self, backfill: str) -> bool:
        state = self.ask(BACKFILL, id=backfill)
        assert state["status"] not in ("FAILED", "COMPLETED_FAILED", "CANCELED"), state
        return state["status"] == "COMPLETED_SUCCESS"

    def content(self, table: Table) -> list[tuple[Any, ...]]:
        """All that is compared of a table, in one order."""
        columns = [*table.keys, *(c.name for c in table.values)]
        return self.db.query(named("select {c} from {t} order by {k}", c=columns, t=table.name, k=table.keys))

    def sessions(self, table: Table) -> list[str]:
        rows = self.db.query(named("select distinct timestamp_floor('d', ts) d from {t} order by d", t=table.name))
        return [row[0].date().isoformat() for row in rows]

    def empty(self, table: Table) -> None:
        self.db.execute(f"TRUNCATE TABLE {table.name}")
        self.db.wait_applied(table.name)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    base = free_port_base()
    legacy = tmp_path_factory.mktemp("sample") / "legacy"
    with temporary_home() as home:
        moment = {"B3_NOW": "2025-10-14T15:00:00+00:00", "B3_FIRST_SESSION": "2025-06-02"}
        environment = environment_of(home, base) | moment

        def b3(*arguments: str) -> None:
            command = [sys.executable, "-m", "b3_pipeline", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stderr

        b3("sample", str(legacy))
        b3("up", "--detach", "--legacy", str(legacy))
        try:
            with QuestDB(QuestDBServer(home, Ports(base), "256m").address) as db:
                yield Up(home, f"http://127.0.0.1:{base + 1}", db)
        finally:
            b3("down")


def test_a_backfill_loads_its_sessions_and_reports_each_with_its_counts(up: Up) -> None:
    whole, sessions = up.content(TICKS), up.sessions(TICKS)
    up.empty(TICKS)
    chosen = sessions[10:15]
    backfill = up.backfill(TICKS, chosen)
    until(lambda: up.ended(backfill), 180)
    assert up.sessions(TICKS) == chosen
    assert up.content(TICKS) == [row for row in whole if row[0].date().isoformat() in chosen]
    node = up.ask(PARTITIONS, key=[TICKS.name])
    newest = {m["partition"]: m for m in reversed(node["assetMaterializations"]) if m["partition"]}
    assert {newest[day]["runId"] for day in chosen}.isdisjoint(newest[day]["runId"] for day in sessions[:10])
    counts = [{e["label"]: e.get("intValue") for e in newest[day]["metadataEntries"]} for day in chosen]
    assert [c["dagster/partition_row_count"] for c in counts] == [3] * 5
    assert node["partitionStats"] == {"numMaterialized": len(sessions), "numFailed": 0}


def test_a_backfill_whose_worker_is_killed_ends_with_the_same_content_as_an_undisturbed_one(up: Up) -> None:
    whole, sessions = up.content(SURFACE), up.sessions(SURFACE)
    up.empty(SURFACE)
    backfill = up.backfill(SURFACE, sessions)
    started = named("select count() from {t}", t=SURFACE.name)
    until(lambda: up.db.scalar(started) or up.ended(backfill), 180)
    for worker in workers(up.home):
        worker.send_signal(signal.SIGKILL)
    until(lambda: up.ended(backfill), 240)  # the daemon notices it, and launches the run again
    assert up.content(SURFACE) == whole


def workers(home: Path) -> list[psutil.Process]:
    """The processes in which runs of the home are executed."""
    found = []
    for process in psutil.process_iter():
        try:
            if "execute_run" in process.cmdline() and process.environ().get("B3_HOME") == str(home):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_every_check_of_a_loaded_table_has_run_and_passed(up: Up) -> None:
    checks = up.ask(CHECKS, key=["b3_indicators_daily"])["assetChecksOrError"]["checks"]
    states = {c["name"]: c["executionForLatestMaterialization"]["status"] for c in checks}
    assert set(states) >= {"schema", "wal", "unique_keys", "hard_bounds", "parity_legacy_csv", "feeds_agree"}
    assert set(states.values()) == {"SUCCEEDED"}, json.dumps(states, indent=1)


@pytest.fixture(scope="module")
def page(up: Up) -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield page


def test_an_assets_page_shows_its_rows_and_its_columns(up: Up, page: Page) -> None:
    page.goto(f"{up.url}/assets/b3_indicators_daily?view=overview")
    rows = up.db.scalar("select count() from b3_indicators_daily")
    expect(page.get_by_text("Row count", exact=True).first).to_be_visible()
    expect(page.get_by_text(str(rows), exact=True).first).to_be_visible()
    expect(page.get_by_text("percent a year, or BRL for dolar_cupom_limpo").first).to_be_visible()


def test_an_assets_page_shows_its_checks(up: Up, page: Page) -> None:
    page.goto(f"{up.url}/assets/b3_indicators_daily?view=checks")
    for name in ("parity_legacy_csv", "unique_keys", "hard_bounds", "gaps"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_the_lineage_of_a_table_shows_the_file_that_it_comes_from(up: Up, page: Page) -> None:
    page.goto(f"{up.url}/assets/b3_indicators_daily?view=lineage&lineageScope=neighbors")
    expect(page.get_by_text("indicadores_b3").first).to_be_visible()
    expect(page.get_by_text("b3_loads").first).to_be_visible()

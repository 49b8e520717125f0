"""A day through the whole chain: from the source's bytes to the table, the checks, the people and the shadow files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from b3_pipeline.defs.alerting import alerts_sensor
from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.sensors import load_sensor
from b3_pipeline.postgres.flags import set_flag
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sample_payloads import capture, session_samples
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.settings import Settings
from b3_pipeline.shadow.forms import FORMS, Form
from b3_pipeline.shadow.rows import gather
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.sources.collector import collect_once
from b3_pipeline.tables import LEDGERS, MARKET_TABLES, TABLES, Table
from b3_pipeline_tests.cli.commands import answer
from b3_pipeline_tests.test_monitor import Desk, desk  # noqa: F401 (a fixture)

DAY = date(2025, 10, 14)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


class Daemon:
    """Turns sensors as Dagster's daemon does, and keeps their cursors."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance, self.cursors = instance, dict[str, str | None]()

    def turn(self, sensor: dg.SensorDefinition) -> bool:
        """A turn; False when there was nothing to do."""
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursors.get(sensor.name),
            resources={"store": Store()},
            sensor_name=sensor.name,
        )
        result = sensor(context)
        if isinstance(result, dg.SensorResult):
            self.cursors[sensor.name] = result.cursor
            for event in result.asset_events:
                self.instance.report_runless_asset_event(event)
        return isinstance(result, dg.SensorResult)

    def load(self, *sources: str) -> None:
        for name in sources or SOURCES:
            while self.turn(load_sensor(SOURCES[name])):  # a turn has a budget of time
                pass


@pytest.fixture
def recorded(home: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive with all that a session brought, late in its evening."""
    monkeypatch.setenv("B3_NOW", "2025-10-15T01:00:00+00:00")
    archive = Archive(home / "archive")
    for sample in session_samples(DAY):
        archive.append(sample.source, sample.data, name=sample.name, at=sample.at, session=DAY)
    return archive


def rows_of(db: QuestDB, table: Table) -> list[dict[str, Any]]:
    """All rows of a table but for when and by which load they came, by their keys."""
    db.wait_applied(table.name)
    schema = table.arrow_schema(tuple(c for c in table.columns if c.name not in ("ingested_at", "load_id")))
    rows = db.arrow(named("select {c} from {t}", c=schema.names, t=table.name), schema=schema).to_pylist()
    return sorted(rows, key=lambda row: [str(row[key]) for key in table.keys])


def empty(db: QuestDB) -> None:
    for table in (*MARKET_TABLES, *LEDGERS):
        db.execute(f"TRUNCATE TABLE {table.name}")
        db.wait_applied(table.name)


def test_a_wrong_value_upstream_turns_a_check_red_and_is_told_once_on_each_channel_as_is_its_correction(
    db: QuestDB,
    home: Path,
    desk: Desk,  # noqa: F811
    instance: dg.DagsterInstance,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upstream: list[bytes] = []
    httpserver.expect_request("/ultimo-dado").respond_with_handler(lambda _request: _json(upstream[-1]))
    monkeypatch.setenv("B3_LEGACY_URL", httpserver.url_for("").rstrip("/"))
    daemon = Daemon(instance)

    def collected(document: bytes) -> None:
        upstream.append(document)
        assert collect_once(Settings(), "ultimo_dado").outcome == "new"
        daemon.load("ultimo_dado")
        daemon.turn(alerts_sensor)
        desk.turn()

    name = "b3_snapshots:soft_bounds"
    collected(captured_with(14_000.0))
    desk.until_told(("opened", name))
    daemon.load("ultimo_dado")
    daemon.turn(alerts_sensor)
    desk.turn()
    collected(captured_with(5528.504))
    desk.until_told(("opened", name), ("recovered", name))
    assert db.query("select price_settlement from b3_snapshots where instrument = 'DOL'") == [(5528.504,)]


def captured_with(price: float) -> bytes:
    """The capture of a morning with this settlement of DOL, and whatever else belongs into one."""
    document = json.loads(capture(datetime(2025, 10, 14, 12, 0, 32, tzinfo=UTC)))
    document["DOL"]["preco_numerico"] = price
    return json.dumps(document).encode()


def _json(document: bytes) -> Response:
    return Response(document, content_type="application/json")


def test_every_table_is_built_again_from_the_archive_alone(
    db: QuestDB, recorded: Archive, instance: dg.DagsterInstance
) -> None:
    Daemon(instance).load()
    before = {table.name: rows_of(db, table) for table in MARKET_TABLES}
    assert all(before.values())
    empty(db)
    report = answer("replay")
    assert report["ok"]
    assert {t.name: rows_of(db, t) for t in MARKET_TABLES} == before
    again = answer("replay")
    assert {f["outcome"] for f in again["files"]} <= {"unchanged", "loaded"}
    assert {t.name: rows_of(db, t) for t in MARKET_TABLES} == before


def test_the_shadow_of_a_day_gives_all_that_the_legacy_form_holds(
    db: QuestDB,
    home: Path,
    postgres: str,
    recorded: Archive,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_flag(postgres, "shadow_files", "on", why="a test", at=datetime.now(UTC))
    try:
        Daemon(instance).load()
    finally:
        set_flag(postgres, "shadow_files", "off", why="a test", at=datetime.now(UTC))
    held = {form.table.name: held_rows(db, form) for form in FORMS.values()}
    captures = {name: captured(db, TABLES[name]) for name in ("b3_snapshots", "b3_indicators")}
    assert all((*held.values(), *captures.values()))
    empty(db)
    monkeypatch.setenv("B3_HOME", str(home.parent / "empty"))
    report = answer("migrate", "--legacy", str(home / "shadow"))
    assert not [f for f in report["files"] if f["outcome"] == "rejected"]
    assert {form.table.name: held_rows(db, form) for form in FORMS.values()} == held
    assert {name: captured(db, TABLES[name]) for name in captures} == captures


def held_rows(db: QuestDB, form: Form) -> list[Any]:
    """What a file of the legacy form holds of its table, in whatever feed it stands."""
    rows = gather(db, form, ALWAYS).held_rows().to_pylist()
    return sorted(rows, key=lambda row: [str(row[key]) for key in form.table.keys if key != "feed"])


def captured(db: QuestDB, table: Table) -> list[Any]:
    """The rows that captures brought."""
    return [row for row in rows_of(db, table) if row["feed"] == "legacy_capture"]

"""What a test writes itself, and what the service then says: one row a key, signals, the overview that follows the tables."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa

from b3_pipeline.metrics import instruments
from b3_pipeline.postgres import mismatches
from b3_pipeline.postgres.mismatches import Found
from b3_pipeline.quality import parity_report
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES
from b3_pipeline_tests.api.v1.conftest import NOW, opened, pages, settings_of

MORNING = datetime(2025, 10, 14, 12)


def put(db: QuestDB, table: str, **row: Any) -> None:
    """One row more, which shows."""
    schema = TABLES[table].arrow_schema()
    given = {"ingested_at": datetime(2025, 10, 14, 15), "load_id": 1, **row}
    db.send(table, pa.Table.from_pylist([{name: given.get(name) for name in schema.names}], schema=schema))
    db.wait_applied(table)


def test_of_one_key_the_row_of_the_feed_that_takes_precedence_is_given(db: QuestDB, home: Path, postgres: str) -> None:
    at = datetime(2025, 10, 13, 12)
    for feed, value in (("composed", 3.0), ("legacy_csv", 2.0), ("legacy_capture", 1.5), ("yahoo_dxy", 1.0)):
        put(db, "b3_dxy_ticks", ts=at, bucket="dxy_09h00", value=value, feed=feed)
    put(db, "b3_dxy_ticks", ts=datetime(2025, 10, 13, 11, 55), bucket="dxy_08h55", value=9.0, feed="legacy_csv")
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        found = api.get("dxy")["items"]
        assert [(one["feed"], one["value"]) for one in found] == [("yahoo_dxy", 1.0), ("legacy_csv", 9.0)]
        assert pages(api, "dxy", limit=1) == [found[:1], found[1:]]
        assert [one["feed"] for one in api.get("dxy", feed="all")["items"]] == [
            "composed",
            "legacy_capture",
            "legacy_csv",
            "yahoo_dxy",
            "legacy_csv",
        ]
        assert [one["value"] for one in api.get("dxy", feed="legacy_csv")["items"]] == [2.0, 9.0]
        assert [len(page) for page in pages(api, "dxy", feed="all", limit=2)] == [2, 2, 1]


def test_a_deleted_signal_is_not_given_and_an_active_one_is(db: QuestDB, home: Path, postgres: str) -> None:
    signal = {"channel": "TP", "signal_type": "Swing Trade", "buy_min": 0.5, "buy_max": 0.6, "source": "ingestion"}
    for asset in ("PETRJ370", "VALEJ600"):
        put(db, "tp_capital_signals", ts=datetime(2025, 10, 13, 15), asset=asset, raw_message="texto", **signal)
    deleted = {**signal, "asset": "PETRJ370", "ts": datetime(2025, 10, 13, 15)}
    put(db, "tp_capital_signals_deleted", deleted_at=datetime(2025, 10, 14), **deleted)
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        [found] = api.get("signals")["items"]
        assert (found["asset"], found["at"], found["buy_max"]) == ("VALEJ600", "2025-10-13T15:00:00Z", 0.6)
        assert api.get("signals", asset="PETRJ370")["items"] == []


def test_the_overview_of_empty_tables_says_that_there_is_nothing(db: QuestDB, home: Path, postgres: str) -> None:
    with opened(settings_of(home, db.address, postgres, sources_off=[]), db.address, postgres) as api:
        found = api.get("overview")
    assert [one["value"] for one in found["kpis"]] == [None] * 8
    assert {one["fresh"] for one in found["kpis"]} == {False}
    assert (found["di_curve"], found["surface"], found["gamma"], found["settlements"]) == (None, None, [], [])
    assert {one["rows"] for one in found["datasets"]} == {0}
    # nothing was read today, and it shows
    assert found["dxy"]["session"] == "2025-10-14"
    assert {one["value"] for one in found["dxy"]["points"]} == {None}


def test_a_row_that_shows_in_the_table_shows_in_the_overview_and_changes_its_tag(
    db: QuestDB, home: Path, postgres: str
) -> None:
    def tick(bucket: str, moment: datetime, value: float) -> None:
        put(db, "b3_dxy_ticks", ts=moment, bucket=bucket, value=value, feed="yahoo_dxy")

    tick("dxy_08h50", datetime(2025, 10, 14, 11, 50), 0.1)
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        tags = set()
        for minute, value in ((55, 0.2), (0, 0.3), (5, 0.4)):
            hour = 11 if minute == 55 else 12
            tick(f"dxy_{hour - 3:02}h{minute:02}", datetime(2025, 10, 14, hour, minute), value)
            api.later(0.25)
            answer = api.client.get("/api/v1/overview")
            tags.add(answer.headers["etag"])
            document = answer.json()
            [index] = [one for one in document["kpis"] if one["id"] == "dxy"]
            assert index["value"] == value
            assert [one["value"] for one in document["dxy"]["points"] if one["value"] is not None][-1] == value
            [rows] = [one["rows"] for one in document["datasets"] if one["table"] == "b3_dxy_ticks"]
            assert rows == db.scalar("select count() from b3_dxy_ticks")
        assert len(tags) == 3


def test_a_row_that_is_dated_ahead_of_now_is_not_shown_as_what_the_desk_knows(
    db: QuestDB, home: Path, postgres: str
) -> None:
    put(db, "b3_dxy_ticks", ts=MORNING, bucket="dxy_09h00", value=0.1, feed="yahoo_dxy")
    put(db, "b3_dxy_ticks", ts=datetime(2025, 10, 14, 16), bucket="dxy_13h00", value=9.0, feed="yahoo_dxy")
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        found = api.get("overview")
    [index] = [one for one in found["kpis"] if one["id"] == "dxy"]
    assert index["value"] == 0.1
    assert 9.0 not in [one["value"] for one in found["dxy"]["points"]]


def test_a_correction_of_the_same_row_shows(db: QuestDB, home: Path, postgres: str) -> None:
    level = {"ts": MORNING, "instrument": "VIX", "feed": "gammalevels", "status": "sucesso"}
    put(db, "b3_gamma_levels", call_wall=25.0, **level)
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        assert [one["call_wall"] for one in api.get("overview")["gamma"]] == [25.0]
        put(db, "b3_gamma_levels", call_wall=26.0, **level)
        api.later(0.25)
        assert [one["call_wall"] for one in api.get("overview")["gamma"]] == [26.0]


def test_the_overview_names_the_checks_that_are_red(db: QuestDB, home: Path, postgres: str) -> None:
    settings = settings_of(home, db.address, postgres)
    instruments.ready(settings)
    try:
        instruments.checked("b3_dxy_ticks", "schema", "ERROR", True)
        instruments.checked("b3_dxy_ticks", "soft_bounds", "WARN", False)
        instruments.checked("b3_dxy_ticks", "parity_legacy_csv", "ERROR", True)
        with opened(settings, db.address, postgres) as api:
            [found] = [one for one in api.get("overview")["datasets"] if one["table"] == "b3_dxy_ticks"]
            parity = api.get("parity")["checks"]
    finally:
        instruments.stop()
    assert (found["checks_passed"], found["checks_failed"]) == (2, ["soft_bounds"])
    assert parity == [{"table": "b3_dxy_ticks", "check": "parity_legacy_csv", "passed": True}]


def test_mismatches_are_counted_and_listed_with_both_bodies_whatever_these_are(
    db: QuestDB, home: Path, postgres: str
) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists b3.payload_mismatches")
    difference = {"pointer": "/VIX", "legacy": 1, "ours": None}
    found = Found(NOW, "gamma", b'{"VIX": 1}\xff', None, [difference])
    mismatches.record(postgres, found)
    mismatches.record(postgres, found)
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        assert api.get("overview")["mismatches"] == 1
        parity = api.get("parity")
    [listed] = parity["payloads"]
    assert parity["mismatches"] == 1
    assert (listed["endpoint"], listed["count"], listed["at"]) == ("gamma", 2, "2025-10-14T15:00:00Z")
    assert (listed["legacy"], listed["ours"]) == ('{"VIX": 1}\N{REPLACEMENT CHARACTER}', None)
    assert listed["differences"] == [difference]


def test_a_mismatch_that_somebody_has_seen_is_no_longer_open(db: QuestDB, home: Path, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("drop table if exists b3.payload_mismatches")
    mismatches.record(postgres, Found(NOW, "gamma", b"{}", b"[]", []))
    [kept] = mismatches.latest(postgres)
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        seen = f"/api/v1/parity/{kept.id}/seen"
        for body in (b"", b"[", b"{}", b'{"who": "desk", "why": " "}', b'{"who": "desk", "why": "x", "more": 1}'):
            refused = api.client.post(seen, content=body, headers={"content-type": "application/json"})
            assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json"), body
        said = {"who": "desk", "why": "a list instead of an object"}
        assert api.client.post(f"/api/v1/parity/{kept.id + 1}/seen", json=said).status_code == 404
        assert api.get("parity")["mismatches"] == 1
        assert api.client.post(seen, json=said).status_code == 204
        api.later()
        parity = api.get("parity")
    assert parity["mismatches"] == 0
    [listed] = parity["payloads"]
    assert (listed["seen_by"], listed["seen_why"], listed["seen_at"]) == (*said.values(), "2025-10-14T15:00:00Z")


def test_the_last_proof_of_the_tables_leads_down_to_the_key(db: QuestDB, home: Path, postgres: str) -> None:
    row = {"problem": "different", "bucket": "dxy_09h00", "column": "value", "source_value": 0.1, "stored_value": 0.2}
    counts = {"missing": 0, "extra": 0, "different": 1}
    partition = {"partition": "2025-10-13", **counts, "rows": [row]}
    numbers = {"source_keys": 3, "table_keys": 3, **counts, "rejected": 0, "expired": 0}
    of = {"table": "b3_dxy_ticks", "passed": False, "partitions": [partition]}
    report = {
        "ok": False,
        "tables": {of["table"]: {"yahoo_dxy": numbers}},
        "checks": [{"check": "parity_yahoo_dxy", **of}],
    }
    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        assert api.get("parity")["report"] is None
        parity_report.keep(home, report, NOW)
        api.later()
        found = api.get("parity")["report"]
    assert found == {"at": "2025-10-14T15:00:00Z", "ok": False, "feeds": [{"feed": "yahoo_dxy", **of, **numbers}]}


def test_mismatches_that_cannot_be_counted_keep_nobody_from_the_overview(
    db: QuestDB, home: Path, postgres: str
) -> None:
    async def away() -> int:
        raise OSError("PostgreSQL is away")

    with opened(settings_of(home, db.address, postgres), db.address, postgres) as api:
        vars(api.service).update(mismatches=away)
        assert api.get("overview")["mismatches"] is None

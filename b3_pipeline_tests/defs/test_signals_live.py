"""Signals of the inbox on their way into the table: by the sensor, bad lines into the quarantine, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.sensors import load_sensor
from b3_pipeline.loading.quarantine import Quarantine
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sources.archive import Archive
from b3_pipeline.sources.catalog import SOURCES
from b3_pipeline.sources.inbox import SOURCE, Inbox
from b3_pipeline_tests.signals.exports import SIGNAL, TOKEN

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def turn(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"store": Store()}, sensor_name=f"load_{SOURCE}"
    )
    result = load_sensor(SOURCES[SOURCE])(context)
    assert isinstance(result, dg.SensorResult), result
    return result


def signal(asset: str, **changes: object) -> str:
    return json.dumps({**SIGNAL, "asset": asset, **changes}) + "\n"


def test_good_lines_are_loaded_and_bad_ones_rejected_with_their_numbers(
    db: QuestDB, home: Path, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    folder, archive = tmp_path / "inbox", Archive(home / "archive")
    folder.mkdir()
    looking = Inbox(folder, archive, lambda: NOW)
    bad = [f"no JSON {TOKEN}\n", "[]\n", signal("PETR4", buyMin=-1), signal("VALE3", timestamp="2025-10-11 12:15:40")]
    (folder / "a.jsonl").write_text("".join([signal("ITUBX36"), *bad, "\n", signal("ABEVK122")]), "utf-8")
    looking.look()
    result = turn(instance)
    assert result.cursor == "1"
    [told] = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    counts = {name: told.metadata[name].value for name in ("candidates", "loaded", "rejected", "duplicate")}
    assert counts == {"candidates": 6, "loaded": 2, "rejected": 4, "duplicate": 0}
    assert all(
        event.passed
        for event in result.asset_events
        if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == "wal"
    )
    rejected = list(Quarantine(home / "quarantine").entries())
    assert [(one.file, one.line, one.reason, one.column) for one in rejected] == [
        ("a.jsonl@1", 2, "bad_text", ""),
        ("a.jsonl@1", 3, "bad_text", ""),
        ("a.jsonl@1", 4, "out_of_bounds", "/buyMin"),
        ("a.jsonl@1", 5, "bad_date", "/timestamp"),
    ]
    assert rejected[0].text == "no JSON [hidden]"
    with (folder / "a.jsonl").open("a", encoding="utf-8") as file:
        file.write(signal("ITUBX36") + signal("ITUBX36", stop=0.1) + signal("PETR4"))
    looking.look()
    result = turn(instance, cursor="1")
    [told] = [event for event in result.asset_events if isinstance(event, dg.AssetMaterialization)]
    counts = {name: told.metadata[name].value for name in ("candidates", "loaded", "rejected", "duplicate")}
    assert counts == {"candidates": 3, "loaded": 1, "rejected": 1, "duplicate": 1}
    [conflict] = list(Quarantine(home / "quarantine").entries())[4:]
    assert (conflict.file, conflict.line, conflict.reason) == ("a.jsonl@8", 2, "conflicting_duplicate")
    assert json.loads(conflict.text)["stop"] == 0.1
    turn(instance, cursor="0")  # read again from the beginning, nothing changes
    assets = [asset for (asset,) in db.query("select asset from tp_capital_signals_active order by asset")]
    assert assets == ["ABEVK122", "ITUBX36", "PETR4"]

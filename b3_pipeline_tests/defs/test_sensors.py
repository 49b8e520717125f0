"""Sensors load from the archive within the tick, and say what they loaded and how it looks, without a run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from filelock import FileLock

from b3_pipeline.defs.resources import Store
from b3_pipeline.defs.sensors import freshness_sensor, load_sensor, news, position
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sources.archive import Archive, ArchiveDamaged
from b3_pipeline.sources.catalog import SOURCES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


def capture(hour: str = "09:30:00", price: float = 5528.504, day: str = "2025-10-14") -> bytes:
    """A capture of one DOL settlement."""
    block = {"vencimento": "X25", "preco": "", "preco_numerico": price, "preco_anterior_numerico": 5501.25}
    return json.dumps(
        {
            "timestamp": f"{day}T{hour}",
            "data_coleta": f"{day[8:]}-{day[5:7]}-{day[:4]}",
            "hora_coleta": hour,
            "status": "sucesso",
            "fonte": "B3",
            "DOL": block,
        }
    ).encode()


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def archive(home: Path) -> Archive:
    return Archive(home / "archive")


def give(archive: Archive, *contents: bytes, source: str = "ultimo_dado") -> None:
    for content in contents:
        assert archive.append(source, content, name=SOURCES[source].kind.file, at=NOW) is not None


def turn(instance: dg.DagsterInstance, cursor: str | None = None, source: str = "ultimo_dado") -> Any:
    """One turn of a source's sensor; its events are stored as the daemon would."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"store": Store()}, sensor_name=f"load_{source}"
    )
    result = load_sensor(SOURCES[source])(context)
    if isinstance(result, dg.SensorResult):
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
    return result


def checks(result: dg.SensorResult, table: str = "b3_snapshots") -> dict[str, bool]:
    """What a turn said of a table's checks."""
    found = [e for e in result.asset_events if isinstance(e, dg.AssetCheckEvaluation)]
    return {e.check_name: e.passed for e in found if e.asset_key == dg.AssetKey(table)}


def prices(db: QuestDB) -> list[float]:
    return [price for (price,) in db.query("select price_settlement from b3_snapshots order by ts")]


def test_a_turn_loads_all_that_is_new_in_order(db: QuestDB, archive: Archive, instance: dg.DagsterInstance) -> None:
    give(archive, capture("09:30:00"), capture("09:31:00", 5530.0))
    result = turn(instance)
    assert result.cursor == "2"
    assert prices(db) == [5528.504, 5530.0]
    told = [e for e in result.asset_events if isinstance(e, dg.AssetMaterialization)]
    assert {(e.asset_key.to_user_string(), e.partition) for e in told} >= {("b3_snapshots", "2025-10-14")}
    snapshots = next(e for e in told if e.asset_key == dg.AssetKey("b3_snapshots"))
    assert snapshots.metadata["loaded"].value == 2
    assert snapshots.metadata["dagster/partition_row_count"].value == 2


def test_a_turn_says_how_the_table_looks(archive: Archive, instance: dg.DagsterInstance) -> None:
    give(archive, capture())
    found = checks(turn(instance))
    assert found == {
        "wal": True,
        "unique_keys": True,
        "hard_bounds": True,
        "soft_bounds": True,
        "parity_legacy_capture": True,
        "rejects": True,
        "freshness": True,
        "shadow": True,
        "feeds_agree": True,
    }


def test_a_turn_with_nothing_new_asks_no_server(
    home: Path, archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(archive, capture())
    monkeypatch.setenv("B3_QUESTDB_URL", "http://127.0.0.1:1?pg_port=1")
    assert isinstance(turn(instance, cursor="1"), dg.SkipReason)


def test_a_turn_while_the_database_is_away_fails_and_the_next_one_loads(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(archive, capture())
    with monkeypatch.context() as away:
        away.setenv("B3_QUESTDB_URL", "http://127.0.0.1:1?pg_port=1")
        with pytest.raises(Exception, match="does not answer"):
            turn(instance)
    assert prices(db) == []
    assert turn(instance).cursor == "1"
    assert prices(db) == [5528.504]


def test_a_turn_that_ended_before_its_cursor_was_kept_is_made_again_without_effect(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture())
    turn(instance)
    again = turn(instance)
    assert again.cursor == "1"
    assert prices(db) == [5528.504]
    told = [e for e in again.asset_events if isinstance(e, dg.AssetMaterialization)]
    assert told, "what the first turn could not report is reported now"


def test_what_is_no_capture_is_kept_and_what_follows_goes_on(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, b'{"half": ', capture())
    result = turn(instance)
    assert result.cursor == "2"
    assert prices(db) == [5528.504]


def test_a_source_that_goes_back_to_an_older_value_is_followed(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture(price=5500.0), capture(price=5600.0), capture(price=5500.0))
    turn(instance)
    assert prices(db) == [5500.0]
    assert turn(instance).cursor == "3"
    assert prices(db) == [5500.0]


def test_a_turn_that_another_one_overlaps_leaves_the_source_to_it(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture())
    with FileLock(archive.place("ultimo_dado") / "loading.lock"):
        assert "being loaded" in str(turn(instance).skip_message)
    assert prices(db) == []
    assert turn(instance).cursor == "1"


def test_a_turn_does_not_wait_long_for_another_process_that_loads_into_its_table(
    home: Path, archive: Archive, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("b3_pipeline.defs.sensors.PATIENCE_S", 0.05)
    give(archive, capture())
    (home / "locks").mkdir()
    with FileLock(home / "locks" / "b3_snapshots.lock"), pytest.raises(dg.Failure, match="Another process"):
        turn(instance)
    assert turn(instance).cursor == "1"


def test_an_archive_that_has_lost_an_entry_fails_and_nothing_after_it_is_left_out(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture("09:30:00"), capture("09:31:00", 5530.0), capture("09:32:00", 5531.0))
    entry = archive.entry("ultimo_dado", 2)
    assert entry is not None
    lost = archive.entry_path(entry)
    content = lost.read_bytes()
    lost.unlink()
    assert turn(instance).cursor == "1"
    with pytest.raises(ArchiveDamaged, match="not entry 2: a file is gone"):
        turn(instance, cursor="1")
    lost.write_bytes(content)
    assert turn(instance, cursor="1").cursor == "3"
    assert prices(db) == [5528.504, 5530.0, 5531.0]


def test_an_archive_that_is_older_than_what_was_loaded_fails_instead_of_waiting_for_ever(
    home: Path, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture())
    with pytest.raises(ArchiveDamaged, match="ends with entry 1, but all up to 7 was loaded"):
        turn(instance, cursor="7")


def test_a_rejected_record_turns_a_check_red_until_the_source_is_corrected(
    archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture(price=-1))
    assert checks(turn(instance))["rejects"] is False
    give(archive, capture())
    assert checks(turn(instance, cursor="1"))["rejects"] is True


def test_an_unusual_value_turns_a_check_red_until_the_source_is_corrected(
    db: QuestDB, archive: Archive, instance: dg.DagsterInstance
) -> None:
    give(archive, capture(price=14_000.0))
    assert checks(turn(instance))["soft_bounds"] is False
    give(archive, capture())
    assert checks(turn(instance, cursor="1"))["soft_bounds"] is True
    assert prices(db) == [5528.504]


def test_a_turn_does_not_clear_what_a_look_farther_back_has_found(
    archive: Archive, instance: dg.DagsterInstance
) -> None:
    found = dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("b3_snapshots"),
        check_name="soft_bounds",
        passed=False,
        metadata={"looked_at": "everything"},
    )
    instance.report_runless_asset_event(found)
    give(archive, capture())
    said = checks(turn(instance))
    assert "soft_bounds" not in said
    assert said["hard_bounds"] is True


def test_a_cursor_that_is_no_number_means_from_the_beginning() -> None:
    assert [position(c) for c in (None, "", "17", "x", "-1")] == [0, 0, 17, 0, 0]


def test_freshness_is_told_when_it_changes_and_now_and_then() -> None:
    told = {"a": {"fresh": True, "at": 0.0}, "b": {"fresh": True, "at": 1_700.0}, "c": {"fresh": True, "at": 1_000.0}}
    assert news(told, {"a": True, "b": False, "c": True, "d": True}, 1_800.0) == ["a", "b", "d"]


def test_freshness_of_every_table_is_told_at_first(home: Path, instance: dg.DagsterInstance) -> None:
    context = dg.build_sensor_context(instance=instance, resources={"store": Store()}, sensor_name="freshness")
    result = freshness_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert len(result.asset_events) == 8
    again = dg.build_sensor_context(
        instance=instance, resources={"store": Store()}, sensor_name="freshness", cursor=result.cursor
    )
    assert isinstance(freshness_sensor(again), dg.SkipReason)

"""The jobs `exports` and `retention`: what they did is in their metadata, and what went wrong makes them red."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from b3_pipeline.definitions import build_defs
from b3_pipeline.defs.exports import key_of
from b3_pipeline.defs.resources import Store
from b3_pipeline.places import Place, exports_of
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.exports import manifest_name, manifests, partitions
from b3_pipeline_tests.warehouse.made_rows import made, store
from b3_pipeline_tests.warehouse.taking import empty_log, on

CAPTURES = TABLES["b3_captures"]
TODAY, DAY = datetime(2025, 10, 14, 12), timedelta(days=1)
KEY = key_of(CAPTURES)


@pytest.fixture
def captures(home: Path, db: QuestDB, postgres: str) -> Iterator[QuestDB]:
    """Documents of two old days and of today, in a home whose retention of them is on."""
    for days in (201, 200, 0):
        store(db, CAPTURES, made(CAPTURES, TODAY - days * DAY, 5))
    with empty_log(postgres) as log:
        on(log, CAPTURES)
        yield db


def run(name: str) -> dg.ExecuteInProcessResult:
    job = build_defs({"store": Store()}).resolve_job_def(name)
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False)


def verified(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """What the check of what a run wrote says; the weekly one is not part of it."""
    found = result.get_asset_check_evaluations()
    assert {check.asset_check_key.name for check in found} == {"verified"}
    return next(check for check in found if check.asset_key == KEY)


def test_an_export_says_what_it_wrote_and_that_it_can_be_read_back(captures: QuestDB) -> None:
    for exported in (2, 0):
        result = run("exports")
        [event] = result.asset_materializations_for_node(KEY.to_python_identifier())
        found = {name: value.value for name, value in event.metadata.items()}
        there = manifests(exports_of(Store().settings), CAPTURES).values()
        assert (found["partitions"], found["exported"], found["dagster/row_count"]) == (2, exported, 10)
        assert found["bytes"] == sum(manifest.bytes for manifest in there)
        assert found["sha256"] == ({m.partition: m.sha256 for m in there} if exported else {})
        check = verified(result)
        assert (check.passed, check.metadata["looked_at"].value) == (True, exported)


def test_the_check_reads_what_was_written_once_however_many_partitions_there_are(
    captures: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, read = Counter[str](), Place.read

    def counted(self: Place, name: str) -> bytes:
        if name.startswith(f"{CAPTURES.name}/_manifests/"):
            times[name] += 1
        return read(self, name)

    monkeypatch.setattr(Place, "read", counted)
    assert run("exports").success
    few = max(times.values())
    for days in range(202, 208):
        store(captures, CAPTURES, made(CAPTURES, TODAY - days * DAY, 5))
    times.clear()
    assert run("exports").success
    assert (len(times), max(times.values())) == (8, few)


def test_an_export_that_cannot_be_read_back_makes_its_check_red(
    captures: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Place.put

    def spoil(self: Place, local: Path, name: str) -> None:
        put(self, local, name)
        self.write(name, self.read(name)[:-1] + b"?")

    monkeypatch.setattr(Place, "put", spoil)
    check = verified(run("exports"))
    assert not check.passed
    assert "b3 export --again" in str(check.description)


def test_the_job_retention_says_what_it_took_away(captures: QuestDB) -> None:
    result = run("retention")
    assert result.success
    [output] = [e.step_output_data for e in result.all_node_events if e.is_successful_output]
    found = {name: value.value for name, value in output.metadata.items()}
    assert (found["dropped"], found["rows"], found["kept"]) == (2, 10, [])
    assert [p.name for p in partitions(captures, CAPTURES)] == ["2025-10-14"]
    assert run("retention").success


def test_the_job_retention_fails_where_exports_do_not_last_and_nothing_goes(
    captures: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "sha256", lambda *_given: "0" * 64)
    result = run("retention")
    assert not result.success
    assert len(partitions(captures, CAPTURES)) == 3


def test_the_weekly_look_finds_what_is_lost_of_dropped_partitions(captures: QuestDB) -> None:
    assert run("retention").success
    place = exports_of(Store().settings)
    [check] = look()
    assert (check.passed, check.metadata["verified"].value) == (True, 2)
    old, older = manifests(place, CAPTURES).values()
    place.remove(old.files[0].name)
    place.remove(manifest_name(CAPTURES, older.partition))
    [check] = look()
    assert not check.passed
    assert {name: check.metadata[name].value for name in ("damaged", "lost")} == {"damaged": 1, "lost": 1}
    assert check.severity == dg.AssetCheckSeverity.ERROR


def look() -> list[dg.AssetCheckEvaluation]:
    job = build_defs({"store": Store()}).resolve_job_def("verify_exports")
    with dg.DagsterInstance.ephemeral() as instance:
        return [
            e for e in job.execute_in_process(instance=instance).get_asset_check_evaluations() if e.asset_key == KEY
        ]

"""What loads and checks make of rows that a retention has taken away, with the recorded settlement prices of 2025."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.loading.load import LoadReport
from b3_pipeline.places import exports_of
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.sessions import Window
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.retention import Retention, taken_of
from b3_pipeline.warehouse.retention_log import TakenAway, known
from b3_pipeline_tests.quality.conftest import ADJUSTMENTS, Desk
from b3_pipeline_tests.warehouse.taking import content, done, empty_log, names, on

LONG_AFTER = datetime(2027, 12, 1, 15, tzinfo=UTC)
ADJUSTED = TABLES["b3_adjustments"]


@pytest.fixture
def aged(settled: Desk, postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aged]:
    """Settlement prices of January to October 2025, of which a retention has taken what is older than two years."""
    monkeypatch.setenv("B3_POSTGRES_DSN", postgres)
    monkeypatch.setenv("B3_HOME", str(settled.home))
    before = content(settled.db, ADJUSTED)
    with empty_log(postgres) as log:
        on(log, ADJUSTED)
        given = {"clock": lambda: LONG_AFTER, "log": log, "who": "a test", "loaded": lambda *_export: True}
        where = exports_of(Settings())
        retention = Retention(settled.db, settled.home, where, **given)  # pyright: ignore[reportArgumentType]
        assert set(done(retention.run()).values()) == {"dropped", NEWEST}
        yield Aged(settled, retention, before)


NEWEST = "kept: it is the newest partition, which is never dropped"


@dataclass(frozen=True)
class Aged:
    """A desk, the retention that went over it, and what there was before."""

    desk: Desk
    retention: Retention
    before: list[dict[str, Any]]

    @property
    def file(self) -> Path:
        return self.desk.folder / ADJUSTMENTS

    def load(self, **more: Any) -> LoadReport:
        [found] = [p for f in at_hand(self.desk.folder, self.desk.home) if (p := f.loadable)]
        given = {"clock": lambda: LONG_AFTER, "taken": taken_of(Settings()), **more}
        loader = replace(self.desk.loader(), **given)
        return loader.load(found, ADJUSTED)

    def red(self) -> list[str]:
        """The checks that fail, with what a home's context says of retention."""
        taken = known(None, self.desk.home)
        more = {"now": LONG_AFTER, "expired": taken.windows, "expired_rows": taken.rows}
        return [name for _table, name, _finding in self.desk.red("b3_adjustments", **more) if name != "freshness"]


def test_what_was_taken_away_is_expired_and_no_check_misses_it(aged: Aged) -> None:
    taken = known(None, aged.desk.home)
    more = {"now": LONG_AFTER, "expired": taken.windows, "expired_rows": taken.rows}
    found = aged.desk.look("b3_adjustments", "parity_legacy_csv", **more)
    assert (found.passed, found.numbers["missing"], found.numbers["expired"]) == (True, 0, 555)
    assert found.numbers["table_keys"] == len(content(aged.desk.db, ADJUSTED)) == 27
    assert aged.red() == []
    without = {"expired": {}, "expired_rows": {}, "now": LONG_AFTER}
    assert {"parity_legacy_csv", "identity"} <= {name for _t, name, _f in aged.desk.red("b3_adjustments", **without)}


def test_the_same_file_again_is_unchanged_and_brings_nothing_back(aged: Aged) -> None:
    first = aged.load()
    assert (first.outcome, first.counted.loaded) == ("unchanged", 582)
    read_again = aged.load(again=True)
    assert (read_again.outcome, read_again.counted.counts) == ("unchanged", first.counted.counts)
    assert names(aged.desk.db, ADJUSTED) == ["2025-10"]
    assert aged.red() == []


def test_a_grown_file_counts_what_was_exported_as_there_and_loads_what_is_new(aged: Aged) -> None:
    lines = aged.file.read_text("utf-8").splitlines(keepends=True)
    new = lines[-1].replace(lines[-1][:10], "24-10-2025", 1)
    aged.file.write_text("".join([*lines, new]), "utf-8")
    report = aged.load()
    assert report.outcome == "loaded"
    assert report.counted.counts == {"candidates": 585, "loaded": 3, "rejected": 0, "duplicate": 582, "absent": 0}
    assert names(aged.desk.db, ADJUSTED) == ["2025-10"]
    assert aged.red() == []


def test_what_comes_too_late_is_kept_in_quarantine_and_not_lost(aged: Aged) -> None:
    lines = aged.file.read_text("utf-8").splitlines(keepends=True)
    changed_price, new = lines[1].replace("migrado", "ajustado"), lines[1].replace(lines[1][11:19], "23:59:59")
    assert len({lines[1], changed_price, new}) == 3
    aged.file.write_text("".join([lines[0], changed_price, new, *lines[2:]]), "utf-8")
    report = aged.load()
    counts = report.counted.counts
    assert counts == {"candidates": 585, "loaded": 0, "rejected": 6, "duplicate": 579, "absent": 0}
    file = aged.desk.home / "quarantine" / f"{report.counted.load_id}.jsonl"
    kept = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert {(entry["reason"], entry["line"]) for entry in kept} == {("expired", 2), ("expired", 3)}
    assert "6 records are of a time that a retention has taken away" in str(report.reason)
    assert names(aged.desk.db, ADJUSTED) == ["2025-10"]
    assert aged.red() == []
    aged.retention.restore(ADJUSTED, "2025-01", "late prices")
    again = aged.load()
    assert (again.counted.load_id, again.counted.revised) == (report.counted.load_id, 3)
    assert again.counted.counts == {"candidates": 585, "loaded": 6, "rejected": 0, "duplicate": 579, "absent": 0}
    assert aged.red() == []


def test_while_the_export_cannot_be_read_old_records_stay_open_and_new_ones_load(aged: Aged) -> None:
    lines = aged.file.read_text("utf-8").splitlines(keepends=True)
    aged.file.write_text("".join([*lines, lines[-1].replace(lines[-1][:10], "24-10-2025", 1)]), "utf-8")
    folder = aged.desk.home / "exports"
    away = folder.rename(folder.with_name("away"))
    report = aged.load()
    assert (report.outcome, report.counted.loaded, report.counted.duplicate) == ("partial", 3, 27)
    assert "no export" in str(report.reason)
    assert aged.red() == []
    away.rename(folder)
    report = aged.load()
    assert (report.outcome, report.counted.loaded, report.counted.duplicate) == ("loaded", 3, 582)


def test_after_a_restore_everything_is_as_it_was_before(aged: Aged) -> None:
    for month in range(1, 10):
        aged.retention.restore(ADJUSTED, f"2025-{month:02}", "all of it again")
    assert content(aged.desk.db, ADJUSTED) == aged.before
    assert known(None, aged.desk.home) == TakenAway()
    assert aged.red() == []
    report = aged.load(again=True)
    assert (report.outcome, report.counted.loaded) == ("unchanged", 582)


def test_rows_whose_document_was_taken_away_are_not_extra_and_documents_whose_rows_were_are_not_rebuilt(
    captured: Desk,
) -> None:
    surfaces, captures = "b3_vol_surface", "b3_captures"
    for path in captured.folder.rglob("*.json"):
        path.unlink()
    gone = {"b3_vol_surface": [Window(datetime(2025, 10, 1), datetime(2025, 11, 1))]}
    captured.sql(f"alter table {surfaces} drop partition list '2025-10'", surfaces)
    assert captured.look(captures, "rebuild", expired=gone).passed
    assert not captured.look(captures, "rebuild").passed

    taken = {captures: [Window(datetime(2025, 10, 10), datetime(2025, 10, 11))]}
    captured.sql(f"alter table {captures} drop partition list '2025-10-10'", captures)
    assert captured.look("b3_snapshots", "parity_legacy_capture", expired=taken).passed
    assert not captured.look("b3_snapshots", "parity_legacy_capture").passed

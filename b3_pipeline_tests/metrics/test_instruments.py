from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from b3_pipeline.metrics import files, instruments
from b3_pipeline.settings import Settings
from b3_pipeline_tests.metrics.conftest import counted


def count_everything() -> None:
    instruments.fetched("settlements", "new", 1.5)
    instruments.retried("settlements", 2)
    instruments.appended("settlements", 1_000)
    instruments.loaded("b3_adjustments", "settlements", {"candidates": 10, "loaded": 9, "rejected": 1}, 0.3)
    instruments.ticked("settlements", "loaded", 0.4)
    instruments.checked("b3_adjustments", "wal", "ERROR", passed=True)
    instruments.shadowed("dxy.csv", "written")
    instruments.delivered("slack", "sent")
    instruments.unanswered("tables")


def test_each_function_counts_under_its_name(counting: Settings) -> None:
    count_everything()
    found = counted(counting.home)
    assert found["b3_fetches_total", "new", "settlements"] == 1
    assert found["b3_fetch_retries_total", "settlements"] == 2
    assert found["b3_archive_entries_total", "settlements"] == 1
    assert found["b3_archive_bytes_total", "settlements"] == 1_000
    assert found["b3_records_total", "settlements", "loaded", "b3_adjustments"] == 9
    assert found["b3_records_total", "settlements", "rejected", "b3_adjustments"] == 1
    assert found["b3_load_seconds_count", "b3_adjustments"] == 1
    assert found["b3_ticks_total", "loaded", "settlements"] == 1
    assert found["b3_tick_seconds_sum", "settlements"] == 0.4
    assert found["b3_check_results_total", "wal", "true", "ERROR", "b3_adjustments"] == 1
    assert found["b3_check_passed", "wal", "b3_adjustments"] == 1
    assert found["b3_shadow_writes_total", "dxy.csv", "written"] == 1
    assert found["b3_alert_deliveries_total", "slack", "sent"] == 1
    assert found["b3_probe_failures_total", "tables"] == 1
    assert {name for name, *_labels in found} <= {series for one in instruments.ALL for series in one.series}


def test_the_outcomes_that_did_not_happen_are_there_as_zero(counting: Settings) -> None:
    instruments.fetched("dxy", "new", 0.1)
    [fetches] = [m for m in files.read(counting.home / files.FOLDER) if m.name == "b3_fetches"]
    assert {sample.labels["outcome"] for sample in fetches.samples} == set(instruments.FETCH_OUTCOMES)


def test_before_it_is_ready_a_process_counts_nothing_and_nothing_fails(tmp_path: Path) -> None:
    instruments.stop()
    count_everything()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_counted_and_nothing_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / files.FOLDER).write_text("a file in the folder's place")
    assert not instruments.ready(Settings(home=tmp_path))
    assert "Nothing is counted" in caplog.text
    count_everything()


def test_a_wrong_argument_never_raises(counting: Settings) -> None:
    instruments.loaded("b3_adjustments", "settlements", {"loaded": -1}, 0.1)
    instruments.fetched("dxy", "new", "soon")  # pyright: ignore[reportArgumentType]
    instruments.appended("dxy", None)  # pyright: ignore[reportArgumentType]


def test_threads_lose_no_count(counting: Settings) -> None:
    threads = [threading.Thread(target=lambda: [instruments.appended("dxy", 10) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(counting.home)["b3_archive_bytes_total", "dxy"] == 20_000


def test_to_be_ready_twice_changes_nothing_and_another_home_is_counted_apart(
    counting: Settings, tmp_path: Path
) -> None:
    instruments.retried("dxy")
    assert instruments.ready(counting)
    instruments.retried("dxy")
    other = Settings(home=tmp_path / "other")
    assert instruments.ready(other)
    instruments.retried("dxy")
    assert counted(counting.home)["b3_fetch_retries_total", "dxy"] == 2
    assert counted(other.home)["b3_fetch_retries_total", "dxy"] == 1


def test_names_are_ours_and_those_of_counters_end_in_total() -> None:
    names = [one.name for one in instruments.ALL]
    assert len(set(names)) == len(names) > 20
    for one in instruments.ALL:
        assert re.fullmatch(r"b3_[a-z_]+", one.name)
        assert one.help
        assert one.name.endswith("_total") == (one.kind == "counter")

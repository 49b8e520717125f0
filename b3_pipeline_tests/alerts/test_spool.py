from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from b3_pipeline.alerts import spool
from b3_pipeline.alerts.conditions import TEXT_LIMIT
from b3_pipeline.alerts.spool import SpoolFull
from b3_pipeline_tests.alerts.conftest import condition


def names(home: Path) -> list[str]:
    return [one.name for one in spool.take(home).conditions]


def test_conditions_come_out_as_they_went_in_until_they_are_removed(tmp_path: Path) -> None:
    given = [condition(True, f"check {n}", what_to_do="look", link="/runs") for n in range(3)]
    spool.put(tmp_path, given[:2])
    spool.put(tmp_path, given[2:])
    assert spool.take(tmp_path).conditions == given
    batch = spool.take(tmp_path)
    spool.put(tmp_path, [condition(False, "later")])
    batch.remove()
    assert names(tmp_path) == ["later"]


def test_nothing_waits_where_nothing_was_put(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    spool.put(tmp_path, [])
    assert names(tmp_path) == []


def test_a_long_list_comes_out_in_order_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BATCH", 2)
    spool.put(tmp_path, [condition(True, str(n)) for n in range(450)])
    found = []
    while (batch := spool.take(tmp_path)).files:
        assert len(batch.conditions) <= 200
        found += [one.name for one in batch.conditions]
        batch.remove()
    assert found == [str(n) for n in range(450)]


def test_threads_that_put_at_once_lose_nothing(tmp_path: Path) -> None:
    def put(thread: int) -> None:
        for n in range(20):
            spool.put(tmp_path, [condition(True, f"{thread} {n:02}")])

    threads = [threading.Thread(target=put, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = []
    while (batch := spool.take(tmp_path)).files:
        found += [one.name for one in batch.conditions]
        batch.remove()
    assert len(found) == 80
    for thread in range(4):
        mine = [name for name in found if name.startswith(str(thread))]
        assert mine == sorted(mine), "each in its own order"


def test_a_damaged_file_is_put_aside_and_keeps_no_other_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool.put(tmp_path, [condition(True, "good")])
    folder = tmp_path / spool.FOLDER
    (folder / "00000000000000000000-foreign.json").write_text('[{"kind": "check"')
    assert names(tmp_path) == ["good"]
    assert (folder / spool.DAMAGED / "00000000000000000000-foreign.json").exists()
    assert "put aside" in caplog.text


def test_a_draft_of_a_killed_process_is_no_condition(tmp_path: Path) -> None:
    spool.put(tmp_path, [condition(True, "good")])
    draft = tmp_path / spool.FOLDER / ".1.json.77.abcd"
    draft.write_text("[")
    assert names(tmp_path) == ["good"]
    spool.clear_drafts(tmp_path)
    assert draft.exists(), "it may still be written"


def test_a_spool_that_nobody_empties_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "FILES", 2)
    for _ in range(2):
        spool.put(tmp_path, [condition(True)])
    with pytest.raises(SpoolFull, match="does the monitor run"):
        spool.put(tmp_path, [condition(True)])


def test_what_waits_is_nobody_elses_to_read(tmp_path: Path) -> None:
    spool.put(tmp_path, [condition(True)])
    [file] = spool.take(tmp_path).files
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_texts_are_one_line_and_not_endless() -> None:
    one = condition(True, what="first\r\nBcc: someone@example.com\x1b[31m " + "x" * 5_000)
    assert one.what.startswith("first Bcc: someone@example.com [31m xxx")
    assert len(one.what) == TEXT_LIMIT


@pytest.mark.parametrize("wrong", [{"name": ""}, {"kind": "other"}, {"severity": "BAD"}, {"at": "2025-10-14T12:00:00"}])
def test_what_is_no_condition_is_refused_where_it_is_made(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        condition(True, **wrong)  # pyright: ignore[reportArgumentType]

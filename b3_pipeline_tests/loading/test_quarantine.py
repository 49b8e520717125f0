"""Rejected records and files are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from b3_pipeline.loading.payloads import PayloadChanged, payload
from b3_pipeline.loading.quarantine import Damaged, Quarantine
from b3_pipeline.parsing.kinds import GAMMA
from b3_pipeline.parsing.records import Reason, Reject

REJECT = Reject(7, "taxa_sofr", "27-06-2025,09:06:55,x", Reason.BAD_NUMBER, "4,1,3")


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "quarantine")


def test_a_reject_keeps_file_line_column_text_and_reason(quarantine: Quarantine) -> None:
    rejects = quarantine.open(42, "b3_indicators_daily", "legacy_csv", "indicadores_b3.csv", "ab" * 32)
    rejects.add([REJECT])
    rejects.keep()
    [entry] = quarantine.entries()
    assert entry.listed() == {
        "id": "42-1",
        "table": "b3_indicators_daily",
        "file": "indicadores_b3.csv",
        "line": 7,
        "column": "taxa_sofr",
        "text": "27-06-2025,09:06:55,x",
        "reason": "bad_number",
    }
    assert quarantine.find("42-1") == entry


@pytest.mark.parametrize("unknown", ["42-2", "43-1", "42", "", "../quarantine/42-1", "x/y-1"])
def test_an_unknown_id_is_not_found(quarantine: Quarantine, unknown: str) -> None:
    rejects = quarantine.open(42, "t", "f", "file", "")
    rejects.add([REJECT])
    rejects.keep()
    assert quarantine.find(unknown) is None


def test_rejects_of_a_load_that_broke_off_do_not_show(quarantine: Quarantine) -> None:
    rejects = quarantine.open(42, "t", "f", "file", "")
    rejects.add([REJECT])
    assert list(quarantine.entries()) == []
    rejects.drop()
    assert list(quarantine.folder.iterdir()) == []


def test_a_second_attempt_replaces_the_rejects_of_the_first(quarantine: Quarantine) -> None:
    for count in (3, 1, 0):
        rejects = quarantine.open(42, "t", "f", "file", "")
        rejects.add([REJECT] * count)
        rejects.keep()
        assert len(list(quarantine.entries())) == count


def test_a_rejected_file_is_kept_once(quarantine: Quarantine, tmp_path: Path) -> None:
    source = tmp_path / "gamma.json"
    source.write_text("half a docu")
    kept = {quarantine.keep_file(payload(source, GAMMA)) for _ in range(2)}
    assert [path.read_text() for path in kept] == ["half a docu"]


def test_a_copy_that_broke_off_is_not_there(quarantine: Quarantine, tmp_path: Path) -> None:
    source = tmp_path / "gamma.json"
    source.write_text("half a docu")
    found = payload(source, GAMMA)
    source.write_text("half a DOCU")
    with pytest.raises(PayloadChanged):
        quarantine.keep_file(replace(found, data=None))
    assert quarantine.kept_file(found.sha256) is None
    assert list((quarantine.folder / "files").iterdir()) == []


def test_a_damaged_file_of_rejects_is_named_with_what_to_do(quarantine: Quarantine) -> None:
    rejects = quarantine.open(42, "t", "f", "file", "")
    rejects.add([REJECT])
    rejects.keep()
    (quarantine.folder / "42.jsonl").write_text('{"id": "42-1", "ta')
    with pytest.raises(Damaged, match="damaged at line 1"):
        list(quarantine.entries())

"""A place has the exports of one home, and says so to any other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from b3_pipeline.identity import identified
from b3_pipeline.places import place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.exporting import OWNER, Exporting, claim
from b3_pipeline.warehouse.exports import ExportError, manifests
from b3_pipeline_tests.warehouse.made_rows import made, store

CAPTURES = TABLES["b3_captures"]


@pytest.fixture
def exporting(db: QuestDB, tmp_path: Path) -> Exporting:
    for day in (12, 14):
        store(db, CAPTURES, made(CAPTURES, datetime(2025, 10, day, 12), 5))
    return Exporting(db, tmp_path / "one", place(tmp_path / "exports"), lambda: datetime(2025, 10, 15, tzinfo=UTC))


def test_a_second_home_does_not_export_into_the_place_of_another(exporting: Exporting, tmp_path: Path) -> None:
    assert [item.action for item in exporting.run([CAPTURES])] == ["exported"]
    before = manifests(exporting.place, CAPTURES)
    other = replace(exporting, home=tmp_path / "two")
    with pytest.raises(ExportError, match="another home"):
        list(other.run([CAPTURES], again=True))
    assert manifests(exporting.place, CAPTURES) == before
    assert [item.action for item in exporting.run([CAPTURES])] == ["unchanged"]


def test_a_home_that_takes_over_exports_and_the_one_before_no_more(exporting: Exporting, tmp_path: Path) -> None:
    list(exporting.run([CAPTURES]))
    other = replace(exporting, home=tmp_path / "two")
    claim(other.place, other.home, take_over=True)
    assert [item.action for item in other.run([CAPTURES], again=True)] == ["unchanged"]
    with pytest.raises(ExportError, match=identified(other.home)):
        list(exporting.run([CAPTURES]))


def test_a_place_whose_owner_cannot_be_read_is_nobodys_to_write(exporting: Exporting) -> None:
    exporting.place.write(OWNER, b"{")
    with pytest.raises(ExportError, match="cannot be read"):
        list(exporting.run([CAPTURES]))

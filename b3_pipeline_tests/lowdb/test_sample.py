"""The synthetic LowDB files."""

from __future__ import annotations

from pathlib import Path

import pytest

from b3_pipeline.lowdb.model import COLLECTIONS, FILE_NAMES, IDEAS
from b3_pipeline.lowdb.sample import make_lowdb_sample
from b3_pipeline.lowdb.schema import upgrade
from b3_pipeline_tests.lowdb.recorded import NOW, asked, gone, load


@pytest.fixture
def dsn(postgres: str) -> str:
    gone(postgres)
    upgrade(postgres)
    return postgres


def test_every_record_of_the_synthetic_files_is_stored_and_each_column_of_the_board_has_some(
    dsn: str, tmp_path: Path
) -> None:
    files = make_lowdb_sample(tmp_path / "in", NOW)
    assert [path.name for path in files] == list(FILE_NAMES)
    tables = [counted for path in files for counted in load(dsn, tmp_path, path).tables]
    assert {each.table for each in tables} == {each.table for each in COLLECTIONS}
    assert all(each.loaded == each.candidates > 0 for each in tables)
    statuses = asked(dsn, "select distinct status from ideas.ideas")
    assert {status for (status,) in statuses} == set(IDEAS.field("status").choices)
    assert asked(dsn, "select max(created_at) < %s, max(updated_at) < %s from ideas.ideas", NOW, NOW) == [(True, True)]

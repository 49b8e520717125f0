"""Files and tables beside one another: what one has and the other has not, with both values."""

from __future__ import annotations

from pathlib import Path

import pytest

from b3_pipeline.errors import UsageError
from b3_pipeline.lowdb.parity import compare
from b3_pipeline.lowdb.schema import upgrade
from b3_pipeline_tests.lowdb.recorded import asked, documentation, gone, idea, link, load, system, write


@pytest.fixture
def dsn(postgres: str) -> str:
    gone(postgres)
    upgrade(postgres)
    return postgres


def test_what_was_loaded_is_the_same_on_both_sides_rejects_and_repeats_aside(dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    links = [link(1, "1"), link(2, "8")]
    load(dsn, tmp_path, write(folder, documentation(ideas=[idea(1)], links=links, systems=[system(3)]), "db.json"))
    load(dsn, tmp_path, write(folder, [idea(1, more=1.0), idea(1, more=1), idea(1, title="x"), idea(2, status="?")]))
    found = compare(dsn, folder)
    assert all(parity.ok for parity in found.values())
    assert {table: parity.source_keys for table, parity in found.items()} == {
        "ideas": 1,
        "documentation_systems": 1,
        "documentation_ideas": 1,
        "documentation_links": 1,
        "documentation_files": 0,
    }
    assert (found["ideas"].rejected, found["documentation_links"].rejected) == (1, 1)


def test_each_difference_is_counted_and_the_first_are_shown_with_both_values(dsn: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in", [idea(number) for number in range(1, 31)])
    load(dsn, tmp_path, path)
    asked(dsn, "delete from ideas.ideas where id between 4 and 20 returning 1")
    asked(dsn, "update ideas.ideas set title = 'Outro', extra = '{\"a\": 1}' where id = 2 returning 1")
    write(tmp_path / "in", [idea(number) for number in range(2, 31)])
    parity = compare(dsn, tmp_path / "in")["ideas"]
    assert not parity.ok
    assert (parity.missing, parity.extra, parity.different) == (17, 1, 1)
    assert len(parity.first) == 10
    assert [first["id"] for first in parity.first[:3]] == [1, 2, 4]
    assert parity.first[0]["file"] is None
    assert parity.first[1] == {
        "id": 2,
        "file": {"title": "Painel 2", "extra": {}},
        "table": {"title": "Outro", "extra": {"a": 1}},
    }
    assert parity.first[2]["table"] is None


def test_a_folder_without_the_files_is_told(dsn: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds none of LowDB's files"):
        compare(dsn, tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        compare(dsn, tmp_path / "nowhere")

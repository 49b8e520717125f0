from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.migration_log import FOLDER, INDEX, Step, steps, write

AT = datetime(2026, 1, 12, 22, 30, 5, tzinfo=UTC)


def step(**more: object) -> Step:
    given = {"kind": "cutover", "title": "From shadow to active", "outcome": "done", "way_back": "b3 cutover rollback"}
    return Step(**{"at": AT, "seconds": 1.25, **given, **more})  # pyright: ignore[reportArgumentType]


def test_a_step_is_a_file_that_people_and_machines_read(tmp_path: Path) -> None:
    made = step(
        counts={"b3_adjustments": {"source": 582, "stored": 582}},
        checksums={"a.csv": "00ff"},
        files=("a.csv",),
        why="as agreed",
    )
    path = write(tmp_path, made)
    text = path.read_text("utf-8")
    assert path.name.startswith("20260112-223005-cutover-")
    for said in (
        "# From shadow to active",
        "**way back**: b3 cutover rollback",
        "source 582, stored 582",
        "00ff",
        "as agreed",
    ):
        assert said in text
    [read] = steps(tmp_path)
    assert (read["file"], read["counts"], read["at"]) == (path.name, dict(made.counts), AT.isoformat())


def test_the_index_leads_to_every_step_newest_first_and_survives_a_damaged_file(tmp_path: Path) -> None:
    first, second = write(tmp_path, step()), write(tmp_path, step(title="Back | again", at=AT.replace(hour=23)))
    (tmp_path / FOLDER / "20260112-220000-cutover-dead.md").write_text("```json\n{\n```")
    third = write(tmp_path, step(title="Forward", at=AT.replace(day=13)))
    text = (tmp_path / FOLDER / INDEX).read_text("utf-8")
    assert [line.split("](")[1].split(")")[0] for line in text.splitlines()[4:]] == [
        third.name,
        second.name,
        first.name,
    ]
    assert "Back \\| again" in text

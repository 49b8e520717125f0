"""What the doctor says of the legacy folder and of the files in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from b3_pipeline.doctor import examine
from b3_pipeline.parsing.kinds import LEGACY_KINDS
from b3_pipeline.settings import Settings


@pytest.fixture
def legacy(tmp_path: Path) -> Path:
    folder = tmp_path / "legacy"
    folder.mkdir()
    return folder


def states(home: Path, legacy: Path) -> dict[str, str]:
    """By name, how the checks are that concern the legacy folder."""
    checks = examine(Settings(home=home, legacy_dir=legacy))
    assert all(check.advice for check in checks if check.state != "ok")
    names = {f"source {kind.name}" for kind in LEGACY_KINDS}
    return {check.name: check.state for check in checks if check.name in names or check.name == "legacy folder"}


def test_a_legacy_folder_without_any_of_its_files_fails(tmp_path: Path, legacy: Path) -> None:
    assert states(tmp_path / "home", legacy)["legacy folder"] == "fail"


def test_a_legacy_file_that_is_missing_is_a_warning_as_long_as_others_are_there(tmp_path: Path, legacy: Path) -> None:
    there, *others = LEGACY_KINDS
    (legacy / there.file).touch()
    found = states(tmp_path / "home", legacy)
    assert found == {
        "legacy folder": "ok",
        f"source {there.name}": "ok",
        **{f"source {kind.name}": "warn" for kind in others},
    }


def test_of_a_legacy_folder_that_cannot_be_read_no_file_is_looked_for(tmp_path: Path, legacy: Path) -> None:
    assert states(tmp_path / "home", legacy / "nowhere") == {"legacy folder": "fail"}

"""What a run is about: looked up once, and asked for clearly when it is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from b3_pipeline.defs.resources import Inputs, Store
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import survey
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS, REPORT
from b3_pipeline.questdb.client import QuestDB


@pytest.fixture
def folder(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("B3_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("B3_LEGACY_DIR", raising=False)
    copy = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "clean", copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy


def hashes(store: Store, inputs: Inputs, run_id: str) -> list[str]:
    return [f.payload.sha256 for f in store.files(inputs, run_id, [GAMMA]) if f.payload]


def test_all_steps_of_a_run_see_one_state_of_the_folder_and_the_next_run_another(folder: Path) -> None:
    store, inputs = Store(), Inputs(legacy_dir=str(folder))
    before = hashes(store, inputs, "run-1")
    (folder / "gamma.json").write_text("{}")
    assert hashes(store, inputs, "run-1") == before
    assert hashes(store, inputs, "run-2") != before


def test_the_files_that_a_command_gives_are_those_of_its_run(folder: Path) -> None:
    files = survey(folder)
    (folder / "gamma.json").unlink()
    assert Store(files=files).files(Inputs(), "run-1", [GAMMA]) == [f for f in files if f.kind is GAMMA]


def test_a_step_gets_the_kinds_that_feed_it_and_no_others(folder: Path) -> None:
    found = Store().files(Inputs(legacy_dir=str(folder)), "run-1", [CAPTURE])
    assert [f.name for f in found] == ["historico/ultimo_dado_20251010_093430.json", "ultimo_dado.json"]


def test_a_run_without_a_folder_says_how_to_give_one(folder: Path) -> None:
    with pytest.raises(UsageError, match="B3_LEGACY_DIR"):
        Store().files(Inputs(), "run-1", LEGACY_KINDS)


def test_a_run_that_names_nothing_takes_what_is_at_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B3_LEGACY_DIR", str(folder))
    found = Store().files(Inputs(), "run-1", LEGACY_KINDS)
    assert {f.name for f in found if f.payload} >= {"ajustes_b3.csv", "gamma.json"}


def test_a_run_that_names_a_report_is_about_that_report_only(
    folder: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B3_LEGACY_DIR", str(folder))
    store, inputs = Store(), Inputs(reports=[str(shared / "data" / "b3" / "SPRD260112.zip")])
    assert [f.name for f in store.files(inputs, "run-1", [REPORT])] == ["SPRD260112.zip"]
    assert store.files(inputs, "run-1", LEGACY_KINDS) == []


def test_all_checks_of_a_run_see_one_state_of_the_sources_and_the_next_run_another(folder: Path, db: QuestDB) -> None:
    store, inputs = Store(), Inputs(legacy_dir=str(folder))
    store.db = db

    def gamma(run_id: str) -> str | None:
        with store.quality(inputs, run_id) as context:
            [file] = [f for f in context.files if f.kind is GAMMA]
            return file.payload.sha256 if file.payload else None

    before = gamma("run-1")
    (folder / "gamma.json").write_text("{}")
    assert gamma("run-1") == before
    assert gamma("run-2") != before

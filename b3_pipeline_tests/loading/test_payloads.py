"""The survey of a legacy folder: what is there, in which order it loads, and what is left alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.payloads import Found, PayloadChanged, payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, LEGACY_KINDS
from b3_pipeline.parsing.records import FileRejected


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "dirty", copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)
    return copy


def by_name(found: list[Found]) -> dict[str, Found]:
    return {f.name: f for f in found}


def test_files_come_in_the_order_of_the_contract_and_captures_by_their_own_time(folder: Path) -> None:
    assert [f.name for f in survey(folder) if f.payload] == [
        "ajustes_b3.csv",
        "indicadores_b3.csv",
        "superficie_volatilidade_b3.csv",
        "dxy_coleta.csv",
        "historico/ultimo_dado_20251009_090000.json",  # unreadable: it has no time
        "historico/ultimo_dado_20251010_093430.json",
        "ultimo_dado.json",
        "historico/ultimo_dado_20251013_090032.json",
        "gamma.json",
    ]


def test_other_files_are_named_and_ignored(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "historico" / "other.json").write_text("{}")
    (folder / "old").mkdir()
    ignored = [f.name for f in survey(folder) if f.outcome == "ignored"]
    assert ignored == ["EXPECTED.json", "historico/other.json", "notes.txt", "old/"]


def test_a_missing_file_is_reported(folder: Path) -> None:
    (folder / "gamma.json").unlink()
    found = by_name(survey(folder))["gamma.json"]
    assert (found.outcome, found.loadable) == ("missing", None)


@pytest.mark.parametrize("content", [b"", b" \r\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_reported(folder: Path, content: bytes) -> None:
    (folder / "dxy_coleta.csv").write_bytes(content)
    found = by_name(survey(folder))["dxy_coleta.csv"]
    assert (found.outcome, found.loadable) == ("empty", None)


def test_something_that_is_no_file_is_rejected_and_the_others_are_found(folder: Path) -> None:
    (folder / "gamma.json").unlink()
    (folder / "gamma.json").mkdir()
    found = by_name(survey(folder))
    assert found["gamma.json"].outcome == "rejected"
    assert found["ajustes_b3.csv"].loadable


def test_a_path_that_is_no_folder_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        survey(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["pipe", "dangling link"])
def test_something_that_cannot_be_opened_is_rejected_and_nobody_waits_for_it(folder: Path, kind: str) -> None:
    (folder / "gamma.json").unlink()
    if kind == "pipe":
        os.mkfifo(folder / "gamma.json")
    else:
        (folder / "gamma.json").symlink_to("nowhere")
    assert by_name(survey(folder))["gamma.json"].outcome == "rejected"


def test_a_capture_is_read_once_so_that_all_its_tables_see_one_state(folder: Path) -> None:
    content = payload(folder / "gamma.json", GAMMA)
    before = (folder / "gamma.json").read_bytes()
    (folder / "gamma.json").write_bytes(b"{}")
    assert content.open().read() == before


def test_a_streamed_file_that_changed_since_is_noticed_at_its_end(folder: Path) -> None:
    content = payload(folder / "ajustes_b3.csv", LEGACY_KINDS[0])
    data = (folder / "ajustes_b3.csv").read_bytes()
    assert content.open().read() == data
    for changed in (data[:-1], data.replace(b"abc", b"abd")):
        (folder / "ajustes_b3.csv").write_bytes(changed)
        with pytest.raises(PayloadChanged):
            content.open().read()


def test_a_capture_that_no_capture_can_be_is_rejected_for_its_size(folder: Path) -> None:
    content = payload(folder / "ultimo_dado.json", replace(CAPTURE, limit=10))
    with pytest.raises(FileRejected, match="too large"):
        content.open()
    assert content.raw().read() == (folder / "ultimo_dado.json").read_bytes()


def test_every_kind_of_the_folder_is_one_of_the_six_files() -> None:
    assert [kind.file for kind in LEGACY_KINDS] == [
        "ajustes_b3.csv",
        "indicadores_b3.csv",
        "superficie_volatilidade_b3.csv",
        "dxy_coleta.csv",
        "ultimo_dado.json",
        "gamma.json",
    ]

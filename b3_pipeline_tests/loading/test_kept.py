"""Reports that have loaded are kept, whatever else has their name."""

from __future__ import annotations

from pathlib import Path

from b3_pipeline.loading.kept import keep, kept
from b3_pipeline.loading.payloads import payload
from b3_pipeline.parsing.kinds import GAMMA, REPORT


def test_a_report_is_kept_once_under_its_name_and_given_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "SPRD260112.zip").write_bytes(b"a report")
    given = payload(tmp_path / "SPRD260112.zip", REPORT)
    keep(given, tmp_path / "home")
    keep(given, tmp_path / "home")
    [found] = kept(tmp_path / "home")
    assert found.payload is not None
    assert (found.name, found.payload.sha256, found.kind) == ("SPRD260112.zip", given.sha256, REPORT)


def test_of_two_reports_with_one_name_the_newer_has_it_and_both_are_kept(tmp_path: Path) -> None:
    for content in (b"older", b"newer"):
        (tmp_path / "SPRD260112.zip").write_bytes(content)
        keep(payload(tmp_path / "SPRD260112.zip", REPORT), tmp_path / "home")
    contents = {f.name: f.payload.data for f in kept(tmp_path / "home") if f.payload}
    assert contents.pop("SPRD260112.zip") == b"newer"
    assert list(contents.values()) == [b"older"]


def test_a_copy_that_another_process_is_at_is_neither_touched_nor_kept(tmp_path: Path) -> None:
    (tmp_path / "SPRD260112.zip").write_bytes(b"a report")
    theirs = tmp_path / "home" / "reports" / "SPRD260112.zip.part"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"a rep")
    keep(payload(tmp_path / "SPRD260112.zip", REPORT), tmp_path / "home")
    assert theirs.read_bytes() == b"a rep"
    assert [f.name for f in kept(tmp_path / "home")] == ["SPRD260112.zip"]


def test_files_that_lie_in_a_folder_of_their_own_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "gamma.json").write_bytes(b"{}")
    keep(payload(tmp_path / "gamma.json", GAMMA), tmp_path / "home")
    assert kept(tmp_path / "home") == []

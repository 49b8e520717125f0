"""A home that is half restored starts nothing until the restore has ended."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from b3_pipeline.backup.journal import HalfRestored, Journal, journal_file, require_restored
from b3_pipeline.home import hold
from b3_pipeline.progress import SILENT
from b3_pipeline.services import all_services, engines
from b3_pipeline.settings import Settings


def begun(home: Path) -> Journal:
    """A restore of a home that was interrupted after PostgreSQL was done."""
    journal = Journal("20251013-150000-0001", "parquet", ("postgres", "questdb"), False, "now", {"postgres": "done"})
    journal_file(home).parent.mkdir(parents=True)
    journal_file(home).write_text(json.dumps(asdict(journal)), "utf-8")
    return journal


def test_a_half_restored_home_starts_nothing_and_the_error_names_the_command(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, postgres_dsn=None, questdb_url=None)
    assert begun(tmp_path) == Journal.read(tmp_path)
    wanted = "b3 backup restore 20251013-150000-0001 --form parquet --what postgres,questdb` again"
    with pytest.raises(HalfRestored, match=wanted), engines(settings):
        pass
    with hold(settings, shared=True) as held, pytest.raises(HalfRestored), all_services(settings, SILENT, held):
        pass
    assert not (tmp_path / "questdb").exists()
    assert not (tmp_path / "postgres").exists()


def test_servers_of_ones_own_are_not_used_for_a_half_restored_home_either(home: Path) -> None:
    begun(home)
    with pytest.raises(HalfRestored), engines(Settings()):
        pass


def test_a_journal_that_cannot_be_read_is_one_as_well(tmp_path: Path) -> None:
    require_restored(tmp_path)
    begun(tmp_path)
    journal_file(tmp_path).write_text("{", "utf-8")
    with pytest.raises(HalfRestored, match="restore ID --force"):
        require_restored(tmp_path)

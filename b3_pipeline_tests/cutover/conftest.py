"""A home beside a legacy folder, loaded from it, in which every gate is green; and the steps that a cutover makes there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from b3_pipeline.alerts.watching import beat
from b3_pipeline.capture_differences import compare
from b3_pipeline.composing import compose, read_inputs
from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.loaders import loader_of
from b3_pipeline.loading.archived import archive_of, note_loaded, payload_of
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import LoadReport
from b3_pipeline.loading.payloads import Payload, survey
from b3_pipeline.parsing.kinds import CAPTURE, COMPOSED, LEGACY_KINDS
from b3_pipeline.postgres import comparisons
from b3_pipeline.postgres.flags import Flags, set_flag
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import known_engines
from b3_pipeline.settings import Settings
from b3_pipeline.tables import MARKET_TABLES
from b3_pipeline_tests.cutover.ideas import Bank, clean_copy
from b3_pipeline_tests.lowdb.stores import empty

#: 08:00 in Brasília: the session before has ended, and nothing of this one is due.
NOW = datetime(2025, 10, 14, 11, tzinfo=UTC)
#: Before the session of the 13th opened.
BEFORE = datetime(2025, 10, 13, 11, tzinfo=UTC)
CAME = datetime(2025, 10, 13, 23, 30, tzinfo=UTC)


@dataclass
class Office:
    """A home and the legacy folder beside it."""

    db: QuestDB
    home: Path
    legacy: Path
    dsn: str

    @property
    def settings(self) -> Settings:
        return Settings()

    def desk(self, **more: object) -> Desk:
        """The home as the gates look at it."""
        given = {"db": self.db, "domain": "market", "patience_s": 0.0, "sleep": lambda _seconds: None} | more
        return Desk(self.settings, known_engines(self.settings), **given)  # pyright: ignore[reportArgumentType]

    def load(self, *payloads: Payload) -> list[LoadReport]:
        """Loads as a sensor does, with what follows loads."""
        loader = loader_of(self.settings, self.db, "run-1", Flags(self.home, self.dsn).current)
        wanted = {name for payload in payloads for name in payload.kind.tables}
        tables = [table for table in MARKET_TABLES if table.name in wanted]
        reports = [report for table in tables for report in load_all(loader, payloads, table)]
        assert {report.outcome for report in reports} <= {"loaded", "unchanged", "rejected"}, [
            r.reason for r in reports
        ]
        return reports

    def load_folder(self) -> list[LoadReport]:
        return self.load(*[payload for found in survey(self.legacy) if (payload := found.loadable)])

    def collect(self, source: str, data: bytes, name: str, at: datetime) -> list[LoadReport]:
        """What a source gave goes into the archive, and out of it into the tables."""
        archive = archive_of(self.home)
        entry = archive.append(source, data, name=name, at=at)
        if entry is None:
            return []
        reports = self.load(payload_of(archive, entry))
        note_loaded(archive, source, entry.seq)
        return reports

    def collect_legacy(self, at: datetime = CAME) -> None:
        """The collector reads every legacy file."""
        for kind in LEGACY_KINDS:
            self.collect(kind.name, (self.legacy / kind.file).read_bytes(), kind.file, at)

    def compose(self, at: datetime) -> bytes:
        """Composes a capture of a moment, and stores it."""
        composed = compose(at, read_inputs(self.db, at))
        assert composed is not None
        self.collect(COMPOSED.name, composed.data(), COMPOSED.file, at)
        return composed.data()

    def compare(self, at: datetime = CAME, **changed: str) -> None:
        """Notes that the legacy capture was compared with a composed one that says the same, but for what is `changed`."""
        legacy = (self.legacy / CAPTURE.file).read_text("utf-8")
        composed = legacy.replace("09:00:32", "09:00:00")
        for old, new in changed.items():
            composed = composed.replace(old, new)
        comparisons.record(self.dsn, compare(at, legacy.encode(), composed.encode()))

    def phase(self, name: str, at: datetime = BEFORE) -> None:
        """Puts the home into a phase, as if a step had."""
        set_flag(self.dsn, "phase", name, why="a test", at=at)

    def now(self) -> str:
        """The phase that stands."""
        return Flags(self.home, self.dsn).current().phase()

    def files(self) -> dict[str, bytes]:
        """The legacy folder's files."""
        paths = (path for path in self.legacy.rglob("*") if path.is_file())
        return {path.relative_to(self.legacy).as_posix(): path.read_bytes() for path in paths}


_TABLES = ("flags", "payload_mismatches", "capture_comparisons", "legacy_callers", "known_gaps", "compared")


@contextmanager
def nothing_kept(dsn: str) -> Iterator[None]:
    """PostgreSQL without anything that a test has left there."""

    def forget() -> None:
        with psycopg.connect(dsn, autocommit=True) as db:
            for name in _TABLES:
                db.execute(f"drop table if exists b3.{name}".encode())

    forget()
    yield
    forget()


@pytest.fixture
def empty_office(
    home: Path, db: QuestDB, postgres: str, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Office]:
    """A home beside a copy of the recorded folder, nothing of it loaded."""
    legacy = tmp_path / "legacy"
    shutil.copytree(shared / "data" / "legacy" / "clean", legacy)
    (legacy / "EXPECTED.json").unlink()
    monkeypatch.setenv("B3_LEGACY_DIR", str(legacy))
    monkeypatch.setenv("B3_NOW", NOW.isoformat())
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", "0")
    with nothing_kept(postgres):
        yield Office(db, home, legacy, postgres)


@pytest.fixture
def office(empty_office: Office, monkeypatch: pytest.MonkeyPatch) -> Office:
    """A home in which every gate of the first step is green, and of the others all that can be before it."""
    office = empty_office
    office.load_folder()
    office.collect_legacy()
    office.compare()
    safe(office.home, monkeypatch)
    return office


def safe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitor runs, and there is a verified backup."""
    (home / "monitor").mkdir()
    beat(home / "monitor")
    monkeypatch.setattr("b3_pipeline.residents.SILENT_S", 3_600)  # a test may be slow, and nobody beats in it
    verified = SimpleNamespace(id="20251014-060000", at=datetime(2025, 10, 14, 9, tzinfo=UTC))
    monkeypatch.setattr("b3_pipeline.backup.backups.newest_verified", lambda *_given: verified)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def bank(
    home: Path, db: QuestDB, postgres: str, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bank]:
    """A home in which every gate of the ideas is green but those that ask for what a phase brings."""
    folder = clean_copy(shared, tmp_path / "lowdb")
    monkeypatch.setenv("B3_LOWDB_DIR", str(folder))
    monkeypatch.setenv("B3_NOW", NOW.isoformat())
    monkeypatch.setenv("B3_MIN_FREE_DISK_MB", "0")
    safe(home, monkeypatch)
    empty(postgres)
    with nothing_kept(postgres):
        made = Bank(db, home, folder, postgres)
        made.load()
        yield made

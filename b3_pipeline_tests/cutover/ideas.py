"""A home beside a LowDB folder whose records are in the tables: what a cutover of the ideas begins with."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline.cutover.evidence import Desk
from b3_pipeline.lowdb import levelling
from b3_pipeline.lowdb.levelling import Parity, paths_of
from b3_pipeline.lowdb.model import FILE_NAMES, Record
from b3_pipeline.postgres import compared
from b3_pipeline.postgres.compared import Counts
from b3_pipeline.postgres.flags import Flags, set_flag
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.services import known_engines
from b3_pipeline.settings import Settings

LONG_AGO = datetime(2025, 10, 13, 11, tzinfo=UTC)


@dataclass
class Bank:
    """The home, and the folder of LowDB beside it."""

    db: QuestDB
    home: Path
    folder: Path
    dsn: str

    @property
    def settings(self) -> Settings:
        return Settings()

    def desk(self) -> Desk:
        """The home as the gates look at it."""
        return Desk(self.settings, known_engines(self.settings), self.db, "ideas")

    def load(self) -> None:
        """The files go into the tables."""
        levelling.into_tables(self.dsn, levelling.read(paths_of(self.folder)), "a test")

    def phase(self, name: str, at: datetime = LONG_AGO) -> None:
        """Puts the home into a phase, as if a step had long ago."""
        set_flag(self.dsn, "phase", name, why="a test", at=at, domain="ideas")
        (self.home / "cutover" / "ideas-writes.json").unlink(missing_ok=True)

    def compared(self) -> None:
        """Readers have asked in this phase."""
        since = self.desk().since
        assert since is not None
        compared.add(self.dsn, "ideas", since, Counts(equal=3))

    def now(self) -> str:
        """The phase that stands."""
        return Flags(self.home, self.dsn).current().phase("ideas")

    def parity(self) -> dict[str, Parity]:
        """What files and tables say of one another."""
        return levelling.parities(self.dsn, self.records())

    def files(self) -> dict[str, bytes]:
        """LowDB's files by name."""
        return {name: (self.folder / name).read_bytes() for name in FILE_NAMES if (self.folder / name).exists()}

    def records(self) -> dict[str, list[Record]]:
        """By table what the files hold."""
        return levelling.records_of(levelling.read(paths_of(self.folder)))


def clean_copy(shared: Path, folder: Path) -> Path:
    """The recorded LowDB folder, for a test to change."""
    shutil.copytree(shared / "data" / "lowdb" / "clean", folder)
    (folder / "EXPECTED.json").unlink()
    return folder

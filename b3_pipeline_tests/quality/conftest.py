"""A legacy folder that is loaded, and what checks are given to look at it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.load import Loader
from b3_pipeline.loading.payloads import Found
from b3_pipeline.quality.checks import Finding, checks_of
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.repair import Repair
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.quality.validate import Report, validate
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import MARKET_TABLES, TABLES

NOW = datetime(2025, 10, 14, 15, tzinfo=UTC)


@dataclass(frozen=True)
class Desk:
    """A legacy folder and the home that it is loaded into."""

    db: QuestDB
    home: Path
    folder: Path

    def context(self, files: Sequence[Found] | None = None, **more: Any) -> Context:
        """What checks look at: the folder as it is now, unless other files are given."""
        found = at_hand(self.folder, self.home) if files is None else files
        return replace(Context(self.db, self.home, NOW, found), **more)

    def loader(self, **more: Any) -> Loader:
        return Loader(self.db, self.home, lambda: NOW, "run-1", **more)

    def repair(self, **more: Any) -> list[dict[str, Any]]:
        """What `b3 validate --repair` does, an hour later; returns its actions."""
        later = replace(self.loader(again=True), clock=lambda: NOW + timedelta(hours=1))
        return Repair(self.context(**more), later).run()

    def red(self, *tables: str, **more: Any) -> list[tuple[str, str, Finding]]:
        """The checks of severity ERROR that some tables (and the ledger of loads) do not pass."""
        checks = [check for name in (*tables, "b3_loads") for check in checks_of(TABLES[name])]
        found = [(c, c.run(self.context(**more), ALWAYS)) for c in checks if c.severity == "ERROR"]
        return [(check.table.name, check.name, finding) for check, finding in found if not finding.passed]

    def load(self) -> None:
        """Loads the folder as `b3 migrate` does, without Dagster."""
        payloads = [p for f in at_hand(self.folder, self.home) if (p := f.loadable)]
        for table in MARKET_TABLES:
            for report in load_all(self.loader(), payloads, table):
                assert report.outcome in ("loaded", "unchanged", "rejected"), report.reason

    def look(self, table: str, check: str, window: Window = ALWAYS, **more: Any) -> Finding:
        """What one check finds."""
        [found] = [c for c in checks_of(TABLES[table]) if c.name == check]
        return found.run(self.context(**more), window)

    def validate(self, **more: Any) -> Report:
        return validate(self.context(**more))

    def sql(self, statement: str, table: str) -> None:
        """What somebody does to a table past us; returns when it shows."""
        self.db.execute(statement)
        self.db.wait_applied(table)


Made = Callable[..., Desk]


ADJUSTMENTS = "ajustes_b3.csv"


@pytest.fixture
def make_desk(db: QuestDB, tmp_path: Path) -> Made:
    """Copies a folder (or some files of it), loads it into a new home, and gives both."""

    def make(source: Path, *names: str) -> Desk:
        folder = tmp_path / "legacy"
        for path in (path for name in names or ("**/*",) for path in source.glob(name) if path.is_file()):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        desk = Desk(db, tmp_path / "home", folder)
        desk.load()
        return desk

    return make


@pytest.fixture
def desk(make_desk: Made, shared: Path) -> Desk:
    """The recorded clean folder, loaded."""
    return make_desk(shared / "data" / "legacy" / "clean")


@pytest.fixture
def settled(make_desk: Made, shared: Path) -> Desk:
    """Only the settlement prices of the clean folder, January to October 2025."""
    return make_desk(shared / "data" / "legacy" / "clean", ADJUSTMENTS)


@pytest.fixture
def captured(make_desk: Made, shared: Path) -> Desk:
    """Only the captures of the clean folder: 10 and 13 October 2025, and the gamma levels of the latter."""
    return make_desk(shared / "data" / "legacy" / "clean", "ultimo_dado.json", "gamma.json", "historico/*")

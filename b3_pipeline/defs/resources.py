"""What the assets are given: access to the home's servers and to the files that a run is about."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dagster as dg

from b3_pipeline.errors import UsageError
from b3_pipeline.loading.folder import Account
from b3_pipeline.loading.load import Loader, quiet
from b3_pipeline.loading.payloads import Found, payload, survey
from b3_pipeline.parsing.kinds import REPORT, Kind
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings


class Inputs(dg.Config):
    """What a run loads: a legacy folder (default: B3_LEGACY_DIR), or settlement reports of B3."""

    legacy_dir: str | None = None
    reports: list[str] = []  # noqa: RUF012 (pydantic copies it)


class Store:
    """Access to the servers of the home. A command gives one that shows progress and keeps the account.

    With a `db` it works on that one connection; else each step looks for the home's servers and connects for itself.
    With `files` these are what its run is about.
    """

    def __init__(self, progress: Callable[[int], None] = quiet, files: Sequence[Found] = ()) -> None:
        self.settings = Settings()
        self.progress = progress
        self.account = Account(list(files))
        self.db: QuestDB | None = None
        self._given, self._run = bool(files), ""

    @contextmanager
    def loader(self, run_id: str) -> Iterator[Loader]:
        """A loader on the servers of the home, its loads marked with the run."""
        with nullcontext(self.db) if self.db else self._connected() as db:
            yield Loader(db, self.settings.home, self.settings.clock, run_id, self.progress)

    @contextmanager
    def _connected(self) -> Iterator[QuestDB]:
        from b3_pipeline.services import engines  # here, for it is no part of what definitions need

        with engines(self.settings) as servers, QuestDB(servers.questdb) as db:
            yield db

    def files(self, inputs: Inputs, run_id: str, kinds: Sequence[Kind]) -> list[Found]:
        """The files of a run that are of these kinds, in the order in which they load.

        Looked up once a run: all its steps see one state of the folder. Raises UsageError when the run names no folder
        and none is set, or no report where one is asked for.
        """
        if self._run != run_id and not self._given:
            self._run, self.account = run_id, Account(self._look(inputs))
        if list(kinds) == [REPORT] and not inputs.reports:
            raise UsageError("Which report? Give the paths of SPRDyymmdd.zip files as `reports` in the run's config.")
        return [f for f in self.account.files if f.kind in kinds]

    def _look(self, inputs: Inputs) -> list[Found]:
        if inputs.reports:
            return [Found(Path(r).name, REPORT, payload(Path(r), REPORT)) for r in inputs.reports]
        folder = inputs.legacy_dir or self.settings.legacy_dir
        if folder is None:
            raise UsageError("No legacy folder is known: set B3_LEGACY_DIR, or give legacy_dir in the run's config.")
        return survey(Path(folder))

"""What the assets are given: access to the home's servers and to the files that a run is about."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from b3_pipeline.errors import UsageError
from b3_pipeline.loaders import Complain, loader_of
from b3_pipeline.loading.archived import archive_of
from b3_pipeline.loading.folder import Account
from b3_pipeline.loading.load import Loader, quiet
from b3_pipeline.loading.payloads import Found, payload, survey
from b3_pipeline.parsing.kinds import REPORT, Kind
from b3_pipeline.postgres.flags import Current, Flags
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.of_home import context_of
from b3_pipeline.quality.sources import at_hand
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.settings import Settings
from b3_pipeline.sources.archive import Archive

if TYPE_CHECKING:
    from b3_pipeline.lowdb.migrating import Migration


class Inputs(dg.Config):
    """What a run loads: a legacy folder (default: B3_LEGACY_DIR), settlement reports of B3, a folder of TP-Capital's.

    Or a folder of LowDB's files (default: B3_LOWDB_DIR); `again`: also those that were loaded as they are.
    """

    legacy_dir: str | None = None
    reports: list[str] = []  # noqa: RUF012 (pydantic copies it)
    signals_dir: str | None = None
    lowdb_dir: str | None = None
    again: bool = False


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
        self.ideas: Migration | None = None  # what a run has made of the LowDB files
        self._given, self._run = bool(files), ""
        self._sources: list[Found] = []
        self._flags: Flags | None = None
        self._checked = ""  # the run whose checks `_sources` are for

    @contextmanager
    def loader(
        self,
        run_id: str,
        window: Window = ALWAYS,
        progress: Callable[[int], None] = quiet,
        complain: Complain | None = None,
        patience_s: float | None = None,
    ) -> Iterator[Loader]:
        """A loader on the servers of the home, its loads marked with the run; `progress` is told beside our own.

        `complain` is told what went wrong beside a load, `patience_s` is how long it waits: for whoever else loads into
        a table, and for rows to show.
        """

        def both(done: int) -> None:
            self.progress(done)
            progress(done)

        with self.database() as db:
            if patience_s is not None:
                db.apply_timeout_s = patience_s
            told = {} if complain is None else {"complain": complain}
            more = {"progress": both, "window": window, "patience_s": patience_s}
            yield loader_of(self.settings, db, run_id, lambda: self.flags, **told, **more)

    @contextmanager
    def quality(self, inputs: Inputs, run_id: str) -> Iterator[Context]:
        """What checks look at: the home's servers, and the sources of what they hold as far as they are at hand.

        The sources are looked up once a run, at its first check: every file is read for its hash.
        """
        with self.database() as db:
            if self._checked != run_id:
                context, self._checked = self.looked_at_anew(inputs, db), run_id
                yield context
            else:
                yield self.context(db, self._sources)

    def looked_at_anew(self, inputs: Inputs, db: QuestDB) -> Context:
        """What checks look at, the sources looked up now."""
        folder = inputs.legacy_dir or self.settings.legacy_dir
        self._sources = at_hand(Path(folder) if folder else None, self.settings.home)
        return self.context(db, self._sources)

    def context(self, db: QuestDB, files: Sequence[Found]) -> Context:
        """What checks look at, when these are the sources at hand."""
        return context_of(self.settings, db, files, self.postgres_dsn, self.flags)

    @property
    def flags(self) -> Current:
        """The flags and phases as they stand, or the last known ones while PostgreSQL is away."""
        if self._flags is None:
            dsn = self.postgres_dsn
            if dsn is None:
                return Flags(self.settings.home, None).current()
            self._flags = Flags(self.settings.home, dsn)
        return self._flags.current()

    @property
    def postgres_dsn(self) -> str | None:
        """The DSN of the home's PostgreSQL; None while nobody runs it."""
        from b3_pipeline.services import running

        servers = running(self.settings)
        return servers.postgres_dsn if servers else None

    @property
    def archive(self) -> Archive:
        """The raw archive of the home."""
        return archive_of(self.settings.home)

    @contextmanager
    def database(self) -> Iterator[QuestDB]:
        with nullcontext(self.db) if self.db else self._connected() as db:
            yield db

    @contextmanager
    def _connected(self) -> Iterator[QuestDB]:
        from b3_pipeline.services import engines  # here, for it is no part of what definitions need

        with engines(self.settings) as servers, QuestDB(servers.questdb) as db:
            yield db

    def files(self, inputs: Inputs, run_id: str, kinds: Sequence[Kind]) -> list[Found]:
        """The files of a run that are of these kinds, in the order in which they load.

        Looked up once a run: all its steps see one state of the folder. Raises UsageError when there is nothing to load.
        """
        if self._run != run_id and not self._given:
            self._run, self.account = run_id, Account(self._look(inputs))
        return [f for f in self.account.files if f.kind in kinds]

    def _look(self, inputs: Inputs) -> list[Found]:
        """What the run names; where it names nothing, what is at hand."""
        legacy, signals = inputs.legacy_dir, inputs.signals_dir
        if not (legacy or signals or inputs.reports):
            found = at_hand(self.settings.legacy_dir, self.settings.home)
            if not found:
                raise UsageError(
                    "There is nothing to load: set B3_LEGACY_DIR, or give legacy_dir (a folder), reports (paths of "
                    "SPRDyymmdd.zip files) or signals_dir (a folder) in the run's config."
                )
            return found
        return [
            *(survey(Path(legacy)) if legacy else []),
            *(Found(Path(r).name, REPORT, payload(Path(r), REPORT)) for r in inputs.reports),
            *(self._signals(Path(signals)) if signals else []),
        ]

    def _signals(self, folder: Path) -> list[Found]:
        from b3_pipeline.services import engines
        from b3_pipeline.signals.incoming import survey_signals

        with engines(self.settings) as servers:
            return survey_signals(folder, self.settings.home, servers.postgres_dsn)

"""A migration of a LowDB folder: its files loaded, a backup before and after, and a step in the log of migrations.

The backups lie in `B3_HOME/lowdb`, a folder each: the schema as it was and as it is then (pg_dump's custom form), the files
that were loaded, and their checksums for `sha256sum -c`. A migration that changes nothing makes none.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from b3_pipeline import migration_log
from b3_pipeline.backup.dumping import dump
from b3_pipeline.cutover import journal
from b3_pipeline.cutover.journal import Task
from b3_pipeline.durable import write_synced
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.failpoints import reached
from b3_pipeline.loading.kept import copy
from b3_pipeline.loading.load import quiet
from b3_pipeline.loading.payloads import Found, PayloadChanged, require_folder, survey
from b3_pipeline.lowdb.files import Files
from b3_pipeline.lowdb.loading import Loading, Outcome, loaded_since, written_since
from b3_pipeline.lowdb.model import BY_TABLE, DOMAIN, FILE_NAMES, SCHEMA
from b3_pipeline.lowdb.reading import KINDS
from b3_pipeline.lowdb.schema import IDEAS_SCHEMA, ideas, prepare
from b3_pipeline.migration_log import Step
from b3_pipeline.postgres.flags import PHASE, Current, user

#: Below the home: the backups.
FOLDER = "lowdb"
CHECKSUMS = "SHA256SUMS"
#: The steps of a migration at which a test ends the process; those of a load lie between.
STEPS = ("lowdb: backed up before", "lowdb: backed up after", "lowdb: logged")
_BEFORE, _AFTER = "before.dump", "after.dump"
#: A file that is written while it is read is read so often.
ATTEMPTS = 5


class FilesAreNotTheTruth(B3Error):
    """In this phase the tables are the truth: files would undo what was written since."""


@dataclass
class Migration:
    """What came of a migration: of each file, and the backup's files with their SHA-256."""

    at: datetime
    outcomes: list[Outcome] = field(default_factory=list)
    folder: Path | None = None
    checksums: dict[str, str] = field(default_factory=dict)
    postgres: str | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether no file was rejected or failed."""
        return all(outcome.outcome not in ("rejected", "failed") for outcome in self.outcomes)


@dataclass(frozen=True)
class Migrating:
    """What a migration needs besides its folder. `flags` says which phase stands; `progress` is told bytes that were read."""

    dsn: str
    home: Path
    clock: Callable[[], datetime]
    flags: Callable[[], Current]
    run_id: str = ""
    progress: Callable[[int], None] = quiet
    own: Path | None = None  # the home's LowDB folder, which the tables follow
    again: bool = False  # files that were loaded as they are, too, and whatever was written into the tables since

    def run(self, folder: Path) -> Migration:
        """Loads a folder; a file that is no LowDB file does not stop the other. What a process that died has left is ended.

        No step of the cutover moves anything meanwhile. Raises UsageError when it is no such folder, or not the home's,
        FilesAreNotTheTruth, CutoverBusy, StoreAway, DumpFailed, IdeasError, OSError.
        """
        require_files(folder)
        self._require_own(folder)
        with journal.alone(self.home, DOMAIN):
            phase = require_phase(self.flags(), journal.under_way(self.home, DOMAIN))
            prepare(self.dsn, self.home, self.clock)
            self._require_unwritten()
            self._end_interrupted()
            return self._migrated(folder, phase)

    def _migrated(self, folder: Path, phase: str) -> Migration:
        started, done = time.monotonic(), Migration(self.clock())
        who = f"b3 lowdb migrate ({user()})"
        loading = Loading(self.dsn, self.home, self.clock, who, self.run_id, self.progress, self.again)
        found = files_of(folder)
        if any(each.loadable and not loading.known(each.loadable) for each in found):
            self._back_up(done)
        try:
            for each in found:
                done.outcomes.append(self._outcome(loading, folder, each.name, phase, done))
        except (B3Error, OSError) as error:
            done.seconds = time.monotonic() - started
            self._log(folder.name, done, failed=str(error))
            raise
        done.seconds = time.monotonic() - started
        self._conclude(folder.name, done)
        return done

    def _require_own(self, folder: Path) -> None:
        if self.own is not None and folder.resolve() != self.own.resolve():
            raise UsageError(
                f"The LowDB files of this home are in {self.own} (B3_LOWDB_DIR), and its tables follow them: {folder} is "
                "another folder. Load that one in a home of its own."
            )

    def _require_unwritten(self) -> None:
        """Without files of its own a home has the tables alone: what was written there is nowhere else."""
        if self.own is not None or self.again:
            return
        with ideas(self.dsn) as db:
            if written := written_since(db, BY_TABLE):
                raise FilesAreNotTheTruth(
                    f"Somebody else has written {', '.join(written)} since the last load, and files would undo that. Set "
                    "B3_LOWDB_DIR if the files are the truth; `--again` makes the tables what the files say in any case."
                )

    @contextmanager
    def _held(self, folder: Path, phase: str) -> Iterator[None]:
        """The files of a phase in which the tables follow each write do not change meanwhile, as far as that is ours."""
        held: AbstractContextManager[None] = nullcontext()
        if phase == PHASE.values[1]:
            held = Files(folder, self.clock).held()
        with held:
            yield

    def _outcome(self, loading: Loading, folder: Path, name: str, phase: str, done: Migration) -> Outcome:
        """Loads a file as it is by now; one that somebody writes meanwhile, once more."""
        attempt = 1
        while True:
            with self._held(folder, phase):
                [found] = files_of(folder, name)
                if found.loadable is None:
                    return Outcome(name, found.outcome or "rejected", reason=found.reason)
                try:
                    if done.folder:
                        copy(found.loadable, done.folder / name)
                    return loading.load(found.loadable)
                except PayloadChanged as error:
                    if attempt == ATTEMPTS:
                        return Outcome(name, "failed", found.loadable.sha256, str(error))
            attempt += 1

    def _back_up(self, done: Migration) -> None:
        folder = self.home / FOLDER / f"{done.at:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        folder.mkdir(mode=0o700, parents=True)
        done.folder, done.postgres = folder, dump(self.dsn, folder / _BEFORE, SCHEMA)[1]
        reached(STEPS[0])

    def _conclude(self, name: str, done: Migration) -> None:
        """The backup from after, the log, and at last the checksums: a backup that has them is whole, and logged."""
        if done.folder is None:
            self._log(name, done)
            return
        done.postgres = dump(self.dsn, done.folder / _AFTER, SCHEMA)[1]
        reached(STEPS[1])
        files = sorted(path for path in done.folder.iterdir() if not path.name.startswith("."))
        done.checksums = {path.name: _sha256(path) for path in files}
        if not any(step["details"].get("backup") == str(done.folder) for step in migration_log.steps(self.home)):
            self._log(name, done)
        reached(STEPS[2])
        lines = "".join(f"{sha256}  {file}\n" for file, sha256 in done.checksums.items())
        (done.folder / CHECKSUMS).unlink(missing_ok=True)
        write_synced(done.folder / CHECKSUMS, lines.encode())

    def _end_interrupted(self) -> None:
        """What migrations that died have left: those that had loaded something get their backup from after and their log."""
        for folder in sorted((self.home / FOLDER).glob("*-*-*")):
            if (folder / CHECKSUMS).exists():
                continue
            began = datetime.strptime(folder.name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
            with ideas(self.dsn) as db:
                outcomes = loaded_since(db, began)
            if outcomes:
                self._conclude("of a migration that was cut off", Migration(began, outcomes, folder))
            else:
                shutil.rmtree(folder)

    def _log(self, name: str, done: Migration, failed: str = "") -> None:
        """Writes the step. The way back is that of the phases in which the files are the truth."""
        back = "Nothing has changed."
        if done.folder:
            back = (
                "The files were only read, and answer until `b3 cutover advance --domain ideas`. To have the tables as they "
                f"were: `drop schema {SCHEMA} cascade`, then restore {done.folder / 'before.dump'} with pg_restore."
            )
        counts = {each.table: each.counts for outcome in done.outcomes for each in outcome.tables}
        changes = {each.table: each.changes for outcome in done.outcomes for each in outcome.tables}
        step = Step(
            kind="lowdb",
            title=f"LowDB folder {name} into PostgreSQL, schema {SCHEMA}",
            at=done.at,
            outcome="done" if done.ok and not failed else "failed",
            seconds=done.seconds,
            way_back=back,
            counts=counts,
            checksums={
                **{o.file: o.sha256 for o in done.outcomes if o.sha256},
                **{
                    f"{FOLDER}/{done.folder.name}/{file}": sha256
                    for file, sha256 in done.checksums.items()
                    if done.folder
                },
            },
            files=[f"{o.file}: {o.outcome}{f', {o.reason}' if o.reason else ''}" for o in done.outcomes],
            details={
                "changes": changes,
                "rejected": {table: each["rejected"] for table, each in counts.items() if each["rejected"]},
                "backup": str(done.folder) if done.folder else None,
                "schema": IDEAS_SCHEMA.head(),
                "postgres": done.postgres,
                "run": self.run_id,
                **({"error": failed} if failed else {}),
            },
        )
        migration_log.write(self.home, step)


def require_phase(flags: Current, step: Task | None = None) -> str:
    """The phase of the ideas, in which files may be loaded. Raises FilesAreNotTheTruth, also while nobody knows it.

    `step` is a step of the cutover that was begun and has not ended.
    """
    phase = flags.phase(DOMAIN)
    if flags.stale or step:
        why = f"`b3 cutover {step.kind} --domain ideas` has not ended: run it again" if step else "is PostgreSQL up?"
        raise FilesAreNotTheTruth(f"Nobody knows in which phase the ideas are: {why}. Nothing was loaded.")
    if phase not in PHASE.values[:2]:
        raise FilesAreNotTheTruth(
            f"The phase of the ideas is {phase}: PostgreSQL is the truth, and the LowDB files would undo what was written "
            "there since. `b3 cutover rollback --domain ideas` leads back to the files."
        )
    return phase


def require_files(folder: Path) -> None:
    """Raises UsageError when a folder is none, or has no LowDB file."""
    require_folder(folder, KINDS)
    if not any((folder / name).exists() for name in FILE_NAMES):
        raise UsageError(f"{folder} holds none of LowDB's files ({', '.join(FILE_NAMES)}).")


def files_of(folder: Path, *only: str) -> list[Found]:
    """LowDB's files in a folder (`only` those of these names), in the order in which they load. Raises UsageError."""
    kinds = [kind for kind in KINDS if not only or kind.file in only]
    return [found for found in survey(folder, kinds) if found.kind is not None]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Versioned schema: applies `sql/questdb/V*.sql`, keeps their history, and reports drift.

Three things must say the same of a table: the SQL files, the contract in `tables.py`, and the server. A view holds no
data and has no contract but its query: there, files and server must say the same.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from b3_pipeline.errors import B3Error
from b3_pipeline.questdb.client import QuestDB, QuestDBError, named
from b3_pipeline.settings import PROJECT, Settings
from b3_pipeline.tables import TABLES, Table

SQL_FOLDER = PROJECT / "sql" / "questdb"
HISTORY = "b3_schema_history"
# Two processes that apply a version at once must leave one line of it, and QuestDB's key has the designated timestamp
# in it: so `ts` is made from the version, and `applied_at` is the time. Older histories have the time in `ts`.
_HISTORY_DDL = (
    f"""
CREATE TABLE IF NOT EXISTS {HISTORY} (
  ts TIMESTAMP, version LONG, name VARCHAR, checksum VARCHAR, seconds DOUBLE, applied_at TIMESTAMP
) TIMESTAMP(ts) PARTITION BY YEAR WAL DEDUP UPSERT KEYS(ts, version)
""",
    f"ALTER TABLE {HISTORY} ADD COLUMN IF NOT EXISTS applied_at TIMESTAMP",
)


class SchemaError(B3Error):
    """The SQL files, the contract and the server do not agree."""


@dataclass(frozen=True)
class Migration:
    """One SQL file: `V<version>__<name>.sql`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text; the kind of newline does not matter."""
        return hashlib.sha256(self.text.replace("\r\n", "\n").encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements, without comments. Our files hold no semicolon or `--` inside a literal."""
        bare = re.sub(r"--[^\n]*", "", self.text)
        return [s.strip() for s in bare.split(";") if s.strip()]


@dataclass(frozen=True)
class Applied:
    """A line of the history table."""

    version: int
    name: str
    checksum: str
    at: datetime
    seconds: float


@dataclass(frozen=True)
class Shape:
    """What a table is like: its columns in order, designated timestamp, partitioning, WAL, DEDUP keys."""

    columns: tuple[tuple[str, str], ...]
    timestamp: str
    partition_by: str
    wal: bool
    keys: frozenset[str]


def migrations(folder: Path = SQL_FOLDER) -> list[Migration]:
    """The SQL files in the order of their versions. Raises SchemaError on a name that is no version, or two alike."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = re.fullmatch(r"V(\d+)__(\w+)\.sql", path.name)
        if not match:
            raise SchemaError(f"{path.name}: a schema file is named V<number>__<what_it_does>.sql.")
        version = int(match[1])
        if version in found:
            raise SchemaError(f"Two schema files have version {version}: give the newer one the next number.")
        found[version] = Migration(version, match[2], path.read_text("utf-8"))
    return [found[version] for version in sorted(found)]


def history(db: QuestDB) -> dict[int, Applied]:
    """What was applied to the server, by version; empty when nothing ever was."""
    if not db.query("select 1 from tables() where table_name = %s", HISTORY):
        return {}
    columns, rows = db.table(named("select * from {history}", history=HISTORY))
    lines = sorted((dict(zip(columns, row, strict=True)) for row in rows), key=lambda line: line["version"])
    return {
        line["version"]: Applied(
            line["version"], line["name"], line["checksum"], line.get("applied_at") or line["ts"], line["seconds"]
        )
        for line in lines
    }


def apply(
    db: QuestDB, now: Callable[[], datetime], files: Iterable[Migration] | None = None, lock: Path | None = None
) -> list[Migration]:
    """Brings the server to the newest version and returns what was applied now (nothing, when it was there already).

    Processes that name the same `lock` file do it one after another. Others may do it at once: every statement may run
    twice, and the history keeps one line a version. Raises SchemaError when a file that was applied has changed or is
    gone: what ran cannot be rewritten.
    """
    files = list(migrations() if files is None else files)
    with FileLock(lock) if lock else nullcontext():
        done = history(db)
        for problem in _rewritten(files, done):
            raise SchemaError(problem)
        pending = [m for m in files if m.version not in done]
        if pending:
            for statement in _HISTORY_DDL:
                _run(db, statement)
        for migration in pending:
            started = time.monotonic()
            for statement in migration.statements:
                _run(db, statement)
            _remember(db, migration, now(), time.monotonic() - started)
    return pending


def lock_of(settings: Settings) -> Path:
    """The file that processes of one home lock while they apply the schema."""
    return settings.folder("locks") / "schema.lock"


def _run(db: QuestDB, statement: str) -> None:
    try:
        db.execute(statement)
    except QuestDBError:  # two processes in one statement, one is refused whatever its IF NOT EXISTS says
        db.execute(statement)
    if altered := _ADD.fullmatch(statement):  # on a WAL table the server only notes it down at first
        db.wait_applied(altered["name"])


def restore(db: QuestDB, files: Iterable[Migration] | None = None) -> list[str]:
    """Makes tables again that were applied once and are gone, empty; and views that are gone or changed.

    Returns their names.
    """
    files = list(migrations() if files is None else files)
    gone = [name for name in sql_shapes(files) if server_shape(db, name) is None]
    for statement in (s for m in files for s in m.statements):
        made = _CREATE.fullmatch(statement) or _ADD.fullmatch(statement)
        if made and made["name"] in gone:
            db.execute(statement)
            db.wait_applied(made["name"])
    views = [name for name, query in sql_views(files).items() if view_drift(db, name, query)]
    for name in views:
        db.execute(f"CREATE OR REPLACE VIEW {name} AS ({sql_views(files)[name]})")
    return gone + views


def _remember(db: QuestDB, migration: Migration, at: datetime, seconds: float) -> None:
    row = {
        "ts": pa.array([migration.version * 1_000_000], pa.timestamp("us")),
        "applied_at": pa.array([at.replace(tzinfo=None)], pa.timestamp("us")),
        "version": [migration.version],
        "name": [migration.name],
        "checksum": [migration.checksum],
        "seconds": [seconds],
    }
    db.send(HISTORY, pa.table(row))
    db.wait_applied(HISTORY)


def _rewritten(files: list[Migration], done: dict[int, Applied]) -> list[str]:
    by_version = {m.version: m for m in files}
    problems = []
    for version, applied in done.items():
        file = by_version.get(version)
        if file is None:
            problems.append(
                f"Version {version} ({applied.name}) was applied on {applied.at:%Y-%m-%d} but its file is gone "
                f"from {SQL_FOLDER.name}/: restore it, or run the release that has it."
            )
        elif file.checksum != applied.checksum:
            problems.append(
                f"V{version:03}__{file.name}.sql has changed since it was applied on {applied.at:%Y-%m-%d}: "
                "restore it and put the change into a new file with the next number."
            )
    return problems


@dataclass(frozen=True)
class Version:
    """A line of `b3 schema status`."""

    version: int
    name: str
    state: str  # applied, pending, changed or missing
    at: datetime | None
    seconds: float | None


def status(db: QuestDB, files: Iterable[Migration] | None = None) -> list[Version]:
    """Every version, in files or history, with its state."""
    by_version = {m.version: m for m in (migrations() if files is None else files)}
    done = history(db)
    lines = []
    for version in sorted(by_version.keys() | done.keys()):
        file, applied = by_version.get(version), done.get(version)
        if file is None:
            state = "missing"
        elif applied is None:
            state = "pending"
        else:
            state = "applied" if file.checksum == applied.checksum else "changed"
        known = applied or file
        assert known is not None
        lines.append(
            Version(version, known.name, state, applied.at if applied else None, applied.seconds if applied else None)
        )
    return lines


def contract_shape(table: Table) -> Shape:
    """The shape that `tables.py` asks for."""
    columns = tuple((c.name, c.type) for c in table.columns)
    return Shape(columns, table.timestamp, table.partition_by, True, frozenset(table.keys))


def server_shape(db: QuestDB, name: str) -> Shape | None:
    """The shape that a table has on the server, or None when it is not there."""
    found = db.query("select designatedTimestamp, partitionBy, walEnabled from tables() where table_name = %s", name)
    if not found:
        return None
    timestamp, partition_by, wal = found[0]
    columns = db.query(named("show columns from {table}", table=name))
    keys = frozenset(row[0] for row in columns if row[-1])
    return Shape(tuple((row[0], row[1]) for row in columns), timestamp, partition_by, wal, keys)


_CREATE = re.compile(
    r"CREATE TABLE IF NOT EXISTS (?P<name>\w+) \((?P<columns>[^)]*)\)\s*TIMESTAMP\((?P<timestamp>\w+)\)"
    r"\s*PARTITION BY (?P<partition>\w+)\s*(?P<wal>WAL)?\s*(?:DEDUP UPSERT KEYS\((?P<keys>[^)]*)\))?",
)
_ADD = re.compile(r"ALTER TABLE (?P<name>\w+) ADD COLUMN IF NOT EXISTS (?P<column>\w+) (?P<type>\w+)")
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (?P<name>\w+) AS \((?P<query>.*)\)", re.DOTALL)


def sql_shapes(files: Iterable[Migration]) -> dict[str, Shape]:
    """The shapes that the SQL files end in. Knows the statements that we use; raises SchemaError on another."""
    shapes: dict[str, Shape] = {}
    for statement in (s for m in files for s in m.statements):
        if create := _CREATE.fullmatch(statement):
            columns = tuple((n, t) for n, t in (c.split() for c in create["columns"].split(",")))
            keys = frozenset(k.strip() for k in (create["keys"] or "").split(",") if k.strip())
            shape = Shape(columns, create["timestamp"], create["partition"], bool(create["wal"]), keys)
            shapes.setdefault(create["name"], shape)
        elif add := _ADD.fullmatch(statement):
            old = shapes[add["name"]]
            new = (*old.columns, (add["column"], add["type"]))
            shapes[add["name"]] = Shape(new, old.timestamp, old.partition_by, old.wal, old.keys)
        elif not _VIEW.fullmatch(statement):
            raise SchemaError(f"The drift report cannot read this statement yet: {statement.splitlines()[0]} …")
    return shapes


def sql_views(files: Iterable[Migration]) -> dict[str, str]:
    """The views that the SQL files make: name to query, white space evened out."""
    found = (_VIEW.fullmatch(statement) for m in files for statement in m.statements)
    return {view["name"]: _even(view["query"]) for view in found if view}


def _even(query: str) -> str:
    return " ".join(query.split())


def view_drift(db: QuestDB, name: str, query: str) -> list[str]:
    """How a view on the server differs from its query in the files, a sentence each; empty when it does not."""
    found = db.query("select view_sql from views() where view_name = %s", name)
    if not found:
        return ["the view is missing"]
    if (asks := _even(found[0][0])) != query:
        return [f"the view asks something else: {asks}"]
    try:
        db.query(named("select * from {view} limit 0", view=name))
    except QuestDBError as error:
        return [f"the view cannot be asked: {error}"]
    return []


def differences(wanted: Shape, found: Shape | None) -> list[str]:
    """What differs, a sentence each; empty when the shapes are the same. The order of columns does not matter."""
    if found is None:
        return ["the table is missing"]
    want, have = dict(wanted.columns), dict(found.columns)
    lines = [f"column {c} {want[c]} is missing" for c in want if c not in have]
    lines += [f"column {c} {have[c]} is not in the contract" for c in have if c not in want]
    lines += [f"column {c} is {have[c]}, not {want[c]}" for c in want if c in have and have[c] != want[c]]
    for what in ("timestamp", "partition_by", "wal"):
        if getattr(wanted, what) != getattr(found, what):
            lines.append(f"{what} is {getattr(found, what)}, not {getattr(wanted, what)}")
    if wanted.keys != found.keys:
        lines.append(f"DEDUP keys are ({', '.join(sorted(found.keys))}), not ({', '.join(sorted(wanted.keys))})")
    return lines


def diff(db: QuestDB, files: Iterable[Migration] | None = None) -> dict[str, dict[str, list[str]]]:
    """Drift by table: `sql` (the files against `tables.py`) and `server` (the server against `tables.py`).

    For a view `server` is the server against the files.
    """
    files = list(migrations() if files is None else files)
    from_sql = sql_shapes(files)
    drift = {}
    for table in TABLES.values():
        wanted = contract_shape(table)
        found = {
            "sql": differences(wanted, from_sql.get(table.name)),
            "server": differences(wanted, server_shape(db, table.name)),
        }
        if any(found.values()):
            drift[table.name] = found
    for name, query in sql_views(files).items():
        if problems := view_drift(db, name, query):
            drift[name] = {"sql": [], "server": problems}
    return drift


def require(db: QuestDB, table: Table) -> None:
    """Raises SchemaError unless the table on the server is what the contract says."""
    if problems := differences(contract_shape(table), server_shape(db, table.name)):
        raise SchemaError(
            f"{table.name} in the database is not as contracted: {'; '.join(problems)}. Nothing was loaded. "
            "See `b3 schema diff`; `b3 schema apply` makes missing tables."
        )

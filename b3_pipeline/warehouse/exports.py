"""Exports: a table's partitions as Parquet files that DuckDB, pandas and Spark read, each with a manifest.

    <place>/<table>/year=2025/month=10/day=14/<table>-2025-10-14-<sha12>.parquet   a file a UTC day
    <place>/<table>/_manifests/2025-10.json                                        one a partition of QuestDB's

The manifest is written last and whole: what has none is not exported, and of the files only those count that it names.
Moments are naive UTC, as in QuestDB; symbols are plain text. A partition whose content is as the manifest says is left as
it is; of other content the new files come first, then the manifest, then the old files go. No manifest is of no rows:
rows that are gone leave the export of them as it was.

Whether the content is still the same is asked of the server first, cheaply: see `state_of`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from psycopg import sql
from pyarrow import parquet

from b3_pipeline.errors import B3Error
from b3_pipeline.failpoints import reached
from b3_pipeline.loading.buckets import IN_MEMORY
from b3_pipeline.loading.load import quiet
from b3_pipeline.places import Place
from b3_pipeline.quality.stored import during, partition_window, stretches
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import ALWAYS, Window
from b3_pipeline.tables import ARROW_TYPES, Table
from b3_pipeline.warehouse.checksums import Checksum, checksum

__all__ = [
    "ExportError",
    "File",
    "Manifest",
    "Partition",
    "checksum",
    "export_partition",
    "manifests",
    "read",
    "verify",
]

#: The steps of an export at which a test ends the process.
STEPS = (
    "export: files written here",
    "export: a file put",
    "export: all files put",
    "export: manifest written",
    "export: an old file removed",
)
#: The folder of a table's manifests; Spark and pandas leave out what begins with an underscore.
MANIFESTS = "_manifests"
#: Rows read from a file at once.
_ROWS_AT_ONCE = 100_000
#: Files of a partition that are put at once: each waits for the disk or the network.
_PUT_AT_ONCE = 8
_DAY = timedelta(days=1)


class ExportError(B3Error):
    """An export is damaged, or is not what it should be."""


@dataclass(frozen=True)
class Partition:
    """A partition of QuestDB's: its name (2025-10 or 2025-10-14), its time (naive UTC), its rows; `newest` is open still."""

    name: str
    window: Window
    rows: int
    newest: bool


@dataclass(frozen=True)
class File:
    """A file of an export: its name below the place, what is in it, and the SHA-256 of its bytes, hex."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What was exported of a partition: its rows from `start` to `end` (naive UTC), their checksum and files.

    `columns` has the types of `tables.py` by name; `exported_at` is naive UTC, `release` the version that wrote it.
    `state` is what `state_of` said of the rows; manifests of older releases have none.
    """

    table: str
    partition: str
    start: datetime
    end: datetime
    rows: int
    checksum: str
    columns: dict[str, str]
    files: tuple[File, ...]
    exported_at: datetime
    release: str
    state: str | None = field(default=None, compare=False)

    @property
    def window(self) -> Window:
        return Window(self.start, self.end)

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """One SHA-256 for all files: of their names' and hashes' lines."""
        return hashlib.sha256("".join(f"{f.sha256}  {f.name}\n" for f in self.files).encode()).hexdigest()

    def text(self) -> str:
        """As it is kept: JSON, with the SHA-256 of its own content."""
        document = asdict(self) | {name: getattr(self, name).isoformat() + "Z" for name in _MOMENTS}
        return json.dumps(document | {"sha256": _digest(document)}, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def of_text(cls, text: str) -> Manifest:
        """Raises ExportError when it is not what was written."""
        try:
            document = json.loads(text)
            if document.pop("sha256") != _digest(document):
                raise ValueError("its content does not have the SHA-256 that it names")
            moments = {name: datetime.fromisoformat(document[name]).replace(tzinfo=None) for name in _MOMENTS}
            files = tuple(File(**file) for file in document["files"])
            return cls(**{**document, **moments, "files": files})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ExportError(f"A manifest is damaged: {error}.") from None


_MOMENTS = ("start", "end", "exported_at")


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def partitions(db: QuestDB, table: Table) -> list[Partition]:
    """The partitions of a table that have rows, oldest first. Raises QuestDBError."""
    query = sql.SQL("select name, numRows from table_partitions({}) where detached = false").format(
        sql.Literal(table.name)  # a table function takes no bound value
    )
    length, rows = len("2025-10" if table.partition_by == "MONTH" else "2025-10-14"), dict[str, int]()
    for name, count in db.query(query):  # the server may have split one: 2025-10-14T120000-000001
        rows[name[:length]] = rows.get(name[:length], 0) + count
    there = sorted(name for name, count in rows.items() if count)
    return [Partition(name, partition_window(table, name), rows[name], name == there[-1]) for name in there]


def rows_of(db: QuestDB, table: Table, window: Window, limit: int = IN_MEMORY) -> Iterator[pa.Table]:
    """The rows of a table in a window, by time, with all columns, in pieces of at most `limit`."""
    select = named("select {columns} from {t} where ", columns=[c.name for c in table.columns], t=table.name)
    for stretch, count in stretches(db, table, limit, window, during(table, ALWAYS)):
        if count:
            where = during(table, stretch)
            yield db.arrow(select + where.text, *where.values, schema=table.arrow_schema())


def stored_checksum(db: QuestDB, table: Table, window: Window, progress: Callable[[int], None] = quiet) -> Checksum:
    """The checksum of what a table has in a window now."""
    found = Checksum(table)
    for piece in rows_of(db, table, window):
        found.add(piece)
        progress(piece.num_rows)
    return found


def state_of(db: QuestDB, table: Table, window: Window) -> str | None:
    """What changes when the rows of a window do: how many there are, when and by which load they were written.

    The server sums it up. Every write has a time or a load of its own, also one over a row of the same key. Not seen is
    what somebody changes by hand in other columns alone: a full comparison finds that. None for a table that does not
    say when its rows were written: nothing but the rows themselves tells whether it has changed.
    """
    written = [c.name for c in table.columns if not c.compared and c.type in ("TIMESTAMP", "LONG")]
    if not written:
        return None
    where = during(table, window)
    sums = sql.SQL(", ").join(named("sum({c}::long %% 1000000007)", c=name) for name in written)
    [found] = db.query(
        named("select count(), ") + sums + named(" from {t} where ", t=table.name) + where.text, *where.values
    )
    return " ".join(map(str, found))


def export_partition(
    db: QuestDB,
    table: Table,
    partition: Partition,
    place: Place,
    at: datetime,
    spool: Path | None = None,
    progress: Callable[[int], None] = quiet,
    again: bool = False,
    thorough: bool = False,
) -> Manifest:
    """Exports a partition; what is exported already, and unchanged, stays as it is unless `again`. `at` is UTC.

    `thorough`: all rows are compared with what was exported, and not `state_of` alone. Files are written in `spool`
    first (default: the system's temporary folder). Safe to do again after it died at any point. Nobody else may export
    the partition meanwhile. `progress` is told the rows read since the last call. Raises ExportError when it has no
    rows (any more), PlaceError, QuestDBError, OSError.
    """
    before = None if again else manifest_of(place, table, partition.name)
    state = state_of(db, table, partition.window)  # before the rows: what comes meanwhile makes it another
    if before is not None and _stands(db, table, before, place, progress, None if thorough else state):
        return _kept(place, table, before, state)
    with tempfile.TemporaryDirectory(prefix="export-", dir=_made(spool)) as folder:
        manifest, written = _written(db, table, partition, Path(folder), at, progress if before is None else quiet)
        if not manifest.rows:
            raise ExportError(f"{table.name} {partition.name} has no rows any more: what is exported of it stays.")
        reached(STEPS[0])
        _put(place, written)
    reached(STEPS[2])
    manifest = _noted(place, table, replace(manifest, state=state))
    reached(STEPS[3])
    _tidy(place, table, manifest)
    return manifest


def _kept(place: Place, table: Table, manifest: Manifest, state: str | None) -> Manifest:
    """An export that stands; the state is noted when it is another, or its rows would be summed again for ever."""
    if manifest.state != state:
        manifest = _noted(place, table, replace(manifest, state=state))
    _tidy(place, table, manifest)
    return manifest


def _put(place: Place, written: Mapping[str, Path]) -> None:
    with ThreadPoolExecutor(_PUT_AT_ONCE) as pool:
        for _done in pool.map(lambda item: place.put(item[1], item[0]), written.items()):
            reached(STEPS[1])


def _noted(place: Place, table: Table, manifest: Manifest) -> Manifest:
    place.write(manifest_name(table, manifest.partition), manifest.text().encode())
    return manifest


def _made(folder: Path | None) -> Path | None:
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _stands(
    db: QuestDB, table: Table, manifest: Manifest, place: Place, progress: Callable[[int], None], state: str | None
) -> bool:
    """Whether the files of a manifest are there in their size, and the table has the rows that they were made of.

    Where the table is in the same state (None: nobody knows) its rows are not read.
    """
    with suppress(FileNotFoundError):
        if all(place.size(file.name) == file.bytes for file in manifest.files):
            if state is not None and manifest.state == state:
                progress(manifest.rows)
                return True
            found = stored_checksum(db, table, manifest.window, progress)
            return (found.rows, found.text()) == (manifest.rows, manifest.checksum)
    return False


def _written(
    db: QuestDB, table: Table, partition: Partition, folder: Path, at: datetime, progress: Callable[[int], None]
) -> tuple[Manifest, dict[str, Path]]:
    """The files of a partition, written on this machine, by the names that they are to have."""
    summed, files, written = Checksum(table), list[File](), dict[str, Path]()
    for day, parts in groupby(_days(table, rows_of(db, table, partition.window)), key=itemgetter(0)):
        path, rows = folder / f"{day:%Y-%m-%d}.parquet", 0
        with parquet.ParquetWriter(path, file_schema(table), compression="zstd") as writer:
            for _day, part in parts:
                summed.add(part)
                writer.write_table(part.cast(writer.schema), row_group_size=_ROWS_AT_ONCE)
                rows += part.num_rows
                progress(part.num_rows)
        file = _file(table, day, path, rows)
        files.append(file)
        written[file.name] = path
    columns = {c.name: str(c.type) for c in table.columns}
    content = (summed.rows, summed.text(), columns, tuple(files))
    made = Manifest(
        table.name,
        partition.name,
        *partition.window.bounds(),
        *content,
        at.replace(tzinfo=None),
        version("b3-pipeline"),
    )
    return made, written


def _days(table: Table, pieces: Iterable[pa.Table]) -> Iterator[tuple[datetime, pa.Table]]:
    """The rows of pieces that are in time's order, by UTC day."""
    for piece in pieces:
        days = piece.column(table.timestamp).to_numpy().astype("datetime64[D]")
        firsts = np.flatnonzero(np.append(True, days[1:] != days[:-1]))
        for first, end in zip(firsts, [*firsts[1:], piece.num_rows], strict=True):
            yield days[first].astype("datetime64[us]").item(), piece.slice(first, end - first)


def file_schema(table: Table) -> pa.Schema:
    """The schema of the files: a symbol is plain text, which every reader knows."""
    return pa.schema([(c.name, pa.string() if c.type == "SYMBOL" else ARROW_TYPES[c.type]) for c in table.columns])


def _file(table: Table, day: datetime, path: Path, rows: int) -> File:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return File(
        f"{_folder(table, day)}/{table.name}-{day:%Y-%m-%d}-{sha256[:12]}.parquet", rows, path.stat().st_size, sha256
    )


def _folder(table: Table, day: datetime) -> str:
    """Where a day's file lies. A number with a nought in front would be text to DuckDB."""
    return f"{table.name}/year={day.year}/month={day.month}/day={day.day}"


def manifest_name(table: Table, partition: str) -> str:
    """The name of a partition's manifest below the place."""
    return f"{table.name}/{MANIFESTS}/{partition}.json"


def _tidy(place: Place, table: Table, manifest: Manifest) -> None:
    """Takes away the files of a partition that its manifest does not name: of an earlier content, or of a dead process."""
    day = _folder(table, manifest.start)
    folder = day.rpartition("/")[0] if manifest.end - manifest.start > _DAY else day
    for name in sorted(set(place.names(folder)) - {file.name for file in manifest.files}):
        place.remove(name)
        reached(STEPS[4])


def manifests(place: Place, table: Table) -> dict[str, Manifest]:
    """The manifests of a table by partition, oldest first; without those that cannot be read. Raises PlaceError."""
    return sound_and_damaged(place, table)[0]


def sound_and_damaged(place: Place, table: Table) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests of a table by partition, oldest first, and the partitions whose manifests cannot be read.

    The next export makes those anew. Each manifest is read once. Raises PlaceError.
    """
    folder, end = f"{table.name}/{MANIFESTS}", ".json"
    names = [name[len(folder) + 1 : -len(end)] for name in place.names(folder) if name.endswith(end)]
    found = {name: manifest_of(place, table, name) for name in names}
    sound = {name: manifest for name, manifest in found.items() if manifest is not None}
    return sound, [name for name in found if name not in sound]


def manifest_of(place: Place, table: Table, partition: str) -> Manifest | None:
    """The manifest of a partition; None where there is none, and where it is damaged."""
    try:
        manifest = Manifest.of_text(place.read(manifest_name(table, partition)).decode())
    except (FileNotFoundError, ExportError, UnicodeDecodeError):
        return None
    return manifest if (manifest.table, manifest.partition) == (table.name, partition) else None


def verify(place: Place, manifest: Manifest, db: QuestDB | None = None) -> list[str]:
    """What is wrong with an export, in sentences; nothing when it is sound. Files are read whole, twice.

    It has rows, each file is there and has its SHA-256, its columns and its rows, and together they have the checksum.
    With `db` also: the table has the same rows now. Raises PlaceError, QuestDBError.
    """
    if not manifest.rows:
        return [f"{manifest.table} {manifest.partition}: its manifest has no rows, and no export is of none."]
    problems = [problem for file in manifest.files if (problem := _of_file(place, file))]
    if not problems:
        problems = _of_content(place, manifest)
    if not problems and db is not None:
        problems = changed(db, manifest)
    return problems


def _of_file(place: Place, file: File) -> str:
    try:
        sha256 = place.sha256(file.name)
    except FileNotFoundError:
        return f"{file.name} is missing."
    return "" if sha256 == file.sha256 else f"{file.name} is damaged: its SHA-256 is not the manifest's."


def _of_content(place: Place, manifest: Manifest) -> list[str]:
    found = Checksum(_table(manifest))
    try:
        for piece in read(place, manifest):
            found.add(piece)
    except ExportError as error:
        return [str(error)]
    if (found.rows, found.text()) != (manifest.rows, manifest.checksum):
        return [f"{manifest.table} {manifest.partition}: the files have other rows than the manifest says."]
    return []


def changed(db: QuestDB, manifest: Manifest) -> list[str]:
    """A sentence when the table has other rows of the partition now than were exported. Raises QuestDBError."""
    now = stored_checksum(db, _table(manifest), manifest.window)
    if (now.rows, now.text()) == (manifest.rows, manifest.checksum):
        return []
    return [
        f"{manifest.table} {manifest.partition} has changed since it was exported: {manifest.rows} rows then, {now.rows} "
        "now. `b3 export --again` exports it again."
    ]


def _table(manifest: Manifest) -> Table:
    from b3_pipeline.tables import TABLES

    try:
        return TABLES[manifest.table]
    except KeyError:
        raise ExportError(f"{manifest.table} is no table of this release.") from None


def read(place: Place, manifest: Manifest) -> Iterator[pa.Table]:
    """The rows of an export in the table's Arrow schema, by day, in pieces of bounded size; new columns are null.

    The files' hashes are not looked at: see `verify`. Raises ExportError for a file that is missing or cannot be read.
    """
    table = _table(manifest)
    for file in manifest.files:
        try:
            with place.open(file.name) as stream, parquet.ParquetFile(stream) as opened:
                for batch in opened.iter_batches(_ROWS_AT_ONCE):
                    yield _as_stored(table, pa.Table.from_batches([batch]))
        except FileNotFoundError:
            raise ExportError(f"{file.name} is missing.") from None
        except (pa.ArrowException, OSError) as error:
            raise ExportError(f"{file.name} cannot be read: {str(error).splitlines()[0]}") from None


def read_day(place: Place, manifest: Manifest, day: datetime) -> pa.Table:
    """The rows of an export of one UTC day, as `read` gives them, out of a file that has its SHA-256. Raises ExportError."""
    table, name = _table(manifest), _folder(_table(manifest), day) + "/"
    for file in manifest.files:
        if file.name.startswith(name):
            try:
                data = place.read(file.name)
            except FileNotFoundError:
                raise ExportError(f"{file.name} is missing.") from None
            if hashlib.sha256(data).hexdigest() != file.sha256:
                raise ExportError(f"{file.name} is damaged: its SHA-256 is not the manifest's.")
            return _as_stored(table, parquet.read_table(pa.BufferReader(data)))
    return table.arrow_schema().empty_table()


def _as_stored(table: Table, rows: pa.Table) -> pa.Table:
    """The rows of a file in the schema of a table. Raises ExportError when they have a column that it has not."""
    schema = table.arrow_schema()
    if unknown := sorted({*rows.column_names} - {*schema.names}):
        raise ExportError(f"An export of {table.name} has columns that it does not: {', '.join(unknown)}.")
    there = {*rows.column_names}
    columns: Iterable[Any] = (
        rows.column(f.name).cast(f.type) if f.name in there else pa.nulls(rows.num_rows, f.type) for f in schema
    )
    return pa.table(list(columns), schema=schema)

"""Whether the tables say what the LowDB files say: record against row, both ways, in bounded memory.

The records of a file go into tables of the moment, by the rules by which they would be loaded, and are compared there as of
one moment of the database. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from b3_pipeline.loading.load import quiet
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.lowdb.levelling import Parity
from b3_pipeline.lowdb.loading import batches, copy_rows, dangling, one_ahead, parts_of
from b3_pipeline.lowdb.migrating import files_of, require_files
from b3_pipeline.lowdb.model import Collection
from b3_pipeline.lowdb.reading import LowdbFile, collections_of
from b3_pipeline.lowdb.schema import ideas
from b3_pipeline.signals.hiding import without_tokens

#: As many records that differ are shown of each table.
SHOWN = 10
_BEGIN: LiteralString = "set transaction isolation level repeatable read; set local work_mem = '64MB'"


@dataclass
class TableParity(Parity):
    """A table beside its list in the file. `rejected` records are not compared: no table has them.

    `first` are those that differ, by id: `id`, `file` and `table`, which are rows or None.
    """

    rejected: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)

    def numbers(self) -> dict[str, int]:
        """Its numbers, for JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("first", "ids")}


def compare(dsn: str, folder: Path, progress: Callable[[int], None] = quiet) -> dict[str, TableParity]:
    """By table what the files of a folder and the tables say of one another; of a file that is not there nothing.

    Raises UsageError, IdeasError, FileRejected (a file is no LowDB file), PayloadChanged, OSError.
    """
    require_files(folder)
    found: dict[str, TableParity] = {}
    with ideas(dsn) as db:
        for each in files_of(folder):
            if each.payload is not None:
                found |= _compared(db, each.payload, progress)
    return found


def _compared(db: psycopg.Connection, payload: Payload, progress: Callable[[int], None]) -> dict[str, TableParity]:
    collections = collections_of(payload.name)
    parities = {each.table: TableParity() for each in collections}
    with db.transaction():
        db.execute(_BEGIN)
        for collection in collections:
            db.execute(_statements(collection)["given"])
        with payload.raw(progress) as stream:
            for batch in one_ahead(batches(LowdbFile(stream, payload.name, collections), collections)):
                copy_rows(db, batch)
                parities[batch.collection.table].rejected += len(batch.rejects)
        for collection in collections:
            _judge(db, collection, parities[collection.table])
    return parities


def _judge(db: psycopg.Connection, collection: Collection, parity: TableParity) -> None:
    for name in [each.name for each in collection.fields if each.refers_to]:
        parity.rejected += db.execute(dangling(collection, name, "given")).rowcount
    asked = _statements(collection)
    parity.source_keys = db.execute(asked["keys"]).fetchall()[0][0]
    for id, file, table, missing, extra, differing in db.execute(asked["differences"], (SHOWN,)):
        parity.missing, parity.extra, parity.different = missing, extra, differing - missing - extra
        parity.first.append(_without_tokens(_differing(id, file, table)))


def _differing(id: int, file: dict[str, Any] | None, table: dict[str, Any] | None) -> dict[str, Any]:
    """What differs of two rows; the whole one where there is only one."""
    if file is None or table is None:
        return {"id": id, "file": file, "table": table}
    names: Sequence[str] = [name for name, value in file.items() if value != table[name]]
    return {"id": id, "file": {n: file[n] for n in names}, "table": {n: table[n] for n in names}}


def _without_tokens(shown: Any) -> Any:
    """For people, logs and Dagster's pages: what may be a bot's token is hidden."""
    match shown:
        case str():
            return without_tokens(shown)
        case dict():
            return {without_tokens(name): _without_tokens(value) for name, value in shown.items()}
        case list():
            return [_without_tokens(value) for value in shown]
        case _:
            return shown


@cache
def _statements(collection: Collection) -> Mapping[str, sql.Composed]:
    return {name: sql.SQL(text).format(**parts_of(collection)) for name, text in _TEXTS.items()}


#: Of the records of one id the first counts.
_TEXTS: Mapping[str, LiteralString] = {
    "given": "create temporary table {given} on commit drop as select 0::bigint place, {columns} from {table} limit 0",
    "keys": "select count(distinct id) from {given}",
    "differences": "select id, to_jsonb(g), to_jsonb(t), count(*) filter (where t.id is null) over (), "
    "count(*) filter (where g.id is null) over (), count(*) over () "
    "from (select distinct on (id) {columns} from {given} order by id, place) g "
    "full join (select {columns} from {table}) t using (id) "
    "where g.id is null or t.id is null or ({t}) is distinct from ({g}) order by id limit %s",
}

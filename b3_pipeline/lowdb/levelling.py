"""Where the LowDB files and the tables differ, record by record; and one of them made what the other is.

For a step of the cutover, which holds all writes meanwhile: the files into the tables on the way forward, the tables into the
files on the way back. What is loaded for the first time, with its account and its rejects, goes by `loading.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from b3_pipeline.cutover.folder_backup import Stamp
from b3_pipeline.durable import replace_synced
from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.documents import NotJson, parsed, written
from b3_pipeline.lowdb.files import MAX_BYTES
from b3_pipeline.lowdb.model import COLLECTIONS, FILE_NAMES, SCHEMA, Collection, Record
from b3_pipeline.lowdb.reading import collections_of
from b3_pipeline.lowdb.schema import bound, ideas, identifiers
from b3_pipeline.settings import Settings

#: Rows that are fetched and put at once.
BATCH = 1_000
#: A file that goes into the tables is half as large as one may be: what they become has to fit into it again.
MOVED_BYTES = MAX_BYTES // 2
#: A file that is written while it is read is read so often.
ATTEMPTS = 5
_WHO: LiteralString = "select set_config('b3.who', %s, true)"


class NotLevel(B3Error):
    """The files and the tables do not say the same, although one was just made what the other is."""


class FileUnreadable(B3Error):
    """A LowDB file is there, and is none: nothing is written over it."""


class TooLarge(B3Error):
    """A LowDB file has more bytes than files may have, or would have: nothing is moved or written."""


@dataclass
class Parity:
    """A table beside its list in the files: `source_keys` records there, of which some are missing or different here.

    `extra` are rows that the files do not have, `ids` those of all that differ.
    """

    source_keys: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    ids: list[int] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether both say the same."""
        return not (self.missing or self.extra or self.different)

    def numbers(self) -> dict[str, int]:
        """Its part of a log."""
        return {name: getattr(self, name) for name in ("source_keys", "missing", "extra", "different")}


#: A record by its id as the files and as the tables have it; None where one has none.
Pair = tuple[int, Record | None, Record | None]


def folder_of(settings: Settings) -> Path:
    """The LowDB folder. Raises UsageError where there is none."""
    folder = settings.lowdb_dir
    if folder is None or not folder.is_dir():
        raise UsageError(
            f"The LowDB folder {folder or 'B3_LOWDB_DIR'} is {'not there' if folder else 'not set'}. Set B3_LOWDB_DIR to the "
            "folder with ideas.json and db.json; without one the tables are all there is, in every phase."
        )
    return folder.expanduser().absolute()


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files, by name. Raises UsageError for one that is not there, OSError."""
    if gone := [name for name in FILE_NAMES if not (folder / name).is_file()]:
        raise UsageError(f"{', '.join(gone)} is not in {folder}: is B3_LOWDB_DIR right?")
    return {name: _sha256((folder / name).read_bytes()) for name in FILE_NAMES}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Content:
    """A LowDB file as it was read at once; `stamp` and `sha256` are None where there was none.

    By table `records` are those that may be, in the order of ids, and `refused` the elements that are no such records, or
    have the id of an earlier one: neither API nor tables have them.
    """

    path: Path
    stamp: Stamp | None
    sha256: str | None
    document: Mapping[str, Any]
    records: Mapping[str, list[Record]]
    refused: Mapping[str, list[Any]]


def read(paths: Iterable[Path], most: int = MAX_BYTES) -> dict[str, Content]:
    """What LowDB's files hold, by name: `paths` are those of `FILE_NAMES`, or of copies, in that order.

    A file that is not there holds nothing yet. Raises TooLarge for one of more bytes than `most`, FileUnreadable, OSError.
    """
    return {name: _content(name, path, most) for name, path in zip(FILE_NAMES, paths, strict=True)}


def paths_of(folder: Path) -> list[Path]:
    """Where a folder has LowDB's files."""
    return [folder / name for name in FILE_NAMES]


def _content(name: str, path: Path, most: int) -> Content:
    stamp, data = _data(path, most)
    document = _document(name, data)
    records: dict[str, list[Record]] = {}
    refused: dict[str, list[Any]] = {}
    ids: dict[str, set[int]] = {}
    for collection in collections_of(name):
        allowed, refused[collection.table] = _sifted(collection, document.get(collection.member, []), ids)
        records[collection.table] = [allowed[id] for id in sorted(allowed)]
    return Content(path, stamp, None if data is None else _sha256(data), document, records, refused)


def _data(path: Path, most: int) -> tuple[Stamp | None, bytes | None]:
    """A file's bytes, all as of one stamp; None where there is none."""
    for _ in range(ATTEMPTS):
        stamp = Stamp.of(path)
        if stamp is None:
            return None, None
        _require_room(path.name, stamp.size, most)
        data = path.read_bytes()
        if Stamp.of(path) == stamp:
            return stamp, data
    raise FileUnreadable(f"{path.name} of LowDB is written again and again. Run the same command once more.")


def _require_room(name: str, size: int, most: int) -> None:
    if size > most:
        raise TooLarge(
            f"{name} of LowDB has or would have more than {most >> 20} MiB, too much to be moved to the tables and back. "
            "Nothing was changed. Delete what is no longer needed first."
        )


def _document(name: str, data: bytes | None) -> dict[str, Any]:
    """What a file holds; nothing yet where there is none."""
    try:
        document = {} if data is None else parsed(data)
    except NotJson as error:
        raise FileUnreadable(f"{name} of LowDB cannot be read: {error}. Put it right or move it away first.") from None
    lists = [collection.member for collection in collections_of(name)]
    if data is not None and not (isinstance(document, dict) and all(isinstance(document.get(m), list) for m in lists)):
        raise FileUnreadable(
            f"{name} of LowDB is no object with the lists {', '.join(lists)}. Put it right or move it away first."
        )
    return document


def _sifted(
    collection: Collection, given: Iterable[Any], ids: dict[str, set[int]]
) -> tuple[dict[int, Record], list[Any]]:
    """The elements of a list that may be records, by id, and those that are refused, as the ETL has it.

    `ids` are by table those of the records so far, to which these come.
    """
    allowed: dict[int, Record] = {}
    refused: list[Any] = []
    there = ids.setdefault(collection.table, set())
    for element in given:
        if (record := rules.allowed(collection, element, ids)) is None:
            refused.append(element)
        else:
            id = int(record[collection.id.name])
            allowed[id] = record
            there.add(id)
    return allowed, refused


def records_of(contents: Mapping[str, Content]) -> dict[str, list[Record]]:
    """By table the records of the files that may be, by id."""
    return {table: found for content in contents.values() for table, found in content.records.items()}


def parities(
    dsn: str, given: Mapping[str, list[Record]], only: Mapping[str, Set[int]] | None = None
) -> dict[str, Parity]:
    """By table what the files (`records_of`) and the tables say of one another, or of `only` these ids. Raises IdeasError."""
    with ideas(dsn) as db, db.transaction():
        return {
            c.table: _parity(pairs(db, c, given[c.table], None if only is None else only[c.table])) for c in COLLECTIONS
        }


def _parity(found: Iterable[Pair]) -> Parity:
    parity = Parity()
    for id, theirs, ours in found:
        parity.source_keys += theirs is not None
        if theirs is not None and ours is not None and rules.same(theirs, ours):
            continue
        parity.missing += ours is None
        parity.extra += theirs is None
        parity.different += theirs is not None and ours is not None
        parity.ids.append(id)
    return parity


def require_level(found: Mapping[str, Parity]) -> dict[str, dict[str, int]]:
    """The numbers, by table. Raises NotLevel where a table is not what the files say."""
    if wrong := [f"{table} ({parity.numbers()})" for table, parity in found.items() if not parity.ok]:
        raise NotLevel(f"The LowDB files and PostgreSQL do not say the same: {'; '.join(wrong)}.")
    return {table: parity.numbers() for table, parity in found.items()}


def pairs(
    db: psycopg.Connection, collection: Collection, given: Iterable[Record], only: Set[int] | None = None
) -> Iterator[Pair]:
    """The records of both sides by id, each id once, or of `only` these ids.

    `given` is in the order of ids; the tables are streamed.
    """
    theirs, ours = (
        (pair for pair in _by_id(collection, side) if only is None or pair[0] in only)
        for side in (given, rows(db, collection, only))
    )
    left, right = next(theirs, None), next(ours, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left[1], None
            left = next(theirs, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(ours, None)
        else:
            yield left[0], left[1], right[1]
            left, right = next(theirs, None), next(ours, None)


def _by_id(collection: Collection, records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
    return ((int(record[collection.id.name]), record) for record in records)


def rows(db: psycopg.Connection, collection: Collection, only: Set[int] | None = None) -> Iterator[Record]:
    """The records of a table by id, or of `only` these ids, streamed; within a transaction."""
    text = "select {} from {} where %(ids)s::bigint[] is null or id = any(%(ids)s) order by id"
    query = sql.SQL(text).format(identifiers(collection.columns), _table(collection))
    with db.cursor(f"all_{collection.table}", row_factory=dict_row) as cursor:
        cursor.itersize = BATCH
        for row in cursor.execute(query, {"ids": None if only is None else list(only)}):
            yield rules.of_row(collection, row)


def into_tables(dsn: str, contents: Mapping[str, Content], who: str) -> dict[str, int]:
    """Makes the tables what the files say (`read`), all or nothing; how many rows changed, by table. Raises IdeasError."""
    given, counters = records_of(contents), _counters_of(contents)
    with ideas(dsn) as db, db.transaction():
        db.execute(_WHO, (who,))
        changes = {c.table: _changes(db, c, given[c.table]) for c in COLLECTIONS}
        for collection in reversed(COLLECTIONS):
            gone = [(id,) for id, record in changes[collection.table].items() if record is None]
            _each(db, removing(collection), gone)
        for collection in COLLECTIONS:
            new = [record for record in changes[collection.table].values() if record is not None]
            _each(db, putting(collection), [bound(collection, record) for record in new])
            _count_on(db, collection, counters[collection.table])
        return {table: len(changed) for table, changed in changes.items()}


def _changes(db: psycopg.Connection, collection: Collection, given: Iterable[Record]) -> dict[int, Record | None]:
    return {
        id: theirs
        for id, theirs, ours in pairs(db, collection, given)
        if theirs is None or ours is None or not rules.same(theirs, ours)
    }


def _each(db: psycopg.Connection, statement: sql.Composed, values: list[Any]) -> None:
    if values:
        with db.cursor() as cursor:
            cursor.executemany(statement, values)


def _count_on(db: psycopg.Connection, collection: Collection, following: int) -> None:
    """The next id of a table is none that the files have given, or would have given."""
    query = sql.SQL(
        "select setval({name}, greatest(%s, last_value + is_called::int, (select max(id) + 1 from {table})), false) "
        "from {sequence}"
    )
    sequence = sql.Identifier(SCHEMA, f"{collection.table}_id_seq")
    name = sql.Literal(f"{SCHEMA}.{collection.table}_id_seq")
    db.execute(query.format(name=name, table=_table(collection), sequence=sequence), (following,))


def _counters_of(contents: Mapping[str, Content]) -> dict[str, int]:
    """By table the id that comes next by its file's counter; 1 where there is none."""
    counters = {c.table: contents[c.file].document.get(c.counter) if c.counter else None for c in COLLECTIONS}
    return {table: value if isinstance(value, int) else 1 for table, value in counters.items()}


@dataclass(frozen=True)
class Draft:
    """What a file is to be; `lost` are how many of its refused elements cannot stay."""

    data: bytes
    lost: int


def drafts(dsn: str, contents: Mapping[str, Content]) -> dict[str, Draft]:
    """By name what the files are to be so that they say what the tables do: nothing is written.

    Members of theirs that we do not know stay, and so do refused elements, behind the records, while they are refused still.
    Raises IdeasError, TooLarge.
    """
    with ideas(dsn) as db, db.transaction():
        return {name: _draft(db, name, content) for name, content in contents.items()}


def _draft(db: psycopg.Connection, name: str, content: Content) -> Draft:
    document, size, lost = dict(content.document), 0, 0
    ids: dict[str, set[int]] = {}
    for collection in collections_of(name):
        records: list[Record] = []
        for record in rows(db, collection):
            size += len(json.dumps(record, ensure_ascii=False))
            _require_room(name, size, MAX_BYTES)  # before it fills the memory
            records.append(record)
        ids[collection.table] = {id for id, _record in _by_id(collection, records)}
        refused = content.refused[collection.table]
        kept = [element for element in refused if rules.allowed(collection, element, ids) is None]
        lost += len(refused) - len(kept)
        document[collection.member] = [*records, *kept]
        if collection.counter:
            document[collection.counter] = _following(db, collection)
    data = written(document)
    _require_room(name, len(data), MAX_BYTES)
    return Draft(data, lost)


def into_files(dsn: str, contents: Mapping[str, Content], done: Callable[[str], object] = lambda _name: None) -> None:
    """Makes the files what the tables say (`drafts`), each whole and at once, while they are as they were read.

    `done` is told each file. Raises IdeasError, TooLarge, NotLevel where somebody else has written one, OSError: then that
    file is as it was.
    """
    for name, draft in drafts(dsn, contents).items():
        content = contents[name]
        if Stamp.of(content.path) != content.stamp:
            raise NotLevel(f"Somebody else has written {name} meanwhile: stop him, then run the same command again.")
        if content.sha256 != _sha256(draft.data):
            replace_synced(content.path, draft.data)
        done(name)


def _following(db: psycopg.Connection, collection: Collection) -> int:
    sequence = sql.Identifier(SCHEMA, f"{collection.table}_id_seq")
    [(following,)] = db.execute(sql.SQL("select last_value + is_called::int from {}").format(sequence)).fetchall()
    return following


@cache
def putting(collection: Collection) -> sql.Composed:
    """The statement that puts a record in its place, under its own id; the same again changes nothing."""
    columns = collection.columns
    others = [sql.Identifier(name) for name in columns[1:]]
    given, kept = (
        sql.SQL(", ").join(sql.Identifier(side) + sql.SQL(".") + o for o in others) for side in ("excluded", "kept")
    )
    return sql.SQL(
        "insert into {table} as kept ({names}) values ({values}) on conflict (id) do update set ({others}) = row({given}) "
        "where ({kept}) is distinct from ({given})"
    ).format(
        table=_table(collection),
        names=identifiers(collection.columns),
        values=sql.SQL(", ").join(map(sql.Placeholder, columns)),
        others=sql.SQL(", ").join(others),
        given=given,
        kept=kept,
    )


@cache
def removing(collection: Collection) -> sql.Composed:
    """The statement that takes the record of an id away."""
    return sql.SQL("delete from {} where id = %s").format(_table(collection))


def _table(collection: Collection) -> sql.Identifier:
    return sql.Identifier(SCHEMA, collection.table)

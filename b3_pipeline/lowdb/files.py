"""The collections as LowDB's own JSON files: the same rules, ids and answers as the tables, and files that LowDB reads on.

A change rewrites its file whole, under a lock of the folder, and replaces it at once; whoever else changes a file is seen by
its stamp, also right before it is replaced. Records that may not be (the ETL rejects them) are answered by nobody, and stay in the file as they are.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from b3_pipeline.cutover.folder_backup import Stamp
from b3_pipeline.durable import replace_synced
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.documents import NotJson, parsed, written
from b3_pipeline.lowdb.model import COLLECTIONS, Collection, Kind, Record
from b3_pipeline.lowdb.store import (
    Asked,
    Change,
    Changed,
    NoHistory,
    NoSuchRecord,
    Refused,
    Store,
    StoreAway,
    Stored,
    changed,
    filters_of,
    id_member,
    in_order,
    matches,
    new,
    searched,
)

LOCK = ".lowdb.lock"
#: Who waits for another's change longer gets a clear answer.
LOCK_S = 5.0
#: A file is read whole: one that is larger is for the tables.
MAX_BYTES = 256 << 20
#: So often a change is made on what another program has just written.
ATTEMPTS = 5
_BUSY = "The files of LowDB are held by somebody else for too long."
_WHOLE = re.compile("[0-9]{1,18}")


class _WrittenMeanwhile(Exception):
    """Another program has written the file since it was read."""


class _Placed(NamedTuple):
    """A record that may be, and where it stands in its list."""

    position: int
    record: Record


@dataclass(frozen=True)
class _Content:
    """A file as it was at a stamp: all of it, and by table and id the records that may be."""

    stamp: Stamp | None
    document: Mapping[str, Any]
    records: Mapping[str, Mapping[int, _Placed]]

    def placed(self, collection: Collection, id: int) -> _Placed:
        """A record. Raises NoSuchRecord."""
        try:
            return self.records[collection.table][id]
        except KeyError:
            raise NoSuchRecord(f"There is no {id} among the {collection.what}.") from None


class Files(Store):
    """The files of a LowDB folder. `clock` gives the present, aware UTC. A file that cannot be read or written: StoreAway.

    The files do not say who has changed them.
    """

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        self._folder, self._clock = folder, clock
        self._known: dict[str, _Content] = {}
        self._turn = threading.Lock()  # threads of this process wait for one another without asking the disk
        self._changing = ThreadPoolExecutor(1, "lowdb-files")  # who waits for the lock is in no reader's way

    @contextmanager
    def held(self, until: float | None = None) -> Iterator[None]:
        """Nobody who asks through this class changes a file meanwhile. Raises StoreAway.

        It is waited for until a moment (monotonic seconds), by default for `LOCK_S`.
        """
        deadline = time.monotonic() + LOCK_S if until is None else until
        lock = FileLock(self._folder / LOCK)
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise StoreAway(_BUSY)
        try:
            self._require_folder()
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=0.01)
            yield
        except Timeout:
            raise StoreAway(_BUSY) from None
        except OSError as error:
            raise StoreAway(f"The files of LowDB cannot be changed: {error.strerror}.") from None
        finally:
            lock.release()
            self._turn.release()

    @property
    def as_of(self) -> None:
        return None

    async def page(self, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
        return await asyncio.to_thread(self._page, collection, asked)

    async def counts(self, collection: Collection, member: str, asked: Asked) -> dict[str, int]:
        return await asyncio.to_thread(self._counts, collection, member, asked)

    async def get(self, collection: Collection, id: int) -> Stored:
        return await asyncio.to_thread(self._get, collection, id)

    async def create(self, collection: Collection, record: Mapping[str, Any], who: str) -> Stored:  # noqa: ARG002
        return await self._changed(self._create, collection, record)

    async def replace(
        self,
        collection: Collection,
        id: int,
        record: Mapping[str, Any],
        match: str | None,
        who: str,  # noqa: ARG002
    ) -> Stored:
        return await self._changed(self._replace, collection, id, record, match)

    async def remove(self, collection: Collection, id: int, match: str | None, who: str) -> Stored:  # noqa: ARG002
        return await self._changed(self._remove, collection, id, match)

    async def history(self, idea_id: int, limit: int) -> list[Change]:  # noqa: ARG002
        raise NoHistory("The files of LowDB keep no history: it begins when the ideas are in PostgreSQL.")

    async def records(self, collection: Collection) -> AsyncIterator[Record]:
        for record in await asyncio.to_thread(self._sorted, collection):
            yield record

    def _page(self, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
        found = list(self._found(collection, asked))
        total = len(found) if asked.count_to is None else min(len(found), asked.count_to + 1)
        return [Stored(record) for record in found[asked.offset : asked.offset + asked.limit]], total

    def _counts(self, collection: Collection, member: str, asked: Asked) -> dict[str, int]:
        counts: dict[str, int] = {}
        for record in self._found(collection, asked):
            counts[str(record[member])] = counts.get(str(record[member]), 0) + 1
        return in_order(collection.field(member), counts)

    def _found(self, collection: Collection, asked: Asked) -> Iterator[Record]:
        filters = [(filters_of(collection)[name], value) for name, value in asked.filters.items()]
        words, texts = rules.words(asked.search or ""), searched(collection)
        for record in self._sorted(collection):
            if all(
                value in record[field.name] if field.kind is Kind.TAGS else record[field.name] == value
                for field, value in filters
            ) and (not words or rules.found(words, " ".join(record[field.name] for field in texts))):
                yield record

    def _sorted(self, collection: Collection) -> list[Record]:
        records = self._content(collection).records[collection.table]
        return [records[id].record for id in sorted(records)]

    def _get(self, collection: Collection, id: int) -> Stored:
        return Stored(self._content(collection).placed(collection, id).record)

    async def _changed(self, change: Callable[..., Stored], *given: Any) -> Stored:
        """Makes a change while the files are held, in its turn."""
        until = time.monotonic() + LOCK_S

        def alone() -> Stored:
            with self.held(until):
                for _ in range(ATTEMPTS):
                    with suppress(_WrittenMeanwhile):
                        return change(*given)
            raise StoreAway("The files of LowDB are written by another program all the time.")

        return await asyncio.get_running_loop().run_in_executor(self._changing, alone)

    def _create(self, collection: Collection, given: Mapping[str, Any]) -> Stored:
        content = self._content(collection)
        id = _next_id(collection, content.document)
        record = {**new(collection, given, self._clock()), **id_member(collection, id)}
        _require_references(collection, content, record)
        counter = {collection.counter: id + 1} if collection.counter else {}
        self._put(collection, content, {collection.member: [*content.document[collection.member], record], **counter})
        return Stored(record)

    def _replace(self, collection: Collection, id: int, given: Mapping[str, Any], match: str | None) -> Stored:
        content, before = self._held(collection, id, match)
        after = Stored(changed(collection, before.record, given, self._clock()))
        if after.etag != before.etag:
            _require_references(collection, content, after.record)
            records = list(content.document[collection.member])
            records[content.placed(collection, id).position] = after.record
            self._put(collection, content, {collection.member: records})
        return after

    def _remove(self, collection: Collection, id: int, match: str | None) -> Stored:
        content, before = self._held(collection, id, match)
        self._put(collection, content, _without(collection, content.document, id))
        return before

    def _held(self, collection: Collection, id: int, match: str | None) -> tuple[_Content, Stored]:
        """What stands while the lock is held. Raises NoSuchRecord, Changed."""
        content = self._content(collection)
        found = Stored(content.placed(collection, id).record)
        if match is not None and not matches(match, found.etag):
            raise Changed(found)
        return content, found

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise StoreAway("The folder of LowDB's files is not there: see B3_LOWDB_DIR.")

    def _content(self, collection: Collection) -> _Content:
        """The collection's file as it is now; read again when it is another one than before."""
        path, known = self._folder / collection.file, self._known.get(collection.file)
        try:
            stamp = Stamp.of(path)
            if stamp is None:
                self._require_folder()
            if known is None or known.stamp != stamp:
                known = self._known[collection.file] = _read(path, stamp)
        except OSError as error:
            raise StoreAway(f"{collection.file} of LowDB cannot be read: {error.strerror}.") from None
        except NotJson as error:
            raise StoreAway(f"{collection.file} of LowDB is damaged: {error}.") from None
        return known

    def _put(self, collection: Collection, content: _Content, members: Mapping[str, Any]) -> None:
        """Writes the file with other members, as LowDB's applications write it. Raises _WrittenMeanwhile."""
        path = self._folder / collection.file

        def still_the_same() -> None:
            if Stamp.of(path) != content.stamp:
                raise _WrittenMeanwhile

        try:
            replace_synced(path, written({**content.document, **members}), still_the_same)
        except OSError as error:
            raise StoreAway(f"{collection.file} of LowDB cannot be written: {error.strerror}.") from None


def _read(path: Path, stamp: Stamp | None) -> _Content:
    """What is in a file; a file that is not there has no records yet. Raises OSError, NotJson."""
    there = [collection for collection in COLLECTIONS if collection.file == path.name]
    if stamp is None:
        document = {collection.member: [] for collection in there}
    elif stamp.size > MAX_BYTES:
        raise NotJson(f"it has more than {MAX_BYTES >> 20} MiB")
    else:
        document = parsed(path.read_bytes())
    if not isinstance(document, dict) or any(not isinstance(document.get(c.member), list) for c in there):
        raise NotJson(f"it is no object with the lists {', '.join(c.member for c in there)}")
    records: dict[str, dict[int, _Placed]] = {}
    for collection in there:
        records[collection.table] = _records(collection, document[collection.member], records)
    return _Content(stamp, document, records)


def _records(
    collection: Collection, given: list[Any], earlier: Mapping[str, Mapping[int, _Placed]]
) -> dict[int, _Placed]:
    """The records that may be, as the ETL has it: of one id the first stands, and what is referred to is there."""
    found: dict[int, _Placed] = {}
    there = {**earlier, collection.table: found}
    for position, each in enumerate(given):
        if (record := rules.allowed(collection, each, there)) is not None:
            found[int(record[collection.id.name])] = _Placed(position, record)
    return found


def _require_references(collection: Collection, content: _Content, record: Record) -> None:
    if rules.dangles(collection, record, content.records):
        raise Refused("It refers to an idea that is not there.")


def _next_id(collection: Collection, document: Mapping[str, Any]) -> int:
    """The id that comes next: never one that the file has, also of a record that may not be."""
    ids = [str(each.get(collection.id.name)) for each in document[collection.member] if isinstance(each, dict)]
    counter = document.get(collection.counter) if collection.counter else None
    highest = max((int(id) for id in ids if _WHOLE.fullmatch(id)), default=0)
    return max(highest + 1, counter if isinstance(counter, int) else 1)


def _without(collection: Collection, document: Mapping[str, Any], id: int) -> dict[str, Any]:
    """The lists that change when all records of an id go, and those that refer to it."""
    changed = {collection.member: _others(document[collection.member], collection.id.name, id)}
    for other in COLLECTIONS:
        for field in other.fields:
            if field.refers_to == collection.table:
                changed[other.member] = _others(document[other.member], field.name, id)
    return changed


def _others(records: list[Any], name: str, id: int) -> list[Any]:
    return [each for each in records if not isinstance(each, dict) or str(each.get(name)) != str(id)]

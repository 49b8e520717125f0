"""What a store of the LowDB collections does, whoever keeps them: tables or files. The API and the pages ask this alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from b3_pipeline.errors import B3Error
from b3_pipeline.lowdb import rules
from b3_pipeline.lowdb.model import Collection, Field, Kind, Record

#: Under this name one tag of a list of them is asked for.
TAG = "tag"


class StoreAway(B3Error):
    """The store does not answer, or not in time, or takes no changes now. What was asked for may be asked again."""


class Busy(StoreAway):
    """The store is there, and does not answer this question: in its time, for so many, or for this user."""


class NoSuchRecord(B3Error):
    """There is no record with this id."""


class NoHistory(B3Error):
    """This store keeps no history."""


class Refused(B3Error):
    """The record is well formed, and still cannot be stored: it refers to what is not there."""


class Changed(B3Error):
    """Somebody else has changed the record since: `current` is what it is now."""

    def __init__(self, current: Stored) -> None:
        super().__init__("Somebody else has changed it since.")
        self.current = current


@dataclass(frozen=True)
class Stored:
    """A record as it is stored, in canonical form."""

    record: Record

    @cached_property
    def etag(self) -> str:
        """Its strong ETag (quoted), which is the same in every store."""
        return rules.etag(self.record)


@dataclass(frozen=True)
class Asked:
    """Which records, by id: `filters` by the names of `filters_of`, all of which must hold; `search` by `rules.words`.

    How many there are in all is counted no further than to `count_to` and one, where that is given: counting takes longer
    than a page.
    """

    limit: int = 20
    offset: int = 0
    filters: Mapping[str, str] = field(default_factory=dict)
    search: str | None = None
    count_to: int | None = None


@dataclass(frozen=True)
class Change:
    """An entry of the history: who (`who`) did what (insert, update or delete), when (aware UTC), the record before and after."""

    id: int
    at: datetime
    who: str
    action: str
    before: Record | None
    after: Record | None


class Store(Protocol):
    """Keeps records by collection. Every method raises StoreAway; those that change something say by whom (`who`).

    `match` is an If-Match header: the change is made only where the stored ETag is among it, else Changed is raised; None:
    whatever is stored. Records that are given need neither id nor stamps: the store gives them. A record that may not be
    stored raises BadRecord (`rules`) or Refused.
    """

    @property
    def as_of(self) -> datetime | None:
        """The moment (aware UTC) that answers are as of while they are older than they should be; None: they are not."""
        ...

    async def page(self, collection: Collection, asked: Asked) -> tuple[list[Stored], int]:
        """The records that are asked for, by id, and how many there are beyond limit and offset (see `Asked.count_to`)."""
        ...

    async def counts(self, collection: Collection, member: str, asked: Asked) -> dict[str, int]:
        """How many records there are by the value of a member, in the order of its values; limit and offset do not count."""
        ...

    async def get(self, collection: Collection, id: int) -> Stored:
        """A record. Raises NoSuchRecord."""
        ...

    async def current(self, collection: Collection, id: int) -> Stored:
        """A record for who is about to change it: of the store that takes changes, never an older one. Raises NoSuchRecord."""
        return await self.get(collection, id)

    async def create(self, collection: Collection, record: Mapping[str, Any], who: str) -> Stored:
        """Adds a record under an id of its own. Raises BadRecord, Refused."""
        ...

    async def replace(
        self, collection: Collection, id: int, record: Mapping[str, Any], match: str | None, who: str
    ) -> Stored:
        """Puts a record in the place of another. The same content again changes nothing, its stamp included.

        Raises NoSuchRecord, Changed, BadRecord, Refused.
        """
        ...

    async def remove(self, collection: Collection, id: int, match: str | None, who: str) -> Stored:
        """Takes a record away, with all that refer to it, and returns it. Raises NoSuchRecord, Changed."""
        ...

    async def history(self, idea_id: int, limit: int) -> list[Change]:
        """The changes of an idea (`model.IDEAS`), newest first; also of one that is gone. Raises NoSuchRecord, NoHistory."""
        ...

    def records(self, collection: Collection) -> AsyncIterator[Record]:
        """All records by id, streamed, as of one moment."""
        ...


def filters_of(collection: Collection) -> dict[str, Field]:
    """What records may be asked for by: the name of each filter, and the field that it looks at."""
    return {
        TAG if field.kind is Kind.TAGS else field.name: field
        for field in collection.fields
        if field.kind in (Kind.CHOICE, Kind.TAGS) or field.refers_to or field.name == "status"
    }


def searched(collection: Collection) -> tuple[Field, ...]:
    """The fields whose words a search looks at: the texts that people write."""
    names = ("title", "description", "name", "shortName", "original_name")
    return tuple(field for field in collection.fields if field.name in names)


def matches(match: str, etag: str) -> bool:
    """Whether an If-Match names a strong ETag, or anything (`*`)."""
    return any(one.strip() in (etag, "*") for one in match.split(","))


def in_order(field: Field, counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by value: of a choice every one in its order, also those that nothing has; else by the alphabet."""
    return {value: counts.get(value, 0) for value in field.choices or sorted(counts)}


def new(collection: Collection, given: Mapping[str, Any], now: datetime) -> Record:
    """A record that is yet to get its id (`id_member`; here it has 1), stamped. Raises BadRecord."""
    return _checked(collection, given, 1, {collection.created: _stamp(now), collection.updated: None})


def changed(collection: Collection, before: Record, given: Mapping[str, Any], now: datetime) -> Record:
    """What takes the place of a record: the same id, stamped; equal to it where nothing else is new. Raises BadRecord."""
    id, kept = before[collection.id.name], {name: before.get(name or "") for name in _stamps(collection)}
    after = _checked(collection, given, id, kept)
    if collection.updated is None or rules.same(before, after):
        return after
    return _checked(collection, given, id, {**kept, collection.updated: _stamp(now)})


def _stamps(collection: Collection) -> tuple[str | None, ...]:
    return collection.created, collection.updated


def _checked(
    collection: Collection, given: Mapping[str, Any], id: object, stamps: Mapping[str | None, object]
) -> Record:
    written = {name: value for name, value in stamps.items() if name}
    return rules.checked(collection, {**given, **written, **id_member(collection, id)})


def _stamp(now: datetime) -> str:
    """A moment as LowDB's applications write it: whole milliseconds."""
    return rules.moment_text(now.replace(microsecond=now.microsecond // 1_000 * 1_000))


def id_member(collection: Collection, id: object) -> Record:
    """The member that tells a record apart, as JSON has it: text for ideas, else a number."""
    number = int(str(id))
    return {collection.id.name: str(number) if collection.id.kind is Kind.TEXT_ID else number}

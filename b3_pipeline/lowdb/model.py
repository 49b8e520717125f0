"""What the LowDB stores hold: each collection's file, fields and rules, and the table that it becomes. Written once.

Source of the format: `FORMATS.md` §6. A record is a dict of the clients' members (`Record`); in PostgreSQL it is a row of
`Collection.table` in the schema `SCHEMA`. Members that no field names are kept, in the column `extra`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

#: The schema in PostgreSQL, and the domain of the phases.
SCHEMA = DOMAIN = "ideas"
#: A record as clients see it and as the files have it: members in the order of `Collection.fields`, then what is extra.
Record: TypeAlias = dict[str, Any]


class Kind(StrEnum):
    """How a member is written and stored."""

    TEXT_ID = "text_id"  # a whole number from 1 on; as text in JSON, bigint in PostgreSQL
    ID = "id"  # the same, as a number in JSON
    TITLE = "title"  # a text that is not blank, one line
    TEXT = "text"  # any text
    CHOICE = "choice"  # one of `Field.choices`
    TAGS = "tags"  # a list of texts, in order; text[] in PostgreSQL
    MOMENT = "moment"  # ISO 8601 with a zone; timestamptz. Written as 2025-09-21T08:54:00.000Z
    WHOLE = "whole"  # a whole number within `Field.low` and `Field.high`


@dataclass(frozen=True)
class Field:
    """A member of a record (`name`) and its column. Of one that is not `required`, null and missing are the same."""

    name: str
    column: str
    kind: Kind
    required: bool = True
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = 2**63 - 1
    refers_to: str | None = None  # the table whose id it is
    longest: int = 100_000  # characters of a text


@dataclass(frozen=True)
class Collection:
    """A list of records: `member` of the LowDB file `file`; in PostgreSQL `table`; in the API `/api/v1/<route>`.

    `counter` is the member of the file with the id that comes next; without one it is the highest id and one more.
    `created` and `updated` are the fields that the service stamps, where there are any.
    """

    table: str
    file: str
    member: str
    route: str
    what: str
    fields: tuple[Field, ...]
    counter: str | None = None
    created: str | None = None
    updated: str | None = None

    def field(self, name: str) -> Field:
        """The field of a member. Raises KeyError."""
        return next(field for field in self.fields if field.name == name)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its table that a record fills: those of its fields, then `extra`."""
        return (*(field.column for field in self.fields), "extra")

    @property
    def id(self) -> Field:
        """The field that tells records apart: always the first."""
        return self.fields[0]


CATEGORIES = ("documentacao", "coleta-dados", "banco-dados", "analise-dados", "gestao-riscos", "dashboard")
PRIORITIES = ("low", "medium", "high", "critical")
#: In the order of the board.
STATUSES = ("new", "review", "in-progress", "completed", "rejected")

_IDEA = (
    Field("id", "id", Kind.TEXT_ID, low=1),
    Field("title", "title", Kind.TITLE, longest=500),
    Field("description", "description", Kind.TEXT),
    Field("category", "category", Kind.CHOICE, choices=CATEGORIES),
    Field("priority", "priority", Kind.CHOICE, choices=PRIORITIES),
    Field("status", "status", Kind.CHOICE, choices=STATUSES),
    Field("tags", "tags", Kind.TAGS, longest=100),
    Field("createdAt", "created_at", Kind.MOMENT),
    Field("updatedAt", "updated_at", Kind.MOMENT, required=False),
)
IDEAS = Collection(
    "ideas", "ideas.json", "ideas", "ideas", "ideas of the idea bank", _IDEA, created="createdAt", updated="updatedAt"
)
SYSTEMS = Collection(
    "documentation_systems",
    "db.json",
    "systems",
    "systems",
    "documented systems",
    (
        Field("id", "id", Kind.ID, low=1),
        Field("name", "name", Kind.TITLE, longest=500),
        Field("shortName", "short_name", Kind.TITLE, longest=100),
        Field("port", "port", Kind.WHOLE, low=1, high=65_535),
        Field("status", "status", Kind.TITLE, longest=100),
        Field("color", "color", Kind.TEXT, longest=100),
        Field("icon", "icon", Kind.TEXT, longest=100),
    ),
    counter="nextSystemId",
)
DOCUMENTATION_IDEAS = Collection(
    "documentation_ideas",
    "db.json",
    "ideas",
    "documentation-ideas",
    "ideas on the documentation",
    _IDEA,
    counter="nextId",
    created="createdAt",
    updated="updatedAt",
)
LINKS = Collection(
    "documentation_links",
    "db.json",
    "links",
    "links",
    "links of documentation ideas",
    (
        Field("id", "id", Kind.ID, low=1),
        Field("idea_id", "idea_id", Kind.TEXT_ID, low=1, refers_to="documentation_ideas"),
        Field("url", "url", Kind.TITLE, longest=2_000),
        Field("title", "title", Kind.TITLE, longest=500),
    ),
    counter="nextLinkId",
)
FILES = Collection(
    "documentation_files",
    "db.json",
    "files",
    "files",
    "files of documentation ideas (what is known of them, not their content)",
    (
        Field("id", "id", Kind.ID, low=1),
        Field("idea_id", "idea_id", Kind.TEXT_ID, low=1, refers_to="documentation_ideas"),
        Field("filename", "filename", Kind.TITLE, longest=500),
        Field("original_name", "original_name", Kind.TITLE, longest=500),
        Field("mime_type", "mime_type", Kind.TITLE, longest=200),
        Field("size", "size", Kind.WHOLE),
    ),
    counter="nextFileId",
)
#: Each after those that it refers to.
COLLECTIONS: tuple[Collection, ...] = (IDEAS, SYSTEMS, DOCUMENTATION_IDEAS, LINKS, FILES)
BY_TABLE: Mapping[str, Collection] = {collection.table: collection for collection in COLLECTIONS}
BY_ROUTE: Mapping[str, Collection] = {collection.route: collection for collection in COLLECTIONS}
#: The files of a LowDB folder.
FILE_NAMES: tuple[str, ...] = tuple(dict.fromkeys(collection.file for collection in COLLECTIONS))

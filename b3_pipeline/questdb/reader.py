"""Asking QuestDB as the user who may only read: one SELECT a call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, LiteralString, cast

from b3_pipeline.errors import UsageError
from b3_pipeline.questdb.client import Address, QuestDB

# The read-only user may still COPY a table to disk, so only what reads is let through.
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(select|with|declare|show|explain)\b", re.IGNORECASE | re.DOTALL)

_QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_WRITES = re.compile(
    r"\b(insert|update|delete|truncate|drop|alter|create|rename|copy|backup|checkpoint|vacuum|reindex|grant|revoke)\b",
    re.IGNORECASE,
)


@contextmanager
def reading(address: Address, query: str) -> Iterator[tuple[list[str], Iterator[tuple[Any, ...]]]]:
    """Column names and rows of one SELECT; TIMESTAMPs are naive UTC. The rows come as they are asked for in the block.

    Raises UsageError for anything else, and for several statements at once; QuestDBError when the server refuses it.
    """
    query = query.strip().removesuffix(";")
    if not _READS.match(query):
        raise UsageError("Only SELECT (or SHOW, EXPLAIN) may be asked here.")
    bare = _QUOTED.sub(" ", query)
    if ";" in bare:
        raise UsageError("One statement at a time, please.")
    if word := _WRITES.search(bare):  # a CTE may lead to an UPDATE, and a server of one's own has one user for all
        raise UsageError(f"Only what reads may be asked here; put a name like {word[0]} into double quotes.")
    as_reader = replace(address, user=address.reader, password=address.reader_password)
    with QuestDB(as_reader) as db, db.stream(cast(LiteralString, query)) as (columns, rows):
        yield columns or db.table(cast(LiteralString, query))[0], rows

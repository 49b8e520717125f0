"""Answers of the ideas' routes: their bytes, tags and age, and what a store's errors are as problems."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.ideas import documents
from b3_pipeline.api.ideas.documents import envelope
from b3_pipeline.api.problems import Problem
from b3_pipeline.api.v1 import answers
from b3_pipeline.api.v1.errors import RETRY_AFTER_S
from b3_pipeline.lowdb.model import Collection, Field, Record
from b3_pipeline.lowdb.rules import BadRecord, Fault
from b3_pipeline.lowdb.store import Changed, NoHistory, NoSuchRecord, Refused, Store, StoreAway, Stored, matches

#: So many records are written at once: handing them to a thread would take longer.
FEW = 100


async def answered(
    request: Request,
    store: Store,
    document: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    tag: str | None = None,
) -> Response:
    """The document, or 304 for a client that has it; says how old it is where it is not as new as it should be."""
    few = document.get("count", 1) <= FEW
    since, body = store.as_of, _bytes(document) if few else await asyncio.to_thread(_bytes, document)
    aged: dict[str, str] = {}
    if since is not None:
        age = request.app.state.service.now() - since
        aged = {"Age": str(max(0, round(age.total_seconds()))), "Warning": answers.STALE}
    tag = tag or answers.tag_of(body)
    return answers.answer(body, tag, request.headers.get("if-none-match"), {**(headers or {}), **aged})


def changed_answer(stored: Stored, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """The record after a change (removed: before it), with its tag."""
    every = {"ETag": stored.etag, "Cache-Control": "no-cache", **(headers or {})}
    return Response(_bytes(envelope(stored.record)), status, every, answers.MEDIA_TYPE)


def _bytes(document: Mapping[str, Any]) -> bytes:
    """As JSON; by the standard library, for a member that no field names may be a whole number of any size."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def fresh(match: str | None, current: Stored) -> None:
    """Raises Changed unless the record is one of those that an If-Match names."""
    if match is not None and not matches(match, current.etag):
        raise Changed(current)


def with_given(collection: Collection, before: Record, given: Mapping[str, Any]) -> Record:
    """A record with what a client gives put over it; what the service gives stays."""
    service = {collection.id.name, collection.created, collection.updated}
    return before | {name: value for name, value in given.items() if name not in service}


@contextmanager
def problems_told(collection: Collection | None = None) -> Iterator[None]:
    """Raises a store's errors as Problem; `collection` is the one that a record was sent for."""
    try:
        yield
    except NoSuchRecord as error:
        raise Problem(404, str(error)) from None
    except NoHistory as error:
        raise Problem(404, str(error)) from None
    except Refused as error:
        raise Problem(409, str(error)) from None
    except Changed as error:
        now = error.current
        raise Problem(412, str(error), {"ETag": now.etag}, current=now.record) from None
    except BadRecord as error:
        assert collection, "a record was sent"
        raise _bad(collection, error.faults) from None
    except StoreAway as error:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
        raise Problem(503, str(error), headers, retry_after_s=RETRY_AFTER_S) from None


def _bad(collection: Collection, faults: list[Fault]) -> Problem:
    """Every member that is wrong, why, and what it may be."""
    fields = {f"/{field.name}": field for field in collection.fields}
    errors = [
        {
            "parameter": fault.pointer[1:61] or "body",
            "problem": fault.message,
            "allowed": _allowed(fields, fault.pointer),
            "reason": fault.reason,
        }
        for fault in faults[:50]
    ]
    said = " ".join(f"{error['parameter']}: {error['problem']}" for error in errors[:5])
    return Problem(400, said.encode("utf-8", "replace").decode(), errors=errors)


def _allowed(fields: Mapping[str, Field], pointer: str) -> str:
    if not pointer:
        return documents.WHOLE_ALLOWED
    return documents.allowed(fields[pointer]) if pointer in fields else "any JSON"

"""Answers as bytes: their validators, their age where QuestDB is away, and what is left out when a client has it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from b3_pipeline.api.sharing import Answer

MEDIA_TYPE = "application/json"
#: The answer is older than it should be, for its source is away (RFC 9111 §5.5, an old header, and the one that says it).
STALE = '110 - "Response is Stale"'


def aged(answer: Answer[Any]) -> dict[str, str]:
    """The headers that say how old an answer is; none where it is as new as it should be."""
    if not (answer.stale or answer.late):
        return {}
    return {"Age": str(round(answer.age_s)), **({"Warning": STALE} if answer.stale else {})}


def tag_of(data: bytes) -> str:
    """The entity tag of an answer whose content is these bytes.

    It is a weak one: a document may have been made anew since, with other ages and the same data.
    """
    return f'W/"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'


def known(given: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` names the tag (or anything); compared weakly, as RFC 9110 has it."""
    if not given:
        return False
    bare = tag.removeprefix("W/")
    return any(one.strip().removeprefix("W/") in (bare, "*") for one in given.split(","))


def answer(body: bytes, tag: str, if_none_match: str | None, headers: Mapping[str, str]) -> Response:
    """The body, or 304 for a client that has it."""
    every = {"ETag": tag, "Cache-Control": "no-cache", **headers}
    if known(if_none_match, tag):
        return Response(status_code=304, headers=every)
    return Response(body, media_type=MEDIA_TYPE, headers=every)

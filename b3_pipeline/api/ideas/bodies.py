"""What is sent with a change: its body, who makes it, and what its sender has seen."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.requests import Request

from b3_pipeline.api.problems import Problem
from b3_pipeline.lowdb.documents import NotJson, parsed
from b3_pipeline.parsing.json_text import MAX_DEPTH
from b3_pipeline.parsing.records import has_controls

WHO, LONGEST_WHO, NOBODY = "X-B3-Who", 100, "api"
#: A body of so many bytes is read at once: handing it to a thread would take longer.
SHORT = 64 << 10


async def read(request: Request) -> dict[str, Any]:
    """The object that a request brings. Raises Problem (400, 415), and what its length asks for (413)."""
    require_json(request)
    try:
        body = await request.body()
        found = _parsed(body) if len(body) <= SHORT else await asyncio.to_thread(_parsed, body)
    except NotJson as error:
        raise wrong("body", str(error), "a JSON object") from None
    if not isinstance(found, dict):
        raise wrong("body", "is no object", "a JSON object")
    return found


def require_json(request: Request) -> None:
    """Raises Problem (415) unless the request says that its body is JSON: no form of another site's page can."""
    kind = request.headers.get("content-type", "")
    name, _, parameters = kind.partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if name.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Problem(415, "The body must be application/json, in UTF-8.")


def _parsed(body: bytes) -> Any:
    """The document. Raises NotJson, also for one that nests deeper than a reader after us may be able to follow."""
    found = parsed(body)
    level = [found] if isinstance(found, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _inside(value) if isinstance(inner, (dict, list))]
    if level:
        raise NotJson(f"nested deeper than {MAX_DEPTH} levels")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def who(request: Request) -> str:
    """Who makes the change, one line. Raises Problem."""
    given = request.headers.get(WHO)
    if given is None:
        return NOBODY
    try:
        text = given.encode("latin-1").decode().strip()
    except UnicodeDecodeError:
        text = given.strip()
    if not text or len(text) > LONGEST_WHO or has_controls(text):
        raise wrong(WHO, "does not say who", f"one line of 1 to {LONGEST_WHO} characters")
    return text


def match(request: Request) -> str | None:
    """The If-Match of a request; None: it has none."""
    given = request.headers.getlist("if-match")
    return ", ".join(given) if given else None


def wrong(parameter: str, problem: str, allowed: str) -> Problem:
    """The error for one thing that is wrong."""
    error = {"parameter": parameter, "problem": problem, "allowed": allowed}
    return Problem(400, f"{parameter}: {problem} (allowed: {allowed}).", errors=[error])

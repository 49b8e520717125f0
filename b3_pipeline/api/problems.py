"""Errors as `application/problem+json` (RFC 9457): what was wrong, and what is allowed. No secret, path or SQL in one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "A key is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "Conflict",
    410: "Gone",
    412: "Precondition failed",
    413: "Too large",
    414: "Address too long",
    415: "Unsupported media type",
    421: "Not this host",
    422: "Invalid request",
    428: "Precondition required",
    429: "Too many requests",
    500: "A defect of ours",
    503: "Not available now",
}
#: What is said of a defect; all else is for the log, for it may have a path, a statement or a value in it.
DEFECT = "This is a defect of ours; the log has it under this id."


class Problem(Exception):
    """What is answered instead of a result; `more` are further members (`errors`, `allowed`, `retry_after_s` …)."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, dict(headers or {}), more

    def response(self, instance: str | None = None) -> Response:
        """The answer; `instance` is the request's correlation id."""
        return problem(self.status, self.detail, self.headers, instance=instance, **self.more)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """A problem document; `success` is what the clients of the ideas have always looked at."""
    document = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    document |= {"success": False} | {name: value for name, value in more.items() if value is not None}
    return Response(_written(document), status, dict(headers or {}), MEDIA_TYPE)


def _written(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a record that is quoted may have a whole number of any size
        return json.dumps(document, ensure_ascii=False).encode()

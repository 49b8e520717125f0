"""Errors of every route as problem documents; and OpenAPI, which says so."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.problems import MEDIA_TYPE, Problem, problem
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1.models import ProblemDocument

#: QuestDB comes back by itself: asking again after so long makes sense.
RETRY_AFTER_S = 1
_log = logging.getLogger(__name__)
_DETAILS = {
    404: "There is nothing here: /api/v1/openapi.json says what there is.",
    405: "This address takes other methods: see the Allow header.",
}


def install(app: FastAPI) -> None:
    """Lets the application answer every error as `application/problem+json`, and its OpenAPI document it."""
    app.add_exception_handler(Problem, _given)
    app.add_exception_handler(StoreAway, _away)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _defect)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        return _without_422(made())

    app.openapi = openapi


def _instance(request: Request) -> str | None:
    """The request's correlation id, where somebody gave it one."""
    return request.scope.get("b3.id")


async def _given(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(_instance(request))


async def _away(request: Request, error: Exception) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return problem(503, str(error), headers, instance=_instance(request), retry_after_s=RETRY_AFTER_S)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [
        {
            "parameter": str(one["loc"][-1])[:60] if one.get("loc") else "",
            "problem": str(one.get("msg", "")),
            "allowed": str((one.get("ctx") or {}).get("expected", "see /api/v1/openapi.json")),
        }
        for one in error.errors()[:50]
    ]
    said = "; ".join(f"{one['parameter']}: {one['problem']}" for one in errors[:5])
    return problem(400, f"{said}.", instance=_instance(request), errors=errors)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = _DETAILS.get(error.status_code) or str(error.detail)
    return problem(error.status_code, detail, error.headers, instance=_instance(request))


async def _defect(request: Request, error: Exception) -> Response:
    """What is wrong is for the log: it may have a path, a statement or a value in it."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, "This is a defect of ours, and it is logged.", instance=_instance(request))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for OpenAPI; 405 and 429 are every route's."""
    return {
        status: {
            "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
            "model": ProblemDocument,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                    "example": {
                        "type": "about:blank",
                        "title": HTTPStatus(status).phrase,
                        "status": status,
                        "detail": _MEANINGS.get(status, ""),
                    },
                }
            },
        }
        for status in sorted({*statuses, 401, 429})
    }


_MEANINGS = {
    400: "A parameter is wrong or unknown: `errors` names each, what was wrong, and what is allowed",
    401: "This service asks for an API key, and none or a wrong one was given",
    403: "The key that was given does not allow it",
    404: "There is no such thing",
    429: "Too many requests: `Retry-After` says when to ask again",
    503: "The database is away, and no earlier answer is known",
}


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """No route answers 422: what is invalid is a 400. An error has one media type."""
    for path in document.get("paths", {}).values():
        for operation in path.values():
            responses = operation.get("responses", {}) if isinstance(operation, dict) else {}
            responses.pop("422", None)
            for response in responses.values():
                content = response.get("content", {})
                if MEDIA_TYPE in content:
                    content.pop("application/json", None)
    schemas = document.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document

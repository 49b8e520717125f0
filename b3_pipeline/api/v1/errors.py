"""Errors of every route as problem documents; and OpenAPI, which says so, with keys and examples."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from b3_pipeline.api.problems import DEFECT, MEDIA_TYPE, TITLES, Problem, problem
from b3_pipeline.api.store import StoreAway
from b3_pipeline.api.v1.answers import MEDIA_TYPE as JSON
from b3_pipeline.api.v1.examples import EXAMPLES
from b3_pipeline.api.v1.models import ProblemDocument
from b3_pipeline.api.v1.signals_models import EXAMPLES as SIGNALS_EXAMPLES
from b3_pipeline.signals.hiding import without_tokens

#: QuestDB comes back by itself: asking again after so long makes sense.
RETRY_AFTER_S = 1
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
        return _with_examples(_with_keys(_without_422(made())))

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
            "parameter": without_tokens(str(one["loc"][-1]))[:60] if one.get("loc") else "",
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


async def _defect(request: Request, _error: Exception) -> Response:
    """The framework raises it once more after this: who lies around every route logs it."""
    return problem(500, DEFECT, instance=_instance(request))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route, for OpenAPI; those of `_EVERY` are every route's."""
    return {
        status: {
            "description": _MEANINGS[status],
            "model": ProblemDocument,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                    "example": {
                        "type": "about:blank",
                        "title": TITLES[status],
                        "status": status,
                        "detail": _MEANINGS[status],
                        "instance": "9f86d081884c7d65",
                    },
                }
            },
        }
        for status in sorted({*statuses, *_EVERY})
    }


#: Whoever lies around the routes gives these answers, too.
_EVERY = (401, 413, 414, 421, 429)
_MEANINGS = {
    400: "A parameter is wrong or unknown: `errors` names each, what was wrong, and what is allowed",
    401: "This service asks for an API key, and none or a wrong one was given",
    403: "The key that was given does not allow it",
    404: "There is no such thing",
    409: "It cannot be stored as things are: it refers to what is not there, or its id is taken",
    412: "Somebody else has changed it since: `current` is what it is now, with its `ETag`",
    413: "The body is larger than a mebibyte",
    414: "The address is longer than eight kibibytes",
    415: "The body is no `application/json`",
    421: "The request means another host: `B3_ALLOWED_HOSTS` says which this service is",
    429: "Too many requests: `Retry-After` says when to ask again",
    503: "The database is away, and no earlier answer is known",
}


#: A key is shown in one of these ways. Health asks for none, changing for one always, reading where the home says so.
_KEYS: dict[str, dict[str, str]] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The key as a bearer token"},
    "basic": {"type": "http", "scheme": "basic", "description": "For browsers: any user, the key as the password"},
}
_OPEN = "/api/v1/health"
_EXAMPLES = {
    f"#/components/schemas/{model.__name__}": example for model, example in (EXAMPLES | SIGNALS_EXAMPLES).items()
}


def _with_keys(document: dict[str, Any]) -> dict[str, Any]:
    """How a key is shown, and where."""
    document.setdefault("components", {})["securitySchemes"] = _KEYS
    needed: list[dict[str, list[str]]] = [{name: []} for name in _KEYS]
    for path, operations in document.get("paths", {}).items():
        for method, operation in operations.items():
            reading = [] if path.startswith(_OPEN) else [{}, *needed]
            operation["security"] = reading if method == "get" else needed
    return document


def _with_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Every answer with its example; put here, for the framework would leave out what is null in it."""
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            for status in ("200", "201", "202"):
                content = operation.get("responses", {}).get(status, {}).get("content", {}).get(JSON, {})
                example = _EXAMPLES.get(content.get("schema", {}).get("$ref"))
                if example is not None:
                    content["example"] = example
    return document


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

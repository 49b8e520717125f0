"""What OpenAPI says of the ideas' routes: parameters, headers, bodies, answers with examples, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from b3_pipeline.api.ideas import bodies, documents
from b3_pipeline.api.ideas.documents import envelope
from b3_pipeline.api.v1.answers import MEDIA_TYPE
from b3_pipeline.api.v1.errors import problems
from b3_pipeline.api.v1.filters import Filters, parameters
from b3_pipeline.lowdb.model import Collection

Answered = Literal["list", "board", "statistics", "one", "history"]
Method = Literal["POST", "PUT", "DELETE"]

_SUMMARIES: Mapping[str, str] = {
    "list": "A page of the {}",
    "board": "The board: {} by status",
    "statistics": "How many {} there are, in all and by status",
    "one": "One of the {}",
    "history": "Every change of one of the {}",
    "POST": "Add to the {}",
    "PUT": "Change one of the {}",
    "DELETE": "Remove one of the {}",
}
_DESCRIPTIONS: Mapping[str, str] = {
    "list": "By id. Times are UTC. All filters must hold.",
    "board": "The columns in the order of the board, in each the records by id. Times are UTC.",
    "statistics": "Counts of everything that is there.",
    "one": "Times are UTC. `ETag` is of the content alone: the same in files and tables, and what If-Match asks for.",
    "history": "Newest first: who, when (UTC), the record before and after; also of one that is gone. LowDB's files have none.",
    "POST": "The service gives the id and the times. Members that no field names are kept. Needs a key.",
    "PUT": "Members that are left out stay as they are; the id and the times are the service's, whatever is sent. The same "
    "content again changes nothing. With If-Match the change is made only where nobody has changed the record since; "
    "without it (the clients of before send none) the last one to write wins. Needs a key.",
    "DELETE": "With all that refer to it. Answers with what was removed. If-Match as for a change. Needs a key.",
}
_IF_MATCH = "The `ETag` of the record as it was read; 412 when it is another one by now. Without it: whatever it is now"
_IF_NONE_MATCH = "The `ETag` of an earlier answer; 304 when it is the same still"
_WHO = f"Who makes the change, for the history: one line, at most {bodies.LONGEST_WHO} characters. Without it: {bodies.NOBODY}"
_UNCHANGED = {304: {"description": "Nothing has changed since: `If-None-Match` names the answer's `ETag`"}}
_STATUS: Mapping[Method, int] = {"POST": 201, "PUT": 200, "DELETE": 200}
_ERRORS: Mapping[Method, tuple[int, ...]] = {
    "POST": (400, 403, 409, 415, 503),
    "PUT": (400, 403, 404, 409, 412, 415, 503),
    "DELETE": (400, 403, 404, 412, 503),
}


def reading(collection: Collection, what: Answered, asked: type[Filters]) -> dict[str, Any]:
    """Of a route that reads; it also says what its parameters are."""
    missing = (404,) if what in ("one", "history") else ()
    return {
        **_told(collection, what),
        "response_model": _model(collection, what),
        "responses": {200: _answer(collection, what), **_UNCHANGED, **problems(400, 503, *missing)},
        "openapi_extra": {"parameters": [*parameters(asked), _header("If-None-Match", _IF_NONE_MATCH)]},
    }


def changing(collection: Collection, method: Method) -> dict[str, Any]:
    """Of a route that changes something."""
    status = _STATUS[method]
    headers = [_header(bodies.WHO, _WHO, maxLength=bodies.LONGEST_WHO)]
    if method != "POST":
        headers.append(_header("If-Match", _IF_MATCH))
    body = {} if method == "DELETE" else {"requestBody": _body(collection, method)}
    return {
        **_told(collection, method),
        "status_code": status,
        "response_model": documents.one(collection),
        "responses": {status: _answer(collection, "one"), **problems(*_ERRORS[method])},
        "openapi_extra": {"parameters": headers, **body},
    }


def _told(collection: Collection, what: str) -> dict[str, Any]:
    return {
        "summary": _SUMMARIES[what].format(collection.what),
        "description": _DESCRIPTIONS[what],
        "tags": ["ideas"],
    }


def _model(collection: Collection, what: Answered) -> type[BaseModel]:
    match what:
        case "list":
            return documents.page(collection)
        case "board":
            return documents.board(collection)
        case "one":
            return documents.one(collection)
        case "statistics":
            return documents.StatisticsAnswer
        case "history":
            return documents.HistoryAnswer


def _answer(collection: Collection, what: Answered) -> dict[str, Any]:
    """The headers and an example of an answer."""
    record = documents.example(collection)
    examples: dict[Answered, dict[str, Any]] = {
        "list": envelope([record], count=1, filters={"search": "expor"}),
        "board": envelope({"review": [record]}, count=1, counts={"review": 1}, filters={}),
        "one": envelope(record),
        "statistics": envelope({"total": 18, "by_status": {"maintenance": 2, "offline": 9, "online": 7}}),
        "history": envelope([documents.entry_example(record)], count=1),
    }
    headers = {"ETag": {"description": "Of the content", "schema": {"type": "string"}}}
    if what == "list":
        total = f"How many there are in all; left out where there are more than {documents.COUNTED}"
        headers[documents.TOTAL] = {"description": total, "schema": {"type": "integer"}}
    return {"headers": headers, "content": {MEDIA_TYPE: {"example": examples[what]}}}


def _body(collection: Collection, method: Method) -> dict[str, Any]:
    """The schema stands here itself: FastAPI knows of no body that it does not read."""
    schema = documents.sent(collection).model_json_schema()
    if method == "PUT":  # what is left out stays as it is
        del schema["required"]
    given = {name: documents.example(collection)[name] for name in schema["properties"]}
    return {"required": True, "content": {MEDIA_TYPE: {"schema": schema, "example": given}}}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": f"{description}. Allowed: one line",
        "schema": {"type": "string", **schema},
    }

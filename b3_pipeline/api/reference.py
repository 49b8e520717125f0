"""The API's reference at `/docs`, made of its OpenAPI: no script, so that it needs nothing from elsewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from b3_pipeline.api.page.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Every route with its parameters, answers and an example."""
    document = request.app.openapi()
    return HTMLResponse(render("docs.html", info=document["info"], operations=list(operations(document))))


def operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The operations of an OpenAPI document in its order, with what `docs.html` shows of each."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            yield {
                "method": method.upper(),
                "path": path,
                "id": f"{method}-{re.sub(r'[^a-z0-9]+', '-', path.strip('/'))}".rstrip("-"),
                "summary": operation.get("summary", ""),
                "description": operation.get("description", ""),
                "parameters": [_parameter(document, p) for p in operation.get("parameters", ())],
                "body": list(_fields(document, operation.get("requestBody", {}))),
                "answers": [(status, answer.get("description", "")) for status, answer in answers.items()],
                "fields": list(_fields(document, answers.get("200", {}))),
                "example": _example(answers.get("200", {})),
            }


def _parameter(document: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, str, str]:
    """Name, type and meaning of a parameter."""
    schema = _resolved(document, given.get("schema", {}))
    return given["name"], _type(schema), given.get("description") or schema.get("description", "")


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _schema(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(answer.get("content", {}).values()), {}).get("schema", {})


def _fields(document: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each member of an answer, or of a request's body."""
    for name, given in _resolved(document, _schema(answer)).get("properties", {}).items():
        schema = _resolved(document, given)
        yield name, _type(schema), given.get("description") or schema.get("description", "")


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return schema.get("format") or schema.get("type") or "any"


def _example(answer: Mapping[str, Any]) -> str:
    content = next(iter(answer.get("content", {}).values()), {})
    examples = content.get("examples", {})
    given = content.get("example") or next((each.get("value") for each in examples.values()), None)
    return "" if given is None else json.dumps(given, ensure_ascii=False, indent=2)

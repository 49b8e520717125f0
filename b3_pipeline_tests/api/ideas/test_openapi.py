"""OpenAPI says everything that the ideas' routes do; and whatever is generated from it, they keep to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from b3_pipeline.api.ideas.routes import router
from b3_pipeline.lowdb.model import BY_ROUTE, STATUSES
from b3_pipeline_tests.api.ideas.conftest import Ideas, opened
from b3_pipeline_tests.api.v1.test_openapi import CHECKS
from b3_pipeline_tests.lowdb import stores
from b3_pipeline_tests.lowdb.stores import Made, file, idea, link, system

OPERATIONS = sorted(
    (route.path, method) for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()
)
WITHOUT_PARAMETERS = {"/api/v1/systems/statistics"}
FEW = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def ideas(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ideas]:
    """The routes over the tables, with some of everything."""
    stores.empty(postgres)
    folder: Path = tmp_path_factory.mktemp("ideas")
    with opened(Made(stores.TABLES, postgres, folder), folder / "home") as given:
        samples = {
            "ideas": idea(),
            "documentation-ideas": idea(),
            "systems": system(),
            "links": link("1"),
            "files": file("1"),
        }
        for route, record in samples.items():
            given.ask("POST", route, 201, json=record)
        yield given


@pytest.fixture(scope="module")
def document(ideas: Ideas) -> dict[str, Any]:
    return ideas.client.get("/openapi.json").json()


def test_every_collection_has_its_routes() -> None:
    for route in BY_ROUTE:
        path = f"/api/v1/{route}"
        every = {(path, "GET"), (path, "POST"), *((f"{path}/{{id}}", method) for method in ("GET", "PUT", "DELETE"))}
        assert every <= set(OPERATIONS)
    others = "ideas/kanban documentation-ideas/kanban ideas/{id}/history"
    others += " systems/status/{status} systems/search systems/statistics"
    assert {(f"/api/v1/{other}", "GET") for other in others.split()} <= set(OPERATIONS)
    assert len(OPERATIONS) == 5 * len(BY_ROUTE) + len(others.split())


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_is_described_with_examples_and_with_its_errors_as_problems(
    document: dict[str, Any], path: str, method: str
) -> None:
    operation = document["paths"][path][method.lower()]
    assert operation["summary"]
    assert operation["description"]
    assert {"400", "401", "413", "414", "421", "429", "503"} <= set(operation["responses"])
    assert "422" not in operation["responses"]
    for status, response in operation["responses"].items():
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"], status
        elif status != "304":
            content = response["content"]["application/json"]
            _require_valid(document, content["schema"], content["example"])
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        _require_valid(document, content["schema"], content["example"])
    for parameter in operation.get("parameters", []):
        assert parameter["in"] == "path" or "Allowed: " in parameter["description"]


def _require_valid(document: dict[str, Any], schema: dict[str, Any], example: Any) -> None:
    jsonschema_rs.validator_for({**schema, "components": document["components"]}).validate(example)


def test_the_schemas_say_what_each_member_may_be(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["Idea"]["properties"]["status"]["enum"] == list(STATUSES)
    assert schemas["Idea"]["properties"]["createdAt"]["format"] == "date-time"
    assert "Bytes" in schemas["DocumentationFile"]["properties"]["size"]["description"]
    assert (schemas["DocumentationSystem"]["properties"]["port"]["maximum"]) == 65_535
    assert "updatedAt" not in schemas["Idea"]["required"]
    new = document["paths"]["/api/v1/ideas"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(new["required"]) == {"title", "description", "category", "priority", "status", "tags"}
    edit = document["paths"]["/api/v1/ideas/{id}"]["put"]["requestBody"]["content"]["application/json"]["schema"]
    assert "required" not in edit


def test_a_change_asks_for_a_key_and_says_what_if_match_does(document: dict[str, Any]) -> None:
    operation = document["paths"]["/api/v1/ideas/{id}"]["put"]
    assert {} not in operation["security"]
    assert {"If-Match", "X-B3-Who"} <= {parameter["name"] for parameter in operation["parameters"]}
    assert "last one to write wins" in operation["description"]


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
        *((*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[0] not in WITHOUT_PARAMETERS),
    ],
)
def test_whatever_is_generated_from_it_is_answered_as_it_says(
    ideas: Ideas, document: dict[str, Any], path: str, method: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @FEW
    @given(operation.as_strategy(mode))
    def keeps_to_it(case: schemathesis.Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        headers = {name: value for name, value in sent["headers"].items() if name.lower() != "x-api-key"}
        answer = ideas.client.request(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            json=sent.get("json"),
            content=sent.get("data"),
            headers=headers,
        )
        case.validate_response(answer, checks=CHECKS)

    keeps_to_it()

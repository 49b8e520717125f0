"""OpenAPI says everything that the routes do; and whatever is generated from it, the service keeps to it."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from b3_pipeline.api.reference import operations
from b3_pipeline.api.v1 import models
from b3_pipeline.api.v1.routes import router
from b3_pipeline_tests.api.v1.conftest import Api

EXAMPLES = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = sorted(
    (route.path, method) for route in router.routes if isinstance(route, APIRoute) for method in route.methods or ()
)
PATHS = [path for path, method in OPERATIONS if method == "GET"]
WITHOUT_PARAMETERS = {f"/api/v1/{name}" for name in ("overview", "freshness", "health", "health/ready")}
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def document(api: Api) -> dict[str, Any]:
    return api.client.get("/openapi.json").json()


def test_every_route_of_the_contract_is_there(document: dict[str, Any]) -> None:
    names = "health overview snapshots indicators indicators/daily vol-surface gamma-levels adjustments dxy loads"
    names += " freshness parity cutover signals health/ready"
    reading = {path for path, operations in document["paths"].items() if "get" in operations}
    assert reading == set(PATHS) == {f"/api/v1/{name}" for name in names.split()}
    assert set(OPERATIONS) - {(path, "GET") for path in PATHS} == {("/api/v1/parity/{mismatch}/seen", "POST")}


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_route_is_described_with_its_errors_as_problems(document: dict[str, Any], path: str, method: str) -> None:
    operation = document["paths"][path][method.lower()]
    assert operation["summary"]
    assert operation["description"]
    assert {"400", "401", "413", "414", "421", "429"} <= set(operation["responses"])
    assert {"200", "204"} & set(operation["responses"])
    assert "422" not in operation["responses"]
    for status, response in operation["responses"].items():
        if status >= "400":
            assert list(response["content"]) == ["application/problem+json"], status
    for parameter in operation.get("parameters", []):
        assert parameter["in"] == "path" or "Allowed: " in parameter["description"]


def test_every_document_says_the_unit_of_its_prices_and_shows_examples(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema, name, unit in (
        ("Kpi", "unit", "BRL/1000 USD"),
        ("Snapshot", "price", "PU"),
        ("Smile", "volatilities", "% a year"),
        ("DxyTick", "value", "%"),
        ("DailyIndicator", "value", "% a year"),
        ("CurvePoint", "rate", "% a year"),
    ):
        assert unit in schemas[schema]["properties"][name]["description"]
    assert "examples" in str(schemas["Snapshot"])
    assert "HTTPValidationError" not in schemas


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_with_a_body_has_an_example_that_is_as_the_answer_says(
    document: dict[str, Any], path: str, method: str
) -> None:
    responses = document["paths"][path][method.lower()]["responses"]
    assert {"200", "204"} & set(responses)
    for status, response in responses.items():
        for content in response.get("content", {}).values():
            name = content["schema"]["$ref"].rsplit("/", 1)[1]
            example = content["example"]
            made = getattr(models, name).model_validate(example).model_dump(mode="json")
            assert {key: made[key] for key in example} == example, status
            if status == "200":
                assert set(made) == set(example)
    if method == "GET":
        body = json.dumps(responses["200"]["content"]["application/json"]["example"], ensure_ascii=False, indent=2)
        assert body in {one["example"] for one in operations(document) if one["path"] == path}


def test_every_route_whose_answers_have_a_tag_says_that_there_may_be_nothing_new(api: Api) -> None:
    for path, operations_of in api.client.get("/openapi.json").json()["paths"].items():
        if "get" in operations_of:
            tagged = "etag" in api.client.get(path).headers
            assert tagged == ("304" in operations_of["get"]["responses"]), path


def test_it_says_how_a_key_is_shown_and_where_one_is_needed(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme"), one.get("name")) for one in schemes.values()} == {
        ("apiKey", None, "X-API-Key"),
        ("http", "bearer", None),
        ("http", "basic", None),
    }
    every = [{name: []} for name in schemes]
    assert document["paths"]["/api/v1/parity/{mismatch}/seen"]["post"]["security"] == every
    assert document["paths"]["/api/v1/overview"]["get"]["security"] == [{}, *every]
    assert document["paths"]["/api/v1/health"]["get"]["security"] == []


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((*operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
        *((*operation, GenerationMode.NEGATIVE) for operation in OPERATIONS if operation[0] not in WITHOUT_PARAMETERS),
    ],
)
def test_whatever_is_generated_from_it_is_answered_as_it_says(
    api: Api, document: dict[str, Any], path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document)
    operation = schema[path][method]

    @BOUNDED
    @given(operation.as_strategy(mode))
    def keeps_to_it(case: schemathesis.Case) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        answer = api.client.request(
            sent["method"], sent["url"], params=sent.get("params"), json=sent.get("json"), content=sent.get("data")
        )
        case.validate_response(answer, checks=CHECKS)

    keeps_to_it()


def test_an_answer_that_is_not_as_it_says_would_be_found(api: Api, document: dict[str, Any]) -> None:
    broken = copy.deepcopy(document)
    broken["components"]["schemas"]["Health"]["properties"]["version"] = {"type": "integer"}
    case = schemathesis.openapi.from_dict(broken)["/api/v1/health"]["GET"].Case()
    with pytest.raises(FailureGroup):
        case.validate_response(api.client.get("/api/v1/health"), checks=CHECKS)


@BOUNDED
@given(path=st.sampled_from(PATHS), query=st.binary(max_size=60))
def test_any_bytes_after_the_question_mark_are_answered_with_an_answer_or_what_was_wrong(
    api: Api, path: str, query: bytes
) -> None:
    escaped = "".join(
        chr(byte) if chr(byte) in "=&%+" or (chr(byte).isalnum() and byte < 128) else f"%{byte:02X}" for byte in query
    )
    answer = api.client.get(f"{path}?{escaped}")
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert answer.json()["errors"]


@BOUNDED
@given(
    path=st.sampled_from([path for path in PATHS if re.search("dxy|adjust|vol|loads|signals|snap", path)]),
    name=st.sampled_from(["from", "to", "limit", "cursor", "contract", "instrument", "feed", "table", "asset"]),
    text=st.one_of(st.text(max_size=30), st.integers().map(str), st.datetimes().map(str)),
)
def test_any_text_in_any_parameter_is_answered_with_an_answer_or_what_was_wrong(
    api: Api, path: str, name: str, text: str
) -> None:
    answer = api.client.get(path, params={name: text.encode("utf-8", "replace")})
    assert answer.status_code in (200, 400)

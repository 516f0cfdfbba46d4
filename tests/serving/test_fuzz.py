"""Hostile requests inside one process, in seconds; `test_fuzz_served.py` sends many more to a real server."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as hypothesis_seed
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coldstart.serving.api.app import make_app
from tests.serving.fuzz import INTERNALS, SEED, hostile_request
from tests.serving.tiny import IDS

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def conform(schema, examples: int, **call) -> int:
    """Calls every operation with requests that match the schema and with others; returns the number of calls."""
    calls = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in GenerationMode:
            # An operation without inputs has no invalid request.
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters or operation.query):
                continue

            @hypothesis_seed(SEED)
            @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                nonlocal calls
                calls += 1
                answer = case.call_and_validate(checks=CHECKS, **call)
                assert not INTERNALS.search(answer.content), answer.content

            check()
    return calls


def test_the_api_conforms_to_its_schema(gateway):
    gateway.settings.__dict__["request_timeout_s"] = 5.0
    assert conform(schemathesis.openapi.from_asgi("/openapi.json", make_app(gateway)), 15) > 60


def test_hostile_requests_are_refused_with_the_error_body(client):
    before = client.post("/v1/rank", json={"candidates": [{"item_id": IDS[0]}], "now": 5}).json()["scores"]
    sent = 0
    for number in range(600):
        request = hostile_request(number)
        if request.wire is not None or request.cut:
            continue
        sent += 1
        try:
            answer = client.request(
                request.method, request.target, headers=[(k, v) for k, v in request.headers], content=request.body
            )
        except (ValueError, UnicodeError):
            continue  # The client itself refuses to send it.
        assert answer.status_code < 500, (
            f"request {number} ({request.family}): {answer.status_code} {answer.text[:300]}"
        )
        assert not INTERNALS.search(answer.content), f"request {number} ({request.family}): {answer.text[:300]}"
        if answer.status_code >= 400 and request.method != "HEAD" and answer.content:
            assert set(json.loads(answer.content)) == {"error"}, f"request {number} ({request.family})"
    assert sent > 450
    assert client.post("/v1/rank", json={"candidates": [{"item_id": IDS[0]}], "now": 5}).json()["scores"] == before


@pytest.mark.parametrize("number", range(3))
def test_a_request_depends_on_its_number_alone(number):
    assert hostile_request(number) == hostile_request(number)

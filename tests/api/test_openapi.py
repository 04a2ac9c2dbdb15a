"""The OpenAPI document is complete. That it is true, every other test of this folder checks with each
reply it gets (``service.Conformity``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jsonschema_rs
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.app import create_app
from api.problems import CODES
from perdure.assembly import Assembly


async def _never() -> Assembly:
    raise AssertionError("no test of this file starts the service")


def _app() -> FastAPI:
    return create_app(_never, request_bytes_max=1_000)


def _operations() -> list[tuple[str, dict[str, Any]]]:
    paths = _app().openapi()["paths"]
    return [(f"{method} {path}", operation) for path, methods in paths.items() for method, operation in methods.items()]


def _routes(routes: Iterable[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from _routes(route.original_router.routes)


def test_every_route_is_in_the_document() -> None:
    routes = {f"{method.lower()} {route.path}" for route in _routes(_app().routes) for method in route.methods}
    assert routes == {name for name, _ in _operations()}
    assert len(routes) >= 20


def test_every_operation_has_a_name_a_summary_a_tag_and_a_success() -> None:
    names = [operation["operationId"] for _, operation in _operations()]
    assert len(set(names)) == len(names)
    for name, operation in _operations():
        assert operation["summary"], name
        assert operation["tags"], name
        successes = {status: found for status, found in operation["responses"].items() if status.startswith("2")}
        assert "204" in successes or any(found.get("content") for found in successes.values()), name


def test_every_operation_declares_its_problems_as_problem_documents() -> None:
    for name, operation in _operations():
        assert "default" in operation["responses"], name
        for status, response in operation["responses"].items():
            if status.startswith("2") or (name, status) == ("get /readyz", "503"):
                continue
            schema = response["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ProblemDocument"}, (name, status)
        if operation.get("requestBody"):
            assert "422" in operation["responses"], name
            assert "413" in operation["responses"], name


def test_posts_take_idempotency_keys() -> None:
    for name, operation in _operations():
        if name.startswith("post "):
            assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}, name


def test_the_schemas_are_valid_and_every_reference_resolves() -> None:
    document = _app().openapi()
    for name in document["components"]["schemas"]:
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.validator_for(whole)


def test_the_codes_named_in_the_document_are_the_frozen_ones() -> None:
    for name, operation in _operations():
        for status, response in operation["responses"].items():
            for word in response.get("description", "").split("`")[1::2]:
                if word in CODES:
                    assert CODES[word].status == int(status), (name, word)

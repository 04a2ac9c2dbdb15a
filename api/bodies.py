"""Strict JSON bodies: what cannot be stored or passed on is refused here, with a pointer, before any
route sees it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Coroutine
from email.message import Message as MimeHeaders
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute

from api.problems import FIELD_ERRORS_MAX, FieldError, Problem, parameter_problem

NESTING_MAX = 64  # deeper JSON is an attack on parsers, not a request


class JsonRequest(Request):
    """A request whose body was parsed and checked: ``document`` is None when there was none."""

    document: Any = None

    async def json(self) -> Any:
        return self.document


class JsonRoute(APIRoute):
    """A route with a strict JSON body and no unknown query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        known = {field.alias for field in get_flat_params(self.dependant) if isinstance(field.field_info, Query)}
        maps = {
            parameter["name"]
            for parameter in (self.openapi_extra or {}).get("parameters", [])
            if parameter.get("style") == "deepObject"
        }

        async def handle(request: Request) -> Response:
            for name in request.query_params:
                if name not in known and name.partition("[")[0] not in maps:
                    raise parameter_problem(
                        "invalid_request", name, f"unknown query parameter {name!r}; known: {sorted(known | maps)}"
                    )
            strict = JsonRequest(request.scope, request.receive)
            if self.body_field is not None:
                body = await strict.body()
                if body:
                    _check_media_type(strict.headers.get("content-type", ""))
                    strict.document = parse(body)
                elif self.body_field.field_info.is_required():
                    raise Problem("invalid_json", "The body is empty; a JSON object is expected.")
            return await answer(strict)

        return handle


def _check_media_type(content_type: str) -> None:
    """Only JSON is read as JSON: a web form of a foreign page must not start runs."""
    headers = MimeHeaders()
    headers["content-type"] = content_type or "none/none"
    subtype = headers.get_content_subtype()
    if headers.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json")):
        return
    raise Problem(
        "invalid_request",
        f"Content-Type must be application/json, not {content_type or 'absent'}.",
        status=415,
        errors=[FieldError(None, "unsupported_media_type", "must be application/json", "content-type")],
    )


def parse(body: bytes) -> Any:
    """The JSON document. ``invalid_json`` for what RFC 8259 does not allow; ``validation_failed`` with
    pointers for text that no database or model can take."""
    try:
        document = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Problem("invalid_json", f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise Problem("invalid_json", f"The body is nested deeper than {NESTING_MAX} levels.") from None
    except json.JSONDecodeError as error:
        raise Problem(
            "invalid_json", f"The body is not JSON: {error.msg} at line {error.lineno} column {error.colno}."
        ) from None
    except ValueError as error:
        raise Problem("invalid_json", f"The body is not JSON that can be read: {error}.") from None
    errors: list[FieldError] = []
    _check(document, "", 0, errors)
    if errors:
        raise Problem("validation_failed", f"{errors[0].pointer}: {errors[0].message}", errors=errors)
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check(value: Any, pointer: str, depth: int, errors: list[FieldError]) -> None:
    if depth > NESTING_MAX:
        raise Problem("invalid_json", f"The body is nested deeper than {NESTING_MAX} levels.")
    if len(errors) >= FIELD_ERRORS_MAX:
        return
    if isinstance(value, str):
        _check_text(value, pointer, errors)
    elif isinstance(value, float):
        if not math.isfinite(value):
            errors.append(FieldError(pointer, "number_out_of_range", "the number is out of range"))
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            errors.append(FieldError(pointer, "number_out_of_range", "the integer does not fit 64 bits"))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check(item, f"{pointer}/{index}", depth + 1, errors)
    elif isinstance(value, dict):
        for key, item in value.items():
            here = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            if len(key.encode("utf-8", "ignore")) != len(key.encode("utf-8", "surrogatepass")) or "\0" in key:
                errors.append(FieldError(pointer, "invalid_text", "a key holds NUL or a lone surrogate"))
            else:
                _check(item, here, depth + 1, errors)


def _check_text(text: str, pointer: str, errors: list[FieldError]) -> None:
    if "\0" in text:
        errors.append(FieldError(pointer, "invalid_text", f"holds the character NUL, at {text.index(chr(0))}"))
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        errors.append(FieldError(pointer, "invalid_text", f"holds a lone surrogate, at {error.start}"))


def fingerprint(method: str, path: str, document: Any, actor: str) -> str:
    """What makes two requests the same: method, path, the canonical body, and who sends it."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{method} {path}\n{actor}\n{canonical}".encode()).hexdigest()

"""A function's signature as a pydantic model: the one truth for the JSON Schema and for the arguments of a call.

Arguments are judged as JSON, strictly: ``"3"`` is no integer, ``1`` is no boolean, 3 is a number; what JSON
lacks (dates, UUIDs, enums, tuples) is read from its usual JSON form.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from perdure.core.state import Json
from perdure.tools.port import InvalidArguments

_PROBLEMS_MAX = 5  # a model mends a few at a time; more would only fill its context
_GIVEN_CHARS_MAX = 80  # enough to recognise the value
_EXPECTED_CHARS_MAX = 1_500  # "in short": larger schemas are named by their top level only


class ToolDefinitionError(TypeError):
    """A function cannot be a tool as it is written; the message says what to change."""


class Signature:
    """The parameters of one tool function."""

    def __init__(
        self,
        function: Callable[..., object],
        name: str,
        described: Mapping[str, str],
        local_names: Mapping[str, Any],
    ) -> None:
        self._name = name
        self._parameters = inspect.signature(function).parameters
        self._model = _model_of(function, name, self._parameters, described, local_names)
        self.schema = _json_schema(self._model, name)

    def arguments(self, given: Mapping[str, Json]) -> dict[str, Any]:
        """The keyword arguments for the function: parsed, with the function's own defaults left to it.

        Raises InvalidArguments in words a model can act on."""
        try:
            text = json.dumps(given, allow_nan=False, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArguments(
                f"the arguments of {self._name} contain a lone surrogate, which is no text"
            ) from None
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArguments(f"the arguments of {self._name} are not JSON: {error}") from None
        try:
            parsed = self._model.model_validate_json(text, strict=True)
        except ValidationError as error:
            raise InvalidArguments(self._explain(error)) from None
        return {
            self._model.model_fields[field].alias or field: getattr(parsed, field)
            for field in self._model.model_fields
            if field in parsed.model_fields_set or not self._has_default(field)
        }

    def _has_default(self, field: str) -> bool:
        alias = self._model.model_fields[field].alias or field
        return self._parameters[alias].default is not inspect.Parameter.empty

    def _explain(self, error: ValidationError) -> str:
        found = error.errors(include_url=False, include_context=False)
        lines = [_problem_line(one["type"], one["loc"], one["msg"], one["input"]) for one in found[:_PROBLEMS_MAX]]
        if len(found) > _PROBLEMS_MAX:
            lines.append(f"- and {len(found) - _PROBLEMS_MAX} more")
        return "\n".join([f"The arguments do not fit the tool {self._name}:", *lines, f"Expected: {self._expected()}"])

    def _expected(self) -> str:
        whole = json.dumps(self.schema, ensure_ascii=False)
        if len(whole) <= _EXPECTED_CHARS_MAX:
            return whole
        properties = self.schema.get("properties")
        names = list(properties) if isinstance(properties, dict) else []
        return json.dumps(
            {"type": "object", "parameters": names, "required": self.schema.get("required", [])}, ensure_ascii=False
        )[:_EXPECTED_CHARS_MAX]


def _model_of(
    function: Callable[..., object],
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    described: Mapping[str, str],
    local_names: Mapping[str, Any],
) -> type[BaseModel]:
    try:
        hints = get_type_hints(function, localns=dict(local_names), include_extras=True)
    except Exception as error:  # any name or expression may stand in an annotation
        raise ToolDefinitionError(f"tool {name!r}: its type annotations cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(parameters.values()):
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise ToolDefinitionError(
                f"tool {name!r}: *{parameter.name} cannot be described to a model; name and type each parameter"
            )
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} is positional-only; models give arguments by name"
            )
        if parameter.name not in hints:
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} has no type; write `{parameter.name}: str` or alike"
            )
        if isinstance(parameter.default, FieldInfo):
            raise ToolDefinitionError(
                f"tool {name!r}: parameter {parameter.name!r} has Field() as its default; "
                f"write `{parameter.name}: Annotated[TYPE, Field(...)] = DEFAULT`"
            )
        # The field's own name is a number: a parameter may be called `json` or `_id`, which pydantic keeps to itself.
        fields[f"p{number}"] = (hints[parameter.name], _field(parameter, described))
    try:
        return create_model(
            f"{name} arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
        )
    except (PydanticUserError, TypeError, NameError) as error:
        raise ToolDefinitionError(f"tool {name!r}: its parameters have no JSON Schema: {error}") from error


def _field(parameter: inspect.Parameter, described: Mapping[str, str]) -> Any:
    more: dict[str, Any] = {"alias": parameter.name}
    if parameter.name in described:
        more["description"] = described[parameter.name]
    return Field(**more) if parameter.default is inspect.Parameter.empty else Field(parameter.default, **more)


def _json_schema(model: type[BaseModel], name: str) -> dict[str, Json]:
    try:
        schema = model.model_json_schema(by_alias=True)
        json.dumps(schema, allow_nan=False)
    except (PydanticUserError, PydanticSerializationError, ValueError, TypeError) as error:
        raise ToolDefinitionError(f"tool {name!r}: its parameters have no JSON Schema: {error}") from error
    schema.setdefault("properties", {})
    _drop_titles(schema)
    return schema


def _drop_titles(schema: Any) -> None:
    """Titles that pydantic makes from names tell a model nothing and cost tokens on every call."""
    match schema:
        case {"properties": dict(properties), **_rest}:
            for one in properties.values():
                _drop_titles(one)
    match schema:
        case dict():
            if isinstance(schema.get("title"), str):
                del schema["title"]
            for key, value in schema.items():
                if key not in ("properties", "default", "const", "enum", "examples"):
                    _drop_titles(value)
        case list():
            for one in schema:
                _drop_titles(one)


def _problem_line(kind: str, location: tuple[int | str, ...], message: str, given: object) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    match kind:
        case "missing":
            return f"- {where}: missing, but required"
        case "extra_forbidden":
            return f"- {where}: there is no such parameter"
        case _:
            return f"- {where}: {message[:1].lower()}{message[1:]}; given {_shown(given)}"


def _shown(given: object) -> str:
    text = json.dumps(given, ensure_ascii=False, default=str)
    return text if len(text) <= _GIVEN_CHARS_MAX else f"{text[:_GIVEN_CHARS_MAX]}… ({len(text)} characters)"

"""What an author writes with @tool, and what the model is told of it."""

from __future__ import annotations

import enum
import math
import subprocess
import sys
from datetime import date
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from perdure.tools import FunctionTool, ToolDefinitionError, tool


class Place(BaseModel):
    city: str
    title: str = "home"


class Colour(enum.Enum):
    RED = "red"


@tool(effect="read")
def forecast(
    place: Place,
    days: Annotated[int, Field(description="how far ahead", ge=1, le=14)] = 3,
    unit: Literal["celsius", "fahrenheit"] = "celsius",
    start: Optional[date] = None,  # noqa: UP045  as authors write it
    json: bool = False,
    _x: float = 1.0,
) -> str:
    """The weather to come.

    It is only a forecast.

    Args:
        place: where; a city
            is enough
        unit (str): of temperature

    Returns:
        One line a day.
    """
    return f"{place.city} {days} {unit} {start!r} {json} {_x}"


def test_the_schema_says_what_the_signature_says() -> None:
    about = forecast.description
    assert about["name"] == "forecast"
    assert about["description"] == "The weather to come.\n\nIt is only a forecast."
    schema: Any = about["parameters"]
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["place"]
    assert schema["properties"]["days"] == {
        "description": "how far ahead", "type": "integer", "minimum": 1, "maximum": 14, "default": 3
    }  # fmt: skip
    assert schema["properties"]["place"]["description"] == "where; a city is enough"
    assert schema["properties"]["unit"]["description"] == "of temperature"
    assert schema["properties"]["unit"]["enum"] == ["celsius", "fahrenheit"]
    assert set(schema["properties"]) == {"place", "days", "unit", "start", "json", "_x"}
    assert schema["$defs"]["Place"]["properties"]["title"] == {"type": "string", "default": "home"}


def test_sphinx_docstrings_describe_parameters_too() -> None:
    @tool
    def send(to: str, copies: int = 1) -> None:
        """Send it.

        :param to: whom to
        :param int copies: how many
        :returns: nothing
        """

    properties: Any = send.description["parameters"]["properties"]
    assert send.description["description"] == "Send it."
    assert properties["to"]["description"] == "whom to"
    assert properties["copies"]["description"] == "how many"


def test_a_tool_without_a_word_about_its_effect_is_started_at_most_once() -> None:
    @tool
    def pay(amount: int) -> None: ...

    about = pay.description
    assert (about["effect"], about["parallel"], about["timeout_seconds"], about["max_attempts"]) == (
        "once",
        False,
        60,
        3,
    )


def test_only_reading_tools_run_in_parallel_unless_the_author_says_so() -> None:
    def f() -> None: ...

    assert tool(effect="read")(f).description["parallel"] is True
    assert tool(effect="idempotent")(f).description["parallel"] is False
    assert tool(effect="idempotent", parallel=True)(f).description["parallel"] is True
    assert tool(effect="read", parallel=False)(f).description["parallel"] is False


def test_a_tool_needs_an_approval_only_where_its_author_says_so() -> None:
    def f() -> None: ...

    assert tool(f).description["approval"] is False
    assert tool(approval=True)(f).description["approval"] is True
    assert tool(f).description["answered_by"] == "worker"


def test_a_tool_is_still_the_function_it_was() -> None:
    assert forecast(Place(city="Bern"), 2).startswith("Bern 2")
    assert forecast.__doc__ == forecast.function.__doc__
    assert isinstance(forecast, FunctionTool)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, ["place: missing, but required", '"required": ["place"]']),
        ({"place": {"city": "Bern"}, "days": "3"}, ["days: input should be a valid integer", 'given "3"']),
        ({"place": {"city": "Bern"}, "days": True}, ["days", "given true"]),
        ({"place": {"city": "Bern"}, "days": 15}, ["days", "less than or equal to 14", "given 15"]),
        ({"place": {"city": 1}}, ["place.city", "string", "given 1"]),
        ({"place": {"city": "Bern"}, "when": 1}, ["when: there is no such parameter"]),
        ({"place": {"city": "Bern"}, "unit": "kelvin"}, ["unit", "'celsius' or 'fahrenheit'", 'given "kelvin"']),
        ({"place": {"city": "Bern"}, "start": "soon"}, ["start", "date", 'given "soon"']),
        ({"place": {"city": "a\ud800"}}, ["lone surrogate"]),
        ({"place": {"city": "Bern"}, "_x": math.nan}, ["not JSON"]),
    ],
)
def test_arguments_that_do_not_fit_are_explained_so_that_a_model_can_mend_them(
    arguments: dict[str, Any], said: list[str]
) -> None:
    problem = forecast.problem(arguments)
    assert problem is not None
    for part in said:
        assert part in problem


def test_a_wrong_megabyte_is_not_repeated_to_the_model() -> None:
    problem = forecast.problem({"place": {"city": "Bern"}, "days": "9" * 1_000_000})
    assert problem is not None
    assert len(problem) < 3_000


@pytest.mark.parametrize(
    "arguments",
    [
        {"place": {"city": "Bern"}},
        {"place": {"city": "Bern"}, "start": "2026-03-01", "_x": 2},  # an integer is a number; a date is a JSON string
        {"place": {"city": "Bern"}, "start": None, "json": True},
    ],
)
def test_arguments_that_fit_are_left_alone(arguments: dict[str, Any]) -> None:
    assert forecast.problem(arguments) is None


def test_types_that_are_local_to_the_author_are_understood() -> None:
    class Local(BaseModel):
        n: int

    @tool
    def f(x: Local, colour: Colour = Colour.RED) -> int:
        return x.n

    assert f.problem({"x": {"n": 1}, "colour": "red"}) is None
    assert f.problem({"x": {"n": "1"}}) is not None


def _untyped(x): ...  # type: ignore[no-untyped-def]
def _star(*x: int) -> None: ...
def _stars(**x: int) -> None: ...
def _positional(x: int, /) -> None: ...
def _unknown(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _schemaless(x: subprocess.Popen[bytes]) -> None: ...
def _field(x: int = Field(3)) -> None: ...
def _fine(x: int) -> None: ...


def _yields(x: int) -> Any:
    yield x


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (_untyped, {}, "'x' has no type"),
        (_star, {}, "name and type each parameter"),
        (_stars, {}, "name and type each parameter"),
        (_positional, {}, "positional-only"),
        (_unknown, {}, "Nowhere"),
        (_schemaless, {}, "no JSON Schema"),
        (_field, {}, "Annotated"),
        (_yields, {}, "yields"),
        (lambda: None, {}, "'<lambda>'"),
        (Place, {}, "for functions"),
        (_fine, {"name": "two words"}, "'two words'"),
        (_fine, {"name": ""}, "tool name ''"),
        (_fine, {"name": "x" * 65}, "1 to 64"),
        (_fine, {"name": "good\n"}, "tool name"),
        (_fine, {"effect": "sometimes"}, "'sometimes'"),
        (_fine, {"timeout_seconds": 0}, "positive"),
        (_fine, {"timeout_seconds": math.nan}, "positive"),
        (_fine, {"timeout_seconds": math.inf}, "positive"),
        (_fine, {"max_attempts": 0}, "1 or more"),
        (_fine, {"approval": "yes"}, "approval must be True or False"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_where_it_is_written(
    function: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ToolDefinitionError) as refused:
        tool(**options)(function)
    assert said in str(refused.value)


def test_importing_the_tools_package_stays_cheap() -> None:
    """Authors' modules import it everywhere, the workflow sandbox included."""
    heavy = ("temporalio", "openai", "anthropic", "httpx2", "fastapi", "sqlalchemy")
    code = f"import perdure.tools, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

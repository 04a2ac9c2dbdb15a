"""Schemas and patterns from outside: they are understood, and they can neither hang the process nor reach out."""

from __future__ import annotations

import time
from typing import Any

import pytest

from perdure.tools.json_schema import (
    PATTERN_CHARS_MAX,
    SCHEMA_CHARS_MAX,
    BadSchema,
    Misfit,
    pattern_of,
    schema_of,
    strings_in,
)


def deep(levels: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(levels):
        value = {"items": value}
    return value


def test_what_does_not_fit_is_said_with_its_place() -> None:
    schema = schema_of({"type": "object", "properties": {"a/b": {"items": {"type": "integer"}}}, "required": ["c"]})
    found = schema.misfits({"a/b": [1, "x"]})
    assert Misfit("/a~1b/1", '"x" is not of type "integer"') in found
    assert Misfit("", '"c" is a required property') in found
    assert schema.misfits({"a/b": [1], "c": None}) == []
    assert schema.fits({"c": 1})


def test_a_long_value_is_not_repeated_and_endless_misfits_end() -> None:
    assert len(schema_of({"type": "integer"}).misfits("x" * 1_000_000)[0].message) < 300
    assert len(schema_of({"items": {"type": "integer"}}).misfits(["x"] * 1_000)) == 20


def test_references_within_the_schema_are_followed() -> None:
    schema = schema_of({"$defs": {"n": {"type": "integer"}}, "anyOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/anyOf/0"}]})
    assert schema.fits(1)
    assert not schema.fits("1")


def test_formats_are_checked() -> None:
    assert schema_of({"format": "date"}).fits("2026-11-24")
    assert not schema_of({"format": "date"}).fits("tomorrow")


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "must be a JSON object"),
        ([], "must be a JSON object"),
        (True, "must be a JSON object"),
        ({"type": "strin"}, "is no JSON Schema"),
        ({"minimum": "3"}, "is no JSON Schema"),
        ({"minimum": float("nan")}, "NaN"),
        ({"const": float("inf")}, "NaN"),
        ({"pattern": "("}, "is no JSON Schema"),
        ({"pattern": "(a)\\1"}, "is no JSON Schema"),
        ({"$schema": "http://nowhere.example/x"}, "is no JSON Schema"),
        ({"$ref": "http://127.0.0.1:1/x"}, "only references into the schema itself"),
        ({"$ref": "file:///etc/passwd"}, "only references into the schema itself"),
        ({"$ref": "#anchor", "$anchor": "anchor"}, "only references into the schema itself"),
        ({"$ref": "#/$defs/gone"}, "is not there"),
        ({"$ref": "#"}, "refers to itself"),
        ({"properties": {"a": {"$ref": "#"}}}, "refers to itself"),
        ({"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}}, "refers to itself"),
        ({"$dynamicRef": "#x"}, "$dynamicRef"),
        ({"properties": {"a": {"$id": "http://x.example/"}}}, "second $id"),
        ({"description": "x" * SCHEMA_CHARS_MAX}, "too large"),
        (deep(65), "nested deeper"),
        ({"description": "\ud800"}, "is no JSON Schema"),
        ({"const": {1, 2}}, "is no JSON"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_the_reason(schema: object, said: str) -> None:
    with pytest.raises(BadSchema) as refused:
        schema_of(schema)
    assert said in str(refused.value)


def test_a_small_schema_that_would_cost_for_ever_is_refused() -> None:
    bomb: dict[str, Any] = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 3} for n in range(16)}
    started = time.monotonic()
    with pytest.raises(BadSchema, match="written out"):
        schema_of({"$defs": {**bomb, "a16": {"type": "string"}}, "$ref": "#/$defs/a0"})
    assert time.monotonic() - started < 5


def test_what_no_json_can_hold_fits_nothing() -> None:
    assert schema_of({"type": "string"}).misfits("\ud800")[0].message.startswith("is no JSON")


def test_a_pattern_is_searched_anywhere_in_any_of_the_texts() -> None:
    assert pattern_of(r"(?i)drop\s+table").found_in(["x", "please DROP  TABLE y"])
    assert not pattern_of(r"^drop").found_in(["x drop"])
    assert pattern_of(r"(?m)^drop").found_in(["x\ndrop"])
    assert not pattern_of("x").found_in([])


@pytest.mark.parametrize(
    "pattern",
    ["", "(", "[z-a]", "(?=a)b", "(?<!a)b", r"(a)\1", "(a{1000}){1000}", "x" * (PATTERN_CHARS_MAX + 1), "\ud800"],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str) -> None:
    with pytest.raises(BadSchema):
        pattern_of(pattern)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*b", "(.*a){12}", "(x+x+)+y"])
def test_a_pattern_that_is_catastrophic_elsewhere_is_fast_here(pattern: str) -> None:
    """Python's own engine would need longer than the universe for the first of these."""
    assert not pattern_of(pattern).found_in(["a" * 11 + "!", "x" * 500_000])


def test_every_string_is_looked_at_names_and_pieces_of_a_command_included() -> None:
    found = strings_in({"a": ["x", {"b": "y"}], "c": 1, "d": ["p", "q"], "e": "r", "f": ["s"], "g": "\ud800"})
    assert {"a", "x", "b", "y", "p", "q", "p q", "r", "r s", "\ufffd"} <= set(found)
    assert "x y" not in found


def test_the_depth_of_arguments_does_not_matter() -> None:
    value: Any = "x"
    for _ in range(100_000):
        value = [value]
    assert strings_in(value) == ["x"]

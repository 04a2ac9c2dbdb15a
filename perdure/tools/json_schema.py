"""JSON Schemas and patterns from outside: whether they are sound, and what does not fit them.

Nothing here can hang or reach out: patterns run on an engine whose time is linear in the text, schemas cannot
refer to themselves or to other documents, and both have a size. Somebody else's schema is never run otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import jsonschema_rs

from perdure.core.state import Json
from perdure.tools.arguments import canonical_json
from perdure.tools.result_text import valid_text

SCHEMA_CHARS_MAX = 16_384  # of its canonical JSON; it is sent to the model with every call
SCHEMA_DEPTH_MAX = 64  # deeper ones are no longer written by people, nor by their libraries
SCHEMA_PARTS_MAX = 10_000  # with every reference written out: what one value may have to be compared with
PATTERN_CHARS_MAX = 1_000
_PATTERN_BYTES_MAX = 1 << 20  # compiled; (a{1000}){1000} would need a thousand times as much
_ENGINE = jsonschema_rs.RegexOptions(size_limit=_PATTERN_BYTES_MAX, dfa_size_limit=_PATTERN_BYTES_MAX)
_SHOWN_CHARS_MAX = 200  # of a message: it may quote the whole value
_MISFITS_MAX = 20
_MISFITS_SHOWN_MAX = 5  # a model mends a few at a time; more would only fill its context
_EXPECTED_CHARS_MAX = 1_500


class Misfit(NamedTuple):
    """Where a value does not fit (a JSON Pointer into it, "" for the whole) and why."""

    pointer: str
    message: str


class BadSchema(ValueError):
    """The schema or pattern cannot be used; the message says why."""


class Schema:
    """A sound JSON Schema, ready to be compared with values. Made by ``schema_of``."""

    def __init__(self, text: str) -> None:
        try:
            self._validator = jsonschema_rs.validator_for(
                json.loads(text), pattern_options=_ENGINE, validate_formats=True, offline=True
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            raise BadSchema(f"is no JSON Schema: {_first_line(error)}") from None

    def fits(self, value: Json) -> bool:
        """Raises ValueError for what no JSON document can hold (lone surrogates, endless depth)."""
        return self._validator.is_valid(value)

    def misfits(self, value: Json) -> list[Misfit]:
        """What does not fit, at most 20 of it; empty when all is well."""
        found: list[Misfit] = []
        try:
            for error in self._validator.iter_errors(value):
                found.append(Misfit(pointer(error.instance_path), _shortened(error.message)))
                if len(found) == _MISFITS_MAX:
                    break
        except ValueError as error:
            return [Misfit("", f"is no JSON: {_first_line(error)}")]
        return found


def schema_of(schema: object) -> Schema:
    """Raises BadSchema. The same schema is prepared once."""
    if not isinstance(schema, dict):
        raise BadSchema("must be a JSON object")
    try:
        text = canonical_json(schema)
    except (ValueError, TypeError, RecursionError):
        raise BadSchema("is no JSON") from None
    if len(text) > SCHEMA_CHARS_MAX:
        raise BadSchema(f"is too large: {len(text)} characters of {SCHEMA_CHARS_MAX} at most")
    if "NaN" in text or "Infinity" in text:
        _refuse_numbers(schema)
    parts = _parts(schema, schema, (), {}, 0)
    if parts > SCHEMA_PARTS_MAX:
        raise BadSchema(f"is too large: more than {SCHEMA_PARTS_MAX} parts with its references written out")
    return _prepared(text)


class Pattern:
    """A sound regular expression. Made by ``pattern_of``."""

    def __init__(self, pattern: str) -> None:
        schema = {"contains": {"type": "string", "pattern": pattern}}
        try:
            self._validator = jsonschema_rs.validator_for(schema, pattern_options=_ENGINE, offline=True)
        except ValueError:
            raise BadSchema(
                "is no regular expression of the kind that is searched in linear time "
                "(no look-around, no references back), or too large once repetitions are written out"
            ) from None

    def found_in(self, texts: list[str]) -> bool:
        """Whether it is found anywhere in one of the texts; they hold no lone surrogates."""
        return self._validator.is_valid(texts)


@lru_cache(maxsize=1_024)  # of a few kilobytes each
def pattern_of(pattern: str) -> Pattern:
    """Raises BadSchema."""
    if not pattern or len(pattern) > PATTERN_CHARS_MAX:
        raise BadSchema(f"must have 1 to {PATTERN_CHARS_MAX} characters, not {len(pattern)}")
    if pattern != valid_text(pattern):
        raise BadSchema("holds a lone surrogate, which is no text")
    return Pattern(pattern)


def misfit_words(head: str, schema: Mapping[str, Json], value: Json) -> str | None:
    """What does not fit, in words a model can act on, below ``head``; None when the value fits the sound schema."""
    found = schema_of(schema).misfits(value)
    if not found:
        return None
    lines = [f"- {one.pointer.strip('/').replace('/', '.') or 'the whole'}: {one.message}" for one in found]
    if len(lines) > _MISFITS_SHOWN_MAX:
        lines[_MISFITS_SHOWN_MAX:] = [f"- and {len(lines) - _MISFITS_SHOWN_MAX} more"]
    return "\n".join([head, *lines, f"Expected: {str(schema)[:_EXPECTED_CHARS_MAX]}"])


def pointer(path: list[str | int] | tuple[str | int, ...]) -> str:
    """A JSON Pointer of its parts."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def strings_in(value: Json) -> list[str]:
    """Every string of a value, names of members included, as text. A command may come in pieces: a list of strings
    is also one line, and so is a string with the list that follows it."""
    found: list[str] = []
    waiting: list[Json] = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                found.append(valid_text(text))
            case list() as items:
                waiting += reversed(items)
                found += _line(items)
            case dict() as members:
                waiting += reversed(members.values())
                found += [valid_text(name) for name in members]
                values = list(members.values())
                for one, other in pairwise(values):
                    if isinstance(one, str) and isinstance(other, list):
                        found += _line([one, *other])
    return found


def _line(items: list[Json]) -> Iterator[str]:
    words = [item for item in items if isinstance(item, str)]
    if len(words) == len(items) > 1:
        yield valid_text(" ".join(words))


@lru_cache(maxsize=1_024)
def _prepared(text: str) -> Schema:
    return Schema(text)


def _parts(part: Json, root: dict[str, Json], within: tuple[str, ...], known: dict[str, int], depth: int) -> int:
    """How many parts the schema has with its references written out. Without references to itself, that bounds
    what comparing one value costs."""
    if depth > SCHEMA_DEPTH_MAX:
        raise BadSchema(f"is nested deeper than {SCHEMA_DEPTH_MAX}, references included")
    match part:
        case dict():
            count = 1 + sum(_parts(inner, root, within, known, depth + 1) for inner in part.values())
            if depth and isinstance(part.get("$id"), str):
                raise BadSchema("holds a second $id: references can only lead into the schema itself")
            for name in ("$dynamicRef", "$recursiveRef"):
                if isinstance(part.get(name), str):
                    raise BadSchema(f"uses {name}: only $ref into the schema itself is supported")
            target = part.get("$ref")
            if isinstance(target, str):
                count += _referred(target, root, within, known, depth)
            return count
        case list():
            return 1 + sum(_parts(inner, root, within, known, depth + 1) for inner in part)
        case _:
            return 1


def _referred(target: str, root: dict[str, Json], within: tuple[str, ...], known: dict[str, int], depth: int) -> int:
    if target in within or target == "#":
        raise BadSchema(f"refers to itself ({target!r}): what comparing with it costs has no bound")
    if not target.startswith("#/"):
        raise BadSchema(f"refers to {target[:100]!r}: only references into the schema itself (#/…) are supported")
    if target not in known:
        found: Json = root
        for name in target[2:].split("/"):
            name = name.replace("~1", "/").replace("~0", "~")
            found = _member(found, name)
        if not isinstance(found, dict | bool):
            raise BadSchema(f"refers to {target[:100]!r}, which is not there")
        known[target] = _parts(found, root, (*within, target), known, depth + 1)
    return known[target]


def _member(part: Json, name: str) -> Json:
    match part:
        case dict():
            return part.get(name)
        case list() if name.isdecimal() and int(name) < len(part):
            return part[int(name)]
        case _:
            return None


def _refuse_numbers(schema: Mapping[str, Json]) -> None:
    try:
        json.dumps(schema, allow_nan=False)
    except ValueError:
        raise BadSchema("holds NaN or an infinity, which JSON does not have") from None


def _first_line(error: Exception) -> str:
    return _shortened((str(error).splitlines() or [type(error).__name__])[0])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}…"

"""What a tool returned, as the text a model reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic_core import PydanticSerializationError, to_jsonable_python

from perdure.tools.port import ToolTrouble

INVALID_RESULT = "tool_result_invalid"


def result_text(value: object) -> str:
    """A string as it is, None as ``done``, anything else as JSON. Lone surrogates become U+FFFD.

    Raises ToolTrouble (code ``tool_result_invalid``) for what JSON cannot say: NaN and infinities, bytes
    that are not text, cycles, objects without a JSON form.
    """
    match value:
        case None:
            return "done"
        case str():
            return valid_text(value)
        case bytes() | bytearray() | memoryview():
            raise ToolTrouble(
                f"the tool returned {len(value)} raw bytes; a result must be text or JSON", code=INVALID_RESULT
            )
        case Iterator():
            raise ToolTrouble(
                f"the tool returned a {type(value).__name__}, which may never end; a result must be text or JSON",
                code=INVALID_RESULT,
            )
    try:
        return valid_text(json.dumps(to_jsonable_python(value), ensure_ascii=False, allow_nan=False))
    except (ValueError, TypeError, RecursionError, PydanticSerializationError) as error:
        raise ToolTrouble(
            f"the tool's result of type {type(value).__name__} has no JSON form: {error}", code=INVALID_RESULT
        ) from error


def valid_text(text: str) -> str:
    """The text as valid Unicode: surrogate pairs joined, lone surrogates replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text

"""How content becomes text for the database and comes back: the same on SQLite and PostgreSQL.

JSON columns are TEXT. PostgreSQL takes neither NUL nor lone surrogates in text, so NUL stays a ``\\u0000``
escape and text with lone surrogates is stored wholly escaped: both come back as they were (two
halves that stand side by side come back as the character they form). NaN and the infinities have no
word in JSON and become null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import from_json

_ODD = dict.fromkeys((0, *range(55296, 57344)), "�")


def dump(value: Any) -> str:
    """JSON text that both databases accept. TypeError for what JSON cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.translate(_ESCAPED)
    return text


def dump_map(value: Mapping[str, Any]) -> str | None:
    """As ``dump``, with NULL for the empty object."""
    return dump(dict(value)) if value else None


def dump_sorted(value: Any) -> str:
    """As ``dump``, with one text for equal values: for comparing."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def load(text: str) -> Any:
    """What ``dump`` was given, or what any other JSON text says."""
    try:
        return from_json(text)
    except (ValueError, TypeError):  # pydantic's parser is twice as fast, but takes no lone surrogates, escaped or not
        return json.loads(text)


def load_map(text: str | None) -> dict[str, Any]:
    """What ``dump_map`` was given."""
    return {} if text is None else load(text)


def plain(text: str) -> str:
    """Text for a plain column (a name, a key): NUL and lone surrogates become U+FFFD."""
    if text.isascii():
        return text if "\0" not in text else text.replace("\0", "�")
    return text.translate(_ODD)


_ESCAPED = {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value
        case Mapping():
            return {key: _finite(item) for key, item in value.items()}
        case Sequence():
            return [_finite(item) for item in value]
        case _:
            return value

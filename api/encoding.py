"""JSON as this API writes it: UTF-8, one line, safe for clients that split lines at Unicode breaks."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_json
from starlette.responses import Response

# Clients built on str.splitlines() break lines here; inside JSON strings the escapes mean the same.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def encode(value: Any) -> bytes:
    """One line of JSON. NaN and infinities become null; lone surrogates are escaped."""
    try:
        line = to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:
        line = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    for character, escape in _LINE_BREAKS:
        if character in line:
            line = line.replace(character, escape)
    return line


class JsonReply(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)

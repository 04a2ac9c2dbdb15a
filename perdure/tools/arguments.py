"""The arguments of a tool call as one text, and the hash that an approval is bound to."""

from __future__ import annotations

import hashlib
import json

from perdure.core.state import Json


def canonical_json(value: Json) -> str:
    """One text for equal values: keys in order, no blanks, no escapes. ``1`` and ``1.0`` are two values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def args_sha256(arguments: Json) -> str:
    """SHA-256 in hex over the canonical JSON in UTF-8; arguments that were no JSON object are hashed as the
    string that came."""
    return hashlib.sha256(canonical_json(arguments).encode("utf-8", "surrogatepass")).hexdigest()

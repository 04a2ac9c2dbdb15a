"""Text of models, tools and people on its way to a terminal: what it may not do there, and how long it may be."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

# Control characters other than newline and tab drive the terminal, marks of writing direction show another text
# than there is, lone surrogates cannot be written.
_HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    return _HARMFUL.sub("�", text.replace("\r\n", "\n"))


def one_line(text: str, characters: int) -> str:
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= characters else flat[: characters - 1] + "…"


def shown_json(value: Any, *, indent: int | None = None) -> str:
    """JSON in which nothing hides: who approves arguments must see all of them. What does not print is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(one if one.isprintable() or one == "\n" else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def ago(at: str) -> str:
    return f"{_span(-seconds_until(at))} ago"


def until(at: str | None) -> str:
    if at is None:
        return "does not expire"
    seconds = seconds_until(at)
    return f"expires in {_span(seconds)}" if seconds > 0 else "is about to expire"


def seconds_until(at: str) -> float:
    return (datetime.fromisoformat(at) - datetime.now(UTC)).total_seconds()


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"

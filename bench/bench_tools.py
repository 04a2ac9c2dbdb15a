"""The tool the benches call: an instant one with a result of 2 KB."""

from __future__ import annotations

from perdure.tools import tool

_TEXT = ("The quick brown fox jumps over the lazy dog, and does so again and again. " * 30)[:2_000]


@tool(effect="read")
def two_kilobytes(step: int) -> str:
    """Returns two kilobytes of text."""
    return f"{step}: {_TEXT}"


@tool(effect="read")
def tiny(step: int) -> str:
    """Returns a few bytes."""
    return f"{step} is done"

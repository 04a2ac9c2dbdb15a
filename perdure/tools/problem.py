"""What is wrong with a definition from outside, and where."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """``pointer`` is a JSON Pointer, ``code`` one of the words in ``docs/policy.md``, ``message`` says why and
    what would be right."""

    pointer: str
    code: str
    message: str

"""What is wrong with a definition from outside, and where."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """``pointer`` is a JSON Pointer, ``code`` a word for programs (``docs/policy.md`` and ``docs/tools.md`` list
    them), ``message`` says why and what would be right."""

    pointer: str
    code: str
    message: str

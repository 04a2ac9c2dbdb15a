"""The verdict on each tool call a model asks for, given where its full arguments are at hand.

A refusal is a fact for the model, not trouble: its code and message go back as the call's result.
"""

from __future__ import annotations

from collections.abc import Collection

from perdure.core.happenings import CallAsked

_NAMES_SHOWN_MAX = 30  # enough to mend a slip of the pen; the model has the whole list in its request
_NAME_CHARS_MAX = 64  # the vendors' own limit on tool names; a longer one is a model gone astray
_PROBLEM_CHARS_MAX = 2_000  # the verdict travels through Temporal's history, which must stay small


def judge(call_id: str, tool: str, known: Collection[str], problem: str | None) -> CallAsked:
    """Read top to bottom: the first line that applies wins.

    ``known`` are the tools this run may use; ``problem`` is what is wrong with the arguments, in the
    tool's words, or None. An allowed call comes back without a refusal.
    """
    if tool not in known:
        return CallAsked(call_id, _shortened(tool, _NAME_CHARS_MAX), _unknown(tool, known), "unknown_tool")
    if problem is not None:
        return CallAsked(call_id, tool, _shortened(problem, _PROBLEM_CHARS_MAX), "invalid_arguments")
    return CallAsked(call_id, tool)


def our_call_ids(run_id: str, turn: int, count: int) -> list[str]:
    """The ids of a turn's ``count`` tool calls: the same whenever asked, unique in a session, and of the
    shape every vendor takes back, ``^[a-zA-Z0-9_-]{1,40}$``. Vendors' own ids may repeat or be missing."""
    return [f"call_{run_id[-8:]}_{turn}_{index}" for index in range(count)]


def _unknown(tool: str, known: Collection[str]) -> str:
    names = sorted(known)
    shown = ", ".join(names[:_NAMES_SHOWN_MAX]) or "none"
    more = f" and {len(names) - _NAMES_SHOWN_MAX} more" if len(names) > _NAMES_SHOWN_MAX else ""
    return f"there is no tool {_shortened(tool, _NAME_CHARS_MAX)!r}; available tools: {shown}{more}"


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"

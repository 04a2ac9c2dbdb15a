"""The verdict on each tool call a model asks for, given where its full arguments are at hand.

A refusal is a fact for the model, not trouble: its code and message go back as the call's result.
"""

from __future__ import annotations

from collections.abc import Collection

from perdure.core.happenings import CallAsked
from perdure.core.policy import REPEAT_FAILURES_MAX, Ruling
from perdure.core.spec import AnsweredBy
from perdure.core.state import WaitsFor

_NAMES_SHOWN_MAX = 30  # enough to mend a slip of the pen; the model has the whole list in its request
_NAME_CHARS_MAX = 64  # the vendors' own limit on tool names; a longer one is a model gone astray
_PROBLEM_CHARS_MAX = 2_000  # more would only fill the model's context
_ALLOWED = Ruling("allow", "default")


def judge(
    call_id: str,
    tool: str,
    known: Collection[str],
    problem: str | None,
    *,
    failures: int = 0,
    failures_max: int = REPEAT_FAILURES_MAX,
    ruling: Ruling = _ALLOWED,
    answered_by: AnsweredBy = "worker",
    answer_seconds: float = 0.0,
    now_ms: int = 0,
) -> CallAsked:
    """Read top to bottom: the first line that applies wins.

    ``known`` are the tools this run may use; ``problem`` is what is wrong with the arguments, in the tool's
    words, or None. ``failures`` is how often this very call failed in a row (``failures_max`` 0: never mind).
    ``ruling`` is the policy's word, decisions that stand included. ``answer_seconds`` is how long people or the
    client have for the answer. A call that may run now comes back without a refusal and waits for nobody.
    """
    if tool not in known:
        return CallAsked(call_id, _shortened(tool, _NAME_CHARS_MAX), _unknown(tool, known), "unknown_tool")
    if problem is not None:
        return CallAsked(call_id, tool, _shortened(problem, _PROBLEM_CHARS_MAX), "invalid_arguments")
    if 0 < failures_max <= failures:
        return CallAsked(call_id, tool, _repeated(failures), "repeated_failure")
    if ruling.action == "deny":
        return CallAsked(call_id, tool, _denied(ruling), "tool_denied")
    # A question is asked of people anyway: to ask them whether they may be asked would be silly. And whoever sleeps
    # changes nothing.
    if ruling.action == "ask" and answered_by not in ("people", "time"):
        return _waiting(call_id, tool, "approval", now_ms, ruling.terms.expires_seconds)
    if answered_by == "people":
        return _waiting(call_id, tool, "question", now_ms, answer_seconds)
    if answered_by == "client":
        return _waiting(call_id, tool, "client_tool", now_ms, answer_seconds)
    return CallAsked(call_id, tool)


def our_call_ids(run_id: str, key: str, count: int) -> list[str]:
    """The ids of the ``count`` tool calls that the model call ``key`` asked for: the same whenever asked, unique
    in a session, and of the shape every vendor takes back, ``^[a-zA-Z0-9_-]{1,40}$``. Vendors' own ids may
    repeat or be missing; and a turn that was called off and is wanted again is another model call."""
    return [f"call_{run_id[-8:]}_{key.removeprefix('model-')}_{index}" for index in range(count)]


def _waiting(call_id: str, tool: str, waits: WaitsFor, now_ms: int, seconds: float) -> CallAsked:
    return CallAsked(call_id, tool, waits=waits, expires_ms=now_ms + int(seconds * 1_000))


def _repeated(failures: int) -> str:
    """What the model is told of a call that it repeats although it fails."""
    return (
        f"not run: this very call has failed {failures} times in a row; "
        "change its arguments, or go about it in another way"
    )


def _denied(ruling: Ruling) -> str:
    """What the model is told of a denial: the rule, and the reason when there is one."""
    why = f": {ruling.reason}" if ruling.reason else ""
    return _shortened(f"not allowed by {ruling.rule}{why}", _PROBLEM_CHARS_MAX)


def _unknown(tool: str, known: Collection[str]) -> str:
    names = sorted(known)
    shown = ", ".join(names[:_NAMES_SHOWN_MAX]) or "none"
    more = f" and {len(names) - _NAMES_SHOWN_MAX} more" if len(names) > _NAMES_SHOWN_MAX else ""
    return f"there is no tool {_shortened(tool, _NAME_CHARS_MAX)!r}; available tools: {shown}{more}"


def _shortened(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"

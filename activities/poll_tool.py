"""One try of a ``poll``: run the tool it names, and see whether its result is as wanted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from perdure.core.state import Json
from perdure.store.rows import CallRow, RunRow, ToolCommit
from perdure.tools.builtin.polling import TRY_SECONDS_MAX, plan_of, polled_tool
from perdure.tools.policy import policy_of, ruling, withheld, withheld_words
from perdure.tools.port import Tool, ToolBox, ToolTrouble

_LAST_CHARS_MAX = 2_000  # of the last result, when the poll gives up

RunPolled = Callable[[Tool, dict[str, Json], float], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class NotYet:
    """Try again at ``next_ms``; the poll gives up at ``ends_ms``. ``message`` is why this try failed, if it did."""

    next_ms: int
    ends_ms: int
    message: str = ""


async def poll_once(
    run: RunRow, call: CallRow, toolbox: ToolBox, run_polled: RunPolled, now_ms: Callable[[], int]
) -> str | ToolCommit | NotYet:
    """The result as wanted, the poll's end without it, or that there shall be another try. A try that failed in
    passing is one in vain; any other failure ends the poll, for the model can mend it."""
    arguments = call.arguments if isinstance(call.arguments, dict) else {}
    plan = plan_of(arguments)
    tool = polled_tool(toolbox, plan)
    if isinstance(tool, str):  # people have edited the arguments, or this worker has other tools
        return ToolCommit("failed", tool, "invalid_arguments")
    policy = policy_of(run.definition)
    found = ruling(policy, tool.description, plan.arguments)
    if found.action == "deny":
        return ToolCommit("failed", f"not allowed by {found.rule}: {found.reason}".rstrip(": "), "tool_denied")
    kept = (call.outcome or {}).get("ends_ms")
    ends_ms = kept if isinstance(kept, int) else now_ms() + plan.timeout_ms
    seconds = min(tool.description["timeout_seconds"], TRY_SECONDS_MAX)
    text, message = "", ""
    try:
        text = await run_polled(tool, plan.arguments, seconds)
    except TimeoutError:
        message = f"{plan.tool} gave no result within {seconds:g} s"
    except ToolTrouble as trouble:
        if not trouble.retryable:
            return ToolCommit("failed", f"{plan.tool}: {trouble.message}", trouble.code)
        message = f"{plan.tool}: {trouble.message}"
    if denial := withheld(policy, tool.description, text, plan.arguments):
        return ToolCommit("failed", withheld_words(denial), "tool_denied")
    if not message and plan.holds(text):
        return text
    if now_ms() >= ends_ms:
        last = message or text[:_LAST_CHARS_MAX] + ("…" if len(text) > _LAST_CHARS_MAX else "")
        words = f"not so within {plan.timeout_ms / 1_000:g} s, after {call.attempts} tries; the last one: {last}"
        return ToolCommit("failed", words, "tool_timeout")
    return NotYet(min(now_ms() + plan.every_ms, ends_ms), ends_ms, message)

"""The call a tool is running for: set around every run, read by authors with ``current_call()``."""

from __future__ import annotations

from contextvars import ContextVar

from perdure.tools.port import ToolCallContext

running_call: ContextVar[ToolCallContext] = ContextVar("perdure_running_call")


def current_call() -> ToolCallContext:
    """The call this code runs for: ``run_id``, ``call_id``, ``attempt`` (from 1), ``idempotency_key`` (the
    same on every attempt), ``workspace``. Works in async tools, in sync tools and in what they await or call;
    a thread that a tool starts by itself must be given the value. Raises LookupError outside a tool call."""
    try:
        return running_call.get()
    except LookupError:
        raise LookupError(
            "current_call() was used outside a tool call; it has a value only while Perdure runs a @tool function"
        ) from None

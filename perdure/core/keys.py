"""Keys of actions: stable names under which the journal files what came of them."""

from __future__ import annotations

from perdure.core.state import OpenCall, RunState


def model_key(state: RunState) -> str:
    """The call of the next turn; one that was called off before is not taken up again."""
    return f"model-{state.turn + 1}" + _again(state.recalled)


def wrap_up_key(state: RunState) -> str:
    """The last call, which says what is done and what is not."""
    return f"wrap-up-{state.turn + 1}" + _again(state.recalled)


def tool_key(call: OpenCall) -> str:
    """A call that somebody ordered to run again is another action."""
    return f"tool-{call.call_id}" + _again(call.round)


def settle_key(call: OpenCall) -> str:
    """A call that waits anew is settled anew."""
    return f"settle-{call.call_id}-{call.round}"


def answer_key(call: OpenCall) -> str:
    return f"answer-{call.call_id}"


def is_model_key(key: str) -> bool:
    return key.startswith(("model-", "wrap-up-"))


def is_wrap_up_key(key: str) -> bool:
    return key.startswith("wrap-up-")


def is_tool_key_of(key: str, call_id: str) -> bool:
    """Any round of the call: an earlier one may still be in flight."""
    return key == f"tool-{call_id}" or key.startswith(f"tool-{call_id}-")


def _again(number: int) -> str:
    return f"-{number}" if number else ""

"""What people see of a run in the Temporal UI: current details in Markdown, typed search attributes."""

from __future__ import annotations

from datetime import UTC, datetime

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

with workflow.unsafe.imports_passed_through():
    from perdure.contract import (
        SEARCH_AGENT,
        SEARCH_COST,
        SEARCH_MODEL,
        SEARCH_NEEDS_ACTION,
        SEARCH_STATUS,
        SEARCH_TENANT,
        SUMMARY_CHARACTERS,
    )
    from perdure.core.spec import RunSpec
    from perdure.core.state import OpenCall, Outcome, RunState

_AGENT = SearchAttributeKey.for_keyword(SEARCH_AGENT)
_MODEL = SearchAttributeKey.for_keyword(SEARCH_MODEL)
_STATUS = SearchAttributeKey.for_keyword(SEARCH_STATUS)
_TENANT = SearchAttributeKey.for_keyword(SEARCH_TENANT)
_COST = SearchAttributeKey.for_int(SEARCH_COST)
_NEEDS_ACTION = SearchAttributeKey.for_bool(SEARCH_NEEDS_ACTION)


def details(state: RunState, goal: str) -> str:
    """Not kept in history: the UI asks the worker for it."""
    usage = state.usage
    cost = "unknown" if usage.unpriced_calls else f"${usage.cost_micros / 1_000_000:.6f}"
    flying = ", ".join(state.in_flight) or "nothing"
    waits = "".join(f"- waits for **{line}**\n" for line in _waits(state))
    return (
        f"**{state.status}** · {state.turn} of at most {state.spec.limits.max_turns} turns answered\n\n"
        f"{waits}\n"
        f"{goal if state.spec.previews else ''}\n\n"
        f"- agent `{state.spec.agent}`, model `{state.spec.model}`\n"
        f"- {usage.input_tokens} tokens in, {usage.output_tokens} out, cost {cost}\n"
        f"- {state.tool_calls} tool calls\n"
        f"- in flight: {flying}\n"
        f"- `perdure show {state.spec.run_id}` · `perdure cancel {state.spec.run_id}`\n"
    )


def _waits(state: RunState) -> list[str]:
    """What the run waits for, each with the command that resolves it."""
    run_id = state.spec.run_id
    lines = [
        f"{_ASKED[call.waits]} `{call.tool}`{_about(call)}: "
        f"`{_COMMAND[call.waits].format(run=run_id, call=call.call_id)}`"
        for call in state.open_calls
        if call.waits and not call.answered
    ]
    if state.status == "scheduled":
        lines.append(f"its start, {_time(state.spec.start_ms)}: `perdure cancel {run_id}`")
    if state.paused:
        lines.append(f"somebody to go on (paused: {state.paused}): `perdure resume {run_id}`")
    if state.reached and state.spec.on_limit == "pause":
        lines.append(f"a larger budget ({state.reached} is reached): `perdure budget {run_id} --max-cost …`")
    return lines


_ASKED = {
    "approval": "approval of",
    "question": "an answer to",
    "client_tool": "the client's result of",
    "unknown_outcome": "a person's word on what became of",
    "timer": "its time:",
    "event": "an event:",
    "poll": "the next try of",
    "children": "the agents of",
}
_COMMAND = {
    "approval": "perdure approve {run} --call {call}",
    "question": "perdure answer {run} --call {call}",
    "client_tool": "POST /v1/runs/{run}/tool_results",
    "unknown_outcome": "perdure approvals {run}",
    "timer": "perdure timers {run}",
    "event": "perdure signal {run} …",
    "poll": "perdure say {run} …",
    "children": "perdure tree {run}",
}


def _about(call: OpenCall) -> str:
    if call.note:
        return f" ({call.note})"
    return f" at {_time(call.expires_ms)}" if call.waits in ("timer", "poll") else ""


def alarm_summary(state: RunState, wake_at_ms: int) -> str:
    """What the one timer of a run is for, in the timer's own line. Temporal keeps it: no content where no previews
    are wanted."""
    if wake_at_ms == state.spec.deadline_ms:
        return "deadline of the run"
    if wake_at_ms == state.spec.start_ms:
        return f"start of the run, {_time(wake_at_ms)}"
    for call in state.open_calls:
        if call.waits and not call.answered and call.expires_ms == wake_at_ms:
            what = _ALARM.get(call.waits, f"until what {call.tool} asks expires")
            return (call.note or f"{what}, {_time(wake_at_ms)}")[:SUMMARY_CHARACTERS]
    return "until a rate limit lets the next call start"


_ALARM = {"timer": "sleep until", "event": "wait for an event", "poll": "next try of a poll"}


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def as_started(spec: RunSpec, tenant: str) -> TypedSearchAttributes:
    """Of a run whose workflow another workflow starts; ``perdure.runs`` says the same of those that a client starts."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(_AGENT, spec.agent),
            SearchAttributePair(_MODEL, spec.model),
            SearchAttributePair(_STATUS, "running"),
            SearchAttributePair(_TENANT, tenant),
            SearchAttributePair(_COST, 0),
            SearchAttributePair(_NEEDS_ACTION, False),
        ]
    )


def show_status(state: RunState) -> None:
    """One upsert when the status that readers see changes."""
    if state.spec.search_attributes:
        workflow.upsert_search_attributes(
            [_STATUS.value_set(state.told), _NEEDS_ACTION.value_set(state.told == "requires_action")]
        )


def show_agent(state: RunState) -> None:
    """One upsert when another agent has taken over."""
    if state.spec.search_attributes:
        workflow.upsert_search_attributes([_AGENT.value_set(state.spec.agent), _MODEL.value_set(state.spec.model)])


def show_end(state: RunState, outcome: Outcome) -> None:
    """One upsert, at the end: each costs an event of history."""
    if state.spec.search_attributes:
        workflow.upsert_search_attributes(
            [
                _STATUS.value_set(outcome.status),
                _COST.value_set(state.usage.cost_micros),
                _NEEDS_ACTION.value_set(False),
            ]
        )

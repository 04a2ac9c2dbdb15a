"""How each action is done: which activity, under which timeouts and retries, with which label in the
Temporal UI; and what its end means to the core. The only place that knows Temporal's word for trouble.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import assert_never

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.exceptions import TimeoutError as ActivityTimeout

with workflow.unsafe.imports_passed_through():
    from perdure.contract import (
        ANSWER_CALL,
        BUDGET_REACHED,
        CALL_FAMILY,
        CALL_MODEL,
        CALL_TOOL,
        INTERRUPTED,
        MODEL_TROUBLE,
        NOTHING_NEW,
        RECORD,
        RUN_OVER,
        SETTLE_ASK,
        TOOL_PARKED,
        TOOL_PAUSED,
        AnswerCallInput,
        CallFamilyInput,
        CallModelInput,
        CallToolInput,
        FamilyCallDone,
        RecordInput,
        SettleAskInput,
    )
    from perdure.core.actions import Action, AnswerCall, CallFamily, CallModel, CallTool, Finish, Record, SettleAsk
    from perdure.core.happenings import (
        ActionCancelled,
        AskSettled,
        BudgetReached,
        EndedElsewhere,
        Happening,
        ModelFailed,
        ModelInterrupted,
        ModelResponded,
        NothingNew,
        Recorded,
        ToolAnswered,
        ToolLost,
        ToolParked,
        ToolPaused,
    )
    from perdure.core.numbers import union
    from perdure.core.state import Failure, RunState
    from workflows.children import start_child

# An action is tried until it ends or the run's deadline calls it off: the activities themselves count
# the attempts that matter (in the journal, where lost workers count too) and end what is hopeless.
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.2),  # a lost worker's work is taken up at once
    backoff_coefficient=2,
    maximum_interval=timedelta(seconds=10),  # a journal that is back is noticed within this
    non_retryable_error_types=["PayloadsTooLarge", RUN_OVER],  # the first would be repeated for ever
)
_MARGIN_SECONDS = 15.0  # over an activity's own timeout: it ends itself and says so, Temporal is the net
_WRITE_SECONDS = 30.0  # one attempt of an activity that only writes to the journal

_RUN_ERROR_OF_TROUBLE = {
    "rate_limited": "model_rate_limited",
    "context_exceeded": "context_overflow",
    "refused": "model_refused",
    "overloaded": "retries_exhausted",
    "server_error": "retries_exhausted",
    "timeout": "retries_exhausted",
    "unreachable": "retries_exhausted",
    "truncated_stream": "retries_exhausted",
    "given_up": "retries_exhausted",
    "transcript_broken": "transcript_broken",
}


def activity_for(action: Action, state: RunState) -> workflow.ActivityHandle[object]:
    """Start the activity that does ``action``; it carries the whole outbox of ``state``."""
    spec, outbox = state.spec, state.outbox
    match action:
        case CallModel(key, turn, apply, only_for_messages, wrap_up, closes, tool_output_bytes):
            return _start(
                CALL_MODEL,
                CallModelInput(
                    spec.run_id,
                    key,
                    turn,
                    apply,
                    only_for_messages,
                    wrap_up,
                    closes,
                    tool_output_bytes,
                    outbox,
                    spec.transfers,
                ),
                state,
                f"{'wrap-up' if wrap_up else f'turn {turn}'} · {spec.model}",
                spec.model_timeout_seconds + _MARGIN_SECONDS,
                ModelResponded,
            )
        case CallTool(key, call_id, turn, rule, over, ordered):
            return _start(
                CALL_TOOL,
                CallToolInput(
                    spec.run_id,
                    key,
                    call_id,
                    turn,
                    rule.timeout_seconds,
                    rule.max_attempts,
                    rule.effect == "once",
                    over,
                    ordered,
                    spec.limits.tool_output_bytes_per_turn is not None,
                    spec.ask_about_unknown and rule.effect == "once",
                    outbox,
                    spec.transfers,
                ),
                state,
                f"turn {turn} · {rule.name}",
                rule.timeout_seconds + _MARGIN_SECONDS,
                ToolAnswered,
            )
        case CallFamily(key, call_id, turn, rule):
            counts_bytes = spec.limits.tool_output_bytes_per_turn is not None
            return _start(
                CALL_FAMILY,
                CallFamilyInput(spec.run_id, key, call_id, turn, counts_bytes, outbox),
                state,
                f"turn {turn} · {rule.name}",
                _WRITE_SECONDS,
                FamilyCallDone,
            )
        case SettleAsk(key, call_id, turn, tool):
            return _start(
                SETTLE_ASK,
                SettleAskInput(spec.run_id, key, call_id, turn, outbox),
                state,
                f"turn {turn} · the time of {tool} is over",
                _WRITE_SECONDS,
                AskSettled,
            )
        case AnswerCall(key, call_id, turn, tool, code, message):
            return _start(
                ANSWER_CALL,
                AnswerCallInput(spec.run_id, key, call_id, turn, code, message, outbox),
                state,
                f"turn {turn} · {tool} not run: {code}",
                _WRITE_SECONDS,
                ToolAnswered,
            )
        case Record(key):
            return _start(
                RECORD, RecordInput(spec.run_id, key, state.turn, outbox), state, "record", _WRITE_SECONDS, Recorded
            )
        case Finish(key, outcome):
            return _start(
                RECORD,
                RecordInput(spec.run_id, key, state.turn, outbox, outcome),
                state,
                f"{outcome.status}: {outcome.stop_reason}",
                _WRITE_SECONDS,
                Recorded,
            )
        case _:
            assert_never(action)


def _start(
    name: str, order: object, state: RunState, summary: str, seconds: float, result: type
) -> workflow.ActivityHandle[object]:
    return workflow.start_activity(
        name,
        order,
        result_type=result,
        start_to_close_timeout=timedelta(seconds=seconds),
        heartbeat_timeout=timedelta(seconds=state.spec.heartbeat_timeout_seconds),
        retry_policy=_RETRY,
        # What was called off must have ended before the run's end is recorded.
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary[:99] if state.spec.previews else None,  # Temporal allows 400 bytes, a character takes up to 4
    )


async def happening_of(
    action: Action, handle: workflow.ActivityHandle[object], called_off: Collection[str]
) -> Happening:
    """Wait for the activity's end and say what it means. Activities report happenings themselves.

    ``called_off`` holds, when the end comes, the keys of the actions that the run no longer wants.
    """
    try:
        reported = await handle
        if isinstance(reported, FamilyCallDone):
            if reported.child:
                await start_child(reported.child)
            return reported.called
        return reported  # type: ignore[return-value]  # activities report happenings, by result_type
    except ActivityError as error:
        cause = error.cause
        if isinstance(cause, ApplicationError) and (said := _said(action, cause)):
            return said
        # What was called off is not tried again: it may end with its attempt's failure, or with its lost worker.
        if is_cancelled_exception(error) or action.key in called_off:
            return ActionCancelled(action.key)
        match action:
            case CallModel(key):
                return ModelFailed(key, _model_failure(key, cause))
            case CallTool(key, call_id) | CallFamily(key, call_id) | AnswerCall(key, call_id):
                return ToolLost(key, call_id, "tool_outcome_unknown", f"the call ended without a result: {cause}")
            case _:
                raise  # the journal cannot take the run's end: the workflow fails, for people to see


def _said(action: Action, cause: ApplicationError) -> Happening | None:
    """What an activity says by failing: that it did not come to what it was asked for, and why."""
    match action, cause.type:
        case _, name if name == RUN_OVER:
            return EndedElsewhere(cause.details[0])
        case CallModel(key), name if name == BUDGET_REACHED:
            return BudgetReached(key, cause.details[0])
        case CallModel(key), name if name == NOTHING_NEW:
            return NothingNew(key)
        case CallModel(key), name if name == INTERRUPTED:
            return ModelInterrupted(key, union((), tuple((number, number) for number in cause.details[0])))
        case CallTool(key, call_id), name if name == TOOL_PARKED:
            return ToolParked(key, call_id, cause.details[0])
        case CallTool(key, call_id), name if name == TOOL_PAUSED:
            return ToolPaused(key, call_id, cause.details[0])
        case _:
            return None


def _model_failure(key: str, cause: BaseException | None) -> Failure:
    if isinstance(cause, ApplicationError) and cause.type == MODEL_TROUBLE:
        code, message, attempts = cause.details
        return Failure(_RUN_ERROR_OF_TROUBLE.get(code, "model_error"), message, call_id=key, attempts=attempts)
    if isinstance(cause, ActivityTimeout):
        return Failure("retries_exhausted", f"the model call timed out: {cause}", retryable=True, call_id=key)
    return Failure("internal", f"the model call failed: {cause}", call_id=key)

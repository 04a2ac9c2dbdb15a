"""What people and clients decide and answer. The run's row is taken first: of two who decide at once one wins,
and the other is told.

Whatever a decision does to its call is done here too, in the same transaction: the workflow only hears of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from sqlalchemy import Connection, bindparam, select

from perdure.core.happenings import Order
from perdure.core.state import Failure, Json
from perdure.store import ask_events
from perdure.store import events as say
from perdure.store.ask_rows import ask, close_ask, find_ask, newest_ask, not_found, save_ask
from perdure.store.call_answers import answer_call
from perdure.store.call_rows import Call
from perdure.store.json_text import dump, dump_sorted, load, plain
from perdure.store.rows import AskRow, AskStatus, AskType, Decision, NewAsk, Scope, ToolCommit, ToolResult, Vote
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import asks, messages, runs
from perdure.store.sql_orders import add_order
from perdure.store.trouble import AskExpired, AskResolved, AskStale, NotEligible, NotFound, RunOver

ANONYMOUS = "anonymous"  # whoever does not say who they are is the same person to us
_WHOSE = (
    select(runs.c.id, asks.c.type)
    .join(asks, asks.c.run_no == runs.c.no)
    .where(asks.c.id == bindparam("ask_id"), asks.c.project_id == bindparam("project_id"))
)
_RESULT = select(messages.c.content).where(
    messages.c.session_no == bindparam("session"), messages.c.number == bindparam("number")
)
_NARROWEST: tuple[Scope, ...] = ("once", "run", "session")


def decide(connection: Connection, project_id: str, ask_id: str, decision: Decision) -> AskRow:
    run, row = _take(connection, project_id, ask_id, ("approval", "unknown_outcome"))
    decision = replace(decision, by=plain(decision.by), message=plain(decision.message))
    if _said_before(row, decision):
        return row
    _must_be_open(run, row)
    if decision.args_sha256 is not None and decision.args_sha256 != row.args_sha256:
        raise AskStale(row.id, row.args_sha256)
    match decision.decision:
        case "approve" | "edit":
            decided = _vote(run, row, decision)
        case "deny":
            decided = _close(run, row, "denied", decision)
            answer_call(run, Call.get(run, row.call_id), _denial(row, decision))
            add_order(run, Order(0, "answer", call_id=row.call_id))
        case "respond":
            _must_be_eligible(row, decision)
            decided = _close(run, row, "responded", decision)
            answer_call(run, Call.get(run, row.call_id), ToolCommit("completed", decision.message), by=decision.by)
            add_order(run, Order(0, "answer", call_id=row.call_id))
    run.save()
    return decided


def _take(
    connection: Connection, project_id: str, ask_id: str, types: Sequence[AskType]
) -> tuple[RunTransaction, AskRow]:
    """The ask as it is while nobody else can change it. NotFound."""
    found = connection.execute(_WHOSE, {"ask_id": plain(ask_id), "project_id": project_id}).one_or_none()
    if found is None or found.type not in types:
        raise not_found(ask_id)
    run = RunTransaction(connection, found.id, even_if_over=True)
    return run, find_ask(run, ask_id)


def _said_before(row: AskRow, decision: Decision) -> bool:
    """The same decision by the same person: there is nothing to do."""
    if row.status != "open" and row.decided_by == decision.by and (row.message or "") != decision.message:
        return False
    if decision.decision == "edit" and decision.edited_sha256 != row.args_sha256:
        return False
    return any(
        (vote.by, vote.decision, vote.scope) == (decision.by, decision.decision, decision.scope) for vote in row.votes
    )


def _must_be_open(run: RunTransaction, row: AskRow) -> None:
    if row.status == "expired":
        raise AskExpired(f"{row.id} has expired")
    if run.over:
        raise RunOver(run.id, run.status)
    if row.status != "open":
        raise AskResolved(f"{row.id} is {row.status}", row)
    if run.now_ms >= row.expires_ms:
        raise AskExpired(f"the time of {row.id} is over")


def _must_be_eligible(row: AskRow, decision: Decision) -> None:
    if row.terms.four_eyes and decision.by == (row.requested_by or ANONYMOUS):
        raise NotEligible(f"{decision.by} asked for this run: somebody else has to decide about {row.id}")


def _vote(run: RunTransaction, row: AskRow, decision: Decision) -> AskRow:
    """One more vote; with the quorum the call goes on. Other arguments make earlier votes void."""
    _must_be_eligible(row, decision)
    edits = decision.decision == "edit" and decision.edited_sha256 != row.args_sha256
    if not edits and any(vote.by == decision.by for vote in row.votes):
        raise NotEligible(f"{decision.by} has voted on {row.id} already")
    vote = Vote(decision.by, decision.decision, run.now_ms, decision.scope)
    if edits:
        row = _edited(run, row, decision)
    row = replace(row, votes=[*row.votes, vote])
    if len(row.votes) < row.terms.quorum:
        run.append_once(ask_events.voted(row))
        return save_ask(run, row)
    scope = min((vote.scope for vote in row.votes), key=_NARROWEST.index)
    row = close_ask(
        run, row, "approved", decision=decision.decision, decided_by=decision.by, message=decision.message or None,
        scope=scope,
    )  # fmt: skip
    run.append(ask_events.decided(row))
    _go_on(run, row)
    return row


def _edited(run: RunTransaction, row: AskRow, decision: Decision) -> AskRow:
    assert decision.edited_arguments is not None, "edited arguments come with their hash"
    assert decision.edited_sha256 is not None, "edited arguments come with their hash"
    call = Call.get(run, row.call_id)
    call.row.update(arguments=dump(decision.edited_arguments), args_sha256=decision.edited_sha256)
    call.save()
    return replace(
        row, arguments=decision.edited_arguments, args_sha256=decision.edited_sha256, edited=True, votes=[]
    )  # fmt: skip


def _go_on(run: RunTransaction, row: AskRow) -> None:
    """The call may run: at the client's, or on a worker."""
    expires_ms = 0
    if row.type == "unknown_outcome":
        give_up_attempt(run, Call.get(run, row.call_id), "approved", "a person ordered the call to run again")
    elif row.client_seconds is not None:
        expires_ms = run.now_ms + int(row.client_seconds * 1_000)
        ask(run, NewAsk("client_tool", row.call_id, row.tool, row.args_sha256, expires_ms), row.arguments)
    add_order(run, Order(0, "approve", call_id=row.call_id, expires_ms=expires_ms))


def give_up_attempt(run: RunTransaction, call: Call, code: str, words: str) -> None:
    """The attempt that is in flight, or lost, is not waited for: the call's next attempt may begin."""
    attempt = call.row["open_attempt"]
    if attempt is None:
        return
    call.close(Failure(code, words, True, call.key, attempt))
    run.append_once(say.tool_retrying(call.shown(arguments=False), attempt, code, words, 0))
    call.recovered(attempt)
    call.save()


def _close(run: RunTransaction, row: AskRow, status: AskStatus, decision: Decision) -> AskRow:
    """Decided by this one person."""
    vote = Vote(decision.by, decision.decision, run.now_ms, decision.scope)
    row = close_ask(
        run, row, status, votes=[*row.votes, vote], decision=decision.decision, decided_by=decision.by,
        message=decision.message or None, scope=decision.scope,
    )  # fmt: skip
    run.append(ask_events.decided(row))
    return row


def _denial(row: AskRow, decision: Decision) -> ToolCommit:
    if row.type == "unknown_outcome":
        words = decision.message or "It is not known whether this call took effect, and it shall not run again."
        return ToolCommit("unknown", words, "tool_outcome_unknown")
    return ToolCommit("failed", decision.message or "A person denied this call. It was not run.", "tool_denied")


def answer(connection: Connection, project_id: str, ask_id: str, answers: dict[str, Json], by: str) -> AskRow:
    run, row = _take(connection, project_id, ask_id, ("question",))
    if row.status == "answered" and row.answers is not None and dump_sorted(row.answers) == dump_sorted(answers):
        return row
    _must_be_open(run, row)
    row = close_ask(run, row, "answered", answers=answers, decided_by=plain(by))
    run.append(ask_events.answered(row))
    answer_call(run, Call.get(run, row.call_id), ToolCommit("completed", dump(answers)))
    add_order(run, Order(0, "answer", call_id=row.call_id))
    run.save()
    return row


def give_results(connection: Connection, run_id: str, results: Sequence[ToolResult], by: str) -> list[AskRow]:
    run = RunTransaction(connection, run_id, even_if_over=True)
    given: dict[str, ToolResult] = {}
    rows = []
    for result in results:
        earlier = given.get(plain(result.call_id))
        if earlier:
            if (earlier.text, earlier.is_error) != (result.text, result.is_error):
                raise AskResolved(f"two results for the call {result.call_id!r}")
            continue
        given[plain(result.call_id)] = result
        rows.append(_give_result(run, result, by))
    run.save()
    return rows


def _give_result(run: RunTransaction, result: ToolResult, by: str) -> AskRow:
    row = newest_ask(run, result.call_id)
    if row is None or row.type != "client_tool":
        raise NotFound("call", result.call_id)
    call = Call.get(run, row.call_id)
    if row.status == "answered" and _has_result(run, call, result):
        return row
    _must_be_open(run, row)
    row = close_ask(run, row, "answered", decided_by=plain(by))
    status: Literal["failed", "completed"] = "failed" if result.is_error else "completed"
    answer_call(run, call, ToolCommit(status, result.text, "tool_error", result.blob, result.bytes))
    add_order(run, Order(0, "answer", call_id=row.call_id))
    return row


def _has_result(run: RunTransaction, call: Call, result: ToolResult) -> bool:
    where = {"session": run.session_no, "number": call.row["message_number"]}
    (block,) = load(run.connection.execute(_RESULT, where).scalar_one())
    given = (result.text, result.is_error, result.blob)
    return (block["text"], block["is_error"], block.get("blob")) == given

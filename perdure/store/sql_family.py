"""Calls about other runs: start a child, wait for children, talk to one, end one.

Each is one transaction that takes the caller's row first, then rows below it. A call that has ended is left as it is,
and a child that a call has started is started once: the call's id is the child's place in the family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, func, select

from perdure.core.budget import Account, Amount, Budget, Reached, left_to_give, reserve, slice_of
from perdure.core.happenings import AskSettled, Order
from perdure.core.state import Json, OutboxEvent, Outcome
from perdure.definitions import LimitsDefinition, family_limits
from perdure.store import events as say
from perdure.store.ask_rows import ask, close_ask, open_asks_of
from perdure.store.call_answers import answer_call
from perdure.store.call_rows import Call
from perdure.store.child_ledger import reserve_slice
from perdure.store.family_rows import (
    child_ids,
    children_at_work,
    children_named,
    is_settled,
    many_result,
    one_result,
    take_family,
    to_background,
)
from perdure.store.json_text import dump, load
from perdure.store.ledger_rows import account_of, budget_of
from perdure.store.rows import (
    AskRow,
    Awaits,
    CallRow,
    FamilyCall,
    NewAsk,
    NewChild,
    NewMessage,
    Parentage,
    RunRow,
    ToolCommit,
)
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import messages, orders, runs
from perdure.store.sql_endings import end_run, leave_workflow
from perdure.store.sql_inbox import accept_now
from perdure.store.sql_orders import add_order
from perdure.store.sql_runs import create_run, get_run
from perdure.store.trouble import InboxFull

TREE_RUNS_MAX = 1_000  # of one tree, ended ones included: a mistake of a model must not become a flood
GRACE_MS = 30_000  # over a child's own deadline: it says itself that it was too late, if anybody lives to do so
_OF_CALL = select(runs.c.id).where(
    runs.c.parent_run_id == bindparam("run_id"), runs.c.parent_call_id == bindparam("call_key")
)
_PLACE = select(runs.c.root_run_id, runs.c.depth, runs.c.limits).where(runs.c.no == bindparam("run"))
_TREE_SIZE = select(func.count()).where(runs.c.root_run_id == bindparam("root"))
_HELD = (
    select(orders.c.verb, orders.c.body)
    .where(orders.c.run_no == bindparam("run"), orders.c.verb.in_(("pause", "resume", "cancel")))
    .order_by((orders.c.verb == "cancel").desc(), orders.c.number.desc())  # a cancel is not taken back
    .limit(1)
)
_INPUT_SESSION = func.coalesce(runs.c.input_session_no, runs.c.session_no)  # a fork's input is the other run's
_ABOVE = (
    select(runs.c.parent_run_id, runs.c.agent_id, messages.c.content)
    .outerjoin(messages, and_(messages.c.session_no == _INPUT_SESSION, messages.c.number == runs.c.input_number))
    .where(runs.c.id == bindparam("run_id"))
)
Refusal = tuple[str, str]  # a code, and words a model can act on


def spawn(
    connection: Connection, run_id: str, call_id: str, new: NewChild, outbox: Sequence[OutboxEvent]
) -> FamilyCall:
    run, call = begin_call(connection, run_id, call_id, outbox)
    child = _child_of_call(run, call)
    if call.ended:
        run.save()
        return FamilyCall(call.shown(), child=child)
    newborn = child is None
    if child is None:
        born = _born(run, call, new)
        if isinstance(born, tuple):
            return answered(run, call, failed(*born))
        child = born
    if child.background:
        told: dict[str, Json] = {"id": child.id, "agent": child.definition["name"], "status": "running"}
        return replace(answered(run, call, ToolCommit("completed", dump(told))), child=child)
    awaits, expires_ms = Awaits((child.id,), single=True), child.deadline_ms + GRACE_MS
    wait = _begin_wait if newborn else _wait  # a child that was just born has not ended, and nobody waits for it yet
    return replace(wait(run, call, awaits, expires_ms), child=child)


def await_children(
    connection: Connection, run_id: str, call_id: str, awaits: Awaits, expires_ms: int, outbox: Sequence[OutboxEvent]
) -> FamilyCall:
    run, call = begin_call(connection, run_id, call_id, outbox)
    if call.ended:
        run.save()
        return FamilyCall(call.shown())
    all_ids = child_ids(connection, run.id)
    ids = tuple(dict.fromkeys(awaits.ids)) or tuple(children_at_work(connection, run.id))
    if strangers := [id_ for id_ in ids if id_ not in dict(all_ids)]:
        return answered(run, call, failed(*_unknown(strangers, all_ids)))
    if not ids:
        return answered(run, call, many_result([], timed_out=False))
    return _wait(run, call, replace(awaits, ids=ids), expires_ms)


def message_child(
    connection: Connection, run_id: str, call_id: str, child_id: str, message: NewMessage,
    outbox: Sequence[OutboxEvent],
) -> FamilyCall:  # fmt: skip
    run, call = begin_call(connection, run_id, call_id, outbox)
    child = None if call.ended else _own(run, child_id)
    if call.ended or child is None:
        return _nothing(run, call, child_id)
    if child.over:
        return answered(run, call, failed("agent_ended", f"{child.id} has ended: it is {child.status}"))
    try:
        accepted = accept_now(child, message)
    except InboxFull as full:
        return answered(run, call, failed("queue_full", str(full)))
    child.save()
    told: dict[str, Json] = {"id": child.id, "status": "accepted", "delivery": message.delivery}
    return replace(answered(run, call, ToolCommit("completed", dump(told))), told=(child.id, *accepted.told))


def cancel_child(
    connection: Connection, run_id: str, call_id: str, child_id: str, reason: str, outbox: Sequence[OutboxEvent]
) -> FamilyCall:
    run, call = begin_call(connection, run_id, call_id, outbox)
    child = None if call.ended else _own(run, child_id)
    if call.ended or child is None:
        return _nothing(run, call, child_id)
    told: dict[str, Json] = {"id": child.id, "status": child.status if child.over else "cancelling"}
    cancelled = [] if child.over else [child, *take_family(child)]
    for one in cancelled:
        add_order(one, Order(0, "cancel", reason=reason or "cancelled by the agent that started it"))
        one.save()
    answer = answered(run, call, ToolCommit("completed", dump(told)))
    return replace(answer, told=tuple(one.id for one in cancelled))


def stop_waiting(
    connection: Connection, run_id: str, call_id: str, words: str, outbox: Sequence[OutboxEvent]
) -> CallRow:
    """A message ends the wait, and those that were waited for go on: a child whose call does not wait for it any more
    lives in the background."""
    run, call = begin_call(connection, run_id, call_id, outbox)
    if not call.ended:
        waits = [wait for wait in open_asks_of(run, call_id) if wait.awaits is not None]
        ids = [id_ for wait in waits for id_ in (wait.awaits.ids if wait.awaits else ())]
        for wait in waits:
            close_ask(run, wait, "cancelled")
        to_background(run, call.key)
        answer_call(run, call, many_result(children_named(connection, run.id, ids), woken=True, note=words))
    run.save()
    return call.shown()


def settle_wait(run: RunTransaction, wait: AskRow, call: Call, key: str) -> AskSettled:
    """Its time is over. A child that its call waits for is over its own deadline, too: it ends now."""
    assert wait.awaits is not None, "who waits for children says for which"
    if wait.awaits.single:
        child = RunTransaction(run.connection, wait.awaits.ids[0], even_if_over=True)
        if not child.over:
            outcome = Outcome("expired", "deadline")
            end_run(child, run, "expired-by-parent", outcome, "The run's deadline passed")
            leave_workflow(child)
    if open_asks_of(run, call.key):
        close_ask(run, wait, "expired")
        children = children_named(run.connection, run.id, wait.awaits.ids)
        answer_call(run, call, one_result(children[0]) if wait.awaits.single else many_result(children, timed_out=True))
    return AskSettled(key, call.key, "answered")


def give_order(connection: Connection, run_id: str, order: Order) -> tuple[Order, list[str]]:
    """An order that holds, ends or goes on with a run is given to its family, too: who else got it."""
    run = RunTransaction(connection, run_id)
    below = take_family(run) if order.verb in ("pause", "resume", "cancel") else []
    given = add_order(run, order)
    for one in (run, *below):
        if one is not run:
            add_order(one, order)
        one.save()
    return given, [one.id for one in below]


def begin_call(
    connection: Connection, run_id: str, call_id: str, outbox: Sequence[OutboxEvent]
) -> tuple[RunTransaction, Call]:
    run = RunTransaction(connection, run_id)
    run.append_outbox(outbox)
    call = Call.get(run, call_id)
    if not call.row["attempts"]:
        call.row["attempts"] = 1
        call.row.update(status="started", started_ms=run.now_ms)
        run.append(say.tool_started(call.shown(arguments=False), 1))
        call.save()
    return run, call


def _wait(run: RunTransaction, call: Call, awaits: Awaits, expires_ms: int) -> FamilyCall:
    """Until as many as shall have ended; at once if they have."""
    children = children_named(run.connection, run.id, awaits.ids)
    if is_settled(awaits, children):
        return answered(run, call, one_result(children[0]) if awaits.single else many_result(children, timed_out=False))
    found = next((row for row in open_asks_of(run, call.key) if row.type == "children"), None)
    if found is None:
        return _begin_wait(run, call, awaits, expires_ms)
    run.save()
    return FamilyCall(call.shown(), expires_ms=found.expires_ms)


def _begin_wait(run: RunTransaction, call: Call, awaits: Awaits, expires_ms: int) -> FamilyCall:
    shown, sha256 = call.shown(), call.row["args_sha256"] or ""
    ask(run, NewAsk("children", call.key, shown.name, sha256, expires_ms, awaits=awaits), shown.arguments)
    run.save()
    return FamilyCall(shown, expires_ms=expires_ms)


def answered(run: RunTransaction, call: Call, commit: ToolCommit) -> FamilyCall:
    shown = answer_call(run, call, commit)
    run.save()
    return FamilyCall(shown)


def _nothing(run: RunTransaction, call: Call, child_id: str) -> FamilyCall:
    """The call has ended before, or is about a run that is not the caller's."""
    if not call.ended:
        return answered(run, call, failed(*_unknown([child_id], child_ids(run.connection, run.id))))
    run.save()
    return FamilyCall(call.shown())


def failed(code: str, words: str) -> ToolCommit:
    return ToolCommit("failed", words, code)


def _unknown(strangers: Sequence[str], known: Sequence[tuple[str, bool]]) -> Refusal:
    shown = ", ".join(id_ for id_, _ in known[-20:]) or "none"
    return "agent_not_found", f"not an agent that this run has started: {', '.join(strangers[:5])}; it has: {shown}"


def _own(run: RunTransaction, child_id: str) -> RunTransaction | None:
    """A child of this run, its row taken after the parent's."""
    found = children_named(run.connection, run.id, [child_id])
    return RunTransaction(run.connection, found[0].id, even_if_over=True) if found else None


def _child_of_call(run: RunTransaction, call: Call) -> RunRow | None:
    found = run.connection.execute(_OF_CALL, {"run_id": run.id, "call_key": call.key}).scalar_one_or_none()
    return get_run(run.connection, found, None) if found is not None else None


# Whether there shall be a child, and what it may have ----------------------------------------------------


def _born(run: RunTransaction, call: Call, new: NewChild) -> RunRow | Refusal:
    """A child, held back if its parent is."""
    place = run.connection.execute(_PLACE, {"run": run.no}).one()
    held = run.connection.execute(_HELD, {"run": run.no}).one_or_none()
    born = _refused(run, new, place, held.verb if held else "") or _bear(run, call, new, place)
    if held and held.verb == "pause" and not isinstance(born, tuple):
        held_child = RunTransaction(run.connection, born.id)
        add_order(held_child, Order(0, "pause", reason=load(held.body or "{}").get("reason", "")))
        held_child.save()
    return born


def _refused(run: RunTransaction, new: NewChild, place: Row[Any, Any, Any], held: str) -> Refusal | None:
    """Read top to bottom: the first line that applies wins."""
    limits = family_limits(load(place.limits))
    started = run.row["children"]
    assert isinstance(started, int)
    living = started  # at most: they are counted only where that could be too many
    if living >= limits["max_running_children"]:
        living = sum(not over for _, over in child_ids(run.connection, run.id))
    if held == "cancel":
        return "skipped", "not started: this run is being cancelled"
    if place.depth + 1 > limits["max_depth"]:
        most = limits["max_depth"]
        return "depth_limit", f"this run is {place.depth} deep, and max_depth is {most}: do the task yourself"
    if started >= limits["max_children"]:
        return "children_limit", f"this run may start {limits['max_children']} agents, and has started them"
    if living >= limits["max_running_children"]:
        most = limits["max_running_children"]
        return "running_children_limit", f"{living} agents are at work, {most} may be: wait_for_agents first"
    if run.connection.execute(_TREE_SIZE, {"root": place.root_run_id}).scalar_one() >= TREE_RUNS_MAX:
        return "children_limit", f"this tree has {TREE_RUNS_MAX} runs, as many as it may have"
    if _is_cycle(run, new):
        agent = new.run.definition["name"]
        return "agent_cycle", f"the agent {agent} is at this very task already, above this run: change the task"
    return None


def _is_cycle(run: RunTransaction, new: NewChild) -> bool:
    """Whether the same stored agent has the same task among the runs above."""
    if new.run.agent_id is None:
        return False
    above: str | None = run.id
    while above is not None:
        row = run.connection.execute(_ABOVE, {"run_id": above}).one()
        if row.agent_id == new.run.agent_id and load(row.content or "null") == new.run.input:
            return True
        above = row.parent_run_id
    return False


def _bear(run: RunTransaction, call: Call, new: NewChild, place: Row[Any, Any, Any]) -> RunRow | Refusal:
    """The child's row, what it costs its parent, and the event."""
    sliced = _slice(run, new)
    if isinstance(sliced, tuple):
        return sliced
    budget, held = sliced.budget, sliced.held
    parentage = Parentage(run.id, call.key, place.root_run_id, place.depth + 1, new.background, new.detached, held)
    limits = narrowed_limits(new.run.limits, load(place.limits))
    child = create_run(run.connection, replace(new.run, budget=budget, parent=parentage, limits=limits))
    if held is not None:
        reserve_slice(run, call.key, held)
    run.count("children")
    how: dict[str, Json] = {
        "background": new.background,
        "detached": new.detached,
        "budget": say.budget_data(budget) if budget else None,
    }
    made = new.run.definition
    run.append(say.child_started(call.key, child.id, made["name"], made["model"], new.run.input, child.depth, how))
    return child


def narrowed_limits(of_child: LimitsDefinition, of_parent: LimitsDefinition) -> LimitsDefinition:
    """A child's family is no larger than its parent's may be."""
    own, above = family_limits(of_child), family_limits(of_parent)
    return {
        **of_child,
        "max_depth": min(own["max_depth"], above["max_depth"]),
        "max_children": min(own["max_children"], above["max_children"]),
        "max_running_children": min(own["max_running_children"], above["max_running_children"]),
    }


@dataclass(frozen=True, slots=True)
class _Sliced:
    budget: Budget | None
    held: Amount | None


def _slice(run: RunTransaction, new: NewChild) -> _Sliced | Refusal:
    """The child's budget and what of it is reserved here: nothing where the parent has no budget."""
    own = new.run.budget or Budget()
    of_parent = budget_of(run.budget_text)
    found = slice_of(of_parent or Budget(), account_of(run.row), new.wanted, own)
    if isinstance(found, Reached):
        assert of_parent is not None, "only a limit of the parent's can be reached"
        return "budget_too_small", _too_small(found.limit, new.wanted, left_to_give(of_parent, account_of(run.row)))
    budget, held = found
    if (budget.max_cost_micros, budget.max_tokens, budget.max_output_tokens) == (None, None, None):
        return _Sliced(budget if new.run.budget else None, None)
    if isinstance(fits := reserve(budget, Account(), new.first), Reached):
        shown = say.budget_data(budget)
        return "budget_too_small", (
            f"{fits.limit} of {shown[fits.limit]} does not pay for the agent's first model call: give it more, or a "
            "shorter task and fewer tools"
        )
    return _Sliced(budget, held if of_parent else None)


def _too_small(limit: str, wanted: Budget, left: Budget) -> str:
    asked, there = say.budget_data(wanted)[limit], say.budget_data(left)[limit]
    if asked is None:
        return f"nothing is left of {limit} to give to another agent: do the task yourself"
    return f"{limit} of {asked} is more than is left to give, which is {there}"

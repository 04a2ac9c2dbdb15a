"""The end of a run, whoever brings it: its own workflow, a person by force, the end of the run it belongs to.

One transaction: whatever is open is closed, everything below that ends with it ends too, and its parent is told. Rows
are taken from the parent down, in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, select, update

from perdure.core.happenings import Order
from perdure.core.state import Failure, OutboxEvent, Outcome
from perdure.store import events as say
from perdure.store.ask_rows import close_ask, open_asks_of_type, open_waits_for
from perdure.store.call_answers import answer_call, close_all
from perdure.store.call_rows import Call
from perdure.store.child_ledger import settle_open_slices, settle_slice, slice_from
from perdure.store.family_rows import (
    Child,
    children_named,
    is_settled,
    many_result,
    message_text,
    one_result,
    take_family,
)
from perdure.store.json_text import dump, load, plain
from perdure.store.ledger_rows import account_of
from perdure.store.rows import INBOX_WAITING_MAX, Aftermath, AskRow, NewMessage, Said, ToolCommit
from perdure.store.run_transaction import RunTransaction, new_id
from perdure.store.schema import events, runs
from perdure.store.sql_inbox import accept_now, return_messages
from perdure.store.sql_orders import add_order, forget_orders
from perdure.store.sql_signals import return_signals
from perdure.store.trouble import RunOver

_PARENT = select(runs.c.parent_run_id).where(runs.c.id == bindparam("run_id"))
_SAY = update(runs).where(runs.c.no == bindparam("run")).values(said=bindparam("new_said"))
_LEAVE = update(runs).where(runs.c.no == bindparam("run")).values(workflow_left=True)
_LAST_REACHED = (
    select(events.c.data)
    .where(events.c.run_no == bindparam("run"), events.c.type == "budget.reached")
    .order_by(events.c.seq.desc())
    .limit(1)
)
_WITH_ITS_PARENT = Outcome("cancelled", "parent_ended")


def record(
    connection: Connection, run_id: str, key: str, outbox: Sequence[OutboxEvent], outcome: Outcome | None,
    said: Said | None,
) -> Aftermath:  # fmt: skip
    """What is left to do."""
    parent = take_parent(connection, run_id) if outcome else None
    run = RunTransaction(connection, run_id, even_if_over=True)
    if run.over:
        wanted = {f"{key}/ended"} if outcome else {event.key for event in outbox}
        if wanted and wanted <= run.known(wanted):  # this very record came through before: done again, in vain
            return Aftermath((parent.id,) if parent and not parent.over else ())
        raise RunOver(run.id, run.status)
    run.append_outbox(outbox)
    if outcome is None:
        run.save()
        return Aftermath()
    return _ended(run, parent, key, outcome, "The run ended", said)


def force_cancel(connection: Connection, run_id: str, reason: str) -> None:
    parent = take_parent(connection, run_id)
    run = RunTransaction(connection, run_id)
    outcome = Outcome("cancelled", reason or "cancelled")
    _ended(run, parent, "force-cancel", outcome, "The run was cancelled by force")
    leave_workflow(run)


def end_orphan(connection: Connection, run_id: str, failure: Failure) -> None:
    parent = take_parent(connection, run_id)
    run = RunTransaction(connection, run_id)
    outcome = Outcome("failed", failure.code, failure)
    _ended(run, parent, "orphan", outcome, "The run's workflow ended")


def leave_workflow(run: RunTransaction) -> None:
    """Its workflow has not heard of its end: somebody has to end it, too."""
    run.connection.execute(_LEAVE, {"run": run.no})


def take_parent(connection: Connection, run_id: str) -> RunTransaction | None:
    """Before the run itself is taken."""
    parent_id = connection.execute(_PARENT, {"run_id": plain(run_id)}).scalar_one_or_none()
    return RunTransaction(connection, parent_id, even_if_over=True) if parent_id is not None else None


def _ended(
    run: RunTransaction, parent: RunTransaction | None, key: str, outcome: Outcome, words: str, said: Said | None = None
) -> Aftermath:
    aftermath = end_run(run, parent, key, outcome, words, said)
    if parent:
        parent.save()
    return aftermath


def end_run(
    run: RunTransaction, parent: RunTransaction | None, key: str, outcome: Outcome, words: str, said: Said | None = None
) -> Aftermath:
    """End ``run`` and all below it; both are saved, the parent is not. What is left to do."""
    family = take_family(run)
    by_id = {one.id: one for one in (run, *family)}
    for one in reversed(family):  # children before their parents
        above = by_id[str(one.parent_run_id)]
        _end(one, "with-parent", _WITH_ITS_PARENT, "The run that this one belongs to ended")
        _settle(one, above)
        leave_workflow(one)
        one.save()
        _show(one, above, _WITH_ITS_PARENT)
    _end(run, key, outcome, words)
    if parent:
        _settle(run, parent)
    if said:
        run.connection.execute(_SAY, {"run": run.no, "new_said": dump(asdict(said))})
    run.save()
    ended = tuple(one.id for one in family)
    if parent is None or parent.over:
        return Aftermath((), ended)
    _tell(run, parent, outcome)
    return Aftermath((parent.id,), ended)


def _end(run: RunTransaction, key: str, outcome: Outcome, words: str) -> None:
    """The end, and everything that nobody will end any more."""
    for wait in open_asks_of_type(run, "children"):
        close_ask(run, wait, "cancelled")
        call = Call.get(run, wait.call_id)
        answer_call(run, call, ToolCommit("failed", f"{words} before what it waited for.", "cancelled"))
    close_all(run, words)
    if run.row["children"]:
        settle_open_slices(run)
    return_messages(run, "run_ended")
    return_signals(run)
    run.append(say.ended(key, outcome, run.usage))
    forget_orders(run)
    reason = _reached_limit(run) if outcome.stop_reason == "budget_reached" else None
    run.end(outcome.status, outcome.stop_reason, outcome.failure, reason)


def _reached_limit(run: RunTransaction) -> str | None:
    found = run.connection.execute(_LAST_REACHED, {"run": run.no}).scalar_one_or_none()
    return None if found is None else load(found)["limit"]


def _settle(run: RunTransaction, parent: RunTransaction) -> None:
    """What the child has spent is spent by its parent. A parent that is over has counted the whole slice before."""
    held = slice_from(run.slice_text)
    if held and not parent.over:
        settle_slice(parent, _call_of(run), held, account_of(run.row).spent)


def _tell(run: RunTransaction, parent: RunTransaction, outcome: Outcome) -> None:
    """The child's end is the result of the call that waits for it, or else a message."""
    child = _show(run, parent, outcome)
    if not run.detached:
        add_order(parent, Order(0, "child_ended", call_id=_call_of(run)))
    waits = open_waits_for(parent, run.id)
    for wait in waits:
        _answer_if_settled(parent, wait, child)
    if not waits:
        _leave_word(parent, child)


def _show(run: RunTransaction, parent: RunTransaction, outcome: Outcome) -> Child:
    """The end among the parent's events."""
    (child,) = children_named(parent.connection, parent.id, [run.id])
    parent.append_once(say.child_ended(_call_of(run), run.id, child.agent, outcome, child.text, run.usage))
    return child


def _call_of(child: RunTransaction) -> str:
    assert child.parent_call_id is not None, "a child was started by a call"
    return child.parent_call_id


def _answer_if_settled(parent: RunTransaction, wait: AskRow, ended: Child) -> None:
    assert wait.awaits is not None, "who waits for children says for which"
    ids = wait.awaits.ids
    children = [ended] if ids == (ended.id,) else children_named(parent.connection, parent.id, ids)
    if not is_settled(wait.awaits, children):
        return
    close_ask(parent, wait, "answered")
    commit = one_result(children[0]) if wait.awaits.single else many_result(children, timed_out=False)
    answer_call(parent, Call.get(parent, wait.call_id), commit)
    add_order(parent, Order(0, "answer", call_id=wait.call_id))


def _leave_word(parent: RunTransaction, child: Child) -> None:
    """Into the parent's inbox. One that is full to the brim keeps the event only."""
    waiting = parent.row["waiting_messages"]
    assert isinstance(waiting, int)
    if waiting < INBOX_WAITING_MAX:
        accept_now(parent, NewMessage(new_id("msg"), [{"type": "text", "text": message_text(child)}], "note"))

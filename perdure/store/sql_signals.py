"""Signals: what has happened outside, brought to the call that waits for it, told as an interrupting message, or kept
for a while. Every disposition is an event ``signal.received``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from perdure.core.happenings import Order
from perdure.core.matching import fits
from perdure.core.state import TERMINAL, Json
from perdure.store import events as say
from perdure.store.ask_rows import SHOW_ASKS, ask_of, close_ask
from perdure.store.call_answers import answer_call
from perdure.store.call_rows import Call
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import (
    SIGNAL_KEPT_MS,
    SIGNALS_BUFFERED_MAX,
    AskRow,
    Disposition,
    NewEvent,
    NewMessage,
    NewSignal,
    SignalRow,
    ToolCommit,
)
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import asks, events, run_labels, runs, signals
from perdure.store.sql_inbox import accept_now
from perdure.store.sql_orders import add_order
from perdure.store.trouble import RunOver

_TOLD = select(events.c.data, events.c.call_id, events.c.at_ms).where(
    events.c.run_no == bindparam("run"), events.c.key == bindparam("event_key")
)
_WAITERS = (
    SHOW_ASKS.where(asks.c.run_no == bindparam("run"), asks.c.status == "open", asks.c.type == "event")
    .where(asks.c.name == bindparam("event"))
    .order_by(asks.c.no)
)
_OF_CALLS = (
    SHOW_ASKS.where(asks.c.run_no == bindparam("run"), asks.c.status == "open", asks.c.type == "event")
    .where(asks.c.call_id.in_(bindparam("call_ids", expanding=True)))
    .order_by(asks.c.no)
)
_OF_RUN = select(signals).where(signals.c.run_no == bindparam("run")).order_by(signals.c.no)
_BUFFERED = _OF_RUN.where(signals.c.buffered)
_TOO_OLD = _OF_RUN.where(signals.c.at_ms <= bindparam("before_ms"))
_SEEN = select(signals.c.no).where(signals.c.run_no == bindparam("run"), signals.c.dedupe_key == bindparam("dedupe"))
_ADD = insert(signals)
_FORGET = delete(signals).where(signals.c.no == bindparam("row_no"))
_FORGET_ALL = delete(signals).where(signals.c.run_no == bindparam("run"))
_KEEP_KEY = update(signals).where(signals.c.no == bindparam("row_no")).values(buffered=False, payload=None)


def send_signal(connection: Connection, run_id: str, signal: NewSignal, only_waiting: bool) -> SignalRow:
    run = RunTransaction(connection, run_id, even_if_over=True)
    if told := connection.execute(_TOLD, {"run": run.no, "event_key": f"{signal.id}/received"}).one_or_none():
        return _row(run, signal, load(told.data)["disposition"], told.call_id, told.at_ms)
    if run.over:
        raise RunOver(run.id, run.status)
    _forget_old(run)
    waiter = _waiter(run, signal)
    if only_waiting and waiter is None:
        run.save()
        return _row(run, signal, "not_waiting")
    if signal.dedupe_key is not None and _seen(run, signal.dedupe_key):
        return _told(run, signal, "duplicate")
    if waiter:
        _remember(run, signal, buffered=False)
        row = _told(run, signal, "delivered", waiter.call_id, save=False)
        _deliver(run, waiter, signal.name, signal.payload, run.now_ms)
        run.save()
        return row
    if signal.urgency in ("critical", "high"):
        _remember(run, signal, buffered=False)
        row = _told(run, signal, "interrupting", save=False)
        message = accept_now(run, NewMessage(f"msg_{signal.id.partition('_')[2]}", [_as_text(signal)], "interrupt"))
        run.save()
        return replace(row, told=message.told)
    if not _make_room(run, signal):
        return _told(run, signal, "dropped")
    _remember(run, signal, buffered=True)
    run.count("buffered_signals")
    return _told(run, signal, "buffered")


def hear_buffered(connection: Connection, run_id: str, call_ids: Sequence[str]) -> None:
    """New waits for events, in a run that has signals buffered: those that fit are delivered, the oldest first."""
    run = RunTransaction(connection, run_id)
    _forget_old(run)
    for row in connection.execute(_OF_CALLS, {"run": run.no, "call_ids": list(map(plain, call_ids))}).mappings().all():
        waiter = ask_of(row)
        for kept in connection.execute(_BUFFERED, {"run": run.no}).mappings().all():
            payload = load(kept["payload"])
            if kept["name"] == waiter.name and fits(_match(waiter), payload):
                _consume(run, kept)
                run.append(_event(kept["id"], kept["name"], kept["urgency"], "delivered", call_id=waiter.call_id))
                _deliver(run, waiter, kept["name"], payload, kept["at_ms"])
                break
    run.save()


def return_signals(run: RunTransaction) -> None:
    """The run is over: nobody will wait for what is buffered."""
    if not run.row["buffered_signals"]:
        return
    for kept in run.connection.execute(_BUFFERED, {"run": run.no}).mappings().all():
        run.append(_event(kept["id"], kept["name"], kept["urgency"], "returned"))
    run.connection.execute(_FORGET_ALL, {"run": run.no})
    run.row["buffered_signals"] = 0


def runs_waiting_for(
    connection: Connection, project_id: str, name: str, labels: Mapping[str, str], limit: int
) -> list[str]:
    """Ids of the runs that wait for this event, those that wait longest first."""
    query = (
        select(runs.c.id)
        .join(asks, asks.c.run_no == runs.c.no)
        .where(asks.c.project_id == project_id, asks.c.name == plain(name), asks.c.status == "open")
        .where(runs.c.status.not_in(sorted(TERMINAL)))
    )
    for label, value in labels.items():
        one = run_labels.alias()
        query = query.where(
            select(one.c.run_no)
            .where(one.c.run_no == runs.c.no, one.c.name == plain(label), one.c.value == plain(value))
            .exists()
        )
    query = query.group_by(runs.c.no, runs.c.id).order_by(func.min(asks.c.no)).limit(limit)
    return list(connection.execute(query).scalars())


def _waiter(run: RunTransaction, signal: NewSignal) -> AskRow | None:
    if not run.row["open_asks"]:
        return None
    for row in run.connection.execute(_WAITERS, {"run": run.no, "event": plain(signal.name)}).mappings():
        if run.now_ms < row["expires_ms"] and fits(_match(waiter := ask_of(row)), signal.payload):
            return waiter
    return None


def _match(waiter: AskRow) -> Json:
    return waiter.arguments.get("match") if isinstance(waiter.arguments, dict) else None


def _deliver(run: RunTransaction, waiter: AskRow, name: str, payload: Json, at_ms: int) -> None:
    close_ask(run, waiter, "answered")
    result = {
        "received": True,
        "name": name,
        "payload": payload,
        "waited_seconds": (run.now_ms - waiter.asked_ms) / 1_000,
    }
    if at_ms < waiter.asked_ms:
        result["sent_seconds_before"] = (waiter.asked_ms - at_ms) / 1_000
    answer_call(run, Call.get(run, waiter.call_id), ToolCommit("completed", dump(result)))
    add_order(run, Order(0, "answer", call_id=waiter.call_id))


def _as_text(signal: NewSignal) -> Any:
    by = f" from {signal.by}" if signal.by else ""
    words = f"[Perdure] Signal {signal.name} ({signal.urgency}){by}"
    return {"type": "text", "text": words if signal.payload is None else f"{words}: {dump(signal.payload)}"}


def _make_room(run: RunTransaction, signal: NewSignal) -> bool:
    """Where the buffer is full, what is normal takes the place of the oldest that is low."""
    if int(str(run.row["buffered_signals"])) < SIGNALS_BUFFERED_MAX:
        return True
    if signal.urgency == "low":
        return False
    for kept in run.connection.execute(_BUFFERED, {"run": run.no}).mappings().all():
        if kept["urgency"] == "low":
            _consume(run, kept)
            run.append(_event(kept["id"], kept["name"], "low", "dropped"))
            return True
    return False


def _forget_old(run: RunTransaction) -> None:
    where = {"run": run.no, "before_ms": run.now_ms - SIGNAL_KEPT_MS}
    for row in run.connection.execute(_TOO_OLD, where).mappings().all():
        run.connection.execute(_FORGET, {"row_no": row["no"]})
        if row["buffered"]:
            run.count("buffered_signals", -1)
            run.append(_event(row["id"], row["name"], row["urgency"], "expired"))


def _consume(run: RunTransaction, kept: Any) -> None:
    run.count("buffered_signals", -1)
    run.connection.execute(_FORGET if kept["dedupe_key"] is None else _KEEP_KEY, {"row_no": kept["no"]})


def _seen(run: RunTransaction, dedupe_key: str) -> bool:
    return run.connection.execute(_SEEN, {"run": run.no, "dedupe": plain(dedupe_key)}).first() is not None


def _remember(run: RunTransaction, signal: NewSignal, *, buffered: bool) -> None:
    if not buffered and signal.dedupe_key is None:
        return
    row = {
        "run_no": run.no, "id": signal.id, "name": plain(signal.name), "urgency": signal.urgency,
        "payload": dump(signal.payload) if buffered else None, "buffered": buffered, "at_ms": run.now_ms,
        "dedupe_key": plain(signal.dedupe_key) if signal.dedupe_key is not None else None,
    }  # fmt: skip
    run.connection.execute(_ADD, row)


def _told(
    run: RunTransaction, signal: NewSignal, disposition: Disposition, call_id: str | None = None, *, save: bool = True
) -> SignalRow:
    event = _event(signal.id, signal.name, signal.urgency, disposition, call_id=call_id, first=True)
    event.data["payload_preview"] = say.preview(dump(signal.payload))
    if signal.by:
        event.data["by"] = signal.by
    run.append(event)
    if save:
        run.save()
    return _row(run, signal, disposition, call_id)


def _event(
    id_: str, name: str, urgency: str, disposition: str, *, call_id: str | None = None, first: bool = False
) -> NewEvent:
    data: dict[str, Json] = {"signal_id": id_, "name": name, "urgency": urgency, "disposition": disposition}
    return NewEvent("signal.received", data, f"{id_}/received" if first else f"{id_}/{disposition}", call_id=call_id)


def _row(
    run: RunTransaction, signal: NewSignal, disposition: Disposition, call_id: str | None = None, at_ms: int = 0
) -> SignalRow:
    return SignalRow(signal.id, run.id, signal.name, disposition, call_id, at_ms or run.now_ms)

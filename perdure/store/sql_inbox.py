"""Messages from clients between their arrival and their place in the transcript: applied or handed back, never
dropped. Each has the number of the order that tells the run of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from perdure.content import Block, TextBlock
from perdure.core.happenings import Order
from perdure.core.numbers import Numbers, with_number
from perdure.store import events as say
from perdure.store.family_rows import take_family
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import INBOX_WAITING_MAX, InboxRow, NewMessage
from perdure.store.run_transaction import RunTransaction, new_id
from perdure.store.schema import inbox, runs, sessions
from perdure.store.sql_orders import add_order
from perdure.store.sql_reading import RunPlace
from perdure.store.trouble import InboxFull, NotFound, RunOver

_OF_RUN = select(inbox).where(inbox.c.run_no == bindparam("run"))
_FIND = _OF_RUN.where(inbox.c.message_id == bindparam("message"))
_KNOWN = _OF_RUN.where(inbox.c.message_id.in_(bindparam("messages", expanding=True)))
_ALL = _OF_RUN.order_by(inbox.c.number)
_WAITING = _ALL.where(inbox.c.status == "accepted")
_WAITING_BETWEEN = _WAITING.where(inbox.c.number.between(bindparam("first"), bindparam("last")))
_SAID = (
    select(inbox, runs.c.id.label("run_id"))
    .join(runs, runs.c.no == inbox.c.run_no)
    .join(sessions, sessions.c.no == runs.c.session_no)
    .where(sessions.c.id == bindparam("session"), inbox.c.message_id == bindparam("message"))
)
_ADD = insert(inbox)
_SETTLE = (
    update(inbox)
    .where(inbox.c.run_no == bindparam("run"), inbox.c.status == "accepted")
    .where(inbox.c.number.between(bindparam("first"), bindparam("last")))
    .values(status=bindparam("now"))
)
_LOOKED_UP_AT_ONCE = 500  # ids in one statement


def accept_message(connection: Connection, run_id: str, message: NewMessage) -> InboxRow:
    run = RunTransaction(connection, run_id, even_if_over=True)
    found = connection.execute(_FIND, {"run": run.no, "message": plain(message.id)}).mappings().one_or_none()
    if found:
        return _row_of(run.id, found)
    if run.over:
        raise RunOver(run.id, run.status)
    (row,) = _accept(run, [message])
    run.save()
    return row


def accept_now(run: RunTransaction, message: NewMessage) -> InboxRow:
    """Within a transaction on the run, which saves it. InboxFull."""
    (row,) = _accept(run, [message])
    return row


def _accept(run: RunTransaction, messages: Sequence[NewMessage]) -> list[InboxRow]:
    """What interrupts a run interrupts those below it, too."""
    rows = _queue(run, messages)
    interrupting = [message for message in messages if message.delivery == "interrupt"]
    if not interrupting:
        return rows
    told = _pass_on(run, [block for message in interrupting for block in message.content])
    return [replace(row, told=told) if row.delivery == "interrupt" else row for row in rows]


def _pass_on(run: RunTransaction, content: Sequence[Block]) -> tuple[str, ...]:
    """Who is told. A run whose inbox is full has enough to read before it goes on."""
    told = []
    for one in take_family(run):
        with suppress(InboxFull):
            _queue(one, [NewMessage(new_id("msg"), [_PASSED_ON, *content], "interrupt")])
            told.append(one.id)
        one.save()
    return tuple(told)


_PASSED_ON: TextBlock = {
    "type": "text",
    "text": "[Perdure] The agent that you work for has been interrupted. It does not wait for you at the moment; what "
    "you come to reaches it all the same. It was told:",
}


def _queue(run: RunTransaction, messages: Sequence[NewMessage]) -> list[InboxRow]:
    if run.count("waiting_messages", len(messages)) > INBOX_WAITING_MAX:
        raise InboxFull(f"run {run.id}: at most {INBOX_WAITING_MAX} messages may wait")
    rows: list[dict[str, Any]] = []
    for message in messages:
        number = add_order(run, Order(0, "message", delivery=message.delivery)).number
        id_ = plain(message.id)
        rows.append(
            {
                "run_no": run.no, "number": number, "message_id": id_, "content": dump(message.content),
                "delivery": message.delivery, "status": "accepted", "at_ms": run.now_ms,
            }
        )  # fmt: skip
        run.append(say.inbox_accepted(id_, message.delivery))
        run.interrupts = run.interrupts or message.delivery == "interrupt"
    if rows:
        run.connection.execute(_ADD, rows)
    return [_row_of(run.id, row) for row in rows]


def withdraw_message(connection: Connection, run_id: str, message_id: str) -> InboxRow:
    run = RunTransaction(connection, run_id, even_if_over=True)
    row = connection.execute(_FIND, {"run": run.no, "message": plain(message_id)}).mappings().one_or_none()
    if row is None:
        raise NotFound("message", message_id)
    if row["status"] != "accepted":
        return _row_of(run.id, row)
    _hand_back(run, [row], "withdrawn")
    run.save()
    return _row_of(run.id, {**row, "status": "returned"})


def replace_inbox(connection: Connection, run_id: str, messages: Sequence[NewMessage]) -> list[InboxRow]:
    run = RunTransaction(connection, run_id)
    ids = list(dict.fromkeys(plain(message.id) for message in messages))
    known = _known(run, ids)
    waiting = connection.execute(_WAITING, {"run": run.no}).mappings().all()
    _hand_back(run, [row for row in waiting if row["message_id"] not in known], "replaced")
    new = {plain(message.id): message for message in messages if plain(message.id) not in known}
    told = {row.id: row.told for row in _accept(run, list(new.values()))}
    run.save()
    rows = [_row_of(run.id, row) for row in connection.execute(_WAITING, {"run": run.no}).mappings()]
    return [replace(row, told=told.get(row.id, ())) for row in rows]


def find_said(connection: Connection, session_id: str, message_id: str) -> InboxRow | None:
    found = connection.execute(_SAID, {"session": plain(session_id), "message": plain(message_id)}).mappings().first()
    return None if found is None else _row_of(found["run_id"], found)


def _known(run: RunTransaction, ids: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(ids), _LOOKED_UP_AT_ONCE):
        some = ids[start : start + _LOOKED_UP_AT_ONCE]
        rows = run.connection.execute(_KNOWN, {"run": run.no, "messages": some}).mappings()
        found.update(row["message_id"] for row in rows)
    return found


def _hand_back(run: RunTransaction, rows: Iterable[Any], reason: str) -> None:
    """These waiting messages are returned, and the run is told that they will not come."""
    numbers: Numbers = ()
    for row in rows:
        numbers = with_number(numbers, row["number"])
        run.append(say.inbox_returned(row["message_id"], reason))
        run.count("waiting_messages", -1)
    if numbers:
        _settle(run, numbers, "returned")
        add_order(run, Order(0, "withdraw", numbers=numbers))


def list_inbox(connection: Connection, run: RunPlace, waiting: bool) -> list[InboxRow]:
    rows = connection.execute(_WAITING if waiting else _ALL, {"run": run.no}).mappings()
    return [_row_of(run.id, row) for row in rows]


def waiting_among(run: RunTransaction, numbers: Numbers) -> list[Any]:
    """The messages with these numbers that still wait, in order."""
    if not run.row["waiting_messages"]:
        return []
    return [
        row
        for first, last in numbers
        for row in run.connection.execute(_WAITING_BETWEEN, {"run": run.no, "first": first, "last": last}).mappings()
    ]


def apply_messages(run: RunTransaction, rows: Sequence[Any]) -> None:
    """Put what ``waiting_among`` gave into the transcript."""
    numbers: Numbers = ()
    for row in rows:
        number = run.add_message("user", load(row["content"]), id_=row["message_id"])
        run.append(say.inbox_applied(row["message_id"], number))
        numbers = with_number(numbers, row["number"])
    _settle(run, numbers, "applied")
    run.count("waiting_messages", -len(rows))


def return_messages(run: RunTransaction, reason: str) -> None:
    """Hand back all that still waits: the run is over."""
    if not run.row["waiting_messages"]:
        return
    for row in run.connection.execute(_WAITING, {"run": run.no}).mappings().all():
        run.append(say.inbox_returned(row["message_id"], reason))
    _settle(run, ((0, int(str(run.row["last_order"]))),), "returned")
    run.row["waiting_messages"] = 0


def _settle(run: RunTransaction, numbers: Numbers, status: str) -> None:
    """Between two waiting messages of an interval there may be ones that were settled before: they stay."""
    for first, last in numbers:
        run.connection.execute(_SETTLE, {"run": run.no, "first": first, "last": last, "now": status})


def _row_of(run_id: str, row: Any) -> InboxRow:
    return InboxRow(
        id=row["message_id"],
        run_id=run_id,
        number=row["number"],
        content=load(row["content"]),
        delivery=row["delivery"],
        status=row["status"],
        at_ms=row["at_ms"],
    )

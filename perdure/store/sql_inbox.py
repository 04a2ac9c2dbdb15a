"""Messages from clients between their arrival and their place in the transcript: applied or handed back, never
dropped."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from perdure.contract import Block
from perdure.store import events as say
from perdure.store.json_text import dump, load, plain
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import inbox

_FIND = select(inbox.c.status).where(inbox.c.run_no == bindparam("run"), inbox.c.message_id == bindparam("message"))
_OPEN = (
    select(inbox.c.no, inbox.c.message_id, inbox.c.content)
    .where(inbox.c.run_no == bindparam("run"), inbox.c.status == "accepted")
    .order_by(inbox.c.no)
)
_ADD = insert(inbox)
_SETTLE = update(inbox).where(inbox.c.no == bindparam("row")).values(status=bindparam("now"))


def accept_message(
    connection: Connection, run_id: str, message_id: str, content: Sequence[Block], delivery: str
) -> None:
    run = RunTransaction(connection, run_id)
    message_id = plain(message_id)
    if connection.execute(_FIND, {"run": run.no, "message": message_id}).first():
        return
    row = {
        "run_no": run.no, "message_id": message_id, "content": dump(content), "delivery": plain(delivery),
        "status": "accepted", "at_ms": run.now_ms,
    }  # fmt: skip
    connection.execute(_ADD, row)
    run.append(say.inbox_accepted(message_id, delivery))
    run.save()


def return_message(connection: Connection, run_id: str, message_id: str, reason: str) -> None:
    run = RunTransaction(connection, run_id)
    return_messages(run, reason, only=plain(message_id))
    run.save()


def apply_messages(run: RunTransaction, message_ids: Sequence[str]) -> None:
    """Put accepted messages into the transcript, in the order given. Those settled before stay as they are."""
    if not message_ids:
        return
    waiting = {row.message_id: row for row in run.connection.execute(_OPEN, {"run": run.no})}
    for message_id in map(plain, message_ids):
        row = waiting.pop(message_id, None)
        if row is None:
            continue
        number = run.add_message("user", load(row.content), id_=message_id)
        run.append(say.inbox_applied(message_id, number))
        run.connection.execute(_SETTLE, {"row": row.no, "now": "applied"})


def return_messages(run: RunTransaction, reason: str, *, only: str | None = None) -> None:
    """Hand back what still waits: all of it, or one message."""
    for row in run.connection.execute(_OPEN, {"run": run.no}).all():
        if only is None or row.message_id == only:
            run.append(say.inbox_returned(row.message_id, reason))
            run.connection.execute(_SETTLE, {"row": row.no, "now": "returned"})

"""A session has one active run. What a request for another one means then: an error, or a message to the active one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.store.journal import Journal
from perdure.store.rows import InboxRow, NewMessage, NewRun, RunRow
from perdure.store.trouble import RunOver, SessionBusy

OnConflict = Literal["reject", "enqueue", "interrupt", "steer"]
TRIES_MAX = 10  # of both ways: each time another run has begun or ended just in between


@dataclass(frozen=True, slots=True)
class Told:
    """The input became a message to the session's active run."""

    run: RunRow
    message: InboxRow


async def created_or_told(journal: Journal, new: NewRun, on_conflict: OnConflict) -> RunRow | Told:
    """SessionBusy with ``reject``, and when the session is never at rest; InboxFull."""
    if on_conflict == "reject" or new.session_id is None:
        return await journal.create_run(new)
    message_id = new.run_id.replace("run_", "msg_", 1)  # the same for a request that comes again
    if found := await journal.find_said(new.session_id, message_id):
        return Told(*found)
    for tries_left in reversed(range(TRIES_MAX)):
        try:
            return await journal.create_run(new)
        except SessionBusy as busy:
            if not tries_left:
                raise
            active = busy.run_id
        try:
            message = await journal.accept_message(active, NewMessage(message_id, new.input, on_conflict))
        except RunOver:  # it has ended just now: the session is free
            continue
        return Told(await journal.get_run(active), message)
    raise AssertionError("the last try returns or raises")

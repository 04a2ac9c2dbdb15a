"""One transaction on one run: take the run's row, collect what happens, write it with one counter.

Everybody who writes to a run takes its row first. So ``last_seq`` read under that lock is true, the
events get the next numbers without gaps, and no two writers can deadlock. The other writer is the
live lane (``live.py``), which takes several runs in the order of their numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update
from ulid import ULID

from perdure.content import Block, Role
from perdure.core.state import TERMINAL, Failure, Json, OutboxEvent, RunStatus, Usage
from perdure.store import events as say
from perdure.store.json_text import dump, dump_map, plain
from perdure.store.rows import NewEvent
from perdure.store.schema import blob_uses, events, ledger, messages, orders, runs, sessions
from perdure.store.trouble import NotFound, RunOver

_MUTABLE = (
    "status", "status_reason", "stop_reason", "error", "output_number", "last_number", "last_seq", "last_call",
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_micros",
    "unpriced_calls", "turns", "spent_micros", "spent_tokens", "spent_output_tokens", "reserved_micros",
    "reserved_tokens", "reserved_output_tokens", "overrun", "last_entry", "last_order", "open_asks",
    "waiting_messages", "buffered_signals", "exact_tokens", "exact_number", "children", "recovering",
    "workflow_started", "last_progress_ms", "started_ms", "completed_ms",
)  # fmt: skip
_CONSTANT = (
    "no", "id", "project_id", "session_no", "requested_by", "budget", "parent_run_id", "parent_call_id", "detached",
    "slice",
)  # fmt: skip

_TAKE = (
    select(*(runs.c[name] for name in (*_CONSTANT, *_MUTABLE)))
    .where(runs.c.id == bindparam("run_id"))
    .with_for_update()
)
_KEYS = select(events.c.key).where(
    events.c.run_no == bindparam("run"), events.c.key.in_(bindparam("keys", expanding=True))
)
_ADD_EVENTS = insert(events)
_ADD_MESSAGES = insert(messages)
_ADD_LEDGER = insert(ledger)
_ADD_ORDERS = insert(orders)
ADD_BLOB_USES = insert(blob_uses)
_SAVE = (
    update(runs).where(runs.c.no == bindparam("run")).values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)  # fmt: skip
CHANNEL = "perdure_run"  # PostgreSQL's NOTIFY: sent with the commit, so that it is neither early nor lost
_SAVE_AND_NOTIFY = _SAVE.returning(func.pg_notify(CHANNEL, runs.c.id))
_NOTIFY = select(func.pg_notify(CHANNEL, bindparam("name")))
INTERRUPTS = "!interrupt"  # after a run's id: the name under which its interrupting messages are announced
_TOUCHED = "perdure.touched"  # in a connection's ``info``, while a transaction lasts
_FREE_SESSION = (
    update(sessions)
    .where(sessions.c.no == bindparam("session"), sessions.c.active_run_id == bindparam("run_id"))
    .values(active_run_id=None)
)


def note_touched(connection: Connection) -> list[str]:
    """The list to which the transaction that begins now adds the names that followers wait for."""
    touched: list[str] = []
    connection.info[_TOUCHED] = touched
    return touched


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id(prefix: str) -> str:
    return f"{prefix}_{ULID()}"


@dataclass(slots=True)
class _Pending:
    event: NewEvent
    message_number: int | None = None
    again: bool = False  # it may be in the run already: look before it is written


class RunTransaction:
    """The run's row, locked. Attributes are the row's columns, changed here and written by ``save``.

    NotFound; RunOver when the run is terminal, unless ``even_if_over``. ``now_ms`` never goes back
    within a run, whatever the clocks of its workers say.
    """

    def __init__(self, connection: Connection, run_id: str, *, even_if_over: bool = False) -> None:
        row = connection.execute(_TAKE, {"run_id": plain(run_id)}).mappings().one_or_none()
        if row is None:
            raise NotFound("run", run_id)
        self.connection = connection
        self.id: str = row["id"]
        self.no: int = row["no"]
        self.project_id: str = row["project_id"]
        self.session_no: int = row["session_no"]
        self.requested_by: str | None = row["requested_by"]
        self.budget_text: str | None = row["budget"]
        self.parent_run_id: str | None = row["parent_run_id"]
        self.parent_call_id: str | None = row["parent_call_id"]
        self.detached = bool(row["detached"])
        self.slice_text: str | None = row["slice"]
        self.interrupts = False  # set it when those who follow interrupts have something to hear
        self.row: dict[str, Json] = {name: row[name] for name in _MUTABLE}
        self.now_ms = max(now_ms(), row["last_progress_ms"])
        self.over = row["status"] in TERMINAL
        self._pending: list[_Pending] = []
        self._messages: list[dict[str, Json]] = []
        self._blob_uses: list[dict[str, Json]] = []
        self._ledger: list[dict[str, Json]] = []
        self._orders: list[dict[str, Json]] = []
        if self.over and not even_if_over:
            raise RunOver(self.id, row["status"])

    @property
    def status(self) -> RunStatus:
        return self.row["status"]  # type: ignore[return-value]

    @property
    def usage(self) -> Usage:
        return usage_of(self.row)

    def append(self, *new: NewEvent) -> None:
        """Queue events whose keys are new to the run: what is locked here shows that they must be."""
        self._pending.extend(_Pending(event) for event in new)

    def append_once(self, *new: NewEvent) -> None:
        """Queue events that may have been written before: those whose key is in the run are left out."""
        self._pending.extend(_Pending(event, again=True) for event in new)

    def append_outbox(self, outbox: Sequence[OutboxEvent]) -> None:
        self.append_once(*map(say.from_outbox, outbox))

    def add_message(
        self,
        role: Role,
        content: Sequence[Block],
        *,
        id_: str | None = None,
        producer: str | None = None,
        stop_reason: str | None = None,
    ) -> int:
        """Put a message into the transcript, with its message.added. Its number."""
        number = self.count("last_number")
        self._messages.append(
            {
                "session_no": self.session_no,
                "number": number,
                "run_no": self.no,
                "id": plain(id_) if id_ else new_id("msg"),
                "role": role,
                "content": dump(content),
                "producer": plain(producer) if producer is not None else None,
                "stop_reason": plain(stop_reason) if stop_reason is not None else None,
                "at_ms": self.now_ms,
            }
        )
        self._blob_uses += blob_uses_of(self.session_no, number, content)
        self._pending.append(_Pending(NewEvent("message.added", {}, f"m{number}"), number))
        return number

    def add_ledger(self, row: dict[str, Json]) -> int:
        """Queue a line of the ledger; its number."""
        entry = self.count("last_entry")
        self._ledger.append({"run_no": self.no, "entry": entry, "at_ms": self.now_ms, **row})
        return entry

    def add_order(self, verb: str, body: str | None) -> int:
        """Queue an order to the run; its number."""
        number = self.count("last_order")
        row: dict[str, Json] = {"run_no": self.no, "number": number, "verb": verb, "body": body, "at_ms": self.now_ms}
        self._orders.append(row)
        return number

    def count(self, column: str, by: int = 1) -> int:
        """Add to a counter of the run; its new value."""
        value = self.row[column]
        assert isinstance(value, int), column
        self.row[column] = value + by
        return value + by

    def add_usage(self, usage: Usage) -> None:
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"):
            self.count(name, getattr(usage, name))
        self.count("cost_micros", usage.cost_micros)
        self.count("unpriced_calls", usage.unpriced_calls)

    def known(self, keys: Iterable[str]) -> set[str]:
        """Which of these event keys the run has already."""
        wanted = [plain(key) for key in keys]
        if not wanted:
            return set()
        return set(self.connection.execute(_KEYS, {"run": self.no, "keys": wanted}).scalars())

    def end(self, status: RunStatus, stop_reason: str, failure: Failure | None, reason: str | None) -> None:
        """The terminal status; the session is free again. Append the terminal event after this, last."""
        error = dump(say.failure_data(failure)) if failure else None
        self.row.update(
            status=status, status_reason=reason, stop_reason=plain(stop_reason), error=error,
            completed_ms=self.now_ms, recovering=0,
        )  # fmt: skip
        self.connection.execute(_FREE_SESSION, {"session": self.session_no, "run_id": self.id})

    def save(self) -> None:
        """Write what was queued, and the row, if anything happened. Nothing may be queued after this."""
        if not (self._pending or self._ledger or self._orders):
            return
        rows = self._number(self.known(item.event.key for item in self._pending if item.again and item.event.key))
        for statement, queued in (
            (_ADD_MESSAGES, self._messages), (_ADD_EVENTS, rows), (_ADD_LEDGER, self._ledger),
            (_ADD_ORDERS, self._orders), (ADD_BLOB_USES, self._blob_uses),
        ):  # fmt: skip
            if queued:
                self.connection.execute(statement, queued)
        if self._pending:  # an order alone is no progress of the run's
            self.row["last_progress_ms"] = self.now_ms
        self.connection.info.get(_TOUCHED, []).extend([self.id, self.id + INTERRUPTS] if self.interrupts else [self.id])
        postgres = self.connection.dialect.name == "postgresql"
        save = _SAVE_AND_NOTIFY if postgres else _SAVE
        self.connection.execute(save, {"run": self.no, **{f"new_{name}": self.row[name] for name in _MUTABLE}})
        if postgres and self.interrupts:
            self.connection.execute(_NOTIFY, {"name": self.id + INTERRUPTS})

    def _number(self, seen: set[str]) -> list[dict[str, Json]]:
        rows: list[dict[str, Json]] = []
        for item in self._pending:
            event = item.event
            key = plain(event.key) if event.key is not None else None
            if key is not None:
                if key in seen:
                    continue
                seen.add(key)
            rows.append(
                {
                    "run_no": self.no,
                    "seq": self.count("last_seq"),
                    "type": event.type,
                    "at_ms": self.now_ms,
                    "key": key,
                    "call_id": plain(event.call_id) if event.call_id is not None else None,
                    "message_id": plain(event.message_id) if event.message_id is not None else None,
                    "message_number": item.message_number,
                    "attempt": event.attempt,
                    "data": dump_map(event.data),
                }
            )
            self._follow(event)
        return rows

    def _follow(self, event: NewEvent) -> None:
        """The status that an event brings with it, and its reason. Terminal ones come from ``end`` only."""
        status = say.STATUS_AFTER.get(event.type)
        if status is None or self.status in TERMINAL:
            return
        if event.type == "run.started":
            self.row["started_ms"] = self.row["started_ms"] or self.now_ms
            self.row["workflow_started"] = True  # it has said so itself, whoever started it
            if self.status not in ("queued", "scheduled"):
                return
        reason = event.data.get("reason")
        self.row["status"] = status
        self.row["status_reason"] = plain(reason) if isinstance(reason, str) and reason else None


def blob_uses_of(session_no: int, number: int, content: Sequence[Block]) -> list[dict[str, Json]]:
    """Rows that say which blobs a message refers to: the whole of results that were too large for it."""
    ids = {block["blob"] for block in content if block["type"] == "tool_result" and "blob" in block}
    return [{"session_no": session_no, "number": number, "blob_id": id_} for id_ in sorted(ids)]


def usage_of(row: RowMapping | dict[str, Json]) -> Usage:
    return Usage(
        row["input_tokens"],  # type: ignore[arg-type]
        row["output_tokens"],  # type: ignore[arg-type]
        row["cache_read_tokens"],  # type: ignore[arg-type]
        row["cache_write_tokens"],  # type: ignore[arg-type]
        row["reasoning_tokens"],  # type: ignore[arg-type]
        row["cost_micros"],  # type: ignore[arg-type]
        row["unpriced_calls"],  # type: ignore[arg-type]
    )

"""The row of one model or tool call, and how attempts open and close on it.

A lost attempt is one that is still open when the next begins: its worker is gone, or will wake up too
late. ``recovering_ms`` is set from then until any attempt of the call ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from perdure.content import Block
from perdure.core.state import Failure, Json, Usage
from perdure.store import events as say
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import Begun, CallRow
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import calls, messages
from perdure.store.trouble import NotFound

CALL_COLUMNS = [column for column in calls.c if column.name != "run_no"]
_FIND = select(*CALL_COLUMNS).where(calls.c.run_no == bindparam("run"), calls.c.key == bindparam("call_key"))
_OPEN = (
    select(*CALL_COLUMNS)
    .where(calls.c.run_no == bindparam("run"), calls.c.status.in_(("requested", "started")))
    .order_by(calls.c.ordinal)
)
_ADD = insert(calls)
_MUTABLE = (
    "name", "status", "attempts", "open_attempt", "ended_attempt", "usage", "message_number", "error", "vendor_id",
    "worker", "started_ms", "ended_ms", "recovering_ms", "outcome", "ordered", "ordered_attempts", "args_sha256",
    "arguments", "reserved",
)  # fmt: skip
_SAVE = (
    update(calls)
    .where(calls.c.run_no == bindparam("run"), calls.c.ordinal == bindparam("at"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_ASKED = select(messages.c.content).where(
    messages.c.session_no == bindparam("session"), messages.c.number == bindparam("number")
)
ENDED = ("completed", "failed", "unknown")


class Call:
    """A call's row within a ``RunTransaction``. ``row`` holds the columns; ``save`` writes them."""

    def __init__(self, run: RunTransaction, row: dict[str, Any], *, stored: bool = True) -> None:
        self.run = run
        self.row = row
        self._stored = stored
        self._asked: Json = None  # the arguments as the model sent them, once they were looked up

    @classmethod
    def new(cls, run: RunTransaction, row: dict[str, Any]) -> Call:
        """A call that ``find`` did not find; ``save`` inserts it."""
        return cls(run, _full_row(run, row), stored=False)

    @classmethod
    def find(cls, run: RunTransaction, key: str) -> Call | None:
        found = run.connection.execute(_FIND, {"run": run.no, "call_key": plain(key)}).mappings().one_or_none()
        return cls(run, dict(found)) if found else None

    @classmethod
    def get(cls, run: RunTransaction, key: str) -> Call:
        call = cls.find(run, key)
        if call is None:
            raise NotFound("call", key)
        return call

    @classmethod
    def open(cls, run: RunTransaction) -> list[Call]:
        """The calls that have not ended, in the order asked."""
        return [cls(run, dict(row)) for row in run.connection.execute(_OPEN, {"run": run.no}).mappings()]

    @property
    def key(self) -> str:
        return self.row["key"]  # type: ignore[no-any-return]

    @property
    def ended(self) -> bool:
        return self.row["status"] in ENDED

    def shown(self, *, arguments: bool = True) -> CallRow:
        """The row as the port shows it, with the arguments looked up unless they are not asked for."""
        return call_of(self.run.id, self.row, self._arguments() if arguments else None)

    def lose(self) -> int | None:
        """The attempt that is open, whose worker must be gone: run.recovering is said once of each."""
        lost: int | None = self.row["open_attempt"]
        if lost is not None:
            self.run.append_once(say.recovering(self.key, lost))
            if self.row["recovering_ms"] is None:
                self.row["recovering_ms"] = self.run.now_ms
                self.run.count("recovering")
        return lost

    def begin(self, worker: str) -> Begun:
        """Open the next attempt; the one that was open is lost."""
        lost = self.lose()
        self.row["attempts"] += 1
        self.row.update(
            status="started", open_attempt=self.row["attempts"], worker=plain(worker), started_ms=self.run.now_ms
        )
        return Begun(self.row["attempts"], lost_attempt=lost, call=self.shown())

    def close(self, failure: Failure) -> None:
        """This attempt is over and there will be another."""
        self.row.update(open_attempt=None, error=dump(say.failure_data(failure)))

    def end(self, attempt: int | None, status: str, **columns: Any) -> None:
        """The call is over; ``attempt`` brought its end (None when it never began)."""
        self.row.update({"error": None, **columns})
        self.row.update(status=status, open_attempt=None, ended_attempt=attempt, ended_ms=self.run.now_ms)

    def recovered(self, attempt: int) -> None:
        """An attempt has ended under a living worker: append run.recovered if that was in doubt."""
        since = self.row["recovering_ms"]
        if since is not None:
            self.row["recovering_ms"] = None
            self.run.count("recovering", -1)
            self.run.append(say.recovered(self.key, attempt, self.run.now_ms - since))

    def save(self) -> None:
        if not self._stored:
            self.run.connection.execute(_ADD, self.row)
            return
        values = {f"new_{name}": self.row[name] for name in _MUTABLE}
        self.run.connection.execute(_SAVE, {"run": self.run.no, "at": self.row["ordinal"], **values})

    def _arguments(self) -> Json:
        """What the model sent stands in the message that asked; a person may have put other ones in place."""
        if self.row["arguments"] is not None:
            return load(self.row["arguments"])  # type: ignore[no-any-return]
        if self.row["asked_number"] is None:
            return None
        if self._asked is None:
            found = self.run.connection.execute(
                _ASKED, {"session": self.run.session_no, "number": self.row["asked_number"]}
            ).scalar_one()
            self._asked = arguments_in(load(found), self.row["asked_index"])
        return self._asked


def add_calls(run: RunTransaction, rows: Sequence[dict[str, Any]]) -> None:
    """Insert new calls of a run, numbered in this order. ValueError when a call id was used before."""
    try:
        run.connection.execute(_ADD, [_full_row(run, row) for row in rows])
    except IntegrityError as error:
        keys = [row["key"] for row in rows]
        raise ValueError(f"run {run.id}: call ids must be new in the run, these are not all: {keys}") from error


def _full_row(run: RunTransaction, row: dict[str, Any]) -> dict[str, Any]:
    started = {"run_no": run.no, "ordinal": run.count("last_call"), "attempts": 0, "requested_ms": run.now_ms}
    return dict.fromkeys(calls.c.keys()) | {"status": "requested"} | started | row


def arguments_in(content: Sequence[Block], index: int) -> Json:
    """The arguments of the tool_call block ``index`` (from 0, among the tool calls of a message)."""
    block = [block for block in content if block["type"] == "tool_call"][index]
    return block["arguments"] if "arguments" in block else block.get("raw_arguments")


def call_of(run_id: str, row: Any, arguments: Json) -> CallRow:
    usage, error, outcome = row["usage"], row["error"], row["outcome"]
    return CallRow(
        run_id=run_id,
        key=row["key"],
        kind=row["kind"],
        name=row["name"],
        turn=row["turn"],
        status=row["status"],
        attempts=row["attempts"],
        open_attempt=row["open_attempt"],
        arguments=arguments,
        usage=Usage(*load(usage)) if usage is not None else None,
        message_number=row["message_number"],
        error=Failure(**load(error)) if error is not None else None,
        requested_ms=row["requested_ms"],
        started_ms=row["started_ms"],
        ended_ms=row["ended_ms"],
        outcome=load(outcome) if outcome is not None else None,
    )


def usage_text(usage: Usage) -> str:
    return dump(
        [
            usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
            usage.reasoning_tokens, usage.cost_micros, usage.unpriced_calls,
        ]
    )  # fmt: skip

"""The row of one thing that people or a client are asked, within a ``RunTransaction`` and for reading.

The run counts its open asks: where it has none, nobody looks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import and_, bindparam, insert, select, update

from perdure.core.policy import ApprovalTerms
from perdure.core.state import Json
from perdure.store import ask_events
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import AskRow, AskStatus, AskType, Awaits, NewAsk, Vote
from perdure.store.run_transaction import RunTransaction, new_id
from perdure.store.schema import asks, calls, messages, runs, sessions
from perdure.store.sql_reading import arguments_of
from perdure.store.trouble import NotFound

SHOW_ASKS = (
    select(
        asks,
        runs.c.id.label("run_id"),
        runs.c.requested_by,
        sessions.c.id.label("session_id"),
        calls.c.asked_index,
        calls.c.arguments,
        messages.c.content,
    )
    .join(runs, runs.c.no == asks.c.run_no)
    .join(sessions, sessions.c.no == asks.c.session_no)
    .join(calls, and_(calls.c.run_no == asks.c.run_no, calls.c.key == asks.c.call_id))
    .outerjoin(messages, and_(messages.c.session_no == asks.c.session_no, messages.c.number == calls.c.asked_number))
)
_ONE = SHOW_ASKS.where(asks.c.id == bindparam("ask_id"))
_OF_CALL = SHOW_ASKS.where(asks.c.run_no == bindparam("run"), asks.c.call_id == bindparam("call_key"))
NEWEST_OF_CALL = _OF_CALL.order_by(asks.c.no.desc()).limit(1)
_OPEN_OF_CALL = _OF_CALL.where(asks.c.status == "open").order_by(asks.c.no)
_APPROVED = select(asks.c.no).where(
    asks.c.run_no == bindparam("run"), asks.c.call_id == bindparam("call_key"), asks.c.status == "approved"
)
_OPEN_OF_RUN = SHOW_ASKS.where(asks.c.run_no == bindparam("run"), asks.c.status == "open").order_by(asks.c.no)
_ADD = insert(asks)
_MUTABLE = (
    "status", "args_sha256", "answers", "votes", "decision", "decided_by", "message", "edited", "scope", "escalated",
    "expires_ms", "ended_ms",
)  # fmt: skip
_SAVE = (
    update(asks).where(asks.c.id == bindparam("ask_id")).values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_SETTLED_BY = update(asks).where(asks.c.id == bindparam("ask_id")).values(settled_by=bindparam("action_key"))
_SETTLED_KEY = select(asks.c.settled_by).where(asks.c.id == bindparam("ask_id"))
_PREFIXES: dict[AskType, str] = {
    "approval": "apv", "unknown_outcome": "apv", "question": "qst", "client_tool": "ctc", "timer": "tmr",
    "event": "evt", "children": "wai",
}  # fmt: skip


def ask(run: RunTransaction, new: NewAsk, arguments: Json) -> AskRow:
    """Something new to ask, and its event. ``arguments`` are those of its call. Read it again for the session."""
    row: dict[str, Any] = dict.fromkeys(asks.c.keys()) | {
        "id": new_id(_PREFIXES[new.type]), "project_id": run.project_id, "run_no": run.no,
        "session_no": run.session_no, "type": new.type, "status": "open", "call_id": plain(new.call_id),
        "tool": plain(new.tool), "args_sha256": new.args_sha256, "rule": plain(new.rule), "reason": plain(new.reason),
        "terms": dump(asdict(new.terms)), "client_seconds": new.client_seconds,
        "questions": None if new.questions is None else dump(new.questions), "edited": False, "scope": "once",
        "awaits": None if new.awaits is None else dump(asdict(new.awaits)),
        "escalated": False, "asked_ms": run.now_ms, "expires_ms": new.expires_ms,
        "name": plain(new.name) if new.name is not None else None,
    }  # fmt: skip
    del row["no"]
    run.connection.execute(_ADD, row)
    run.count("open_asks")
    shown = {"run_id": run.id, "requested_by": run.requested_by, "session_id": "", "arguments": None, "content": None}
    asked = replace(ask_of({**row, **shown}), arguments=arguments)
    run.append(*ask_events.asked(asked))
    return asked


def find_ask(run: RunTransaction, ask_id: str) -> AskRow:
    """As it is now, under the lock of its run."""
    return ask_of(run.connection.execute(_ONE, {"ask_id": plain(ask_id)}).mappings().one())


def newest_ask(run: RunTransaction, call_id: str) -> AskRow | None:
    where = {"run": run.no, "call_key": plain(call_id)}
    row = run.connection.execute(NEWEST_OF_CALL, where).mappings().one_or_none()
    return ask_of(row) if row else None


def open_asks_of(run: RunTransaction, call_id: str) -> list[AskRow]:
    if not run.row["open_asks"]:
        return []
    rows = run.connection.execute(_OPEN_OF_CALL, {"run": run.no, "call_key": plain(call_id)}).mappings()
    return [ask_of(row) for row in rows]


def open_asks_of_type(run: RunTransaction, type_: AskType) -> list[AskRow]:
    if not run.row["open_asks"]:
        return []
    rows = run.connection.execute(_OPEN_OF_RUN, {"run": run.no}).mappings()
    return [ask_of(row) for row in rows if row["type"] == type_]


def open_waits_for(run: RunTransaction, child_id: str) -> list[AskRow]:
    """Open calls of ``run`` that wait for this child; a parent of many is not read whole for each of them."""
    if not run.row["open_asks"]:
        return []
    rows = run.connection.execute(_OPEN_OF_RUN, {"run": run.no}).mappings()
    named = [ask_of(row) for row in rows if row["type"] == "children" and child_id in (row["awaits"] or "")]
    return [wait for wait in named if wait.awaits and child_id in wait.awaits.ids]


def save_ask(run: RunTransaction, row: AskRow) -> AskRow:
    """Write what can change of an ask that stays open."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _MUTABLE}
    values["answers"] = None if row.answers is None else dump(row.answers)
    values["votes"] = dump([asdict(vote) for vote in row.votes]) if row.votes else None
    for name in ("decided_by", "message"):
        values[name] = plain(values[name]) if values[name] is not None else None
    run.connection.execute(_SAVE, {"ask_id": row.id, **{f"new_{name}": value for name, value in values.items()}})
    return row


def close_ask(run: RunTransaction, row: AskRow, status: AskStatus, **changes: Any) -> AskRow:
    """Nobody is asked this any more. Its event is the caller's."""
    run.count("open_asks", -1)
    return save_ask(run, replace(row, status=status, ended_ms=run.now_ms, **changes))


def cancel_asks(run: RunTransaction, call_id: str | None = None, *, timers: str = "cancelled") -> list[AskRow]:
    """What is open about this call (or about all of the run's) has found its answer elsewhere. ``timers`` is why
    timers do not fire any more."""
    if not run.row["open_asks"]:
        return []
    if call_id is None:
        found = [ask_of(row) for row in run.connection.execute(_OPEN_OF_RUN, {"run": run.no}).mappings()]
    else:
        found = open_asks_of(run, call_id)
    for row in found:
        why = timers if row.type == "timer" else "cancelled"
        run.append(*ask_events.expired(close_ask(run, row, "cancelled"), why))
    return found


def was_approved(run: RunTransaction, call_id: str) -> bool:
    """Whether the call had to be approved, and was."""
    return run.connection.execute(_APPROVED, {"run": run.no, "call_key": plain(call_id)}).first() is not None


def settled_by(run: RunTransaction, row: AskRow) -> str | None:
    """The key of the action that prolonged this ask, or found it open for the client."""
    return run.connection.execute(_SETTLED_KEY, {"ask_id": row.id}).scalar_one()  # type: ignore[no-any-return]


def mark_settled(run: RunTransaction, row: AskRow, key: str) -> None:
    run.connection.execute(_SETTLED_BY, {"ask_id": row.id, "action_key": plain(key)})


def not_found(ask_id: str) -> NotFound:
    return NotFound({"apv": "approval", "qst": "question", "tmr": "timer"}.get(ask_id[:3], "ask"), ask_id)


def asks_of(rows: Sequence[Any]) -> list[AskRow]:
    return [ask_of(row) for row in rows]


def ask_of(row: Any) -> AskRow:
    return AskRow(
        id=row["id"],
        type=row["type"],
        status=row["status"],
        project_id=row["project_id"],
        run_id=row["run_id"],
        session_id=row["session_id"],
        call_id=row["call_id"],
        tool=row["tool"],
        name=row["name"],
        arguments=arguments_of(row),
        args_sha256=row["args_sha256"],
        rule=row["rule"],
        reason=row["reason"],
        terms=ApprovalTerms(**load(row["terms"])),
        requested_by=row["requested_by"],
        questions=load(row["questions"]) if row["questions"] is not None else None,
        answers=load(row["answers"]) if row["answers"] is not None else None,
        votes=[Vote(**vote) for vote in load(row["votes"])] if row["votes"] is not None else [],
        decision=row["decision"],
        decided_by=row["decided_by"],
        message=row["message"],
        edited=bool(row["edited"]),
        scope=row["scope"],
        escalated=bool(row["escalated"]),
        client_seconds=row["client_seconds"],
        asked_ms=row["asked_ms"],
        expires_ms=row["expires_ms"],
        ended_ms=row["ended_ms"],
        awaits=_awaits(row["awaits"]),
    )


def _awaits(text: str | None) -> Awaits | None:
    if text is None:
        return None
    found = load(text)
    return Awaits(tuple(found["ids"]), found["mode"], found["single"])

"""Schedules that agents have made go with the conversations in which they made them: the task, and the definition of
the agent that it is for, are a part of what was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, delete, or_, select, update

from perdure.store.json_text import dump, load, plain
from perdure.store.run_transaction import now_ms
from perdure.store.schema import idempotency_keys as keys
from perdure.store.schema import invocations, runs, schedule_orders, schedules, sessions
from perdure.store.sql_family_erasure import parts

_TREES = (
    select(runs.c.root_run_id)
    .join(sessions, sessions.c.no == runs.c.session_no)
    .where(sessions.c.id == bindparam("session"))
)
_TAKE = (
    select(schedules.c.no)
    .where(schedules.c.made_by_run_id.in_(select(runs.c.id).where(runs.c.root_run_id.in_(_TREES))))
    .order_by(schedules.c.no)
    .with_for_update()
)
_WORDS = ("policy", "run_policy", "further_policies", "output_schema")


def wordless(agent: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a pinned definition: who it was, and with which model and tools."""
    kept = {name: part for name, part in agent.items() if name not in _WORDS}
    return {**kept, "instructions": "", "client_tools": [], "agent_tools": []}


def take_schedules(connection: Connection, session_id: str) -> None:
    """Lock those that the trees have made to which the session's runs belong. Whoever fires one takes its row before
    its session's: so does who erases, and neither waits in a circle."""
    connection.execute(_TAKE, {"session": plain(session_id)})


def erase_schedules(connection: Connection, run_ids: Sequence[str]) -> None:
    """All that these runs have made, those that were deleted before, too. The rows stay, deleted and without content,
    until Temporal was told."""
    for some in parts(run_ids):
        made = select(schedules).where(schedules.c.made_by_run_id.in_(some)).order_by(schedules.c.no).with_for_update()
        for row in connection.execute(made).mappings().all():
            _forget_replies(connection, row)
            connection.execute(delete(invocations).where(invocations.c.schedule_no == row["no"]))
            connection.execute(update(schedules).where(schedules.c.no == row["no"]).values(_blank(row)))


def _forget_replies(connection: Connection, row: RowMapping) -> None:
    """First replies to those who paused, resumed or triggered it show it whole."""
    ordered = select(schedule_orders.c.id).where(schedule_orders.c.schedule_no == row["no"])
    about = or_(keys.c.object_id.in_((row["id"], row["name"])), keys.c.object_id.in_(ordered))
    connection.execute(delete(keys).where(and_(keys.c.project_id == row["project_id"], about)))


def _blank(row: RowMapping) -> dict[str, Any]:
    definition = load(row["definition"])
    inline = definition["inline"] and wordless(definition["inline"])
    left = {**definition, "inline": inline, "input": [], "policy": None, "labels": {}, "metadata": {}}
    blank = {"name": row["id"], "definition": dump(left), "paused_reason": ""}
    if row["deleted_ms"] is not None:
        return blank
    at_ms = now_ms()
    return {**blank, "version": row["version"] + 1, "updated_ms": at_ms, "deleted_ms": at_ms}

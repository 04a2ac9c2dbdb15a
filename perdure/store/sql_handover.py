"""One run is handed to another agent: the definition that it pins changes in the transaction that answers the call."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select, update

from perdure.core.state import Json, OutboxEvent
from perdure.definitions import LimitsDefinition
from perdure.store import events as say
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import FamilyCall, HandOver, ToolCommit
from perdure.store.schema import runs
from perdure.store.sql_family import answered, begin_call, failed

_BEFORE = select(runs.c.agent_name, runs.c.agent_version, runs.c.limits).where(runs.c.no == bindparam("run"))
_HAND_OVER = (
    update(runs)
    .where(runs.c.no == bindparam("run"))
    .values(
        definition=bindparam("new_definition"), agent_id=bindparam("new_id"), agent_version=bindparam("new_version"),
        agent_name=bindparam("new_name"), limits=bindparam("new_limits"), transfers=runs.c.transfers + 1,
    )
)  # fmt: skip


def hand_over(
    connection: Connection, run_id: str, call_id: str, new: HandOver | ToolCommit, outbox: Sequence[OutboxEvent]
) -> FamilyCall:
    run, call = begin_call(connection, run_id, call_id, outbox)
    if call.ended:
        run.save()
        return FamilyCall(call.shown())
    before = connection.execute(_BEFORE, {"run": run.no}).one()
    if run.known([say.transferred_key(call.row["turn"])]):
        words = f"in this very turn the session was handed to {before.agent_name}; it goes on after that"
        return answered(run, call, failed("already_transferred", words))
    if isinstance(new, ToolCommit):
        return answered(run, call, new)
    name = new.definition["name"]
    where = {
        "run": run.no, "new_definition": dump(new.definition), "new_id": new.agent_id,
        "new_version": new.agent_version, "new_name": plain(name),
        "new_limits": dump(_with_tool_budgets(load(before.limits), new.definition["limits"])),
    }  # fmt: skip
    connection.execute(_HAND_OVER, where)
    # The vendor has counted other instructions and other tools: the next bound is made of bytes again.
    run.row["exact_tokens"], run.row["exact_number"] = None, 0
    run.append(
        say.agent_transferred(
            call.key, call.row["turn"], (before.agent_name, before.agent_version), (name, new.agent_version)
        )
    )
    told: dict[str, Json] = {"transferred_to": name, "version": new.agent_version}
    if new.message:
        told["message"] = new.message
    return answered(run, call, ToolCommit("completed", dump(told)))


def _with_tool_budgets(of_run: LimitsDefinition, of_agent: LimitsDefinition) -> LimitsDefinition:
    """The run's limits stay; budgets of single tools that it has none for are the new agent's."""
    return {**of_run, "tools": {**of_agent.get("tools", {}), **of_run.get("tools", {})}}

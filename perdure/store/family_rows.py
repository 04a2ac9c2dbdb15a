"""The rows of children, and what a parent is told of them: as a call's result, or as a message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select, update

from perdure.core.state import TERMINAL, Json
from perdure.store.events import usage_data
from perdure.store.json_text import dump, load, plain
from perdure.store.rows import Awaits, Said, ToolCommit
from perdure.store.run_transaction import RunTransaction, usage_of
from perdure.store.schema import messages, runs

CHILD_FAILED = "child_failed"
MISFIT = "output_schema_unsatisfied"
MESSAGE_CHARS_MAX = 20_000  # of an output in a message: more is read by wait_for_agents
TOGETHER_CHARS_MAX = 40_000  # of the outputs in one result, below what is spooled
_SHORTEST_CHARS = 500
_CHILDREN = (
    select(
        runs.c.id, runs.c.agent_name, runs.c.status, runs.c.stop_reason, runs.c.error, runs.c.said,
        runs.c.parent_call_id, runs.c.input_tokens, runs.c.output_tokens, runs.c.cache_read_tokens,
        runs.c.cache_write_tokens, runs.c.reasoning_tokens, runs.c.cost_micros, runs.c.unpriced_calls,
        messages.c.content,
    )
    .outerjoin(messages, and_(messages.c.session_no == runs.c.session_no, messages.c.number == runs.c.output_number))
    .where(runs.c.parent_run_id == bindparam("run_id"))
    .order_by(runs.c.no)
)  # fmt: skip
_NAMED = _CHILDREN.where(runs.c.id.in_(bindparam("ids", expanding=True)))
_IDS = (
    select(runs.c.id, runs.c.status, runs.c.detached)
    .where(runs.c.parent_run_id == bindparam("run_id"))
    .order_by(runs.c.no)
)
_BASE = (
    select(runs.c.no, runs.c.id)
    .where(runs.c.parent_run_id == bindparam("run_id"), ~runs.c.detached)
    .where(runs.c.status.not_in(sorted(TERMINAL)))
    .cte("family", recursive=True)
)
_kid = runs.alias("kid")
_TREE = _BASE.union_all(
    select(_kid.c.no, _kid.c.id)
    .join(_BASE, _kid.c.parent_run_id == _BASE.c.id)
    .where(~_kid.c.detached, _kid.c.status.not_in(sorted(TERMINAL)))
)
_FAMILY = select(_TREE.c.id).order_by(_TREE.c.no)
_TO_BACKGROUND = (
    update(runs)
    .where(runs.c.parent_run_id == bindparam("run_id"), runs.c.parent_call_id == bindparam("call_key"))
    .values(background=True)
)


@dataclass(frozen=True, slots=True)
class Child:
    """A child as its parent may see it. ``text`` is its output; ``said`` stands for one that is large."""

    id: str
    agent: str
    status: str
    stop_reason: str | None
    text: str
    error: dict[str, Any] | None
    said: Said | None
    call_id: str
    usage: dict[str, Json]

    @property
    def over(self) -> bool:
        return self.status in TERMINAL

    @property
    def good(self) -> bool:
        return self.status in ("completed", "incomplete")


def children_named(connection: Connection, parent_id: str, ids: Sequence[str]) -> list[Child]:
    """Those of these runs that are children of ``parent_id``, the oldest first."""
    if not ids:
        return []
    rows = connection.execute(_NAMED, {"run_id": parent_id, "ids": list(map(plain, ids))}).mappings()
    return [_child_of(row) for row in rows]


def child_ids(connection: Connection, parent_id: str) -> list[tuple[str, bool]]:
    """All children, the oldest first, each with whether it is over."""
    return [(row.id, row.status in TERMINAL) for row in connection.execute(_IDS, {"run_id": parent_id})]


def children_at_work(connection: Connection, parent_id: str) -> list[str]:
    """Those that are waited for by who names none. The end of a detached one is told to nobody who does not ask."""
    rows = connection.execute(_IDS, {"run_id": parent_id})
    return [row.id for row in rows if row.status not in TERMINAL and not row.detached]


def to_background(run: RunTransaction, call_key: str) -> None:
    """The call has its result without the child that it started: that one goes on, and its end comes as a message."""
    if run.row["children"]:
        run.connection.execute(_TO_BACKGROUND, {"run_id": run.id, "call_key": call_key})


def take_family(run: RunTransaction) -> list[RunTransaction]:
    """Everything below ``run`` that ends with it and has not ended, the oldest first, each row locked. Rows are always
    taken in the order of their numbers, and a child's is higher than its parent's, so nobody waits in a circle."""
    taken: dict[str, RunTransaction] = {}
    while run.row["children"]:
        new = [id_ for id_ in run.connection.execute(_FAMILY, {"run_id": run.id}).scalars() if id_ not in taken]
        if not new:
            break  # whoever would start another child has to take a row that is taken here
        for id_ in new:
            taken[id_] = RunTransaction(run.connection, id_, even_if_over=True)
    return sorted((one for one in taken.values() if not one.over), key=lambda one: one.no)


def is_settled(awaits: Awaits, children: Sequence[Child]) -> bool:
    """Whether those that are waited for have ended, as many as shall."""
    over = [child.over for child in children]
    return any(over) if awaits.mode == "any" else all(over)


def one_result(child: Child) -> ToolCommit:
    """What a call that waited for the child it started is answered."""
    told = _shown(child, None)
    if not child.good:
        return ToolCommit("failed", dump(told), CHILD_FAILED)
    if child.said and child.said.misfit:
        return ToolCommit("failed", dump(told), MISFIT)
    if child.said and child.said.blob:
        return ToolCommit("completed", dump(told), blob=child.said.blob, bytes=child.said.bytes)
    return ToolCommit("completed", dump(told))


def many_result(children: Sequence[Child], **more: Json) -> ToolCommit:
    """What a call that waited for several is answered: each by itself says whether it failed."""
    each = max(_SHORTEST_CHARS, TOGETHER_CHARS_MAX // max(1, len(children)))
    said = children[0].said if len(children) == 1 else None
    alone = said if said and said.blob and not said.misfit else None
    told: dict[str, Any] = {"agents": [_shown(child, None if alone else each) for child in children], **more}
    return ToolCommit("completed", dump(told), blob=alone.blob if alone else None, bytes=alone.bytes if alone else 0)


def message_text(child: Child) -> str:
    """What a parent is told of a child that it does not wait for."""
    head = f"[Perdure] The agent {child.id} ({child.agent}), which you started with the call {child.call_id}, "
    if not child.good:
        return head + f"has failed: {dump(_error(child))}"
    if child.said and child.said.misfit:
        head += f"has answered, but {child.said.misfit}\n\nIt "
    ended = "has completed" if child.status == "completed" else f"has ended early ({child.stop_reason})"
    return f"{head}{ended}:\n\n{_cut(_output(child), MESSAGE_CHARS_MAX)}"


def _shown(child: Child, chars: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {"id": child.id, "agent": child.agent, "status": child.status}
    if child.over and child.status != "completed":
        told["stop_reason"] = child.stop_reason
    if child.good:
        told["output"] = _output(child) if chars is None else _cut(_output(child), chars)
        if child.said and child.said.misfit:
            told["error"] = {"code": MISFIT, "message": child.said.misfit}
        elif child.said and child.said.typed and told["output"] == child.said.text:
            told["output"] = load(child.said.text)
    elif child.over:
        told["error"] = _error(child)
    if child.over:
        told["usage"] = child.usage
    return told


def _output(child: Child) -> str:
    return child.said.text if child.said else child.text


def _error(child: Child) -> dict[str, Any]:
    """``code`` is always the same; why the child failed is its ``cause``."""
    error = child.error or {}
    why = error.get("message") or child.stop_reason or child.status
    return {"code": CHILD_FAILED, "cause": error.get("code") or child.status, "message": why}


def _cut(text: str, chars: int) -> str:
    if len(text) <= chars:
        return text
    return f"{text[:chars]}… [{len(text) - chars} more characters: wait_for_agents with this id alone has the whole]"


def _child_of(row: Any) -> Child:
    text = ""
    if row["content"] is not None:
        text = "".join(block["text"] for block in load(row["content"]) if block["type"] == "text")
    return Child(
        id=row["id"],
        agent=row["agent_name"],
        status=row["status"],
        stop_reason=row["stop_reason"],
        text=text,
        error=load(row["error"]) if row["error"] is not None else None,
        said=Said(**load(row["said"])) if row["said"] is not None else None,
        call_id=row["parent_call_id"],
        usage=usage_data(usage_of(row)),
    )

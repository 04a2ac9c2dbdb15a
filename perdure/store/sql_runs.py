"""Runs from their creation to their end, except what activities write about calls (``sql_calls.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, bindparam, func, insert, select, update

from perdure.core.budget import Budget
from perdure.core.happenings import Order
from perdure.core.spec import Limits
from perdure.core.state import Failure, Json
from perdure.definitions import LimitsDefinition
from perdure.store import events as say
from perdure.store.child_ledger import less_than_given, more_than_counted, resize_slice, slice_from, slice_text
from perdure.store.json_text import dump, dump_map, load, load_map, plain
from perdure.store.ledger_rows import account_of, budget_of, budget_text, write_limits
from perdure.store.paging import page_of
from perdure.store.rows import NewEvent, NewRun, Page, RunRow
from perdure.store.run_transaction import RunTransaction, new_id, now_ms, usage_of
from perdure.store.schema import messages, run_labels, runs, sessions
from perdure.store.sql_forks import Place, answer_what_was_cut_off, place_for
from perdure.store.sql_orders import add_order
from perdure.store.trouble import NotFound, SlicesGiven, SliceTooLarge

_input, _output = messages.alias("input"), messages.alias("output")
SHOW_RUNS = (
    select(
        runs,
        sessions.c.id.label("session_id"),
        _input.c.content.label("input"),
        _output.c.content.label("output"),
    )
    .join(sessions, sessions.c.no == runs.c.session_no)
    .outerjoin(
        _input,
        and_(
            _input.c.session_no == func.coalesce(runs.c.input_session_no, runs.c.session_no),
            _input.c.number == runs.c.input_number,
        ),
    )
    .outerjoin(_output, and_(_output.c.session_no == runs.c.session_no, _output.c.number == runs.c.output_number))
)
_SHOW_ONE = SHOW_RUNS.where(runs.c.id == bindparam("run_id"))
_UNSTARTED = (
    SHOW_RUNS.where(~runs.c.workflow_started, runs.c.status.in_(("queued", "scheduled")))
    .where(runs.c.created_ms <= bindparam("before_ms"))
    .order_by(runs.c.created_ms)
    .limit(bindparam("most"))
)
_SILENT = (
    select(runs.c.id)
    .where(runs.c.workflow_started, runs.c.status.in_(("queued", "running", "cancelling")))
    .where(runs.c.last_progress_ms <= bindparam("before_ms"))
    .order_by(runs.c.last_progress_ms.desc())
    .limit(bindparam("most"))
)
_WORKFLOW_STARTED = update(runs).where(runs.c.id == bindparam("run_id")).values(workflow_started=True)
_PARENT = select(runs.c.parent_run_id).where(runs.c.id == bindparam("run_id"))
_ADD_RUN = insert(runs)
_INPUT = update(runs).where(runs.c.no == bindparam("run")).values(input_number=bindparam("number"))
_ADD_LABELS = insert(run_labels)
_PATCH = (
    update(runs)
    .where(runs.c.no == bindparam("run"))
    .values({name: bindparam(f"new_{name}") for name in ("labels", "metadata", "budget", "limits", "deadline_ms")})
)


def create_run(connection: Connection, new: NewRun) -> RunRow:
    run_id = plain(new.run_id)
    existing = connection.execute(_SHOW_ONE, {"run_id": run_id}).mappings().one_or_none()
    if existing is not None:
        if existing["project_id"] != new.project_id:
            raise NotFound("run", new.run_id)
        return run_of(existing)
    at_ms = now_ms()
    place = place_for(connection, new, run_id, at_ms)
    row = _new_row(new, run_id, place, at_ms)
    no = connection.execute(_ADD_RUN, row).inserted_primary_key[0]  # type: ignore[index]
    _label(connection, no, new.labels)
    run = RunTransaction(connection, run_id)
    shown = new.input or get_run(connection, run_id, None).input
    name, model = new.definition["name"], new.definition["model"]
    run.append(say.created(shown, name, model, new.goes_on_from, new.schedule_id, new.start_ms))
    if place.fresh_fork:
        answer_what_was_cut_off(run, place.session_id, place.last_number)
    if new.input:
        number = run.add_message("user", new.input)
        if number != row["input_number"]:  # it stands after results that were made up
            connection.execute(_INPUT, {"run": no, "number": number})
    if new.start_ms is None:  # a run that starts later is queued then
        run.append(say.queued())
    if new.budget:
        write_limits(run, new.budget)
    run.save()
    return get_run(connection, run_id, None)


def _new_row(new: NewRun, run_id: str, place: Place, at_ms: int) -> dict[str, Any]:
    zeros = (
        "last_seq", "last_call", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens",
        "reasoning_tokens", "cost_micros", "unpriced_calls", "turns", "recovering", "spent_micros",
        "spent_tokens", "spent_output_tokens", "reserved_micros", "reserved_tokens", "reserved_output_tokens",
        "last_entry", "last_order", "open_asks", "waiting_messages", "buffered_signals", "exact_number", "pruned",
        "pruned_seq", "children", "transfers",
    )  # fmt: skip
    parent = new.parent
    return dict.fromkeys(zeros, 0) | {
        "id": run_id,
        "project_id": new.project_id,
        "session_no": place.session_no,
        "agent_id": new.agent_id,
        "agent_version": new.agent_version,
        "agent_name": plain(new.definition["name"]),
        "definition": dump(new.definition),
        "requested_by": plain(new.requested_by) if new.requested_by is not None else None,
        "limits": dump(new.limits),
        "budget": budget_text(new.budget) if new.budget else None,
        "overrun": False,
        "status": "queued" if new.start_ms is None else "scheduled",
        "start_ms": new.start_ms,
        "input_number": place.last_number + 1,
        "last_number": place.last_number,
        "workflow_started": False,
        "last_progress_ms": at_ms,
        "deadline_ms": new.deadline_ms,
        "created_ms": at_ms,
        "schedule_id": new.schedule_id,
        "root_run_id": parent.root_run_id if parent else run_id,
        "parent_run_id": parent.run_id if parent else None,
        "parent_call_id": plain(parent.call_id) if parent else None,
        "depth": parent.depth if parent else 0,
        "background": bool(parent and parent.background),
        "detached": bool(parent and parent.detached),
        "slice": slice_text(parent.slice) if parent and parent.slice else None,
        "workflow_left": False,
        "labels": dump_map(new.labels),
        "metadata": dump_map(new.metadata),
        "traceparent": plain(new.traceparent) if new.traceparent is not None else None,
        **place.columns,
    }


def _label(connection: Connection, run_no: int, labels: Mapping[str, str]) -> None:
    """The labels once more as rows, to be searched by."""
    if labels:
        rows = {plain(name): plain(value) for name, value in labels.items()}
        connection.execute(_ADD_LABELS, [{"run_no": run_no, "name": k, "value": v} for k, v in rows.items()])


def get_run(connection: Connection, run_id: str, project_id: str | None) -> RunRow:
    row = connection.execute(_SHOW_ONE, {"run_id": plain(run_id)}).mappings().one_or_none()
    if row is None or (project_id is not None and row["project_id"] != project_id):
        raise NotFound("run", run_id)
    return run_of(row)


def list_runs(
    connection: Connection, project_id: str, *, limit: int, cursor: str | None, descending: bool,
    statuses: Sequence[str], session_id: str | None, agent_id: str | None, parent_run_id: str | None,
    root_run_id: str | None, schedule_id: str | None, labels: Mapping[str, str] | None, created_from_ms: int | None,
    created_before_ms: int | None,
) -> Page[RunRow]:  # fmt: skip
    query = SHOW_RUNS.where(runs.c.project_id == project_id)
    for column, value in (
        (sessions.c.id, session_id), (runs.c.agent_id, agent_id), (runs.c.parent_run_id, parent_run_id),
        (runs.c.root_run_id, root_run_id), (runs.c.schedule_id, schedule_id),
    ):  # fmt: skip
        if value is not None:
            query = query.where(column == plain(value))
    if statuses:
        query = query.where(runs.c.status.in_(list(statuses)))
    for name, value in (labels or {}).items():
        label = run_labels.alias()
        query = query.where(
            select(label.c.run_no)
            .where(label.c.run_no == runs.c.no, label.c.name == plain(name), label.c.value == plain(value))
            .exists()
        )
    if created_from_ms is not None:
        query = query.where(runs.c.created_ms >= created_from_ms)
    if created_before_ms is not None:
        query = query.where(runs.c.created_ms < created_before_ms)
    rows, next_cursor = page_of(connection, query, runs, project_id, limit, cursor, descending)
    return Page([run_of(row) for row in rows], next_cursor)


def mark_workflow_started(connection: Connection, run_id: str) -> None:
    if connection.execute(_WORKFLOW_STARTED, {"run_id": plain(run_id)}).rowcount == 0:
        raise NotFound("run", run_id)


def unstarted_runs(connection: Connection, older_than_ms: int, limit: int) -> list[RunRow]:
    where = {"before_ms": now_ms() - older_than_ms, "most": limit}
    return [run_of(row) for row in connection.execute(_UNSTARTED, where).mappings()]


def silent_runs(connection: Connection, silent_ms: int, limit: int) -> list[str]:
    where = {"before_ms": now_ms() - silent_ms, "most": limit}
    return list(connection.execute(_SILENT, where).scalars())


def update_run(
    connection: Connection, run_id: str, *, labels: Mapping[str, str] | None, metadata: Mapping[str, Json] | None,
    budget: Budget | None, limits: LimitsDefinition | None, deadline_ms: int | None,
) -> RunRow:  # fmt: skip
    parent_id = connection.execute(_PARENT, {"run_id": plain(run_id)}).scalar_one_or_none() if budget else None
    parent = RunTransaction(connection, parent_id, even_if_over=True) if parent_id is not None else None
    run = RunTransaction(connection, run_id)
    row = connection.execute(_SHOW_ONE, {"run_id": run.id}).mappings().one()
    if budget and run.row["children"] and (limit := less_than_given(run, budget)):
        raise SlicesGiven(run.id, limit)
    if budget and parent:
        _resize(run, parent, budget)
    if labels is not None:
        connection.execute(run_labels.delete().where(run_labels.c.run_no == run.no))
        _label(connection, run.no, labels)
    patch = {
        "run": run.no,
        "new_labels": dump_map(labels) if labels is not None else row["labels"],
        "new_metadata": dump_map(metadata) if metadata is not None else row["metadata"],
        "new_budget": budget_text(budget) if budget is not None else row["budget"],
        "new_limits": dump(limits) if limits is not None else row["limits"],
        "new_deadline_ms": deadline_ms if deadline_ms is not None else row["deadline_ms"],
    }
    connection.execute(_PATCH, patch)
    if budget is not None:
        write_limits(run, budget)
    if budget is not None or limits is not None or deadline_ms is not None:
        add_order(
            run,
            Order(
                0,
                "limits",
                limits=_limits_of(limits) if limits is not None else None,
                on_limit=budget.on_limit if budget is not None else None,
                deadline_ms=deadline_ms or 0,
            ),
        )
    data: dict[str, Json] = {}
    for name, given in (("labels", labels), ("metadata", metadata), ("limits", limits)):
        if given is not None:
            data[name] = dict(given)  # type: ignore[arg-type]
    if budget is not None:
        data["budget"] = say.budget_data(budget)
    if deadline_ms is not None:
        data["deadline_ms"] = deadline_ms
    run.append(NewEvent("run.updated", data, new_id("updated")))
    run.save()
    return get_run(connection, run_id, None)


def _resize(run: RunTransaction, parent: RunTransaction, budget: Budget) -> None:
    """A child's budget is a part of its parent's, also when it is changed. SliceTooLarge."""
    held = slice_from(run.slice_text)
    if held is None:
        return
    reached = more_than_counted(held, budget) if parent.over else resize_slice(parent, run, held, budget)
    if reached:
        raise SliceTooLarge(run.id, parent.id, reached.limit, ended=parent.over)
    parent.save()


def _limits_of(limits: LimitsDefinition) -> Limits:
    """The counts that the core holds a run to."""
    default = Limits()
    return Limits(
        limits.get("max_turns", default.max_turns),
        limits.get("max_tool_calls", default.max_tool_calls),
        limits.get("max_questions", default.max_questions),
        limits.get("tool_output_bytes_per_turn", default.tool_output_bytes_per_turn),
    )


def run_of(row: RowMapping) -> RunRow:
    return RunRow(
        id=row["id"],
        project_id=row["project_id"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        agent_version=row["agent_version"],
        definition=load(row["definition"]),
        status=row["status"],
        status_reason=row["status_reason"],
        stop_reason=row["stop_reason"],
        limits=load(row["limits"]),
        budget=budget_of(row["budget"]),
        account=account_of(row),
        overrun=bool(row["overrun"]),
        exact_tokens=row["exact_tokens"],
        exact_number=row["exact_number"],
        requested_by=row["requested_by"],
        input=load(row["input"]) if row["input"] is not None else [],
        output=load(row["output"]) if row["output"] is not None else None,
        error=Failure(**load(row["error"])) if row["error"] is not None else None,
        usage=usage_of(row),
        turns=row["turns"],
        last_seq=row["last_seq"],
        last_number=row["last_number"],
        last_progress_ms=row["last_progress_ms"],
        recovering=row["recovering"] > 0,
        workflow_started=bool(row["workflow_started"]),
        deadline_ms=row["deadline_ms"],
        created_ms=row["created_ms"],
        start_ms=row["start_ms"],
        started_ms=row["started_ms"],
        completed_ms=row["completed_ms"],
        parent_run_id=row["parent_run_id"],
        root_run_id=row["root_run_id"],
        depth=row["depth"],
        retry_of=row["retry_of"],
        forked_from=(row["forked_from"], row["forked_seq"]) if row["forked_from"] is not None else None,
        pruned_seq=row["pruned_seq"],
        schedule_id=row["schedule_id"],
        parent_call_id=row["parent_call_id"],
        background=bool(row["background"]),
        detached=bool(row["detached"]),
        children=row["children"],
        transfers=row["transfers"],
        traceparent=row["traceparent"],
        labels=load_map(row["labels"]),
        metadata=load_map(row["metadata"]),
    )

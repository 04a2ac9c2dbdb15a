"""Reading whole families: the tree below a run, what its members ask of people, what happened to all of them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, func, literal, select, tuple_, update

from perdure.core.state import TERMINAL
from perdure.store.ask_rows import SHOW_ASKS, ask_of
from perdure.store.events import DELTAS
from perdure.store.json_text import plain
from perdure.store.rows import AskRow, EventRow, RunRow
from perdure.store.schema import asks, events, ledger, runs
from perdure.store.sql_reading import ROWS_MAX, find_run, read_events
from perdure.store.sql_runs import SHOW_RUNS, run_of

_below = select(runs.c.no, runs.c.id).where(runs.c.id == bindparam("run_id")).cte("below", recursive=True)
_kid = runs.alias("kid")
_BELOW = _below.union_all(select(_kid.c.no, _kid.c.id).join(_below, _kid.c.parent_run_id == _below.c.id))
_TREE = SHOW_RUNS.where(runs.c.no.in_(select(_BELOW.c.no))).order_by(runs.c.no).limit(bindparam("most"))
_of = (
    select(runs.c.no, runs.c.id, runs.c.id.label("top"))
    .where(runs.c.id.in_(bindparam("run_ids", expanding=True)))
    .cte("of", recursive=True)
)
_kid_of = runs.alias("kid_of")
_OF = _of.union_all(
    select(_kid_of.c.no, _kid_of.c.id, _of.c.top)
    .join(_of, _kid_of.c.parent_run_id == _of.c.id)
    .where(_kid_of.c.status.not_in(sorted(TERMINAL)))
)
_ASKED_BELOW = (
    SHOW_ASKS.add_columns(_OF.c.top)
    .join(_OF, _OF.c.no == asks.c.run_no)
    .where(asks.c.status == "open", asks.c.type != "children", runs.c.id != _OF.c.top)
    .order_by(asks.c.no)
)
_LEFT = select(runs.c.id).where(runs.c.workflow_left).order_by(runs.c.no).limit(bindparam("most"))
_HEARD = (
    update(runs).where(runs.c.id.in_(bindparam("run_ids", expanding=True)), runs.c.workflow_left)
).values(workflow_left=False)  # fmt: skip
_MEMBERS = select(_BELOW.c.no, _BELOW.c.id)

_ASSUMED = (
    select(_BELOW.c.id, func.sum(ledger.c.assumed_micros).label("micros"))
    .join(ledger, ledger.c.run_no == _BELOW.c.no)
    .where(ledger.c.unpriced.is_not(None))
    .group_by(_BELOW.c.id)
)


def list_family(connection: Connection, run_id: str, limit: int) -> list[RunRow]:
    """The run and everything below it, parents before their children."""
    where = {"run_id": plain(run_id), "most": limit}
    return [run_of(row) for row in connection.execute(_TREE, where).mappings()]


def assumed_in_family(connection: Connection, run_id: str) -> dict[str, int]:
    """Lines about slices assume nothing of their own: what a child has spent is in the child's ledger."""
    found = connection.execute(_ASSUMED, {"run_id": plain(run_id)})
    return {row.id: int(row.micros) for row in found if row.micros}


def asks_below(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[AskRow]]:
    """What living runs below each of these ask of people and clients."""
    found: dict[str, list[AskRow]] = {}
    for row in connection.execute(_ASKED_BELOW, {"run_ids": list(map(plain, run_ids))}).mappings():
        found.setdefault(row["top"], []).append(ask_of(row))
    return found


def read_family_events(
    connection: Connection, run_id: str, after: str | None, limit: int, types: Sequence[str], deltas: bool
) -> list[EventRow] | None:
    """By time, then by run, then by number: those after the event ``after`` (``run_id:seq``). None: no such event."""
    members = {row.no: row.id for row in connection.execute(_MEMBERS, {"run_id": plain(run_id)})}
    query = select(events.c.run_no, events.c.seq).where(events.c.run_no.in_(sorted(members)))
    if types:
        query = query.where(events.c.type.in_([plain(type_) for type_ in types]))
    if not deltas:
        query = query.where(events.c.type.not_in(DELTAS))
    if after is not None:
        seen = _seen(connection, after, members)
        if seen is None:
            return None
        place = tuple_(events.c.at_ms, events.c.run_no, events.c.seq)
        query = query.where(place > tuple_(*(literal(part) for part in seen)))
    query = query.order_by(events.c.at_ms, events.c.run_no, events.c.seq).limit(min(limit, ROWS_MAX))
    wanted = [(row.run_no, row.seq) for row in connection.execute(query)]
    rows: dict[tuple[int, int], EventRow] = {}
    for no in {run_no for run_no, _ in wanted}:
        numbers = [seq for run_no, seq in wanted if run_no == no]
        member = find_run(connection, members[no])
        span = max(numbers) - min(numbers) + 1
        for row in read_events(connection, member, min(numbers) - 1, span, types, deltas, False):
            rows[no, row.seq] = row
    return [rows[place] for place in wanted]


def _seen(connection: Connection, after: str, members: dict[int, str]) -> tuple[int, int, int] | None:
    run_id, _, seq = after.rpartition(":")
    no = next((no for no, id_ in members.items() if id_ == run_id), None)
    if no is None or not (seq.isascii() and seq.isdigit() and len(seq) <= 9):
        return None
    query = select(events.c.at_ms).where(events.c.run_no == no, events.c.seq == int(seq))
    at_ms = connection.execute(query).scalar_one_or_none()
    return None if at_ms is None else (at_ms, no, int(seq))


def left_workflows(connection: Connection, limit: int) -> list[str]:
    return list(connection.execute(_LEFT, {"most": limit}).scalars())


def workflows_heard(connection: Connection, run_ids: Sequence[str]) -> None:
    if run_ids:
        connection.execute(_HEARD, {"run_ids": list(map(plain, run_ids))})

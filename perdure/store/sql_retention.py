"""Retention: what of ended runs is removed after a while. Messages, usage and the end itself are never among it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, func, select, update

from perdure.store.events import DELTAS
from perdure.store.json_text import dump
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import events, runs

KEPT_ALL, DELTAS_PRUNED, EVENTS_PRUNED = 0, 1, 2


def runs_to_prune(connection: Connection, pruned_below: int, before_ms: int, limit: int) -> list[str]:
    """Runs that ended before, and of which more is kept than ``pruned_below`` says. Terminal ones only: nobody
    else has a time of completion."""
    query = (
        select(runs.c.id)
        .where(runs.c.pruned.in_(range(pruned_below)), runs.c.completed_ms <= before_ms)
        .order_by(runs.c.completed_ms)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def prune_deltas(connection: Connection, run_id: str) -> bool:
    """The live text of an ended run: its messages carry the whole of it. In the place of the first delta stands
    events.pruned {from, to, count}. Whether there was anything."""
    run = RunTransaction(connection, run_id, even_if_over=True)
    of_run = (events.c.run_no == run.no, events.c.type.in_(DELTAS))
    first, last, count = connection.execute(
        select(func.min(events.c.seq), func.max(events.c.seq), func.count()).where(*of_run)
    ).one()
    if count and run.over:
        connection.execute(delete(events).where(*of_run, events.c.seq > first))
        connection.execute(
            update(events)
            .where(events.c.run_no == run.no, events.c.seq == first)
            .values(
                type="events.pruned", key="pruned", call_id=None, message_id=None, attempt=None,
                data=dump({"from": first, "to": last, "count": count}),
            )
        )  # fmt: skip
    _mark(connection, run, DELTAS_PRUNED)
    return bool(count)


def prune_events(connection: Connection, run_id: str) -> None:
    """All events of an ended run but the last, which says how it ended."""
    run = RunTransaction(connection, run_id, even_if_over=True)
    last_seq = run.row["last_seq"]
    assert isinstance(last_seq, int)
    if run.over:
        connection.execute(delete(events).where(events.c.run_no == run.no, events.c.seq < last_seq))
        connection.execute(update(runs).where(runs.c.no == run.no).values(pruned_seq=last_seq - 1))
    _mark(connection, run, EVENTS_PRUNED)


def _mark(connection: Connection, run: RunTransaction, pruned: int) -> None:
    if run.over:
        connection.execute(update(runs).where(runs.c.no == run.no).values(pruned=pruned))

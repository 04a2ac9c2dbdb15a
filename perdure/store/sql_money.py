"""Reading the ledgers: one run's lines, and sums over all of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, case, func, select

from perdure.core.budget import Amount
from perdure.store.ledger_rows import account_of, budget_of
from perdure.store.rows import Calibration, LedgerRow, UsageGroup, UsageRow
from perdure.store.schema import ledger, runs, sessions
from perdure.store.sql_reading import ROWS_MAX, RunPlace

GROUPS_MAX = 10_000  # rows of one answer
CALIBRATED_CALLS = 10_000  # the newest calls: vendors change how they count
_DAY_MS = 86_400_000
_IS_USE = ledger.c.unpriced.is_not(None)  # the words of the index ix_ledger_used


def read_ledger(
    connection: Connection, run: RunPlace, after: int, limit: int | None, descending: bool
) -> list[LedgerRow]:  # fmt: skip
    place = min(max(after, 0), ROWS_MAX)
    query = select(ledger).where(ledger.c.run_no == run.no)
    if not descending:
        query = query.where(ledger.c.entry > place)
    elif place:
        query = query.where(ledger.c.entry < place)
    query = query.order_by(ledger.c.entry.desc() if descending else ledger.c.entry)
    query = query.limit(ROWS_MAX if limit is None else min(limit, ROWS_MAX))
    return [_line_of(row) for row in connection.execute(query).mappings()]


def _line_of(row: Any) -> LedgerRow:
    return LedgerRow(
        entry=row["entry"],
        kind=row["kind"],
        key=row["key"] or "",
        attempt=row["attempt"],
        model=row["model"],
        amount=Amount(row["cost_micros"], row["tokens"], row["output_tokens"]),
        account=account_of(row),
        assumed=bool(row["assumed"]),
        overrun=bool(row["overrun"]),
        limits=budget_of(row["limits"]),
        at_ms=row["at_ms"],
    )


def usage_by(
    connection: Connection, project_id: str, group: UsageGroup, from_ms: int | None, before_ms: int | None
) -> list[UsageRow]:
    by: Any = {
        "run": runs.c.id,
        "agent": runs.c.agent_name,
        "model": ledger.c.model,
        "session": sessions.c.id,
        "day": ledger.c.at_ms // _DAY_MS,
    }[group]
    cost = func.sum(ledger.c.cost_micros)
    query = (
        select(
            by.label("name"),
            func.sum(case((ledger.c.kind == "settled", 1), else_=0)),
            func.sum(ledger.c.tokens - ledger.c.output_tokens),
            func.sum(ledger.c.output_tokens),
            func.sum(ledger.c.cache_read_tokens),
            cost,
            func.sum(ledger.c.assumed_micros),
            func.sum(ledger.c.unpriced),
        )
        .join(runs, runs.c.no == ledger.c.run_no)
        .where(runs.c.project_id == project_id, _IS_USE)
        .group_by(by)
        .order_by(by.desc() if group == "day" else cost.desc(), by)
        .limit(GROUPS_MAX)
    )
    if group == "session":
        query = query.join(sessions, sessions.c.no == runs.c.session_no)
    if from_ms is not None:
        query = query.where(ledger.c.at_ms >= from_ms)
    if before_ms is not None:
        query = query.where(ledger.c.at_ms < before_ms)
    return [
        UsageRow(_day(name) if group == "day" else name, *map(int, sums)) for name, *sums in connection.execute(query)
    ]


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * _DAY_MS / 1_000, UTC).date().isoformat()


def calibrations(connection: Connection) -> list[Calibration]:
    newest = (
        select(
            ledger.c.model,
            (ledger.c.tokens - ledger.c.output_tokens).label("counted"),
            ledger.c.bound_tokens.label("bound"),
        )
        .where(_IS_USE, ledger.c.bound_tokens > 0)
        .order_by(ledger.c.at_ms.desc())
        .limit(CALIBRATED_CALLS)
        .subquery()
    )
    query = (
        select(
            newest.c.model,
            func.count(),
            func.sum(case((newest.c.counted > newest.c.bound, 1), else_=0)),
            func.max(newest.c.counted * 1_000 // newest.c.bound),
        )
        .group_by(newest.c.model)
        .order_by(newest.c.model)
    )
    return [Calibration(model, *map(int, sums)) for model, *sums in connection.execute(query)]

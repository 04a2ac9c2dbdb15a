"""Orders: what somebody outside tells a run, numbered in its row, delivered by whoever can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from perdure.core.happenings import Order
from perdure.core.spec import Limits
from perdure.core.state import TERMINAL
from perdure.store.json_text import dump_map, load_map, plain
from perdure.store.run_transaction import RunTransaction, now_ms
from perdure.store.schema import orders, runs

_NOT_SENT = orders.c.delivered_ms.is_(None)
_UNDELIVERED = (
    select(orders.c.number, orders.c.verb, orders.c.body)
    .join(runs, runs.c.no == orders.c.run_no)
    .where(runs.c.id == bindparam("run_id"), runs.c.status.not_in(sorted(TERMINAL)), _NOT_SENT)
    .order_by(orders.c.number)
    .limit(bindparam("most"))
)
_RUN_NO = select(runs.c.no).where(runs.c.id == bindparam("run_id")).scalar_subquery()
_CONFIRM = (
    update(orders)
    .where(orders.c.run_no == _RUN_NO, orders.c.number.in_(bindparam("numbers", expanding=True)), _NOT_SENT)
    .values(delivered_ms=bindparam("at"))
)
_CLOSE = update(orders).where(orders.c.run_no == bindparam("run"), _NOT_SENT).values(delivered_ms=bindparam("at"))
_WAITING_RUNS = (
    select(runs.c.id)
    .join(orders, orders.c.run_no == runs.c.no)
    .where(_NOT_SENT, runs.c.status.not_in(sorted(TERMINAL)), runs.c.workflow_started)
    .group_by(runs.c.no, runs.c.id)
    .having(func.min(orders.c.at_ms) <= bindparam("before_ms"))
    .order_by(func.min(orders.c.at_ms), runs.c.no)
    .limit(bindparam("most"))
)
_CONFIRMED_AT_ONCE = 500  # numbers in one statement


def add_order(run: RunTransaction, order: Order) -> Order:
    """The order under the run's next number, written with the transaction."""
    plainly = {name: value for name, value in asdict(order).items() if value != _DEFAULTS[name]}
    body = {name: value for name, value in plainly.items() if name not in ("number", "verb")}
    return replace(order, number=run.add_order(order.verb, dump_map(body)))


_DEFAULTS: dict[str, Any] = asdict(Order(0, "message"))


def undelivered_orders(connection: Connection, run_id: str, limit: int) -> list[Order]:
    rows = connection.execute(_UNDELIVERED, {"run_id": plain(run_id), "most": limit})
    return [_order_of(row.number, row.verb, load_map(row.body)) for row in rows]


def _order_of(number: int, verb: Any, body: dict[str, Any]) -> Order:
    if "numbers" in body:
        body["numbers"] = tuple((first, last) for first, last in body["numbers"])
    if "limits" in body:
        body["limits"] = Limits(**body["limits"])
    return Order(number, verb, **body)


def confirm_orders(connection: Connection, run_id: str, numbers: Sequence[int]) -> None:
    for start in range(0, len(numbers), _CONFIRMED_AT_ONCE):
        some = list(numbers[start : start + _CONFIRMED_AT_ONCE])
        connection.execute(_CONFIRM, {"run_id": plain(run_id), "numbers": some, "at": now_ms()})


def runs_with_orders(connection: Connection, older_than_ms: int, limit: int) -> list[str]:
    where = {"before_ms": now_ms() - older_than_ms, "most": limit}
    return list(connection.execute(_WAITING_RUNS, where).scalars())


def forget_orders(run: RunTransaction) -> None:
    """The run is over: nobody delivers an order to it any more."""
    if run.row["last_order"]:
        run.connection.execute(_CLOSE, {"run": run.no, "at": run.now_ms})

"""Slices in a parent's ledger: what a child may spend is reserved when it starts and settled when it ends.

A slice is a reservation under the key ``child-<call_id>``; which it is stands in the child's row (``runs.slice``), and
that column is read and changed under the lock of the parent's row. So a parent's limits hold for its whole tree.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, select, update

from perdure.core.budget import Account, Amount, Budget, Reached, left_to_give, settle
from perdure.core.state import TERMINAL
from perdure.store.json_text import dump, load
from perdure.store.ledger_rows import account_of, budget_of, say_spent, write_line
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import runs

_SET = update(runs).where(runs.c.id == bindparam("run_id")).values(slice=bindparam("new_slice"))
_OPEN = (
    select(runs.c.parent_call_id, runs.c.slice)
    .where(runs.c.parent_run_id == bindparam("run_id"), runs.c.slice.is_not(None))
    .where(runs.c.status.not_in(sorted(TERMINAL)))
    .order_by(runs.c.no)
)

_AT_WORK = select(runs.c.slice).where(
    runs.c.parent_run_id == bindparam("run_id"), runs.c.status.not_in(sorted(TERMINAL))
)


@dataclass(frozen=True, slots=True)
class Slice:
    """``number`` counts how often it was changed, from 1: the attempt of its lines."""

    amount: Amount
    number: int = 1


def slice_text(amount: Amount, number: int = 1) -> str:
    return dump([amount.cost_micros, amount.tokens, amount.output_tokens, number])


def slice_from(text: str | None) -> Slice | None:
    if text is None:
        return None
    cost, tokens, output, number = load(text)
    return Slice(Amount(cost, tokens, output), number)


def slice_key(call_id: str) -> str:
    return f"child-{call_id}"


def reserve_slice(parent: RunTransaction, call_id: str, amount: Amount, number: int = 1) -> None:
    account = account_of(parent.row)
    account = Account(account.spent, account.reserved.plus(amount))
    write_line(parent, account, "reserved", amount, key=slice_key(call_id), attempt=number)


def settle_slice(parent: RunTransaction, call_id: str, held: Slice, actual: Amount, *, assumed: bool = False) -> None:
    """The child is over: what it has spent is spent, the rest is there again."""
    before = account_of(parent.row)
    account = settle(before, held.amount, actual)
    overran = held.amount if _exceeds(actual, held.amount) else None
    key = slice_key(call_id)
    write_line(
        parent, account, "settled", actual, key=key, attempt=held.number, assumed=assumed, overrun=overran is not None
    )
    say_spent(parent, key, held.number, before, account, overran, actual)


def settle_open_slices(parent: RunTransaction) -> None:
    """The parent ends before children that do not end with it: nobody will hear what they spend, so each slice counts
    as spent. It stays in the child's row: more than that it will never be given."""
    for call_id, text in parent.connection.execute(_OPEN, {"run_id": parent.id}).all():
        held = slice_from(text)
        assert held is not None, "only rows with a slice were asked for"
        settle_slice(parent, call_id, held, held.amount, assumed=True)


def resize_slice(parent: RunTransaction, child: RunTransaction, held: Slice, wanted: Budget) -> Reached | None:
    """The child's limits are changed: the parent's ledger holds as much from now on, and never less than the child has
    spent and reserved already. Reached: so much is not left, or a limit of the parent's would be lifted for its child;
    nothing is changed then."""
    budget = budget_of(parent.budget_text) or Budget()
    account = account_of(parent.row)
    left = left_to_give(budget, Account(account.spent, account.reserved.minus(held.amount)))
    own = account_of(child.row)
    used = own.spent.plus(own.reserved)
    has = held.amount
    parts: list[int] = []
    for name, most, asked, given, in_use in (
        ("max_cost_usd", left.max_cost_micros, wanted.max_cost_micros, has.cost_micros, used.cost_micros),
        ("max_tokens", left.max_tokens, wanted.max_tokens, has.tokens, used.tokens),
        ("max_output_tokens", left.max_output_tokens, wanted.max_output_tokens, has.output_tokens, used.output_tokens),
    ):
        if most is None:
            parts.append(0)
        elif asked is None or asked > max(most, given):
            return Reached(name)
        else:
            parts.append(max(asked, in_use))
    amount = Amount(*parts)
    if amount != held.amount:
        call_id = child.parent_call_id
        assert call_id is not None, "a child was started by a call"
        released = settle(account, held.amount, Amount())
        write_line(parent, released, "released", held.amount, key=slice_key(call_id), attempt=held.number)
        reserve_slice(parent, call_id, amount, held.number + 1)
        where = {"run_id": child.id, "new_slice": slice_text(amount, held.number + 1)}
        parent.connection.execute(_SET, where)
    return None


def more_than_counted(held: Slice, wanted: Budget) -> Reached | None:
    """Its parent has ended, with the whole slice counted as spent: nobody can give the child more than that."""
    for name, counted, asked in (
        ("max_cost_usd", held.amount.cost_micros, wanted.max_cost_micros),
        ("max_tokens", held.amount.tokens, wanted.max_tokens),
        ("max_output_tokens", held.amount.output_tokens, wanted.max_output_tokens),
    ):
        if counted and (asked is None or asked > counted):
            return Reached(name)
    return None


def less_than_given(run: RunTransaction, wanted: Budget) -> str:
    """The limit that would be lowered below what is spent and what children at work have been given, or that would be
    new to children who were given no part of it; nothing, when all is well."""
    slices = [row.slice for row in run.connection.execute(_AT_WORK, {"run_id": run.id})]
    if not slices:
        return ""
    now, used, given = budget_of(run.budget_text) or Budget(), account_of(run.row).spent, Amount()
    for held in filter(None, map(slice_from, slices)):
        given = given.plus(held.amount)
    for name, before, after, spent, out in (
        ("max_cost_usd", now.max_cost_micros, wanted.max_cost_micros, used.cost_micros, given.cost_micros),
        ("max_tokens", now.max_tokens, wanted.max_tokens, used.tokens, given.tokens),
        ("max_output_tokens", now.max_output_tokens, wanted.max_output_tokens, used.output_tokens, given.output_tokens),
    ):
        lowered = after is not None and (before is None or after < before)
        if lowered and (before is None or (out and spent + out > (after or 0))):
            return name
    return ""


def _exceeds(actual: Amount, held: Amount) -> bool:
    """Of the limits that the parent has: the others reserve nothing."""
    return (
        0 < held.cost_micros < actual.cost_micros
        or 0 < held.tokens < actual.tokens
        or 0 < held.output_tokens < actual.output_tokens
    )

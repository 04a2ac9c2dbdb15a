"""The ledger within a ``RunTransaction``: what model attempts reserve, and what becomes of the reservation.

A line is never changed. The newest balance stands in the run's row, so no line has to be read to write the
next one; what the open attempt reserved stands in its call's row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import bindparam, select

from perdure.core.budget import Account, Amount, Ask, Budget, Grant, Reached, exceeded, reserve, settle, warnings
from perdure.core.state import Json, Usage
from perdure.store import events as say
from perdure.store.call_rows import Call
from perdure.store.json_text import dump, load, plain
from perdure.store.run_transaction import RunTransaction
from perdure.store.schema import ledger

NOTHING = Amount()
_COUNTED = (
    select(ledger.c.cost_micros, ledger.c.tokens, ledger.c.output_tokens, ledger.c.assumed_micros, ledger.c.unpriced)
    .where(
        ledger.c.run_no == bindparam("run"), ledger.c.key == bindparam("call_key"),
        ledger.c.attempt == bindparam("number"), ledger.c.kind == "settled",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Use:
    """What a line of the kinds ``settled`` and ``corrected`` adds to the sums over all ledgers."""

    unpriced: int = 0
    assumed_micros: int = 0
    cache_read_tokens: int = 0
    bound_tokens: int | None = None


def budget_of(text: str | None) -> Budget | None:
    return None if text is None else Budget(**load(text))


def budget_text(budget: Budget) -> str:
    return dump(
        {
            "max_cost_micros": budget.max_cost_micros,
            "max_tokens": budget.max_tokens,
            "max_output_tokens": budget.max_output_tokens,
            "on_limit": budget.on_limit,
        }
    )


def account_of(row: Any) -> Account:
    """Of a run's or a ledger's row."""
    return Account(
        Amount(row["spent_micros"], row["spent_tokens"], row["spent_output_tokens"]),
        Amount(row["reserved_micros"], row["reserved_tokens"], row["reserved_output_tokens"]),
    )


def write_limits(run: RunTransaction, budget: Budget) -> None:
    """These limits hold from here on."""
    write_line(run, account_of(run.row), "limit", NOTHING, limits=budget_text(budget))


def try_to_reserve(run: RunTransaction, ask: Ask) -> Grant | Reached:
    """Nothing is written: ``keep`` does that, when the attempt is really taken."""
    return reserve(budget_of(run.budget_text) or Budget(), account_of(run.row), ask)


def keep(run: RunTransaction, call: Call, grant: Grant, ask: Ask) -> None:
    """Reserve for the attempt that has just begun."""
    amount = grant.amount
    unpriced = int(ask.price(ask.input_tokens, grant.output_tokens) is None)
    call.row["reserved"] = dump([amount.cost_micros, amount.tokens, amount.output_tokens, unpriced])
    account = account_of(run.row)
    account = Account(account.spent, account.reserved.plus(amount))
    write_line(run, account, "reserved", amount, call=call, attempt=call.row["attempts"])


def settle_used(run: RunTransaction, call: Call, attempt: int, usage: Usage) -> None:
    """The open attempt was answered: it cost what the vendor says. A vendor that says nothing at all, or whose
    price was known before and is not any more, is taken to have used what was reserved."""
    if not (usage.input_tokens or usage.output_tokens):
        settle_assumed(run, call, attempt)
        return
    reserved, _ = _reserved(call)
    actual = Amount(usage.cost_micros, usage.input_tokens + usage.output_tokens, usage.output_tokens)
    assumed = bool(usage.unpriced_calls and reserved.cost_micros)
    if assumed:
        actual = replace(actual, cost_micros=reserved.cost_micros)
    use = _Use(
        usage.unpriced_calls,
        actual.cost_micros if assumed else 0,
        usage.cache_read_tokens,
        reserved.tokens - reserved.output_tokens,
    )
    _settle(run, call, attempt, reserved, actual, use, assumed=assumed)


def settle_assumed(run: RunTransaction, call: Call, attempt: int) -> None:
    """Nobody knows what the open attempt cost: all that was reserved for it is spent."""
    reserved, unpriced = _reserved(call)
    _settle(run, call, attempt, reserved, reserved, _Use(unpriced, reserved.cost_micros), assumed=True)


def release(run: RunTransaction, call: Call, attempt: int) -> None:
    """The open attempt has certainly not been billed."""
    reserved, _ = _reserved(call)
    call.row["reserved"] = None
    account = settle(account_of(run.row), reserved, NOTHING)
    write_line(run, account, "released", reserved, call=call, attempt=attempt)


def correct(run: RunTransaction, call: Call, attempt: int, usage: Usage) -> None:
    """An answer of an attempt that had been given up: what it really cost takes the place of what was assumed."""
    if not (usage.input_tokens or usage.output_tokens):
        return
    where = {"run": run.no, "call_key": call.key, "number": attempt}
    found = run.connection.execute(_COUNTED, where).first()
    counted = Amount(found.cost_micros, found.tokens, found.output_tokens) if found else NOTHING
    actual = Amount(usage.cost_micros, usage.input_tokens + usage.output_tokens, usage.output_tokens)
    use = _Use(usage.unpriced_calls, 0, usage.cache_read_tokens)
    if found:
        use = replace(use, unpriced=usage.unpriced_calls - found.unpriced, assumed_micros=-(found.assumed_micros or 0))
        if usage.unpriced_calls:  # the cost stays the one that was assumed
            actual, use = replace(actual, cost_micros=counted.cost_micros), replace(use, assumed_micros=0)
    before = account_of(run.row)
    account = Account(before.spent.plus(actual.minus(counted)), before.reserved)
    overrun = bool(found) and actual.exceeds(counted)
    write_line(
        run, account, "corrected", actual.minus(counted), call=call, attempt=attempt, use=use, overrun=overrun
    )  # fmt: skip
    say_spent(run, call.key, attempt, before, account, counted if overrun else None, actual)


def _settle(
    run: RunTransaction, call: Call, attempt: int, reserved: Amount, actual: Amount, use: _Use, *, assumed: bool
) -> None:
    call.row["reserved"] = None
    before = account_of(run.row)
    account = settle(before, reserved, actual)
    overrun = actual.exceeds(reserved)
    write_line(run, account, "settled", actual, call=call, attempt=attempt, use=use, assumed=assumed, overrun=overrun)
    say_spent(run, call.key, attempt, before, account, reserved if overrun else None, actual)


def say_spent(
    run: RunTransaction, key: str, attempt: int, before: Account, after: Account, overran: Amount | None, used: Amount
) -> None:
    """budget.overrun and budget.warning, of runs that have a budget."""
    budget = budget_of(run.budget_text)
    if budget is None:
        return
    if overran is not None:
        limit = next(iter(exceeded(budget, after.spent)), None)
        run.append(say.budget_overrun(key, attempt, overran, used, limit))
    for name in warnings(budget, before.spent, after.spent):
        entry = run.row["last_entry"]
        assert isinstance(entry, int)
        run.append(say.budget_warning(name, entry))


def _reserved(call: Call) -> tuple[Amount, int]:
    cost, tokens, output, unpriced = load(call.row["reserved"])
    return Amount(cost, tokens, output), unpriced


def write_line(
    run: RunTransaction,
    account: Account,
    kind: str,
    amount: Amount,
    *,
    call: Call | None = None,
    key: str | None = None,
    attempt: int | None = None,
    limits: str | None = None,
    use: _Use | None = None,
    assumed: bool = False,
    overrun: bool = False,
) -> None:
    """One more line, and the balance after it in the run's row."""
    balance: dict[str, Json] = {
        "spent_micros": account.spent.cost_micros,
        "spent_tokens": account.spent.tokens,
        "spent_output_tokens": account.spent.output_tokens,
        "reserved_micros": account.reserved.cost_micros,
        "reserved_tokens": account.reserved.tokens,
        "reserved_output_tokens": account.reserved.output_tokens,
    }
    run.row.update(balance, overrun=bool(run.row["overrun"] or overrun))
    run.add_ledger(
        {
            "kind": kind,
            "key": call.key if call else key,
            "attempt": attempt,
            "model": plain(call.row["name"]) if call else None,
            "cost_micros": amount.cost_micros,
            "tokens": amount.tokens,
            "output_tokens": amount.output_tokens,
            **balance,
            "assumed": assumed,
            "overrun": overrun,
            "limits": limits,
            "unpriced": use.unpriced if use else None,
            "assumed_micros": use.assumed_micros if use else None,
            "cache_read_tokens": use.cache_read_tokens if use else None,
            "bound_tokens": use.bound_tokens if use else None,
        }
    )

"""Budgets, ledgers and usage as the JSON of this API: money is decimal text in US dollars."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from api.times import Object, time
from perdure.core.budget import Account, Amount, Budget
from perdure.definitions import BudgetDefinition
from perdure.store.events import usd
from perdure.store.rows import LedgerRow, UsageRow


def amount(value: Amount) -> Object:
    return {"cost_usd": usd(value.cost_micros), "tokens": value.tokens, "output_tokens": value.output_tokens}


def limits(budget: Budget) -> Object:
    return {
        "max_cost_usd": None if budget.max_cost_micros is None else usd(budget.max_cost_micros),
        "max_tokens": budget.max_tokens,
        "max_output_tokens": budget.max_output_tokens,
    }


def definition(budget: BudgetDefinition) -> Object:
    """An agent's: null where it says nothing, or that there is no limit."""
    cost = budget.get("max_cost_micros")
    return {
        "max_cost_usd": None if cost is None else usd(cost),
        "max_tokens": budget.get("max_tokens"),
        "max_output_tokens": budget.get("max_output_tokens"),
        "on_limit": budget.get("on_limit"),
    }


def budget_of(budget: Budget | None, account: Account, overrun: bool) -> Object:
    """``left`` is what no call has spent or reserved; never below zero. A run without a budget spends as well."""
    on_limit = None if budget is None else budget.on_limit
    budget = budget or Budget()
    used = account.spent.plus(account.reserved)
    left = Budget(
        _left(budget.max_cost_micros, used.cost_micros),
        _left(budget.max_tokens, used.tokens),
        _left(budget.max_output_tokens, used.output_tokens),
    )
    return {
        "limit": limits(budget),
        "spent": amount(account.spent),
        "reserved": amount(account.reserved),
        "left": limits(left),
        "on_limit": on_limit,
        "overrun": overrun,
    }


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else max(0, limit - used)


def ledger_entry(run_id: str, row: LedgerRow) -> Object:
    return {
        "id": f"{run_id}:{row.entry}",
        "object": "ledger_entry",
        "entry": row.entry,
        "run_id": run_id,
        "kind": row.kind,
        "key": row.key,
        "attempt": row.attempt,
        "model": row.model,
        "amount": amount(row.amount),
        "balance": {"spent": amount(row.account.spent), "reserved": amount(row.account.reserved)},
        "assumed": row.assumed,
        "overrun": row.overrun,
        "limits": None if row.limits is None else {**limits(row.limits), "on_limit": row.limits.on_limit},
        "at": time(row.at_ms),
    }


def usage_group(row: UsageRow) -> Object:
    return {
        "group": row.group,
        "model_calls": row.model_calls,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cache_read_tokens": row.cache_read_tokens,
        "cost_usd": usd(row.cost_micros),
        "assumed_cost_usd": usd(row.assumed_cost_micros),
        "unpriced_calls": row.unpriced_calls,
    }


USAGE_COLUMNS = (
    "group", "model_calls", "input_tokens", "output_tokens", "cache_read_tokens", "cost_usd", "assumed_cost_usd",
    "unpriced_calls",
)  # fmt: skip


def usage_csv(rows: Sequence[UsageRow]) -> str:
    """RFC 4180, with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, USAGE_COLUMNS)
    writer.writeheader()
    writer.writerows(usage_group(row) for row in rows)
    return text.getvalue()

"""What the API answers with about budgets, ledgers and usage."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from api.reply import Reply, Usd
from perdure.core.spec import OnExceed, OnLimit
from perdure.store.rows import LedgerKind

SignedUsd = Annotated[str, Field(pattern=r"^-?\d+\.\d{2,6}$", description="US dollars, decimal.", examples=["0.0123"])]


class AmountOut(Reply):
    """`tokens` is input and output together."""

    cost_usd: SignedUsd
    tokens: int
    output_tokens: int


class BudgetLimitsOut(Reply):
    """Null is no limit."""

    max_cost_usd: Usd | None
    max_tokens: int | None
    max_output_tokens: int | None


class BudgetOut(Reply):
    """`spent` is what vendors reported and what was assumed of calls that nobody knows about (`usage` is only the
    former), `reserved` what calls in flight may still cost at worst, `left` what nobody has spent or reserved. Without
    a budget there are amounts all the same: the members of `limit` and `left` are null, and so is `on_limit`.
    `overrun`: a vendor used more than was reserved for a call, so an entry of the ledger has it, too."""

    limit: BudgetLimitsOut
    spent: AmountOut
    reserved: AmountOut
    left: BudgetLimitsOut
    on_limit: OnLimit | None
    overrun: bool


class AgentBudgetOut(BudgetLimitsOut):
    on_limit: OnLimit | None


class ToolBudgetOut(Reply):
    max_calls: int
    on_exceed: OnExceed


class LimitsOut(Reply):
    """All limits that hold, defaults included. `tool_output_bytes_per_turn` null is no limit,
    `turn_timeout_seconds` null the service's own."""

    max_turns: int | None
    max_tool_calls: int | None
    max_questions: int | None
    max_children: int | None
    max_depth: int | None
    max_running_children: int | None
    tool_output_bytes_per_turn: int | None
    tools: dict[str, ToolBudgetOut]
    turn_timeout_seconds: float | None
    tool_timeouts: dict[str, float]


class BalanceOut(Reply):
    spent: AmountOut
    reserved: AmountOut


class LedgerLimitsOut(BudgetLimitsOut):
    on_limit: OnLimit


class LedgerEntryOut(Reply):
    """One line of a run's ledger; entries count from 1 without gaps. `assumed`: nobody knows what the attempt cost,
    and all that was reserved for it counts as spent. `overrun`: the vendor used more than was reserved."""

    id: str
    object: Literal["ledger_entry"]
    entry: int
    run_id: str
    kind: LedgerKind
    key: str = Field(description="The key of the model call's step.")
    attempt: int | None
    model: str | None
    amount: AmountOut
    balance: BalanceOut
    assumed: bool
    overrun: bool
    limits: LedgerLimitsOut | None = Field(description="On lines of kind `limit`: the limits from here on.")
    at: datetime


class UsageGroupOut(Reply):
    """Sums over the settled calls of one group. `assumed_cost_usd` is the part of the cost that nobody knows."""

    group: str
    model_calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost_usd: SignedUsd
    assumed_cost_usd: SignedUsd
    unpriced_calls: int


class CalibrationOut(Reply):
    """How the bound of the input compared with what the vendor counted, over the newest 10,000 calls: `misses` had
    more input than their bound, `worst_permille` is the largest input in thousandths of its bound."""

    calls: int
    misses: int
    worst_permille: int

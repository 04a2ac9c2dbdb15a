"""What the API answers with about families of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.money_replies import BudgetOut
from api.replies import AgentRef, FailureOut, UsageOut
from api.reply import Reply
from perdure.core.state import RunStatus

ASSUMED = (
    "What attempts that were lost before their answer came are taken to have cost, in US dollars: `usage` has what was "
    "reported and none of this; `budget.spent` counts both."
)


class TreeSumOut(Reply):
    """Of a run and everything below it."""

    runs: int
    usage: UsageOut
    assumed_cost_usd: str = Field(description=ASSUMED)


class TreeOut(Reply):
    """A run with its children, each with theirs. `usage` is the run's own, `total` that of the whole tree below;
    `budget.spent` of a run counts what its ended children have spent, `reserved` what living ones still may."""

    id: str
    object: Literal["run_tree"]
    run_id: str
    parent_run_id: str | None
    root_run_id: str
    depth: int
    call_id: str | None = Field(description="The call of its parent that started it.")
    background: bool
    detached: bool
    agent: AgentRef
    session_id: str
    goal: str
    status: RunStatus
    status_reason: str | None
    stop_reason: str | None
    turns: int
    usage: UsageOut
    assumed_cost_usd: str = Field(description=ASSUMED)
    budget: BudgetOut
    error: FailureOut | None
    created_at: datetime
    completed_at: datetime | None
    total: TreeSumOut
    children: list[TreeOut]

"""Runs as people see them: the row, what is asked of somebody, and what the run waits for."""

from __future__ import annotations

from collections.abc import Sequence

from api import ask_rendering, money_rendering, rendering
from api.times import Object
from perdure.core.state import TERMINAL
from perdure.store.journal import Journal
from perdure.store.rows import AskRow, RunRow


async def show_run(journal: Journal, row: RunRow) -> Object:
    return (await show_runs(journal, [row]))[0]


async def show_runs(journal: Journal, rows: Sequence[RunRow]) -> list[Object]:
    """Ended runs ask nothing, and a run that no model has answered yet neither."""
    asking = [row.id for row in rows if row.status not in TERMINAL and row.turns]
    asks = await journal.open_asks(asking) if asking else {}
    leading = [row.id for row in rows if row.status not in TERMINAL and row.children]
    below = await journal.asks_below(leading) if leading else {}
    return [_shown(row, asks.get(row.id, []), below.get(row.id, [])) for row in rows]


def _shown(row: RunRow, open_asks: Sequence[AskRow], asked_below: Sequence[AskRow]) -> Object:
    """What its children ask of people is pending here, too: people decide about it, whoever they look at."""
    return rendering.run(
        row,
        pending_actions=[
            ask_rendering.ask(each) for each in (*open_asks, *asked_below) if each.type in ask_rendering.OF_SOMEBODY
        ],
        waiting_for=ask_rendering.waiting_for(row, open_asks),
        budget=money_rendering.budget_of(row.budget, row.account, row.overrun),
    )

"""`perdure budget` and `usage`: what a run may spend and has spent, and what all of them cost."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Console
from rich.table import Table

from perdure.cli.client import Api, Object, Where
from perdure.cli.text import clean, pretty
from perdure.cli.trouble import Failed

LEDGER_LINES = 10  # the newest, shown under the budget
PAGE = 100
NO_LIMIT = "none"
USAGE_COLUMNS = {
    "model_calls": "calls",
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "of it cached",
    "cost_usd": "cost USD",
    "assumed_cost_usd": "of it assumed",
    "unpriced_calls": "without price",
}


def budget_from(cost: str | None, tokens: str | None, output_tokens: str | None, on_limit: str | None) -> Object:
    """The ``budget`` of a request: what was given, ``none`` as null. Failed when a count is no number; what
    the numbers may be, the API says."""
    budget: Object = {}
    if cost is not None:
        budget["max_cost_usd"] = None if cost == NO_LIMIT else cost.removeprefix("$")
    for option, name, text in (
        ("--max-tokens", "max_tokens", tokens),
        ("--max-output-tokens", "max_output_tokens", output_tokens),
    ):
        if text is not None:
            budget[name] = None if text == NO_LIMIT else _count(text, option)
    if on_limit is not None:
        budget["on_limit"] = on_limit
    return budget


def show_budget(run: str, change: Object, max_turns: int | None, *, as_json: bool, where: Where) -> int:
    """Change the budget when there is something to change, and show what holds then."""
    api = where.connect()
    run_id = api.resolve(run)
    body: Object = {"budget": change} if change else {}
    if max_turns is not None:
        body["limits"] = {"max_turns": max_turns}
    whole = api.patch(f"/v1/runs/{run_id}", body) if body else api.get(f"/v1/runs/{run_id}")
    ledger = read_ledger(api, run_id)
    if as_json:
        print(pretty({"budget": whole["budget"], "ledger": ledger}))
        return 0
    print(f"{run_id} · {whole['status']}{' · ' + whole['status_reason'] if whole['status_reason'] else ''}")
    print("\n".join(budget_lines(whole["budget"])))
    if whole["budget"]["on_limit"] is None:
        print(f"it has no budget; `{api.command('budget', run_id, '--max-cost', 'USD')}` gives it one")
    print(f"turns      {whole['turns']:,} of {whole['limits']['max_turns']:,}")
    if ledger:
        print(f"\nledger, the newest of {len(ledger)} entries last")
        Console(emoji=False, highlight=False, width=160).print(_ledger(ledger[-LEDGER_LINES:]))
    return 0


def read_ledger(api: Api, run_id: str) -> list[Object]:
    """All of it, in order: a few entries for each model call."""
    ledger: list[Object] = []
    cursor: str | None = None
    while True:
        page = api.get(f"/v1/runs/{run_id}/ledger", limit=PAGE, after=cursor)
        ledger += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            return ledger


def budget_lines(budget: Object) -> list[str]:
    """A budget as a small table, a line for each of the three amounts."""
    heading = f"budget     {'limit':>12} {'spent':>12} {'reserved':>12} {'left':>12}"
    lines = [heading + (f"   on limit: {budget['on_limit']}" if budget["on_limit"] else "")]
    for name, limit, amount in (
        ("cost USD", "max_cost_usd", "cost_usd"),
        ("tokens", "max_tokens", "tokens"),
        ("output", "max_output_tokens", "output_tokens"),
    ):
        cells = [
            budget["limit"][limit], budget["spent"][amount], budget["reserved"][amount], budget["left"][limit],
        ]  # fmt: skip
        lines.append(f"{name:<10} " + " ".join(f"{_number(cell):>12}" for cell in cells))
    if budget["overrun"]:
        lines.append("           a vendor used more than a call was allowed: see the ledger")
    return lines


def cost(node: Object, unknown: str = "?") -> str:
    """Of a node of a tree or its total: what vendors have reported, and what lost attempts are taken to have cost."""
    reported = node["usage"]["cost_usd"]
    shown = unknown if reported is None else f"${reported}"
    return shown + (f" (+ ${node['assumed_cost_usd']} assumed)" if Decimal(node["assumed_cost_usd"]) else "")


def show_usage(*, by: str, since: str | None, before: str | None, form: str, where: Where) -> int:
    """``form`` is ``table``, ``json`` or ``csv``."""
    api = where.connect()
    query = {"group_by": by, "from": since, "before": before}
    if form == "csv":
        print(api.get_text("/v1/usage", "text/csv", **query), end="")
        return 0
    rows = api.get("/v1/usage", **query)["data"]
    if form == "json":
        print(pretty(rows))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(by, no_wrap=True)
    for heading in USAGE_COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(clean(str(row["group"])).replace("[", r"\["), *(_number(row[name]) for name in USAGE_COLUMNS))
    Console(emoji=False, highlight=False, width=160).print(table if rows else "nothing was used")
    return 0


def _ledger(rows: list[Object]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("entry", "what", "call", "attempt", "cost USD", "tokens", "spent USD", "reserved USD", ""):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("what", "call", "") else "right")
    for row in rows:
        if row["limits"]:
            table.add_row(str(row["entry"]), row["kind"], *[""] * 6, limits_line(row["limits"]))
            continue
        marks = [mark for mark in ("assumed", "overrun") if row[mark]]
        table.add_row(
            str(row["entry"]),
            row["kind"],
            row["key"] or "",
            _number(row["attempt"], ""),
            _number(row["amount"]["cost_usd"]),
            _number(row["amount"]["tokens"]),
            _number(row["balance"]["spent"]["cost_usd"]),
            _number(row["balance"]["reserved"]["cost_usd"]),
            ", ".join(marks),
        )
    return table


def limits_line(limits: Object) -> str:
    """The limits that hold from a line of the ledger on."""
    shown = [
        f"{word} {_number(limits[name])}"
        for name, word in (("max_cost_usd", "USD"), ("max_tokens", "tokens"), ("max_output_tokens", "output"))
        if limits[name] is not None
    ]
    return f"{', '.join(shown) or 'no limit'}; {limits['on_limit']}"


def _number(value: object, nothing: str = NO_LIMIT) -> str:
    if value is None:
        return nothing
    return f"{value:,}" if isinstance(value, int) else str(value)


def _count(text: str, option: str) -> int:
    try:
        return int(text.replace(",", "").replace("_", ""))
    except ValueError:
        raise Failed(f"{option} {text!r} is not a whole number, nor {NO_LIMIT!r}", status=2) from None

"""The commands for people in the loop, money and policy. Like those of ``app.py``: one import, one call."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure.cli.given import text_given
from perdure.cli.options import (
    ApiUrl,
    As,
    Ask,
    Call,
    Delivery,
    GroupBy,
    Home,
    Json,
    LimitAction,
    MaxCost,
    MaxOutputTokens,
    MaxTokens,
    PolicyFile,
    Run,
    Scope,
    StuckCall,
    Urgency,
)

app = typer.Typer()
policy_app = typer.Typer(no_args_is_help=True, help="What policies say.")
app.add_typer(policy_app, name="policy")


@app.command()
def approvals(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only what this run waits for.")] = None,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """List what waits for a person, in all runs, and the command that resolves each."""
    from perdure.cli.asks import list_asks
    from perdure.cli.client import Where

    raise typer.Exit(list_asks(run, as_json=json, where=Where(api_url, home)))


@app.command()
def approve(
    what: Ask,
    call: Call = None,
    scope: Annotated[
        Scope, typer.Option(help="Also for this very call again: in this run, or in its session.")
    ] = "once",
    edit: Annotated[str | None, typer.Option(metavar="JSON", help="Other arguments for the call.")] = None,
    message: Annotated[str, typer.Option(help="Kept with the decision.")] = "",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Let a call go on that policy asks about."""
    from perdure.cli.asks import Verdict, decide
    from perdure.cli.client import Where

    verdict = Verdict("approve", message, scope if scope != "once" else None, edit)
    raise typer.Exit(decide(what, verdict, call=call, where=Where(api_url, home, as_)))


@app.command()
def deny(
    what: Ask,
    call: Call = None,
    message: Annotated[str, typer.Option(help="Why; the model is told.")] = "",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Refuse a call that policy asks about."""
    from perdure.cli.asks import Verdict, decide
    from perdure.cli.client import Where

    raise typer.Exit(decide(what, Verdict("deny", message), call=call, where=Where(api_url, home, as_)))


@app.command()
def respond(
    what: Ask,
    result: Annotated[str, typer.Argument(metavar="RESULT", help="As the model shall see it; - reads it.")],
    call: Call = None,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Give the result of a call by hand: one that waits, a client tool's, or one that is stuck (--call)."""
    from perdure.cli.asks import respond as give
    from perdure.cli.client import Where

    raise typer.Exit(give(what, text_given(result), call=call, where=Where(api_url, home, as_)))


@app.command()
def answer(
    what: Ask,
    answers: Annotated[list[str] | None, typer.Argument(metavar="[ID=VALUE]...", help="Without: asks here.")] = None,
    call: Call = None,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Answer the questions of an agent."""
    from perdure.cli.asks import answer as give
    from perdure.cli.client import Where

    raise typer.Exit(give(what, answers or [], call=call, where=Where(api_url, home, as_)))


@app.command()
def say(
    run: Run,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="- reads it from standard input.")],
    delivery: Annotated[
        Delivery, typer.Option(help="Before the next answer, after the work in hand, or at once.")
    ] = "steer",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Send a message to a run while it works."""
    from perdure.cli.client import Where
    from perdure.cli.orders import say as send

    raise typer.Exit(send(run, text_given(text), delivery=delivery, where=Where(api_url, home, as_)))


@app.command()
def pause(
    run: Run,
    reason: Annotated[str, typer.Option(help="Kept with the run.")] = "",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Hold a run at the next boundary; a call in flight is finished."""
    from perdure.cli.client import Where
    from perdure.cli.orders import pause as hold

    raise typer.Exit(hold(run, reason=reason, where=Where(api_url, home, as_)))


@app.command()
def resume(run: Run, as_: As = None, api_url: ApiUrl = None, home: Home = None) -> None:
    """Let a paused run go on."""
    from perdure.cli.client import Where
    from perdure.cli.orders import resume as go_on

    raise typer.Exit(go_on(run, where=Where(api_url, home, as_)))


@app.command()
def abort(
    run: Run,
    call: StuckCall,
    reason: Annotated[str, typer.Option(help="The model is told.")],
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """End a tool call that is stuck as failed; the run goes on."""
    from perdure.cli.client import Where
    from perdure.cli.orders import abort as give_up

    raise typer.Exit(give_up(run, call, reason=reason, where=Where(api_url, home, as_)))


@app.command()
def budget(
    run: Run = "last",
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    max_output_tokens: MaxOutputTokens = None,
    on_limit: LimitAction = None,
    max_turns: Annotated[int | None, typer.Option(metavar="N", help="Model calls, one after another.")] = None,
    json: Json = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Show what a run may spend and has spent, with its ledger; or change it while it runs."""
    from perdure.cli.client import Where
    from perdure.cli.money import budget_from, show_budget

    change = budget_from(max_cost, max_tokens, max_output_tokens, on_limit)
    raise typer.Exit(show_budget(run, change, max_turns, as_json=json, where=Where(api_url, home, as_)))


@app.command()
def usage(
    by: Annotated[GroupBy, typer.Option(help="Sums by this.")] = "day",
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, such as 2026-11-24T00:00:00Z.")
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV, for spreadsheets.")] = False,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Show what the model calls of all runs have used and cost."""
    from perdure.cli.client import Where
    from perdure.cli.money import show_usage

    form = "csv" if csv else "json" if json else "table"
    raise typer.Exit(show_usage(by=by, since=since, before=before, form=form, where=Where(api_url, home)))


@policy_app.command()
def check(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="A stored agent: NAME or NAME@VERSION.")],
    tool: Annotated[str, typer.Argument(metavar="TOOL")],
    arguments: Annotated[str, typer.Argument(metavar="ARGUMENTS", help="A JSON object; - reads it.")] = "{}",
    policy: PolicyFile = None,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Say what would be answered to a call: allow, ask or deny, by which rule and why. Nothing is called."""
    from perdure.cli.client import Where
    from perdure.cli.policy import check as dry_run

    raise typer.Exit(
        dry_run(agent, tool, text_given(arguments), policy=policy, as_json=json, where=Where(api_url, home))
    )


@app.command()
def signal(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What has happened, such as order.paid.")],
    payload: Annotated[str | None, typer.Argument(metavar="[JSON]", help="About it; - reads it.")] = None,
    urgency: Annotated[
        Urgency, typer.Option(help="critical and high interrupt a run that does not wait for it.")
    ] = "normal",
    dedupe_key: Annotated[str | None, typer.Option(metavar="KEY", help="Twice in a day counts once.")] = None,
    json: Json = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Tell a run that something has happened, for wait_for_event."""
    from perdure.cli.client import Where
    from perdure.cli.timers import signal as send

    given = None if payload is None else text_given(payload)
    where = Where(api_url, home, as_)
    raise typer.Exit(send(run, name, given, urgency=urgency, dedupe_key=dedupe_key, as_json=json, where=where))


@app.command()
def timers(run: Run = "last", json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """List what a run sleeps for, and the command that wakes it."""
    from perdure.cli.client import Where
    from perdure.cli.timers import list_timers

    raise typer.Exit(list_timers(run, as_json=json, where=Where(api_url, home)))


@app.command()
def fire(
    run: Run,
    timer: Annotated[str | None, typer.Argument(metavar="[TIMER]", help="Without: the one there is.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="The sleep fails instead.")] = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Wake a run that sleeps, now."""
    from perdure.cli.client import Where
    from perdure.cli.timers import fire as end

    raise typer.Exit(end(run, timer, cancel=cancel, where=Where(api_url, home, as_)))

"""The commands about schedules. Like those of ``app.py``: one import, one call."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from perdure.cli.given import text_given
from perdure.cli.options import ApiUrl, As, Home, Json, LimitAction, MaxCost, MaxTokens, PolicyFile

app = typer.Typer()
schedule_app = typer.Typer(no_args_is_help=True, help="Runs that start again and again.")
app.add_typer(schedule_app, name="schedule")

Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name or id.")]
Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]


@app.command()
def schedules(json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """List the schedules and when each fires next."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import list_schedules

    raise typer.Exit(list_schedules(as_json=json, where=Where(api_url, home)))


@schedule_app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What each run is to do; - reads it.")],
    cron: Annotated[list[str] | None, typer.Option(metavar="LINE", help="'0 2 * * *'; may be repeated.")] = None,
    every: Annotated[str | None, typer.Option(metavar="SPAN", help="30s, 15min, 6h, 1d.")] = None,
    at: Annotated[list[str] | None, typer.Option(metavar="TIME", help="RFC 3339; may be repeated.")] = None,
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="IANA name.")] = "UTC",
    agent: Annotated[str | None, typer.Option(help="A stored agent: NAME, or NAME@VERSION to pin one.")] = None,
    model: Annotated[str | None, typer.Option(help="Without an agent: for example scripted/echo.")] = None,
    instructions: Annotated[str | None, typer.Option(help="The system prompt, with --model.")] = None,
    tool: Annotated[list[str] | None, typer.Option(help="With --model; may be repeated.")] = None,
    overlap: Annotated[Overlap, typer.Option(help="When a run of it is under way.")] = "skip",
    jitter: Annotated[str | None, typer.Option(metavar="SPAN", help="Each firing is late by a part of it.")] = None,
    catch_up: Annotated[str | None, typer.Option(metavar="SPAN", help="How late a firing may be.")] = None,
    quiet: Annotated[str | None, typer.Option(metavar="FROM-TO", help="22:00-07:00: no firing then.")] = None,
    one_session: Annotated[bool, typer.Option("--one-session", help="All runs continue one conversation.")] = False,
    pause_on_failure: Annotated[bool, typer.Option("--pause-on-failure")] = False,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    on_limit: LimitAction = None,
    policy: PolicyFile = None,
    json: Json = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Make a schedule; each firing is a run."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import NewSchedule, create_schedule

    new = NewSchedule(
        name, text_given(text), cron or [], every, at or [], timezone, agent, model,
        instructions, tool or [], overlap, jitter, catch_up, quiet, one_session, pause_on_failure, max_cost,
        max_tokens, on_limit, policy,
    )  # fmt: skip
    raise typer.Exit(create_schedule(new, as_json=json, where=Where(api_url, home, as_)))


@schedule_app.command()
def show(schedule: Schedule, json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """Show a schedule, its next times and what became of the last ones."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import show_schedule

    raise typer.Exit(show_schedule(schedule, as_json=json, where=Where(api_url, home)))


@schedule_app.command()
def pause(
    schedule: Schedule,
    reason: Annotated[str, typer.Option(help="Kept with it.")] = "",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Fire no more until it is resumed. Runs under way go on."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import pause_schedule

    raise typer.Exit(pause_schedule(schedule, reason=reason, where=Where(api_url, home, as_)))


@schedule_app.command()
def resume(schedule: Schedule, as_: As = None, api_url: ApiUrl = None, home: Home = None) -> None:
    """Fire again."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import resume_schedule

    raise typer.Exit(resume_schedule(schedule, where=Where(api_url, home, as_)))


@schedule_app.command()
def trigger(
    schedule: Schedule,
    overlap: Annotated[Overlap | None, typer.Option(help="In place of its own.")] = None,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Fire now."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import trigger_schedule

    raise typer.Exit(trigger_schedule(schedule, overlap=overlap, where=Where(api_url, home, as_)))


@schedule_app.command("next")
def next_times(
    schedule: Schedule,
    count: Annotated[int, typer.Option(min=1, max=100)] = 10,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Say when it fires next."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import show_next

    raise typer.Exit(show_next(schedule, count=count, as_json=json, where=Where(api_url, home)))


@schedule_app.command()
def delete(schedule: Schedule, as_: As = None, api_url: ApiUrl = None, home: Home = None) -> None:
    """Remove a schedule; its runs stay."""
    from perdure.cli.client import Where
    from perdure.cli.schedules import delete_schedule

    raise typer.Exit(delete_schedule(schedule, where=Where(api_url, home, as_)))

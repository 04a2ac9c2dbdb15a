"""Every command with its options; each body is one lazy import and one call, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.app_people import app as people_app
from perdure.cli.app_schedules import app as schedules_app
from perdure.cli.app_sessions import app as sessions_app
from perdure.cli.given import check_words, text_given
from perdure.cli.options import ApiUrl, As, Conflict, Home, Json, LimitAction, MaxCost, MaxTokens, PolicyFile, Run
from perdure.cli.trouble import Failed

app = typer.Typer(
    name="perdure",
    help="Run AI agents that cannot be lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def up(
    home: Home = None,
    api_port: Annotated[int | None, typer.Option(help="0 takes any free port.", show_default="8600")] = None,
    temporal_port: Annotated[int | None, typer.Option(show_default="7233")] = None,
    ui_port: Annotated[int | None, typer.Option(help="Of Temporal's Web UI.", show_default="8233")] = None,
    workers: Annotated[int, typer.Option(min=0, max=64)] = 1,
    scripts: Annotated[Path | None, typer.Option(help="Folder of scripts for scripted/… models.", exists=True)] = None,
    scripted: Annotated[bool, typer.Option(help="Serve scripted/… models although a vendor key is set.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="When ready, print up.json on one line; the rest to stderr.")
    ] = False,
) -> None:
    """Start everything here and keep it alive: Temporal, workers, API, and scripted models when no key is set."""
    from perdure.cli.up import UpOptions, run_up

    raise typer.Exit(run_up(UpOptions(home, api_port, temporal_port, ui_port, workers, scripts, scripted, json)))


@app.command("run")
def run_command(
    text: Annotated[str, typer.Argument(help="What the agent is to do; - reads it from standard input.")],
    agent: Annotated[str | None, typer.Option(help="A stored agent: NAME or NAME@VERSION.")] = None,
    model: Annotated[str | None, typer.Option(help="For example openai/gpt-5.5 or scripted/tour.")] = None,
    instructions: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    tool: Annotated[
        list[str] | None, typer.Option(help="May be repeated; 'none' gives it none. Default: all there are.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Continue this conversation.")] = None,
    on_conflict: Annotated[
        Conflict, typer.Option(help="When it is busy: an error, or a message to the run at work.")
    ] = "reject",
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
    on_limit: LimitAction = None,
    policy: PolicyFile = None,
    json: Json = False,
    follow: Annotated[bool, typer.Option(help="Show the run until it ends.")] = True,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Start a run and show it as it goes; what it asks of people is asked here. Ends with 0 when it completed."""
    from perdure.cli.client import Where
    from perdure.cli.run import RunOptions, run_agent

    tools = None if not tool else [name for name in tool if name != "none"]
    options = RunOptions(
        agent, model, instructions, tools, session, max_cost, max_tokens, on_limit, policy, json, follow, on_conflict
    )
    where = Where(api_url, home, as_)
    raise typer.Exit(run_agent(text_given(text), options, where=where))


@app.command()
def watch(run: Run = "last", json: Json = False, as_: As = None, api_url: ApiUrl = None, home: Home = None) -> None:
    """Show a run from its start until it ends; what it asks of people, it asks here."""
    from perdure.cli.client import Where
    from perdure.cli.run import watch_run

    raise typer.Exit(watch_run(run, as_json=json, where=Where(api_url, home, as_)))


@app.command()
def ls(
    status: Annotated[list[str] | None, typer.Option(help="Only these; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """List the newest runs."""
    from perdure.cli.client import Where
    from perdure.cli.run import list_runs

    raise typer.Exit(list_runs(statuses=status or [], limit=limit, as_json=json, where=Where(api_url, home)))


@app.command()
def show(run: Run = "last", json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """Show a run: its state, what it waits for, budget, steps, transcript, and where Temporal shows it."""
    from perdure.cli.client import Where
    from perdure.cli.show import show_run

    raise typer.Exit(show_run(run, as_json=json, where=Where(api_url, home)))


@app.command()
def tree(run: Run = "last", json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """Show a run with the agents that it has started, and what all of them have cost."""
    from perdure.cli.client import Where
    from perdure.cli.tree import show_tree

    raise typer.Exit(show_tree(run, as_json=json, where=Where(api_url, home)))


@app.command()
def board(run: Run = "last", json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """Show what the agents of a run's tree have written on the board that they share."""
    from perdure.cli.board import show_board
    from perdure.cli.client import Where

    raise typer.Exit(show_board(run, as_json=json, where=Where(api_url, home)))


@app.command()
def cancel(
    run: Run,
    force: Annotated[bool, typer.Option("--force", help="Now, without waiting for a worker.")] = False,
    reason: Annotated[str, typer.Option(help="Kept with the run.")] = "",
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """End a run."""
    from perdure.cli.client import Where
    from perdure.cli.run import cancel_run

    raise typer.Exit(cancel_run(run, force=force, reason=reason, where=Where(api_url, home, as_)))


app.add_typer(people_app)
app.add_typer(sessions_app)
app.add_typer(schedules_app)


@app.command()
def doctor(json: Json = False, api_url: ApiUrl = None, home: Home = None) -> None:
    """Say what is wrong here, and what to do. Ends with 1 when something fails."""
    from perdure.cli.doctor import run_doctor

    raise typer.Exit(run_doctor(home=home, api_url=api_url, as_json=json))


@app.command()
def demo(
    model: Annotated[str | None, typer.Option(help="A real model instead of the scripted one.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep its folder, with journal and logs.")] = False,
    json: Json = False,
) -> None:
    """Watch a run survive kill -9 of its worker, twice, and of Temporal. And an approval and a
    budget hold. Takes about a minute."""
    from perdure.cli.demo import run_demo

    raise typer.Exit(run_demo(model=model, keep=keep, as_json=json))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(f"perdure {installed('perdure')}")


def run() -> None:
    """The entry point: a known trouble becomes a line on stderr, several ones a line each."""
    try:
        check_words(sys.argv[1:])
        app()
    except Failed as trouble:
        for line in str(trouble).splitlines():
            print(f"perdure: {line}", file=sys.stderr)
        sys.exit(trouble.status)

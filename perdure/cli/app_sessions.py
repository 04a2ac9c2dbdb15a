"""The commands for conversations and for what is kept. Like those of ``app.py``: one import, one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.options import ApiUrl, As, Home, Json, MaxCost, Run
from perdure.cli.trouble import Failed

app = typer.Typer()
session_app = typer.Typer(no_args_is_help=True, help="One conversation: export, import, fork, delete.")
app.add_typer(session_app, name="session")

Session = Annotated[str, typer.Argument(metavar="SESSION", help="Its id, or a run's: then the session of that run.")]
Days = Annotated[float | None, typer.Option(metavar="DAYS", min=0, max=36_500)]
Follow = Annotated[bool, typer.Option(help="Show the run until it ends.")]
MaxTurns = Annotated[int | None, typer.Option(metavar="N", help="Model calls, one after another.")]


@app.command()
def sessions(
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """List the newest conversations."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import list_sessions

    raise typer.Exit(list_sessions(limit=limit, as_json=json, where=Where(api_url, home)))


@session_app.command()
def export(
    session: Session,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Default: standard output.")] = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Write a conversation as JSON lines, with the whole of large results."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import export_session

    raise typer.Exit(export_session(session, file, where=Where(api_url, home)))


@session_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.", exists=True, dir_okay=False)],
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Take in an exported conversation as a new one."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import import_session

    raise typer.Exit(import_session(file, where=Where(api_url, home)))


@session_app.command("fork")
def fork_session(
    session: Session,
    at: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=0, help="Its last message. Default: the newest.")
    ] = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Open a conversation that begins as this one did."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import fork_session as fork_it

    raise typer.Exit(fork_it(session, at, where=Where(api_url, home)))


@session_app.command()
def delete(
    session: Session,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Erase a conversation: its messages, the events of its runs, their files; those of its sub-agents, too."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import delete_session

    raise typer.Exit(delete_session(session, sure=yes, where=Where(api_url, home)))


@app.command()
def fork(
    run: Run,
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=1, help="The event up to which it is the same.")],
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Said instead of, or after, what was last.")
    ] = None,
    max_cost: MaxCost = None,
    max_turns: MaxTurns = None,
    follow: Follow = True,
    json: Json = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Start a run that goes another way from an event of this one on; nothing before it is paid again."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import GoingOn, fork_run

    options = GoingOn(max_cost, max_turns, follow, json)
    raise typer.Exit(fork_run(run, seq, text, options, where=Where(api_url, home, as_)))


@app.command()
def retry(
    run: Run,
    call: Annotated[
        str | None, typer.Argument(metavar="[CALL]", help="A tool call that is stuck, as `perdure show` tells it.")
    ] = None,
    reason: Annotated[str, typer.Option(help="With CALL: kept with it.")] = "",
    max_cost: MaxCost = None,
    max_turns: MaxTurns = None,
    follow: Follow = True,
    json: Json = False,
    as_: As = None,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Go on with an ended run from its last good step, in its conversation. With CALL: run a tool call that is stuck
    again; one that must run once, too: you say so."""
    from perdure.cli.client import Where
    from perdure.cli.orders import retry as again
    from perdure.cli.sessions import GoingOn, retry_run

    where = Where(api_url, home, as_)
    if call is not None:
        raise typer.Exit(again(run, call, reason=reason, where=where))
    if reason:
        raise Failed("--reason is kept with a call: name the CALL")
    raise typer.Exit(retry_run(run, GoingOn(max_cost, max_turns, follow, json), where=where))


@app.command()
def prune(
    deltas_days: Days = None,
    events_days: Days = None,
    sessions_days: Days = None,
    json: Json = False,
    api_url: ApiUrl = None,
    home: Home = None,
) -> None:
    """Remove live text and events of ended runs, and conversations at rest, that are older than so many days.
    Without options: as the settings of the API say."""
    from perdure.cli.client import Where
    from perdure.cli.sessions import prune as remove

    days = {"deltas_days": deltas_days, "events_days": events_days, "sessions_days": sessions_days}
    raise typer.Exit(remove(days, as_json=json, where=Where(api_url, home)))

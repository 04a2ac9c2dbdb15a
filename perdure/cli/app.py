"""Every command with its options; each body is one lazy import and one call, so that `--help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.place import BadSettings

app = typer.Typer(
    name="perdure",
    help="Run AI agents that cannot be lost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Home = Annotated[
    Path | None, typer.Option(help="Folder of the journal, the Temporal file, logs. [PERDURE_HOME, .perdure]")
]


class Failed(Exception):
    """A command that cannot do its work; the message says why and what to do. Ends with status 1."""


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


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    print(f"perdure {installed('perdure')}")


def run() -> None:
    """The entry point: known troubles become one line on stderr."""
    from perdure.cli.up import CannotStart
    from perdure.dev_server import DevServerFailed

    try:
        app()
    except (BadSettings, CannotStart, DevServerFailed, Failed) as trouble:
        print(f"perdure: {trouble}", file=sys.stderr)
        sys.exit(1)

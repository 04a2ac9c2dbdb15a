"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of the journal, the Temporal file, logs. Default: PERDURE_HOME, or .perdure here."),
]
ApiUrl = Annotated[str | None, typer.Option(help="Of the API. Default: PERDURE_API_URL, or the one of the home.")]
As = Annotated[str | None, typer.Option("--as", metavar="NAME", help="Who you are. Default: your login name.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="An id, the beginning of one, or 'last'.")]
Ask = Annotated[
    str,
    typer.Argument(metavar="ID|RUN", help="What is asked, or the run that asks, when it asks for one thing."),
]
Call = Annotated[str | None, typer.Option(metavar="CALL", help="Of the run, the call that is meant.")]
StuckCall = Annotated[str, typer.Argument(metavar="CALL", help="As `perdure show` tells it.")]

Scope = Literal["once", "run", "session"]
Delivery = Literal["steer", "enqueue", "interrupt"]
Conflict = Literal["reject", "enqueue", "interrupt", "steer"]
Urgency = Literal["critical", "high", "normal", "low"]
OnLimit = Literal["wrap_up", "pause", "stop"]
GroupBy = Literal["run", "agent", "model", "session", "day"]

MaxCost = Annotated[str | None, typer.Option(metavar="USD", help="Of all model calls together; 'none' for no limit.")]
MaxTokens = Annotated[str | None, typer.Option(metavar="N", help="Input and output together; 'none' for no limit.")]
MaxOutputTokens = Annotated[str | None, typer.Option(metavar="N", help="'none' for no limit.")]
LimitAction = Annotated[
    OnLimit | None, typer.Option(help="At the limit: one last call without tools, wait for more, or end.")
]
PolicyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="A policy, as JSON or TOML.")]

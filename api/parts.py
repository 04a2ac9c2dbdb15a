"""What a route is given: the adapters of this process, and whether it is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from api.bodies import JsonRequest
from perdure.assembly import Assembly
from perdure.courier import Courier

PROJECT = "default"  # every object belongs to a project; there are no keys yet that name another


@dataclass
class Parts:
    """``stopping`` is set as soon as the process is asked to end: streams and waits end then.
    ``background`` holds short tasks that outlive their request."""

    assembly: Assembly
    stopping: asyncio.Event
    heartbeat_seconds: float = 10.0  # of silent streams: proxies cut silent connections after 30 s or more
    background: set[asyncio.Task[None]] = field(default_factory=set)
    courier: Courier = field(init=False)

    def __post_init__(self) -> None:
        self.courier = Courier(self.assembly.journal, self.assembly.runs)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this after the reply; ``work`` deals with its own trouble."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    def nudge(self, *run_ids: str) -> None:
        """Orders were committed: deliver what waits for these runs, after the reply."""
        for run_id in run_ids:
            self.later(self.courier.tell(run_id))


def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


def _strict(request: Request) -> JsonRequest:
    assert isinstance(request, JsonRequest), "every router of this API uses JsonRoute"
    return request


Given = Annotated[Parts, Depends(_parts)]
Strict = Annotated[JsonRequest, Depends(_strict)]

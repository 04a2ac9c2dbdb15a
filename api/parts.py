"""What a route is given: the adapters of this process, and whether it is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from api.bodies import JsonRequest
from api.orders import Courier
from perdure.assembly import Assembly

PROJECT = "default"  # every object belongs to a project; there are no keys yet that name another


@dataclass
class Parts:
    """``stopping`` is set as soon as the process is asked to end: streams and waits end then.
    ``background`` holds short tasks that outlive their request, ``orders`` brings orders to workflows."""

    assembly: Assembly
    stopping: asyncio.Event
    heartbeat_seconds: float = 10.0  # of silent streams: proxies cut silent connections after 30 s or more
    background: set[asyncio.Task[None]] = field(default_factory=set)
    orders: Courier = field(init=False)

    def __post_init__(self) -> None:
        self.orders = Courier(self.assembly.journal, self.assembly.runs, self.later)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this after the reply; ``work`` deals with its own trouble."""
        task = asyncio.create_task(work)
        self.background.add(task)
        task.add_done_callback(self.background.discard)


def _parts(request: Request) -> Parts:
    return cast("Parts", request.app.state.parts)


def _strict(request: Request) -> JsonRequest:
    assert isinstance(request, JsonRequest), "every router of this API uses JsonRoute"
    return request


Given = Annotated[Parts, Depends(_parts)]
Strict = Annotated[JsonRequest, Depends(_strict)]

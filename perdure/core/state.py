"""What a run knows while it lives. Small and frozen: numbers, kinds and keys, never bodies.

``RunState`` crosses continue-as-new as it is, so everything in it must stay a constant size over a
run of ten thousand turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perdure.core.spec import RunSpec

RunStatus = Literal[
    "scheduled", "queued", "running", "waiting", "requires_action", "paused", "cancelling",
    "completed", "incomplete", "failed", "cancelled", "expired",
]  # fmt: skip
TERMINAL: frozenset[RunStatus] = frozenset({"completed", "incomplete", "failed", "cancelled", "expired"})

if TYPE_CHECKING:
    Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
else:
    Json = Any  # whoever reads types at run time (pydantic) never comes to the end of a recursive alias


@dataclass(frozen=True, slots=True)
class OpenCall:
    """One tool call of the current turn. ``refusal`` says why it must not run (any more): the judge
    refused it, a limit did, or it was lost."""

    call_id: str
    tool: str
    answered: bool = False
    refusal: str | None = None
    refusal_code: str = "tool_denied"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of a run so far. ``cost_micros`` is micro-USD; ``unpriced_calls`` counts the
    model calls whose cost nobody knows, and while it is above zero the total cost is unknown."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_micros: int = 0
    unpriced_calls: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run cannot go on: ``code`` is one of the frozen ``run.error.code`` values."""

    code: str
    message: str
    retryable: bool = False
    call_id: str | None = None
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ends: a terminal status, the reason, and the failure when there is one."""

    status: RunStatus
    stop_reason: str
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class OutboxEvent:
    """An event that no activity would write by itself. ``key`` is unique in the run: written once."""

    key: str
    type: str
    data: dict[str, Json]
    carried_by: str | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """A graceful order to end: who gave it does not matter to the core, the reason is shown."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything ``decide`` looks at. Change it only through ``evolve``."""

    spec: RunSpec
    turn: int = 0  # model calls that were answered
    tool_calls: int = 0  # tool calls asked so far
    awaits_reply: bool = True  # the transcript ends with something the model has to answer
    last_stop: str | None = None  # stop reason of the newest model answer
    open_calls: tuple[OpenCall, ...] = ()
    inbox: tuple[str, ...] = ()  # ids of accepted messages, not yet in the transcript
    applied: tuple[str, ...] = ()  # the newest messages that are in it: a double delivery says nothing new
    usage: Usage = Usage()
    cancel: Cancel | None = None
    failure: Failure | None = None
    outbox: tuple[OutboxEvent, ...] = ()
    outbox_count: int = 0  # how many outbox events there ever were; numbers their keys
    in_flight: tuple[str, ...] = ()  # keys of the actions the shell has started
    finishing: Outcome | None = None  # decided and being recorded; never taken back
    ended: Outcome | None = None  # recorded

    @property
    def status(self) -> RunStatus:
        """The run's status in the words of the HTTP surface."""
        if self.ended:
            return self.ended.status
        if self.cancel and not self.finishing:
            return "cancelling"
        return "running"

"""What a run knows while it lives. Small and frozen: numbers, kinds and keys, never bodies.

``RunState`` crosses continue-as-new as it is, so everything in it must stay a constant size over a
run of ten thousand turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from perdure.core.numbers import Numbers
from perdure.core.spec import RunSpec

WaitsFor = Literal[
    "", "approval", "question", "client_tool", "unknown_outcome", "timer", "event", "poll", "children"
]  # fmt: skip
OUTSIDE: frozenset[WaitsFor] = frozenset(
    {"approval", "question", "client_tool", "unknown_outcome"}
)  # people and clients
WAKEABLE: frozenset[WaitsFor] = frozenset({"timer", "event", "poll"})  # a message wakes whoever waits for these
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
    refused it, a limit did, or it was lost. ``waits`` is what it needs from outside before it goes on, until
    ``expires_ms``. ``begun``: it has been started, so it was allowed to run. ``round`` counts how often it was to run
    again, and how often it waited anew; ``ordered`` is the number of the newest order to run it again. ``over`` is
    by how much its tool is over its own budget, when that only steers. ``note`` is a preview for people of what it
    waits for. A ``poll`` waits for its next try, and is waiting still while it tries."""

    call_id: str
    tool: str
    answered: bool = False
    refusal: str | None = None
    refusal_code: str = "tool_denied"
    waits: WaitsFor = ""
    expires_ms: int = 0
    begun: bool = False
    round: int = 0
    ordered: int = 0
    over: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    """What somebody said about a call before the run has heard that it waits: people are quicker than the report of
    a worker that was lost. ``answered``, or approved; ``expires_ms`` when it goes to the client."""

    call_id: str
    answered: bool
    expires_ms: int = 0


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
    """A graceful order to end: who gave it does not matter to the core, the reason is shown. Ordered again,
    the run ends ``at_once``, without a word from the agent. ``alone``: its children were not told."""

    reason: str = ""
    at_once: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class RunState:
    """Everything ``decide`` looks at. Change it only through ``evolve``."""

    spec: RunSpec
    next_spec: RunSpec | None = None  # of the agent that takes over when the calls of this turn are answered
    turn: int = 0  # model calls that were answered, or interrupted
    tool_calls: int = 0  # tool calls asked so far
    questions: int = 0  # how often people were asked
    tool_counts: tuple[tuple[str, int], ...] = ()  # calls of the tools that have a budget of their own
    rate_starts: tuple[tuple[int, ...], ...] = ()  # per rate limit: when calls started, the newest max_calls
    turn_bytes: int = 0  # of the tool results of this turn, when the run counts them
    awaits_reply: bool = True  # the transcript ends with something the model has to answer
    final: bool = False  # the newest model answer asked for nothing: only a message makes the run go on
    last_stop: str | None = None  # stop reason of the newest model answer
    open_calls: tuple[OpenCall, ...] = ()
    steering: Numbers = ()  # accepted messages for the next boundary, by the number of their order
    queued: Numbers = ()  # accepted messages for after the next answer
    notes: Numbers = ()  # accepted words of its own children: at the next call, whatever it waits for until then
    children: tuple[str, ...] = ()  # runs it has started and that end with it: the calls of those that have not ended
    applying: Numbers = ()  # those that the model call in flight takes along
    orders: Numbers = ()  # orders that were heard: a double delivery says nothing new
    ended_early: tuple[
        str, ...
    ] = ()  # calls whose children have ended, and which may yet be heard to have started them
    early: tuple[Word, ...] = ()  # about calls that the next answer may tell of, or that do not wait yet
    interrupting: str = ""  # key of the model call that a message interrupts
    recalled: int = 0  # how often the call of the next turn was called off
    unsettled: str = ""  # key of a model call that was called off without a word: the next one closes it
    paused: str = ""  # why somebody holds the run
    reached: str = ""  # the limit of the budget that cannot pay for the next call
    wrapped_up: bool = False  # the last call was made, or could not be
    told: RunStatus = "running"  # the status that readers were told last
    told_reason: str = ""  # and its reason
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
        return self.ended.status if self.ended else self.told

"""What can happen to a run. Each is a fact in the past tense; ``evolve`` takes them one at a time.

A happening may arrive late, twice, or after the run has ended: ``evolve`` ignores what no longer
means anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from perdure.core.actions import Action
from perdure.core.numbers import Numbers
from perdure.core.spec import Limits, OnLimit, RunSpec
from perdure.core.state import Failure, RunStatus, Usage, WaitsFor

Delivery = Literal["steer", "enqueue", "interrupt", "note"]
Verb = Literal[
    "message", "withdraw", "approve", "answer", "pause", "resume", "cancel", "limits", "retry_call", "child_ended"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Started:
    """The shell has started an action at ``at_ms`` and gave it all the outbox events of the state it saw."""

    action: Action
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class StatusReached:
    """``decide`` came to another status than the one that was told last: it shall be told."""

    status: RunStatus
    reason: str = ""
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class CallAsked:
    """A tool call a model asked for, with the judge's verdict: ``refusal`` is why it must not run;
    ``waits`` is what it needs from outside first, until ``expires_ms``; ``note`` shows people what for."""

    call_id: str
    tool: str
    refusal: str | None = None
    refusal_code: str = "tool_denied"
    waits: WaitsFor = ""
    expires_ms: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelResponded:
    """A model call was answered and its answer is in the journal.

    ``stop`` is one of ``end, tool_calls, max_output_tokens, refusal, pause``. ``limit`` names the limit of
    the budget that cut the answer short.
    """

    key: str
    stop: str
    usage: Usage
    calls: tuple[CallAsked, ...] = ()
    limit: str = ""


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """A model call ended without an answer, for good: retries are over or made no sense."""

    key: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ModelInterrupted:
    """A model call was cut short by messages; what it had said is in the transcript, marked. ``by`` are their
    numbers, which are those of their orders: the journal may have told the worker before the orders came here."""

    key: str
    by: Numbers = ()


@dataclass(frozen=True, slots=True)
class NothingNew:
    """A model call was not made: the messages it was wanted for were withdrawn."""

    key: str


@dataclass(frozen=True, slots=True)
class BudgetReached:
    """A model call was not made: ``limit`` (as in the API) cannot pay for it."""

    key: str
    limit: str


@dataclass(frozen=True, slots=True)
class ToolAnswered:
    """A tool call has its result in the journal: ``completed``, ``failed`` or ``unknown``. ``bytes`` is the
    size of what the model will see, when the run counts it."""

    key: str
    call_id: str
    status: str = "completed"
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class FamilyCalled:
    """A call about other runs is carried out: it has its result, or waits for children until ``expires_ms``.
    ``child``: it started a run that ends with this one. ``spec``: it has handed the session to another agent."""

    key: str
    call_id: str
    expires_ms: int = 0
    child: bool = False
    bytes: int = 0
    spec: RunSpec | None = None


@dataclass(frozen=True, slots=True)
class ToolParked:
    """Nobody knows what became of a ``once`` call, and a person shall say, until ``expires_ms``."""

    key: str
    call_id: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class ToolPaused:
    """A poll has tried, in vain: it tries again at ``next_ms``."""

    key: str
    call_id: str
    next_ms: int


@dataclass(frozen=True, slots=True)
class ToolLost:
    """A tool call ended without a result in the journal (its workers died, or it timed out again
    and again). It must still be answered to the model."""

    key: str
    call_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class AskSettled:
    """What a call waited for has run out of time, or was there just before: ``approved`` (it may go on;
    ``expires_ms`` when it goes to the client), ``answered`` (its result is in the journal), ``escalated``
    (it waits on, until ``expires_ms``), ``failed`` (the run shall end)."""

    key: str
    call_id: str
    outcome: Literal["approved", "answered", "escalated", "failed"]
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record action committed its events."""

    key: str


@dataclass(frozen=True, slots=True)
class ActionCancelled:
    """An action was called off before it had a result."""

    key: str


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody outside told the run. It is in the journal under ``number``, which counts from 1 in the
    run: whoever delivers it twice says nothing new. The verb decides which of the other fields mean
    anything:

    ``message``     ``delivery``; the message has the order's number
    ``withdraw``    ``numbers``: these messages are withdrawn
    ``approve``     ``call_id`` may go on; ``expires_ms`` when the client has to answer it now
    ``answer``      ``call_id`` has its result in the journal
    ``pause``, ``resume``, ``cancel``   ``reason``
    ``limits``      ``limits``, ``on_limit`` and ``deadline_ms``, those that changed; the budget may have changed, too
    ``retry_call``  ``call_id``: its attempt is given up, it shall run again
    ``child_ended`` the run that ``call_id`` started has ended; its result comes by an order of its own
    """

    number: int
    verb: Verb
    call_id: str = ""
    delivery: Delivery = "steer"
    numbers: Numbers = ()
    reason: str = ""
    expires_ms: int = 0
    limits: Limits | None = None
    on_limit: OnLimit | None = None
    deadline_ms: int = 0


@dataclass(frozen=True, slots=True)
class EndedElsewhere:
    """The journal already holds the run's end (a forced cancel): there is nothing left to do."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody cancelled the workflow in Temporal itself, which is an order to the run."""

    reason: str = ""


Happening = (
    Started | StatusReached | ModelResponded | ModelFailed | ModelInterrupted | NothingNew | BudgetReached
    | ToolAnswered | FamilyCalled | ToolParked | ToolPaused | ToolLost | AskSettled | Recorded | ActionCancelled | Order
    | CancelRequested | EndedElsewhere
)  # fmt: skip

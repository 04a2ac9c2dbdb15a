"""What can happen to a run. Each is a fact in the past tense; ``evolve`` takes them one at a time.

A happening may arrive late, twice, or after the run has ended: ``evolve`` ignores what no longer
means anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from perdure.core.actions import Action
from perdure.core.state import Failure, RunStatus, Usage


@dataclass(frozen=True, slots=True)
class Started:
    """The shell has started an action and gave it all the outbox events of the state it saw."""

    action: Action


@dataclass(frozen=True, slots=True)
class CallAsked:
    """A tool call a model asked for, with the judge's verdict: ``refusal`` is why it must not run."""

    call_id: str
    tool: str
    refusal: str | None = None
    refusal_code: str = "tool_denied"


@dataclass(frozen=True, slots=True)
class ModelResponded:
    """A model call was answered and its answer is in the journal.

    ``stop`` is one of ``end, tool_calls, max_output_tokens, refusal, pause``. ``applied`` names the
    inbox messages that went into the transcript before the call.
    """

    key: str
    stop: str
    usage: Usage
    calls: tuple[CallAsked, ...] = ()
    applied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """A model call ended without an answer, for good: retries are over or made no sense."""

    key: str
    failure: Failure


@dataclass(frozen=True, slots=True)
class ToolAnswered:
    """A tool call has its result in the journal: ``completed``, ``failed`` or ``unknown``."""

    key: str
    call_id: str
    status: str = "completed"


@dataclass(frozen=True, slots=True)
class ToolLost:
    """A tool call ended without a result in the journal (its workers died, or it timed out again
    and again). It must still be answered to the model."""

    key: str
    call_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record action committed its events."""

    key: str


@dataclass(frozen=True, slots=True)
class ActionCancelled:
    """An action was called off before it had a result."""

    key: str


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A client's message was accepted durably under ``message_id`` and waits for its place."""

    message_id: str


@dataclass(frozen=True, slots=True)
class EndedElsewhere:
    """The journal already holds the run's end (a forced cancel): there is nothing left to do."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class CancelRequested:
    reason: str = ""


Happening = (
    Started | ModelResponded | ModelFailed | ToolAnswered | ToolLost | Recorded | ActionCancelled
    | MessageArrived | CancelRequested | EndedElsewhere
)  # fmt: skip

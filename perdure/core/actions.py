"""What can be in flight for a run. An action's ``key`` is stable: the shell starts it once, and the
journal files its result under that key, so that whoever does it again finds it done."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.core.spec import ToolRule
from perdure.core.state import Outcome


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for turn ``turn`` (from 1), after putting ``apply`` into the transcript."""

    key: str
    turn: int
    apply: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CallTool:
    """Run one tool call of turn ``turn``."""

    key: str
    call_id: str
    turn: int
    rule: ToolRule


@dataclass(frozen=True, slots=True)
class AnswerCall:
    """Answer a tool call to the model without running it (any more): it was refused or lost."""

    key: str
    call_id: str
    turn: int
    tool: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Record:
    """Commit the outbox because nothing else will carry it soon."""

    key: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Commit the outcome: the run's last event and its terminal status."""

    key: str
    outcome: Outcome


Action = CallModel | CallTool | AnswerCall | Record | Finish


@dataclass(frozen=True, slots=True)
class InFlight:
    """The actions that should be in flight now, in the order in which to start them. ``wake_at_ms``
    (unix milliseconds) is when to ask again even if nothing happens."""

    actions: tuple[Action, ...]
    wake_at_ms: int


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more will happen: the outcome is in the journal."""

    outcome: Outcome


Decision = InFlight | Done

"""What can be in flight for a run. An action's ``key`` is stable: the shell starts it once, and the
journal files its result under that key, so that whoever does it again finds it done."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.core.numbers import Numbers
from perdure.core.spec import ToolRule
from perdure.core.state import Outcome, RunStatus


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model for turn ``turn`` (from 1), after putting the messages ``apply`` into the transcript.
    ``only_for_messages``: without one of them there is nothing to answer. ``wrap_up``: the last call, short
    and without tools, from what was kept aside. ``closes`` is the key of a call that was called off without
    a word. ``tool_output_bytes``: the results of the turn were too large, and the model shall hear of it."""

    key: str
    turn: int
    apply: Numbers = ()
    only_for_messages: bool = False
    wrap_up: bool = False
    closes: str = ""
    tool_output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CallTool:
    """Run one tool call of turn ``turn``. ``over`` is by how much the tool is over its own budget; ``ordered``
    numbers the newest order of a person to run it again. ``quiet`` is another try of a poll: whoever looks at the
    run still sees it wait."""

    key: str
    call_id: str
    turn: int
    rule: ToolRule
    over: int = 0
    ordered: int = 0
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class CallFamily:
    """Carry out a call that is about other runs: start a child, wait for children, talk to one, end one. The journal
    does it, in one transaction; the call is answered then, or waits."""

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
class SettleAsk:
    """What a call waited for has run out of time: find out what became of it, and say so."""

    key: str
    call_id: str
    turn: int
    tool: str


@dataclass(frozen=True, slots=True)
class Record:
    """Commit the outbox because nothing else will carry it soon."""

    key: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Commit the outcome: the run's last event and its terminal status."""

    key: str
    outcome: Outcome


Action = CallModel | CallTool | CallFamily | AnswerCall | SettleAsk | Record | Finish


@dataclass(frozen=True, slots=True)
class InFlight:
    """The actions that should be in flight now, in the order in which to start them. ``wake_at_ms``
    (unix milliseconds) is when to ask again even if nothing happens. ``status`` is what the run is doing,
    ``reason`` says more; when it was not told yet, it shall be told (``StatusReached``)."""

    actions: tuple[Action, ...]
    wake_at_ms: int
    status: RunStatus = "running"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more will happen: the outcome is in the journal."""

    outcome: Outcome


Decision = InFlight | Done

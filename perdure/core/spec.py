"""What a run is told once, at its start (and when another agent takes it over), and carries unchanged through
continue-as-new.

Everything here is small: names, numbers, rules. Instructions, prompts and schemas are content and
stay in the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Effect = Literal["read", "idempotent", "once"]
AnsweredBy = Literal["worker", "people", "client", "time", "family"]
OnExceed = Literal["steer", "block"]
OnLimit = Literal["wrap_up", "pause", "stop"]

PARALLEL_TOOLS_MAX = 10  # concurrency-safe calls of one turn in flight at once (features row 100)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What the core must know of a tool to schedule its calls.

    ``timeout_seconds`` bounds one attempt. ``max_attempts`` counts lost workers too. A tool that is
    not ``parallel`` is a barrier: nothing of the same turn runs beside it. ``answered_by`` says who gives
    the result: a worker that runs it, a person (``ask_user``), or the client that declared it.
    ``max_calls`` is the tool's own budget in this run; calls beyond it are refused (``block``) or run with
    a word to the model (``steer``). ``rates`` are indices into the run's ``rate_limits`` that count it. A call of a
    tool that is the ``last`` of its turn waits until all others of the turn are answered.
    """

    name: str
    effect: Effect = "once"
    parallel: bool = False
    timeout_seconds: float = 60.0
    max_attempts: int = 3
    answered_by: AnsweredBy = "worker"
    max_calls: int | None = None
    on_exceed: OnExceed = "block"
    rates: tuple[int, ...] = ()
    last: bool = False


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``max_calls`` starts within any ``window_seconds``; further calls wait for their turn. ``tool`` is whose:
    a limit that is there under the next agent, too, goes on counting."""

    max_calls: int
    window_seconds: float
    tool: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts a run may not exceed. ``max_turns`` reached ends it ``incomplete``; calls beyond ``max_tool_calls``
    and ``ask_user`` beyond ``max_questions`` are refused, and the model is told. When the results of one turn
    have more than ``tool_output_bytes_per_turn``, the model is asked to sum up before it calls more."""

    max_turns: int = 100
    max_tool_calls: int = 1_000
    max_questions: int = 10
    tool_output_bytes_per_turn: int | None = None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The constants of a run. ``deadline_ms`` is unix time in milliseconds, and so is ``start_ms``: before it nothing
    begins. ``transfers`` is how often the session was handed to another agent."""

    run_id: str
    agent: str
    model: str
    deadline_ms: int
    start_ms: int = 0
    limits: Limits = Limits()
    tools: tuple[ToolRule, ...] = ()
    rate_limits: tuple[RateLimit, ...] = ()
    on_limit: OnLimit | None = None  # None: the run has no budget, and max_turns simply ends it
    ask_about_unknown: bool = False  # a person decides about a ``once`` call whose outcome nobody knows
    model_timeout_seconds: float = 600.0
    model_max_attempts: int = 8  # answers that failed in passing, and lost workers
    heartbeat_timeout_seconds: float = 2.5
    continue_as_new_events: int = 1_500
    previews: bool = True
    search_attributes: bool = True
    transfers: int = 0

    def rule(self, name: str) -> ToolRule:
        """The rule of a tool; an unknown tool gets the safe default, and is refused by the judge."""
        return next((rule for rule in self.tools if rule.name == name), ToolRule(name))

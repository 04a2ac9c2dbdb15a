"""Does the simulation notice? The core is broken on purpose, one line at a time, and every mutant must
break a promise within ``SEEDS`` runs. A mutation whose text is no longer in the source fails as well."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType

import pytest

from perdure.core import decide as decide_module
from perdure.core import evolve as evolve_module
from tests.core.shell import Core
from tests.core.simulation import first_violation

SEEDS = 2_000


@dataclass(frozen=True)
class Mutation:
    name: str
    module: ModuleType
    original: str
    mutated: str


DECIDE, EVOLVE = decide_module, evolve_module
MUTATIONS = [
    Mutation("barriers are ignored", DECIDE, "if running and not rule.parallel:", "if False:"),
    Mutation("nothing waits behind a barrier", DECIDE, "        if not rule.parallel:\n", "        if False:\n"),
    Mutation("the parallel cap is lifted", DECIDE, "== PARALLEL_TOOLS_MAX", "== 10_000"),
    Mutation("refused calls run", DECIDE, "if call.refusal is not None:", "if False:"),
    Mutation("answered calls are asked for again", DECIDE, "if call.answered:", "if False:"),
    Mutation("the deadline is ignored", DECIDE, "now_ms >= state.spec.deadline_ms", "False"),
    Mutation("a cancel is ignored", DECIDE, "if state.cancel:", "if False:"),
    Mutation("a failure is ignored", DECIDE, "if state.failure:", "if False:"),
    Mutation("the turn limit is off by one", DECIDE, "state.turn >= state.spec", "state.turn > state.spec"),
    Mutation(
        "a cancel beats an answer that was there first",
        DECIDE,
        "if not state.awaits_reply and not state.open_calls:",
        "if not state.cancel and not state.awaits_reply and not state.open_calls:",
    ),
    Mutation("a cut-off answer is called complete", DECIDE, '_OUTCOME_OF_STOP.get(state.last_stop or "", ', "("),
    Mutation("the end does not wait for what is in flight", DECIDE, "if state.in_flight else", "if False else"),
    Mutation("an order to end is forgotten while it is recorded", DECIDE, "    if state.finishing:", "    if False:"),
    Mutation("no record is made for events without a ride", DECIDE, "records.append(fresh)", "pass"),
    Mutation("messages are not put before the model", DECIDE, "state.turn + 1, state.inbox)", "state.turn + 1)"),
    Mutation("a late result is taken", EVOLVE, "case _ if happening.key not in state.in_flight:", "case _ if False:"),
    Mutation("something happens after the end", EVOLVE, "    if state.ended:\n        return state\n", ""),
    Mutation("the turn is not counted", EVOLVE, "turn=state.turn + 1", "turn=state.turn"),
    Mutation("tool calls are not counted", EVOLVE, "tool_calls=state.tool_calls + len(calls)", "tool_calls=0"),
    Mutation("an answer empties the inbox", EVOLVE, "        inbox=inbox,\n", "        inbox=(),\n"),
    Mutation("an answer leaves the inbox full", EVOLVE, "        inbox=inbox,\n", "        inbox=state.inbox,\n"),
    Mutation("a message is taken twice", EVOLVE, " or arrived.message_id in state.applied", ""),
    Mutation("a message does not wake the run", EVOLVE, " or not state.open_calls", ""),
    Mutation("usage is not summed", EVOLVE, "usage=_sum(state.usage, answer.usage)", "usage=answer.usage"),
    Mutation("cost is counted twice", EVOLVE, "+ more.cost_micros", "+ 2 * more.cost_micros"),
    Mutation("a pause ends the run", EVOLVE, ' or answer.stop == "pause"', ""),
    Mutation("calls of a cut-off answer run", EVOLVE, 'in ("max_output_tokens", "refusal")', "in ()"),
    Mutation(
        "events of a lost action are dropped",
        EVOLVE,
        "replace(event, carried_by=None) if event.carried_by == key else event for event in state.outbox",
        "event for event in state.outbox if event.carried_by != key",
    ),
    Mutation("committed events are kept", EVOLVE, "if event.carried_by != key)", ")"),
    Mutation("nothing rides on an action", EVOLVE, "carried_by=action.key", "carried_by=None"),
    Mutation("the end is not kept", EVOLVE, "finishing=action.outcome if", "finishing=None if"),
    Mutation("a lost call is started again", EVOLVE, "refusal=lost.message, refusal_code=lost.code", "answered=False"),
    Mutation("a cancel is told each time", EVOLVE, "if state.cancel or state.finishing:", "if state.finishing:"),
    Mutation("a cancel comes in after the end", EVOLVE, "if state.cancel or state.finishing:", "if state.cancel:"),
]  # fmt: skip


def mutant(mutation: Mutation) -> Core:
    """The real core with one line of one module changed."""
    source = inspect.getsource(mutation.module)
    assert source.count(mutation.original) == 1, f"the source of {mutation.name!r} has changed: mend the mutation"
    module = ModuleType(f"{mutation.module.__name__}_mutant")
    exec(compile(source.replace(mutation.original, mutation.mutated), module.__name__, "exec"), module.__dict__)
    if mutation.module is DECIDE:
        return Core(decide=module.decide)
    return Core(begin=module.begin, evolve=module.evolve)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_the_simulation_catches_a_core_in_which(mutation: Mutation) -> None:
    assert first_violation(range(SEEDS), mutant(mutation)), f"a core in which {mutation.name} went unnoticed"


def test_the_core_that_is_not_mutated_breaks_no_promise_in_as_many_runs() -> None:
    assert first_violation(range(SEEDS)) is None

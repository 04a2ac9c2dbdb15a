"""Does the simulation notice? The core (or the journal it is simulated with) is broken on purpose, one line at a
time, and every mutant must break a promise within ``SEEDS`` runs. A mutation whose text is no longer in the source
fails as well."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType

import pytest

from perdure.core import budget, calls, decide, evolve, judge, keys, numbers, orders, outbox, policy
from tests.core import mini_journal
from tests.core.shell import Core, Money
from tests.core.simulation import first_violation

SEEDS = 1_000  # in which the core that is not broken breaks no promise: test_simulation.py
# In the order in which they import each other. What they know of each other is data and functions.
MODULES = (numbers, budget, policy, keys, outbox, orders, calls, evolve, decide, judge, mini_journal)


@dataclass(frozen=True)
class Mutation:
    """``costs``: it shows in the world that is about money."""

    name: str
    module: ModuleType
    original: str
    mutated: str
    costs: bool = False
    timed: bool = False  # it shows in the world where runs sleep, wait and poll
    leads: bool = False  # it shows in the world where runs have children


SCHEDULE = [
    Mutation("barriers are ignored", calls, "elif count and (alone or not rule.parallel):", "elif False:"),
    Mutation("nothing waits behind a barrier", calls, "behind_a_barrier = True", "pass"),
    Mutation("the parallel cap is lifted", calls, "count >= PARALLEL_TOOLS_MAX", "count >= 10_000"),
    Mutation("written answers have no cap", calls, "fresh[: max(0, WRITTEN_AT_ONCE_MAX - len(begun))]", "fresh"),
    Mutation("refused calls run", calls, "if call.refusal is not None:", "if False:"),
    Mutation("answered calls are asked for again", calls, "if call.answered:", "if False:"),
    Mutation("the deadline is ignored", decide, "now_ms >= state.spec.deadline_ms", "False"),
    Mutation("a cancel is ignored", decide, "    if state.cancel:", "    if False:"),
    Mutation("a failure is ignored", decide, "if state.failure:", "if False:"),
    Mutation("the turn limit is off by one", decide, "state.turn >= turns", "state.turn > turns"),
    Mutation(
        "a cancel beats an answer that was there first",
        decide,
        "if not state.awaits_reply and not state.open_calls:",
        "if not state.cancel and not state.awaits_reply and not state.open_calls:",
    ),
    Mutation("a cut-off answer is called complete", decide, '_OUTCOME_OF_STOP.get(state.last_stop or "", ', "("),
    Mutation("the end does not wait for what is in flight", decide, "if state.in_flight else", "if False else"),
    Mutation("an order to end is forgotten while it is recorded", decide, "    if state.finishing:", "    if False:"),
    Mutation("no record is made for events without a ride", decide, "records.append(fresh)", "pass"),
    Mutation("a late result is taken", evolve, "case _ if happening.key not in state.in_flight:", "case _ if False:"),
    Mutation("something happens after the end", evolve, "    if state.ended:\n        return state\n", ""),
    Mutation(
        "a turn is not counted", evolve, "turn=state.turn + 1, last_stop=answer", "turn=state.turn, last_stop=answer"
    ),
    Mutation("tool calls are not counted", evolve, "tool_calls, questions = tool_calls + 1, q", "questions = q"),
    Mutation("usage is not summed", evolve, "usage=_sum(state.usage, answer.usage)", "usage=answer.usage"),
    Mutation("cost is counted twice", evolve, "+ more.cost_micros", "+ 2 * more.cost_micros"),
    Mutation("a pause of the vendor ends the run", evolve, ' and answer.stop != "pause"', ""),
    Mutation(
        "events of a lost action are dropped",
        evolve,
        "replace(event, carried_by=None) if event.carried_by == key else event for event in state.outbox",
        "event for event in state.outbox if event.carried_by != key",
    ),
    Mutation("committed events are kept", evolve, "if event.carried_by != key)", ")"),
    Mutation("nothing rides on an action", evolve, "carried_by=action.key", "carried_by=None"),
    Mutation("the end is not kept", evolve, "finishing=action.outcome if", "finishing=None if"),
    Mutation("a lost call is started again", evolve, "refusal=lost.message, refusal_code=lost.code", "over=call.over"),
]
ORDERS = [
    Mutation("an order is heard twice", orders, "if contains(state.orders, order.number):", "if False:"),
    Mutation("a cancel is told each time", orders, "    if state.cancel:", "    if False:"),
    Mutation(
        "a cancel comes in after the end",
        orders,
        "    if state.finishing:\n        return state\n    if",
        "    if",
        costs=True,
    ),
    Mutation("the second cancel is ignored", orders, "replace(state.cancel, at_once=True)", "state.cancel"),
    Mutation("a pause is ignored", decide, "    if state.paused:", "    if False:"),
    Mutation("a resume is ignored", orders, 'return replace(state, paused="")', "return state"),
    Mutation("a paused run starts what it wants", decide, "if action.key in state.in_flight and not isi", "if not isi"),
    Mutation(
        "a limit raised late is ignored", orders, 'reached=state.reached if last else ""', "reached=state.reached"
    ),
    Mutation(
        "a raised limit takes back the last words",
        orders,
        'reached=state.reached if last else ""',
        'reached=""',
        costs=True,
    ),
    Mutation("the deadline is not moved", orders, "order.deadline_ms or state", "state"),
    Mutation("a message is lost", orders, "steering=with_number(state.steering, order.number)", "steering=()"),
    Mutation("a message does not wake the run", orders, " or not state.open_calls", ""),
    Mutation("messages are not put before the model", decide, "union(state.steering, state.notes)", "state.notes"),
    Mutation("an enqueued message comes too early", decide, "if state.final else", "if True else"),
    Mutation("an answer leaves the inbox full", evolve, "without(state.steering, state.applying)", "state.steering"),
    Mutation("an answer empties the inbox", evolve, "without(state.steering, state.applying)", "()"),
    Mutation("a withdrawn message is applied", orders, "without(state.steering, order.numbers)", "state.steering"),
    Mutation(
        "a withdrawn message is put before the model",
        mini_journal,
        'if self.inbox.get(number) == "waiting":\n                self.inbox[number] = "applied"',
        'if number in self.inbox:\n                self.inbox[number] = "applied"',
    ),
    Mutation(
        "a message comes in after its withdrawal",
        orders,
        "orders=union(state.orders, order.numbers)",
        "orders=state.orders",
    ),
    Mutation(
        "a withdrawal leaves the run waiting", orders, "state.awaits_reply and not nothing_left", "state.awaits_reply"
    ),
    Mutation("an interrupt is ignored", decide, "    if state.interrupting:", "    if False:"),
    Mutation("an interrupt is not remembered", orders, 'if order.delivery == "interrupt" and', "if False and"),
    Mutation(
        "an interrupt heard by the worker first is lost",
        evolve,
        "union(state.steering, without(interrupted.by, state.orders))",
        "state.steering",
    ),
    Mutation("an interrupted call is no turn", evolve, "state, turn=state.turn + 1, recalled=0", "state, recalled=0"),
    Mutation("a call that was called off is taken up again", evolve, "recalled=state.recalled + 1", "recalled=0"),
    Mutation("a steered turn goes on", calls, "elif not state.steering:", "elif True:"),
    Mutation("a skip is taken back", evolve, "refusal=action.message, refusal_code=action.code", "over=0"),
    Mutation("what has begun is called skipped", calls, "    elif call.begun:", "    elif False:", costs=True),
    Mutation(
        "a message answers nothing and the model is called",
        evolve,
        "awaits_reply=bool(state.steering or state.queued or state.notes)",
        "awaits_reply=True",
        costs=True,
    ),
    Mutation(
        "the status is not told",
        decide,
        "        case InFlight(_, wake_at_ms, status, reason) if",
        "        case InFlight(_, wake_at_ms, status, reason) if False and",
    ),
    Mutation(
        "the reason of a status is not told",
        decide,
        "(status, reason) != (state.told, state.told_reason)",
        "status != state.told",
    ),
    Mutation(
        "the last words are asked for twice",
        evolve,
        "wrapped_up=True, open_calls=()",
        "wrapped_up=False, open_calls=()",
    ),
    Mutation(
        "the last words end a cancelled run as if it had answered",
        evolve,
        "open_calls=(), awaits_reply=True",
        "open_calls=()",
    ),
]
PEOPLE = [
    Mutation(
        "what asks acts first and is judged after",
        calls,
        "        elif call.waits and now_ms",
        "        elif False and now_ms",
    ),
    Mutation("what asks does not wait", evolve, "waits=asked.waits,", 'waits="",'),
    Mutation("the judge lets pass what policy denies", judge, 'if ruling.action == "deny":', "if False:"),
    Mutation("the judge does not ask", judge, 'if ruling.action == "ask" and', "if False and"),
    Mutation(
        "the laxer of two policies holds",
        policy,
        "_STRICTNESS[found.action] > _STRICTNESS[ruling.action]",
        "_STRICTNESS[found.action] < _STRICTNESS[ruling.action]",
    ),
    Mutation(
        "a decision that stands overrules a denial",
        policy,
        'if ruling.action != "ask":',
        'if ruling.action == "allow":',
    ),
    Mutation("a person overrules a denial", orders, "if call is None or not call.begun:", "if call is None:"),
    Mutation(
        "an approval is for whatever the arguments are now", mini_journal, "if seen != call.arguments:", "if False:"
    ),
    Mutation(
        "votes for old arguments count for new ones",
        mini_journal,
        "call.arguments, ask.votes = edited, []",
        "call.arguments = edited",
        costs=True,
    ),
    Mutation(
        "an approval lifts nothing",
        orders,
        'return changed(state, call.call_id, waits="", expires_ms=0)',
        "return state",
    ),
    Mutation(
        "an approval before its question is lost",
        orders,
        "replace(state, early=(*state.early, word)[-EARLY_MAX:])",
        "state",
    ),
    Mutation("an expiry is ignored", calls, 'elif call.waits and call.waits != "poll":', "elif False:"),
    Mutation("an expiry wakes nobody", calls, "wake_at_ms = _earlier(wake_at_ms, call.expires_ms)", "pass"),
    Mutation(
        "an escalation is taken for the end",
        evolve,
        "expires_ms=settled.expires_ms, round=call.round + 1",
        "expires_ms=0",
    ),
    Mutation(
        "an expiry that ends the run is forgotten",
        evolve,
        'return replace(state, failure=Failure("tool_error"',
        'return replace(state, failure=state.failure and Failure("tool_error"',
    ),
    Mutation(
        "an old escalation moves a call that runs",
        evolve,
        "not call.waits or settled.key",
        "settled.key is None or settled.key",
    ),
    Mutation("an unknown outcome is not waited for", evolve, 'waits="unknown_outcome"', 'waits=""'),
    Mutation(
        "a call that was given up is not run again",
        orders,
        "round=call.round + 1, ordered",
        "round=call.round, ordered",
    ),
    Mutation("an order to run a call again is ignored", orders, "return _again(state, order)", "return state"),
    Mutation(
        "an answer from outside is not heard",
        orders,
        "return said(state, Word(order.call_id, answered=True))",
        "return state",
    ),
]
LIMITS = [
    Mutation("a rate limit is off by one", calls, "len(taken) >= limit.max_calls", "len(taken) > limit.max_calls"),
    Mutation("a rate limit does not see its own batch", calls, "        taken += [", "        _ = ["),
    Mutation("a rate limit forgets a start", evolve, "(*before, at_ms)[-", "(*before, at_ms)[1-"),
    Mutation(
        "a rate limit wakes nobody", calls, "_earlier(wake_at_ms, free_at_ms), call.tool", "wake_at_ms, call.tool"
    ),
    Mutation(
        "a tool's budget is not atomic in a batch",
        evolve,
        "counted[asked.tool] = used + 1",
        "counted[asked.tool] = dict(state.tool_counts).get(asked.tool, 0) + (call.call_id[-1] == '0')",
    ),
    Mutation("a tool's budget is off by one", evolve, "used >= rule.max_calls and", "used > rule.max_calls and"),
    Mutation(
        "a tool is not told how far it is over its budget", evolve, "over=max(0, used + 1 - rule.max_calls)", "over=0"
    ),
    Mutation(
        "people are asked once too often",
        evolve,
        "questions >= limits.max_questions",
        "questions > limits.max_questions",
    ),
    Mutation(
        "the run's limit on calls is off by one",
        evolve,
        "tool_calls >= limits.max_tool_calls",
        "tool_calls > limits.max_tool_calls",
    ),
    Mutation("no turn is kept for the last words", decide, "kept_aside = 1 if", "kept_aside = 0 if"),
    Mutation("a limit that was reached does not hold", decide, "    if state.reached:\n", "    if False:\n"),
    Mutation(
        "a reached limit that pauses ends the run",
        decide,
        'if state.spec.on_limit == "pause":',
        "if False:",
        costs=True,
    ),
    Mutation(
        "a last call that cannot be had is asked for for ever",
        evolve,
        "    if is_wrap_up_key(reached.key):\n        return replace(state, wrapped_up=True)",
        "    if is_wrap_up_key(reached.key):\n        return state",
    ),
]
MONEY = [
    Mutation(
        "nothing is reserved",
        mini_journal,
        "reserved=self.account.reserved.plus(grant.amount)",
        "reserved=self.account.reserved",
    ),
    Mutation("a call that does not fit is granted", budget, "if cap < min(floor, ask.output_tokens):", "if False:"),
    Mutation("the reservation forgets the input", budget, "left - ask.input_tokens", "left"),
    Mutation(
        "the dearest output is not counted",
        budget,
        "if cost is not None and cost <= micros:",
        "if cost is not None and cost // 2 <= micros:",
    ),
    Mutation(
        "nothing is kept aside for the last words",
        budget,
        "KEPT_ASIDE_PERCENT = 10",
        "KEPT_ASIDE_PERCENT = 0",
        costs=True,
    ),
    Mutation("a settlement is forgotten", mini_journal, "self._settle(answer.key, attempt, actual)", "pass"),
    Mutation("a settlement leaves the reservation", budget, "account.reserved.minus(reserved))", "account.reserved)"),
    Mutation(
        "a settlement charges the reservation", budget, "account.spent.plus(actual)", "account.spent.plus(reserved)"
    ),
    Mutation(
        "a lost attempt costs nothing",
        mini_journal,
        "self._settle(key, attempt, attempt.grant.amount, assumed=True)\n\n",
        "attempt.fate = 'assumed'\n\n",
        True,
    ),
    Mutation(
        "a late second answer is not paid",
        mini_journal,
        '        if attempt.fate == "assumed":',
        "        if False:",
        True,
    ),
    Mutation(
        "a late second answer is paid on top",
        mini_journal,
        "self.account.spent.plus(actual.minus(reserved)))",
        "self.account.spent.plus(actual))",
        True,
    ),
    Mutation("a vendor's overuse is not said", mini_journal, "overrun = actual.exceeds(reserved)", "overrun = False"),
    Mutation("a warning is never given", budget, "100 * was < WARNING_PERCENT * limit <= 100 * now", "False"),
    Mutation("a warning comes too late", budget, "WARNING_PERCENT = 80", "WARNING_PERCENT = 95"),
    Mutation(
        "a failed attempt keeps its reservation",
        mini_journal,
        'attempt.fate = "released"',
        "self.account = replace(self.account, reserved=self.account.reserved.plus(attempt.grant.amount))",
        True,
    ),
]
TIME = [
    Mutation(name, module, original, mutated, timed=True)
    for name, module, original, mutated in (
        ("a poll tries again without a pause", calls, "call.waits and now_ms < call.expires_ms:", "False:"),
        ("a poll is settled like a question", calls, 'elif call.waits and call.waits != "poll":', "elif call.waits:"),
        ("a message wakes no sleeper", calls, "elif call.waits in WAKEABLE:", "elif False:"),
        ("a try is told as work", decide, "isinstance(action, CallTool) and action.quiet", "False"),
        ("a run starts at once", decide, "if now_ms < state.spec.start_ms:", "if False:"),
        ("a run sleeps over its start", decide, "wake_at_ms=state.spec.start_ms, ", ""),
        ("a late start is not told", evolve, 'if state.told == "scheduled":', "if False:"),
        ("the next try is the same action", evolve, "expires_ms=paused.next_ms, round=call.round + 1", "expires_ms=9"),
        ("a pause of a try that was given up counts", evolve, "or paused.key != tool_key(call)", ""),
        ("sleep needs an approval", judge, '("people", "time")', '("people",)'),
    )
]
FAMILY = [
    Mutation(name, module, original, mutated, leads=True)
    for name, module, original, mutated in (
        ("a call about other runs is run by a worker", calls, 'if rule.answered_by == "family":', "if False:"),
        (
            "a wait for children is not known",
            evolve,
            'waits="children", expires_ms=called',
            'waits="", expires_ms=called',
        ),
        (
            "a wait that is over begins again",
            evolve,
            "    if call is None or called.key != tool_key(call):",
            "    if call is None:",
        ),
        ("a message gives up children", calls, 'elif call.waits == "children":', "elif False:"),
        ("a dead child is taken in", evolve, "(*state.ended_early, *state.children):", "state.children:"),
        ("a child that ends early is forgotten", orders, "ended_early=heard_early(state, call_id)", "ended_early=()"),
        (
            "of a child that ends only open calls tell",
            orders,
            "any(is_tool_key_of(key, call_id) for key in state.in_flight)",
            "False",
        ),
        ("a child that has ended is at work", orders, "if one != call_id),\n        ended", "),\n        ended"),
        (
            "what a child has left does not come back",
            orders,
            'or state.reached == "max_turns" else ""',
            "else state.reached",
        ),
        (
            "a budget that children hold ends the run",
            decide,
            'if limit != "max_turns" and state.children:',
            "if False:",
        ),
        ("the last word does not wait for children", decide, "not state.cancel.alone and state.children", "False"),
        (
            "the last word waits for who was not told",
            decide,
            "not state.cancel.alone and state.children",
            "state.children",
        ),
        ("the word of a child steers", orders, 'if order.delivery == "note":', "if False:"),
        (
            "the word of a child waits for the end",
            decide,
            "union(union(state.steering, state.notes), ",
            "union(state.steering, ",
        ),
        (
            "the word of a child is read twice",
            evolve,
            "notes=without(state.notes, state.applying)",
            "notes=state.notes",
        ),
        ("any is all", mini_journal, "return any(over) if wait.any else all(over)", "return all(over)"),
        ("all is any", mini_journal, "return any(over) if wait.any else all(over)", "return any(over)"),
        ("a child is born again", mini_journal, "if not call.result and child is None:", "if not call.result:"),
        (
            "a slice is not reserved",
            mini_journal,
            "reserved=self.account.reserved.plus(child.slice)",
            "reserved=self.account.reserved",
        ),
        ("a slice is not settled", mini_journal, "self._settle_slice(child, child.spent)", "pass"),
        (
            "a slice that outlives the run stays",
            mini_journal,
            "self._settle_slice(child, child.slice, assumed=True)",
            "pass",
        ),
        ("an end orphans children", mini_journal, 'self._over(child, "cancelled")', "pass"),
        ("more is given to children than is left", budget, "if share <= 0 or share > left:", "if False:"),
        (
            "what is kept aside is given away",
            budget,
            "left = _left(limit, spent, keeps, aside_min)\n        if",
            "left = _left(limit, spent, False)\n        if",
        ),
    )
]
MUTATIONS = [*SCHEDULE, *ORDERS, *PEOPLE, *LIMITS, *MONEY, *TIME, *FAMILY]


def mutant(mutation: Mutation) -> Core:
    """The real core with one line of one module changed, and the others put together around it again."""
    source = inspect.getsource(mutation.module)
    assert source.count(mutation.original) == 1, f"the source of {mutation.name!r} has changed: mend the mutation"
    made: dict[str, ModuleType] = {}
    for module in MODULES[MODULES.index(mutation.module) :]:
        text = inspect.getsource(module)
        if module is mutation.module:
            text = text.replace(mutation.original, mutation.mutated)
        again = ModuleType(module.__name__)
        exec(compile(text, module.__name__, "exec"), again.__dict__)
        for name, thing in vars(again).items():
            home = made.get(getattr(thing, "__module__", None) or "")
            if home is not None and name in vars(home):  # it was imported from a module that is new, too
                vars(again)[name] = vars(home)[name]
            elif isinstance(thing, type) and name != "MiniJournal":
                vars(again)[name] = vars(module)[name]  # data has one type, whoever made it
        made[module.__name__] = again
    new = {module: made.get(module.__name__, module) for module in MODULES}
    return Core(
        evolve.begin if new[evolve] is evolve else new[evolve].begin,
        new[evolve].evolve,
        new[decide].decide,
        new[decide].untold,
        new[judge].judge,
        new[policy].rule_on,
        new[policy].with_decision,
        Money(new[budget].reserve, new[budget].settle, new[budget].warnings, new[budget].slice_of),
        new[mini_journal].MiniJournal,
    )


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name.replace(" ", "-"))
def test_the_simulation_catches_a_core_in_which(mutation: Mutation) -> None:
    worlds = {"costs": mutation.costs, "timed": mutation.timed, "leads": mutation.leads}
    found = first_violation(range(SEEDS), mutant(mutation), **worlds)
    assert found, f"a core in which {mutation.name} went unnoticed"

"""The journal of a simulated run, by its promises (``perdure/store/journal.py``): what is written once, who
decides, what money is reserved. No bodies: a call's arguments are a small number, and so is their hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from perdure.core.actions import CallModel, Outcome
from perdure.core.budget import Account, Amount, Ask, Budget, Grant, Reached, slice_of
from perdure.core.happenings import (
    AskSettled,
    BudgetReached,
    CallAsked,
    FamilyCalled,
    Happening,
    ModelFailed,
    ModelInterrupted,
    ModelResponded,
    NothingNew,
    Order,
    Verb,
)
from perdure.core.numbers import Numbers
from perdure.core.policy import OnExpiry
from perdure.core.state import Failure, OutboxEvent, RunStatus, WaitsFor

Fate = Literal["open", "settled", "assumed", "released"]


class RunOver(Exception):
    """The journal holds the run's end and takes nothing more."""


class Refused(Exception):
    """A person came too late, twice, or with something that is not so: told, and nothing is changed."""


@dataclass(frozen=True)
class Entry:
    """A line of the ledger, and the limits that held when it was written."""

    kind: Literal["limit", "reserved", "settled", "released", "corrected"]
    key: str
    attempt: int
    amount: Amount
    account: Account
    budget: Budget | None
    assumed: bool = False
    overrun: bool = False


@dataclass
class Attempt:
    number: int
    grant: Grant
    fate: Fate = "open"


@dataclass
class Model:
    """A model call: its attempts, and what was filed as its end."""

    attempts: list[Attempt] = field(default_factory=list)
    filed: Happening | None = None


@dataclass
class Call:
    """A tool call. ``arguments`` stands for the hash as well; ``law`` is what the world knows that policy says of
    it, for the witness; ``open`` is an attempt that has not ended."""

    asked: CallAsked
    arguments: int
    law: str
    attempts: int = 0
    open: int | None = None
    result: str | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class Plan:
    """What a call about other runs asks for, by its arguments: the numbers of children, whether any of them is
    enough, how long it waits; of a new child what it may spend (None: a share) and need at first."""

    ids: tuple[int, ...] = ()
    any: bool = False
    wait_ms: int = 0
    background: bool = False
    detached: bool = False
    tokens: int | None = None
    first: Ask | None = None


@dataclass
class Child:
    """A run that this one has started, in the row it has: by its number. ``slice`` is what the parent's ledger holds
    for it; ``budget`` is its own."""

    number: int
    call_id: str
    plan: Plan
    budget: Budget
    slice: Amount | None
    deadline_ms: int
    spent: Amount = field(default_factory=Amount)
    held: bool = False
    cancelled: bool = False
    status: RunStatus | None = None


@dataclass
class Asked:
    """An approval, a question, a client tool's call, an unknown outcome, a timer, a wait for an event or children."""

    type: WaitsFor
    call_id: str
    expires_ms: int
    span_ms: int = 0
    on_expiry: OnExpiry = "deny"
    quorum: int = 1
    client_ms: int = 0
    status: str = "open"
    escalated: bool = False
    ids: tuple[int, ...] = ()  # the children that are waited for
    any: bool = False
    single: bool = False
    votes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Money:
    """The functions of ``core.budget`` that the journal calls, or mutants of them."""

    reserve: Callable[[Budget, Account, Ask], Grant | Reached]
    settle: Callable[[Account, Amount, Amount], Account]
    warnings: Callable[[Budget, Amount, Amount], list[str]]
    slice_of: Callable[[Budget, Account, Budget, Budget], tuple[Budget, Amount] | Reached] = slice_of


class MiniJournal:
    """Everything here is one transaction a call."""

    def __init__(self, money: Money, budget: Budget | None) -> None:
        self.money, self.budget = money, budget
        self.account = Account()
        self.ledger: list[Entry] = []
        self.events: list[tuple[str, str]] = []  # (key, type) in the order committed
        self.keys: set[str] = set()
        self.orders: list[Order] = []
        self.post: list[Order] = []  # on their way to the run
        self.inbox: dict[int, str] = {}  # number -> waiting, applied, returned
        self.models: dict[str, Model] = {}
        self.calls: dict[str, Call] = {}
        self.asks: list[Asked] = []
        self.children: list[Child] = []
        self.children_max = 1_000
        self.bills: dict[tuple[str, int], Amount] = {}  # what children have spent by their ends
        self.ends_with_answer = False
        self.status: RunStatus | None = None
        if budget:
            self._line("limit", "", 0, Amount(), Account())

    # Events and the end ---------------------------------------------------------------------------

    def write(self, key: str, type_: str) -> None:
        if self.status is not None:
            raise RunOver(self.status)
        if key not in self.keys:
            self.keys.add(key)
            self.events.append((key, type_))

    def carry(self, outbox: Iterable[OutboxEvent]) -> None:
        """What every transaction of an activity begins with."""
        if self.status is not None:
            raise RunOver(self.status)
        for event in outbox:
            self.write(event.key, event.type)

    def end(self, key: str, outbox: Iterable[OutboxEvent], outcome: Outcome) -> None:
        if key in self.keys:
            return
        self.carry(outbox)
        for child in self.at_work():
            if not child.plan.detached:
                self._over(child, "cancelled")
        self._assume_slices()
        self._return(tuple(self.waiting()), "the run is over")
        for ask in self.open_asks():
            ask.status = "cancelled"
        for model_key, model in self.models.items():
            self._assume_open(model_key, model)
        self.write(key, f"run.{outcome.status}")
        self.status = outcome.status

    # Orders and messages --------------------------------------------------------------------------

    def give(self, verb: Verb, **fields: Any) -> Order:
        if self.status is not None:
            raise RunOver(self.status)
        order = Order(len(self.orders) + 1, verb, **fields)
        for child in self.at_work():
            if not child.plan.detached:
                child.cancelled = child.cancelled or verb == "cancel"
                child.held = (child.held or verb == "pause") and verb != "resume"
        self.orders.append(order)
        self.post.append(order)
        return order

    def accept_message(self, delivery: Any) -> None:
        order = self.give("message", delivery=delivery)
        self.inbox[order.number] = "waiting"
        self.write(f"inbox-{order.number}", "inbox.accepted")

    def withdraw(self, numbers: Iterable[int]) -> None:
        gone = tuple(number for number in numbers if self.inbox.get(number) == "waiting")
        if not gone:
            return
        self._return(gone, "withdrawn")
        self.give("withdraw", numbers=tuple((number, number) for number in gone))

    def waiting(self) -> list[int]:
        return [number for number, status in self.inbox.items() if status == "waiting"]

    def _return(self, numbers: Iterable[int], reason: str) -> None:
        for number in numbers:
            self.inbox[number] = "returned"
            self.write(f"inbox-{number}-returned", f"inbox.returned: {reason}")

    def _apply(self, numbers: Numbers) -> None:
        for number in (number for first, last in numbers for number in range(first, last + 1)):
            if self.inbox.get(number) == "waiting":
                self.inbox[number] = "applied"
                self.ends_with_answer = False
                self.write(f"inbox-{number}-applied", "inbox.applied")

    # Money ----------------------------------------------------------------------------------------

    def change_budget(self, budget: Budget) -> None:
        self.budget = budget
        self._line("limit", "", 0, Amount(), self.account)

    def _line(self, kind: Any, key: str, attempt: int, amount: Amount, account: Account, **marks: bool) -> None:
        before, self.account = self.account, account
        self.ledger.append(Entry(kind, key, attempt, amount, account, self.budget, **marks))
        if self.budget:
            for limit in self.money.warnings(self.budget, before.spent, account.spent):
                self.write(f"warning-{len(self.ledger)}-{limit}", "budget.warning")

    def _settle(self, key: str, attempt: Attempt, actual: Amount, *, assumed: bool = False) -> None:
        reserved = attempt.grant.amount
        overrun = actual.exceeds(reserved)
        if overrun:
            self.write(f"overrun-{key}-{attempt.number}", "budget.overrun")
        if attempt.fate == "assumed":
            account = replace(self.account, spent=self.account.spent.plus(actual.minus(reserved)))
            self._line("corrected", key, attempt.number, actual.minus(reserved), account, overrun=overrun)
        elif attempt.fate == "open":
            account = self.money.settle(self.account, reserved, actual)
            self._line("settled", key, attempt.number, actual, account, assumed=assumed, overrun=overrun)
        attempt.fate = "assumed" if assumed else "settled"

    def _assume_open(self, key: str, model: Model) -> None:
        for attempt in model.attempts:
            if attempt.fate == "open":
                self._settle(key, attempt, attempt.grant.amount, assumed=True)

    # Model calls ----------------------------------------------------------------------------------

    def begin_model(self, action: CallModel, outbox: Iterable[OutboxEvent], ask: Ask) -> Attempt | Happening:
        """The next attempt, or what is reported instead."""
        self.carry(outbox)
        model = self.models.get(action.key, Model())
        if model.filed:
            return model.filed
        self._assume_open(action.key, model)
        self._close(action.closes)
        taken = [number for first_, last in action.apply for number in range(first_, last + 1)]
        fresh = any(self.inbox.get(number) == "waiting" for number in taken)
        if action.only_for_messages and self.ends_with_answer and not fresh:
            return NothingNew(action.key)
        grant = self.money.reserve(self.budget or Budget(), self.account, ask)
        if not isinstance(grant, Grant):
            self.write(f"reached-{len(self.ledger)}-{action.key}", "budget.reached")
            return BudgetReached(action.key, grant.limit)
        self._apply(action.apply)
        self.models[action.key] = model
        attempt = Attempt(len(model.attempts) + 1, grant)
        model.attempts.append(attempt)
        self.write(f"{action.key}-started-{attempt.number}", "model.started")
        account = replace(self.account, reserved=self.account.reserved.plus(grant.amount))
        self._line("reserved", action.key, attempt.number, grant.amount, account)
        return attempt

    def _close(self, key: str) -> None:
        """A call that was called off is over. Should it have its answer, nobody runs what that asks for."""
        model = self.models.get(key)
        if model is None:
            return
        self._assume_open(key, model)
        model.filed = model.filed or ModelFailed(key, Failure("cancelled", "called off"))
        for asked in model.filed.calls if isinstance(model.filed, ModelResponded) else ():
            if not self.calls[asked.call_id].result:
                self.commit_tool(asked.call_id, "skipped")

    def commit_model(
        self, answer: ModelResponded, attempt: Attempt, actual: Amount, calls: list[Call], asks: list[Asked]
    ) -> Happening:
        """The first answer ends the call; a later one is paid as well."""
        model = self.models[answer.key]
        self.write(f"{answer.key}-answered-{attempt.number}", "model.completed")
        self._settle(answer.key, attempt, actual)
        if model.filed is None:
            model.filed = answer
            self.ends_with_answer = not answer.calls
            for call in calls:
                if call.asked.call_id in self.calls:
                    raise AssertionError(f"two calls have the id {call.asked.call_id}")
                self.calls[call.asked.call_id] = call
            self.asks += asks
        return model.filed

    def fail_attempt(self, key: str, attempt: Attempt, *, billed: bool, final: Failure | None = None) -> None:
        self.write(f"{key}-aborted-{attempt.number}", "model.aborted")
        model = self.models[key]
        if attempt.fate == "open" and billed:
            self._settle(key, attempt, attempt.grant.amount, assumed=True)
        elif attempt.fate == "open":
            account = replace(self.account, reserved=self.account.reserved.minus(attempt.grant.amount))
            self._line("released", key, attempt.number, attempt.grant.amount, account)
            attempt.fate = "released"
        if final and attempt is model.attempts[-1] and model.filed is None:
            model.filed = ModelFailed(key, final)

    def interrupt_model(self, key: str, attempt: Attempt, by: Numbers) -> Happening:
        self.write(f"{key}-aborted-{attempt.number}", "model.aborted")
        model = self.models[key]
        if model.filed is None and attempt is model.attempts[-1]:
            self._assume_open(key, model)
            model.filed = ModelInterrupted(key, by)
        return model.filed or ModelInterrupted(key, by)

    # Tool calls -----------------------------------------------------------------------------------

    def begin_tool(self, call_id: str, outbox: Iterable[OutboxEvent], *, may_repeat: bool) -> tuple[str, int]:
        """``ended``, ``lost`` or ``begun``, and the number of the attempt."""
        self.carry(outbox)
        call = self.calls[call_id]
        if call.result:
            return "ended", 0
        if call.open and not may_repeat:
            return "lost", call.open
        call.attempts += 1
        call.open = call.attempts
        self.write(f"tool-{call_id}-started-{call.attempts}", "tool.started")
        return "begun", call.attempts

    def pause_tool(self, call_id: str, attempt: int) -> None:
        """This try of a poll was in vain."""
        self.carry(())
        call = self.calls[call_id]
        if call.open == attempt:
            call.open = None
            self.write(f"tool-{call_id}-paused-{attempt}", "tool.progress")

    def commit_tool(
        self, call_id: str, result: str, outbox: Iterable[OutboxEvent] = (), attempt: int | None = None
    ) -> str | None:
        """The result that stands, whoever brought it. The run is told when it waits for somebody to say what became
        of the call: the worker that was lost may not be."""
        self.carry(outbox)
        call = self.calls[call_id]
        if call.result is None and attempt in (None, call.open):
            self.write(f"result-{call_id}", f"tool.{result}")
            call.result, call.open = result, None
            self.ends_with_answer = False
            for ask in self.open_asks(call_id):
                ask.status = "cancelled"
                if ask.type == "unknown_outcome":
                    self.give("answer", call_id=call_id)
        return call.result

    def park_tool(self, ask: Asked, attempt: int) -> Asked | None:
        """The ask that is open about this call is returned, if there is one; None when somebody has given up the
        attempt, or ended the call, in between."""
        self.carry(())
        for open_ in self.open_asks(ask.call_id):
            return open_
        if self.calls[ask.call_id].open != attempt:
            return None
        self.write(f"parked-{ask.call_id}-{len(self.asks)}", "tool.unknown")
        self.asks.append(ask)
        return ask

    # What is asked of people and clients -------------------------------------------------------------

    def open_asks(self, call_id: str = "") -> Iterator[Asked]:
        return (ask for ask in self.asks if ask.status == "open" and call_id in ("", ask.call_id))

    def newest_ask(self, call_id: str) -> Asked | None:
        return next((ask for ask in reversed(self.asks) if ask.call_id == call_id), None)

    def decide(self, ask: Asked, now_ms: int, by: str, decision: str, seen: int, edited: int | None = None) -> None:
        """Somebody who has ``seen`` these arguments approves, edits, denies or responds."""
        self._open_to(ask, now_ms, ("approval", "unknown_outcome"))
        call = self.calls[ask.call_id]
        if seen != call.arguments:
            raise Refused("stale")
        if decision in ("deny", "respond"):
            ask.status = "denied" if decision == "deny" else "responded"
            self._answered(call, decision, by)
            return
        if edited is not None and edited != call.arguments:
            call.arguments, ask.votes = edited, []
        if by in ask.votes:
            raise Refused("voted already")
        ask.votes.append(by)
        if len(ask.votes) < ask.quorum:
            return
        ask.status = "approved"
        self.write(f"approved-{self.asks.index(ask)}", "approval.decided")
        call.open = None
        if not ask.client_ms:
            self.give("approve", call_id=ask.call_id)
            return
        client = Asked("client_tool", ask.call_id, now_ms + ask.client_ms)
        self.asks.append(client)
        self.give("approve", call_id=ask.call_id, expires_ms=client.expires_ms)

    def answer(self, ask: Asked, now_ms: int, by: str) -> None:
        self._open_to(ask, now_ms, ("question", "client_tool", "timer", "event"))
        ask.status = "answered"
        self._answered(self.calls[ask.call_id], "answered", by)

    def _open_to(self, ask: Asked, now_ms: int, types: tuple[WaitsFor, ...]) -> None:
        if self.status is not None:
            raise RunOver(self.status)
        if ask.status != "open" or ask.type not in types:
            raise Refused(f"it is {ask.status}")
        if now_ms >= ask.expires_ms:
            raise Refused("expired")

    def _answered(self, call: Call, result: str, by: str) -> None:
        for ask in self.open_asks(call.asked.call_id):
            ask.status = "cancelled"
        self.commit_tool(call.asked.call_id, f"{result} by {by}")
        self.give("answer", call_id=call.asked.call_id)

    def settle_ask(self, key: str, call_id: str, outbox: Iterable[OutboxEvent], now_ms: int) -> AskSettled:
        self.carry(outbox)
        ask = self.newest_ask(call_id)
        assert ask is not None, "only what was asked is settled"
        if ask.status == "open" and now_ms >= ask.expires_ms:
            self._expire(ask)
        if self.calls[call_id].result:
            return AskSettled(key, call_id, "answered")
        match ask.status, ask.type:
            case "approved", _:
                return AskSettled(key, call_id, "approved")
            case "open", "client_tool":
                return AskSettled(key, call_id, "approved", ask.expires_ms)
            case "open", _:
                return AskSettled(key, call_id, "escalated", ask.expires_ms)
            case "cancelled", "children":  # it is to be carried out again
                return AskSettled(key, call_id, "approved")
            case _:
                return AskSettled(key, call_id, "failed")

    def _expire(self, ask: Asked) -> None:
        if ask.type == "children":
            self._expire_wait(ask)
            return
        if ask.type == "approval" and ask.on_expiry == "escalate" and not ask.escalated:
            ask.escalated, ask.expires_ms = True, ask.expires_ms + ask.span_ms
            return
        ask.status = "expired"
        self.write(f"expired-{self.asks.index(ask)}", "approval.expired")
        if ask.type != "approval" or ask.on_expiry != "fail":
            self.commit_tool(ask.call_id, "expired")

    # Recovery by people -----------------------------------------------------------------------------

    def retry_call(self, call_id: str) -> None:
        call = self._not_ended(call_id)
        call.open = None
        for ask in self.open_asks(call_id):
            if ask.type == "unknown_outcome":
                ask.status = "approved"
            if ask.type == "children":
                ask.status = "cancelled"
        self.give("retry_call", call_id=call_id)

    def resolve_call(self, call_id: str, by: str) -> None:
        self._answered(self._not_ended(call_id), "resolved", by)

    def _not_ended(self, call_id: str) -> Call:
        call = self.calls[call_id]
        if call.result or self.status is not None:
            raise Refused("it has ended")
        return call

    # Families ---------------------------------------------------------------------------------------

    def at_work(self) -> list[Child]:
        return [child for child in self.children if child.status is None]

    def call_family(self, key: str, call_id: str, outbox: Iterable[OutboxEvent], now_ms: int) -> FamilyCalled:
        """Carry out a call about other runs, or find it done."""
        self.carry(outbox)
        call = self.calls[call_id]
        plan = call.plan
        assert plan is not None, "a call about other runs has a plan"
        if call.asked.tool == "spawn_agent":
            return self._spawn(key, call, plan, now_ms)
        if not call.result:
            match call.asked.tool:
                case "wait_for_agents":
                    known = {child.number for child in self.children}
                    ids = plan.ids or tuple(child.number for child in self.at_work())
                    if set(ids) <= known and ids:
                        return self._wait(
                            key, call, Asked("children", call_id, now_ms + plan.wait_ms, ids=ids, any=plan.any)
                        )
                case "cancel_agent":
                    for child in self.at_work():
                        child.cancelled = child.cancelled or child.number in plan.ids
            self.commit_tool(call_id, "completed")
        return FamilyCalled(key, call_id)

    def _spawn(self, key: str, call: Call, plan: Plan, now_ms: int) -> FamilyCalled:
        """The call's place in the family is the child's: it is started once."""
        call_id = call.asked.call_id
        child = next((child for child in self.children if child.call_id == call_id), None)
        if not call.result and child is None:
            child = self._bear(call_id, plan, now_ms)
            if child is None:
                self.commit_tool(call_id, "failed")
        attached = child is not None and not child.plan.detached
        if child and not call.result:
            if not child.plan.background:
                asked = Asked("children", call_id, child.deadline_ms + 30, ids=(child.number,), single=True)
                return replace(self._wait(key, call, asked), child=attached)
            self.commit_tool(call_id, "completed")
        return FamilyCalled(key, call_id, child=attached)

    def _bear(self, call_id: str, plan: Plan, now_ms: int) -> Child | None:
        """None: there shall be no child, or it cannot be paid."""
        held = [order.verb for order in self.orders if order.verb in ("pause", "resume", "cancel")]
        if "cancel" in held or len(self.children) >= self.children_max:
            return None
        sliced = self.money.slice_of(self.budget or Budget(), self.account, Budget(max_tokens=plan.tokens), Budget())
        if isinstance(sliced, Reached) or plan.first is None:
            return None
        budget, amount = sliced
        if isinstance(self.money.reserve(budget, Account(), plan.first), Reached):
            return None
        child = Child(len(self.children), call_id, plan, budget, amount if self.budget else None, now_ms + plan.wait_ms)
        child.held = held[-1:] == ["pause"]
        self.children.append(child)
        self.write(f"child-{child.number}-started", "child.started")
        if child.slice is not None:
            account = replace(self.account, reserved=self.account.reserved.plus(child.slice))
            self._line("reserved", f"child-{call_id}", 1, child.slice, account)
        return child

    def _wait(self, key: str, call: Call, wait: Asked) -> FamilyCalled:
        """Until as many as shall have ended; at once if they have."""
        if self.is_settled(wait):
            self.commit_tool(wait.call_id, "completed")
            return FamilyCalled(key, wait.call_id)
        found = next((ask for ask in self.open_asks(wait.call_id) if ask.type == "children"), None)
        if found is None:
            self.asks.append(found := wait)
        return FamilyCalled(key, wait.call_id, found.expires_ms)

    def is_settled(self, wait: Asked) -> bool:
        over = [self.children[number].status is not None for number in wait.ids]
        return any(over) if wait.any else all(over)

    def end_child(self, child: Child, status: RunStatus) -> None:
        """Its own transaction. Its parent hears of it if it lives."""
        self._over(child, status)
        if self.status is not None:
            return
        self.write(f"child-{child.number}-ended", "child.ended")
        if not child.plan.detached:
            self.give("child_ended", call_id=child.call_id)
        waits = [ask for ask in self.open_asks() if child.number in ask.ids]
        for wait in waits:
            if self.is_settled(wait):
                wait.status = "answered"
                self.commit_tool(wait.call_id, "completed")
                self.give("answer", call_id=wait.call_id)
        if not waits:
            self.accept_message("note")

    def _over(self, child: Child, status: RunStatus) -> None:
        child.status = status
        if child.slice is not None and self.status is None:
            self._settle_slice(child, child.spent)

    def _settle_slice(self, child: Child, spent: Amount, *, assumed: bool = False) -> None:
        assert child.slice is not None, "only a slice is settled"
        key, held = f"child-{child.call_id}", child.slice
        overrun = any(0 < most < used for most, used in zip(_plain(held), _plain(spent), strict=True))
        if overrun:
            self.write(f"overrun-{key}-1", "budget.overrun")
        account = self.money.settle(self.account, held, spent)
        self._line("settled", key, 1, spent, account, assumed=assumed, overrun=overrun)
        self.bills[key, 1], child.slice = spent, None

    def _assume_slices(self) -> None:
        """Nobody will hear what those spend that live on."""
        for child in self.at_work():
            if child.slice is not None:
                self._settle_slice(child, child.slice, assumed=True)

    def stop_waiting(self, call_id: str, outbox: Iterable[OutboxEvent]) -> None:
        """A message ends the wait, and those that were waited for go on."""
        self.carry(outbox)
        for child in self.children:
            if child.call_id == call_id and not self.calls[call_id].result:
                child.plan = replace(child.plan, background=True)
        self.commit_tool(call_id, "woken")

    def _expire_wait(self, wait: Asked) -> None:
        """A child that its call waits for is over its own time, too: it ends now."""
        child = self.children[wait.ids[0]]
        if wait.single and child.status is None:
            self.end_child(child, "expired")
        if wait.status == "open":
            wait.status = "expired"
            self.commit_tool(wait.call_id, "completed")

    # Reading ------------------------------------------------------------------------------------------

    def told(self) -> Counter[str]:
        return Counter(type_.partition(":")[0] for _, type_ in self.events)


def _plain(amount: Amount) -> tuple[int, int, int]:
    return amount.cost_micros, amount.tokens, amount.output_tokens

"""What the journal promises about families: slices that hold, ends that reach everybody, parents that are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random
from typing import Any

import pytest
from ulid import ULID

from perdure.core.budget import Account, Amount, Ask, Budget
from perdure.core.happenings import Order
from perdure.core.state import TERMINAL, Failure, Json, Outcome, Usage
from perdure.store.journal import Journal
from perdure.store.json_text import dump, load
from perdure.store.rows import (
    INBOX_WAITING_MAX,
    Awaits,
    FamilyCall,
    LedgerRow,
    ModelCommit,
    NewChild,
    NewMessage,
    NewRun,
    NewSignal,
    Origin,
    RunRow,
    Said,
    ToolCommit,
)
from perdure.store.sql_family import TREE_RUNS_MAX
from perdure.store.trouble import InvalidCursor, RunOver, SlicesGiven, SliceTooLarge
from tests.store.conftest import Open
from tests.store.runs import AGENT, FAR, all_events, asks, begin, new_run, price, said, text, types

FIRST = Ask(100, 256, price)  # a child's first call: 1,380 micro-USD, 356 tokens
LIMITS = {"max_turns": 100, "max_children": 50, "max_depth": 3, "max_running_children": 50}
DONE = Outcome("completed", "end")


async def parent_of(journal: Journal, *calls: str, run_id: str | None = None, **more: Any) -> RunRow:
    """A run whose model has asked for these calls."""
    more.setdefault("limits", LIMITS)
    run = await new_run(journal, **({"run_id": run_id} if run_id else {}), **more)
    await ask_for(journal, run.id, *calls)
    return await journal.get_run(run.id)


async def ask_for(journal: Journal, run_id: str, *calls: str, turn: int = 1) -> None:
    attempt = await begin(journal, run_id, turn, ask=Ask(10, 300, price))
    await journal.commit_model(run_id, f"model-{turn}", attempt, asks(*calls))


def child_of(run: RunRow, *, background: bool = False, **more: Any) -> NewChild:
    detached = more.pop("detached", False)
    wanted, own = more.pop("wanted", Budget()), more.pop("own", None)
    new = NewRun(
        f"run_{ULID()}", AGENT, text(more.pop("task", "Help")), FAR, more.pop("limits", LIMITS), own,
        requested_by=run.requested_by, labels=run.labels, **more,
    )  # fmt: skip
    return NewChild(new, wanted, FIRST, background, detached)


async def spawned(journal: Journal, run: RunRow, call_id: str, **more: Any) -> RunRow:
    done = await journal.spawn_child(run.id, call_id, child_of(run, **more))
    assert done.child is not None, done.call.error
    return done.child


async def finish(journal: Journal, run_id: str, words: str = "I have it", **more: Any) -> None:
    """The run's model answers, and the run ends."""
    attempt = await begin(journal, run_id, ask=FIRST)
    await journal.commit_model(run_id, "model-1", attempt, said(words, Usage(60, 30, cost_micros=210)))
    await journal.record(run_id, "finish", (), DONE, **more)


async def result(journal: Journal, run: RunRow, call_id: str) -> dict[str, Any]:
    messages = await journal.list_messages(run.session_id)
    blocks = [block for message in messages for block in message["content"]]
    (found,) = [block for block in blocks if block["type"] == "tool_result" and block["call_id"] == call_id]
    return dict(json.loads(found["text"]))


def failed(done: FamilyCall) -> str:
    assert done.call.error is not None, done.call
    assert done.child is None
    return done.call.error.code


# A child ---------------------------------------------------------------------------------------------


async def test_a_child_has_its_parents_people_and_a_conversation_of_its_own(journal: Journal) -> None:
    run = await parent_of(journal, "c1", requested_by="ada", labels={"team": "red"})
    child = await spawned(journal, run, "c1", task="Look it up")
    assert (child.parent_run_id, child.root_run_id, child.depth) == (run.id, run.id, 1)
    assert (child.requested_by, child.labels, child.project_id) == ("ada", {"team": "red"}, run.project_id)
    assert child.session_id != run.session_id
    assert child.input == text("Look it up")
    assert (await journal.list_runs("default", limit=9, cursor=None, descending=False, parent_run_id=run.id)).rows == [
        child
    ]
    (event,) = [event for event in await all_events(journal, run.id) if event.type == "child.started"]
    assert (event.data["run_id"], event.call_id) == (child.id, "c1")


async def test_a_call_starts_one_child_however_often_it_is_carried_out(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2")
    first = await journal.spawn_child(run.id, "c1", child_of(run))
    again = await journal.spawn_child(run.id, "c1", child_of(run))
    assert first.child
    assert again.child
    assert (first.child.id, first.expires_ms) == (again.child.id, again.expires_ms)
    handle = await journal.spawn_child(run.id, "c2", child_of(run, background=True))
    repeated = await journal.spawn_child(run.id, "c2", child_of(run, background=True))
    assert handle.child
    assert repeated.child
    assert handle.child.id == repeated.child.id
    assert (await journal.get_run(run.id)).children == 2
    assert (await types(journal, run.id)).count("child.started") == 2


async def test_the_end_of_a_child_is_the_result_of_the_call_that_waits_for_it(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id, "Seven")
    told = await result(journal, run, "c1")
    assert (told["id"], told["status"], told["output"]) == (child.id, "completed", "Seven")
    orders = await journal.undelivered_orders(run.id, limit=10)
    assert [(order.verb, order.call_id) for order in orders] == [("child_ended", "c1"), ("answer", "c1")]
    assert (await types(journal, run.id))[-3:] == ["child.completed", "message.added", "tool.completed"]
    assert (await journal.get_call(run.id, "c1")).status == "completed"


async def test_a_child_that_fails_is_a_typed_result(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await journal.record(child.id, "finish", (), Outcome("failed", "model_error", Failure("model_error", "no model")))
    told = await result(journal, run, "c1")
    assert told["error"] == {"code": "child_failed", "cause": "model_error", "message": "no model"}
    call = await journal.get_call(run.id, "c1")
    assert call.error is not None
    assert (call.status, call.error.code) == ("failed", "child_failed")


async def test_a_large_output_is_kept_beside_the_transcript(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id, "long", said=Said("lo…", "blob_x", 90_000))
    assert (await result(journal, run, "c1"))["output"] == "lo…"
    (block,) = (await journal.list_messages(run.session_id))[-1]["content"]
    assert block["type"] == "tool_result"
    assert (block["blob"], block["bytes"]) == ("blob_x", 90_000)


async def test_a_child_in_the_background_leaves_word_unless_somebody_waits_for_it(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "w")
    first = await spawned(journal, run, "c1", background=True)
    second = await spawned(journal, run, "c2", background=True)
    await finish(journal, first.id, "One")
    (row,) = await journal.list_inbox(run.id, waiting=True)
    assert row.delivery == "note"
    assert "One" in row.content[0]["text"]  # type: ignore[typeddict-item]
    waits = await journal.await_children(run.id, "w", Awaits((first.id, second.id)), FAR)
    assert waits.expires_ms == FAR
    await finish(journal, second.id, "Two")
    assert len(await journal.list_inbox(run.id, waiting=True)) == 1
    told = await result(journal, run, "w")
    assert [(one["id"], one["output"]) for one in told["agents"]] == [(first.id, "One"), (second.id, "Two")]


async def test_who_waits_for_any_hears_of_the_first(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "w", "later")
    first = await spawned(journal, run, "c1", background=True)
    second = await spawned(journal, run, "c2", background=True)
    await journal.await_children(run.id, "w", Awaits((), "any"), FAR)
    await finish(journal, second.id, "Two")
    told = await result(journal, run, "w")
    assert [(one["id"], one["status"]) for one in told["agents"]] == [(first.id, "queued"), (second.id, "completed")]
    assert (await journal.await_children(run.id, "later", Awaits((second.id,)), FAR)).expires_ms == 0, "it has ended"


async def test_who_waits_for_all_does_not_wait_for_those_that_are_detached(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "w", "w2", "w3")
    detached = await spawned(journal, run, "c1", background=True, detached=True)
    await journal.await_children(run.id, "w", Awaits(()), FAR)
    assert (await result(journal, run, "w"))["agents"] == [], "nobody else is at work"
    kept = await spawned(journal, run, "c2", background=True)
    await journal.await_children(run.id, "w2", Awaits(()), FAR)
    await finish(journal, kept.id, "One")
    assert [one["id"] for one in (await result(journal, run, "w2"))["agents"]] == [kept.id]
    assert (await journal.await_children(run.id, "w3", Awaits((detached.id,)), FAR)).expires_ms == FAR, "by its id"


async def test_a_wait_that_is_over_says_who_has_not_come(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "w")
    child = await spawned(journal, run, "c1", background=True)
    await journal.await_children(run.id, "w", Awaits(()), 1)
    settled = await journal.settle_ask(run.id, "settle-w-1", "w", ())
    assert settled.outcome == "answered"
    told = await result(journal, run, "w")
    assert (told["timed_out"], told["agents"][0]["status"]) == (True, "queued")
    assert (await journal.get_run(child.id)).status == "queued"
    assert (await journal.settle_ask(run.id, "settle-w-1", "w", ())).outcome == "answered"


async def test_a_child_that_outlives_its_own_deadline_is_ended_by_whoever_waits_for_it(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_tokens=10_000))
    child = await spawned(journal, run, "c1")
    await journal.settle_ask(run.id, "settle-c1-1", "c1", ())
    assert (await journal.get_run(child.id)).status == "expired"
    assert (await result(journal, run, "c1"))["error"]["code"] == "child_failed"
    assert await journal.left_workflows(limit=10) == [child.id]
    assert (await journal.get_run(run.id)).account.reserved == Amount()


async def test_a_message_ends_the_wait_and_the_child_lives_on_in_the_background(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await journal.stop_waiting(run.id, "c1", "a message came")
    told = await result(journal, run, "c1")
    assert (told["woken"], told["agents"][0]["id"]) == (True, child.id)
    assert (await journal.get_run(child.id)).background
    await finish(journal, child.id, "Late")
    (row,) = await journal.list_inbox(run.id, waiting=True)
    assert "Late" in row.content[0]["text"]  # type: ignore[typeddict-item]


async def test_an_abort_ends_the_wait_for_children_and_nothing_else(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "w")
    first, second = await spawned(journal, run, "c1"), await spawned(journal, run, "c2", background=True)
    await journal.await_children(run.id, "w", Awaits(()), FAR)
    for call_id in ("c1", "w"):
        ended = await journal.resolve_call(run.id, call_id, ToolCommit("failed", "enough", "aborted"), "ada")
        assert (ended.status, ended.error and ended.error.code) == ("failed", "aborted")
    assert (await journal.open_asks([run.id])).get(run.id, []) == []
    for child in (first, second):
        now = await journal.get_run(child.id)
        assert (now.status, now.background) == ("queued", True), "it goes on"
        await finish(journal, child.id, f"Late {child.id}")
    told = [row.content[0]["text"] for row in await journal.list_inbox(run.id, waiting=True)]  # type: ignore[typeddict-item]
    assert [child.id in text for child, text in zip((first, second), told, strict=True)] == [True, True]
    assert (await journal.get_run(run.id)).completed_ms is None


async def test_what_lost_attempts_are_taken_to_have_cost_is_counted_once_in_a_tree(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1")
    assert await journal.assumed_in_family(run.id) == {}
    await begin(journal, child.id, ask=FIRST)
    await journal.record(child.id, "finish", (), DONE)
    assumed = await journal.assumed_in_family(run.id)
    assert assumed == {child.id: 1_380}
    rows = await journal.list_family(run.id, limit=9)
    spent = next(row for row in rows if row.id == run.id).account.spent.cost_micros
    assert spent == sum(row.usage.cost_micros for row in rows) + sum(assumed.values())


async def test_children_are_talked_to_and_ended(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "m", "m2", "x", "x2", "m3")
    child = await spawned(journal, run, "c1", background=True)
    message = NewMessage("msg_1", text("Hurry"), "steer")
    done = await journal.message_child(run.id, "m", child.id, message)
    assert (done.told, await result(journal, run, "m")) == (
        (child.id,), {"id": child.id, "status": "accepted", "delivery": "steer"},
    )  # fmt: skip
    assert failed(await journal.message_child(run.id, "m2", run.id, message)) == "agent_not_found"
    assert (await journal.cancel_child(run.id, "x", child.id, "enough")).told == (child.id,)
    verbs = [(order.verb, order.reason) for order in await journal.undelivered_orders(child.id, limit=9)]
    assert verbs == [("message", ""), ("cancel", "enough")]
    await journal.record(child.id, "finish", (), Outcome("cancelled", "enough"))
    assert (await journal.cancel_child(run.id, "x2", child.id, "")).told == ()
    assert (await result(journal, run, "x2"))["status"] == "cancelled"
    assert failed(await journal.message_child(run.id, "m3", child.id, message)) == "agent_ended"


# Limits ------------------------------------------------------------------------------------------------


async def test_depth_fan_out_and_company_are_limited_in_words_a_model_can_mend(journal: Journal) -> None:
    narrow = {**LIMITS, "max_children": 2, "max_depth": 1, "max_running_children": 1}
    run = await parent_of(journal, "c1", "c2", "c3", "c4", limits=narrow)
    child = await spawned(journal, run, "c1", background=True)
    assert child.limits["max_depth"] == 1, "a child's family is no larger than its parent's may be"
    assert failed(await journal.spawn_child(run.id, "c2", child_of(run))) == "running_children_limit"
    await ask_for(journal, child.id, "g1")
    assert failed(await journal.spawn_child(child.id, "g1", child_of(child))) == "depth_limit"
    await journal.record(child.id, "finish", (), DONE)
    await spawned(journal, run, "c3", background=True)
    assert failed(await journal.spawn_child(run.id, "c4", child_of(run))) == "children_limit"


async def test_an_agent_that_starts_itself_with_the_same_task_is_a_cycle(journal: Journal) -> None:
    stored = await journal.put_agent("default", AGENT)
    run = await parent_of(journal, "c1", "c2", agent_id=stored.id, agent_version=1, words="Dig")
    again = child_of(run, task="Dig", agent_id=stored.id, agent_version=1)
    assert failed(await journal.spawn_child(run.id, "c1", again)) == "agent_cycle"
    await spawned(journal, run, "c2", task="Dig deeper", agent_id=stored.id, agent_version=1)


async def test_a_fork_knows_the_task_that_it_has_from_another_run(journal: Journal) -> None:
    stored = await journal.put_agent("default", AGENT)
    first = await new_run(journal, "Dig")
    await journal.commit_model(first.id, "model-1", await begin(journal, first.id), said("No."))
    await journal.record(first.id, "finish", [], DONE)
    run = await journal.create_run(
        NewRun(
            f"run_{ULID()}", AGENT, [], FAR, LIMITS, agent_id=stored.id, agent_version=1,
            goes_on_from=Origin(first.id, 1, 2),
        )
    )  # fmt: skip
    await ask_for(journal, run.id, "c1", "c2")
    again = child_of(run, task="Dig", agent_id=stored.id, agent_version=1)
    assert failed(await journal.spawn_child(run.id, "c1", again)) == "agent_cycle"
    await spawned(journal, run, "c2", task="Dig deeper", agent_id=stored.id, agent_version=1)


async def test_a_run_that_is_being_cancelled_starts_nobody_and_a_paused_one_starts_a_paused_child(
    journal: Journal,
) -> None:
    run = await parent_of(journal, "c1", "c2")
    await journal.give_family_order(run.id, Order(0, "pause", reason="lunch"))
    child = await spawned(journal, run, "c1", background=True)
    assert [order.verb for order in await journal.undelivered_orders(child.id, limit=9)] == ["pause"]
    await journal.give_family_order(run.id, Order(0, "cancel"))
    await journal.give_family_order(run.id, Order(0, "resume"))  # which takes no cancel back
    assert failed(await journal.spawn_child(run.id, "c2", child_of(run))) == "skipped"


async def test_a_tree_has_a_largest_size() -> None:
    assert TREE_RUNS_MAX == 1_000


# Money -------------------------------------------------------------------------------------------------


async def test_a_slice_is_reserved_becomes_the_childs_budget_and_what_is_left_of_it_comes_back(
    journal: Journal,
) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000, max_tokens=50_000))
    spent = run.account.spent
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=20_000))
    assert child.budget is not None
    assert child.budget.max_cost_micros == 20_000
    left = 50_000 - spent.tokens - 5_000  # a tenth is kept aside for the last word
    assert child.budget.max_tokens == left // 4
    assert (await journal.get_run(run.id)).account.reserved == Amount(20_000, left // 4, 0)
    await finish(journal, child.id)
    account = (await journal.get_run(run.id)).account
    assert account == Account(spent.plus(Amount(210, 90, 30)), Amount())
    lines = [line for line in await journal.read_ledger(run.id) if line.key == "child-c1"]
    assert [(line.kind, line.assumed, line.overrun) for line in lines] == [
        ("reserved", False, False), ("settled", False, False),
    ]  # fmt: skip


async def test_more_than_is_left_is_refused_and_nothing_is_started(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "c3", budget=Budget(max_cost_micros=10_000))
    lines = len(await journal.read_ledger(run.id))
    greedy = await journal.spawn_child(run.id, "c1", child_of(run, wanted=Budget(max_cost_micros=9_900)))
    assert failed(greedy) == "budget_too_small"
    assert greedy.call.error is not None
    assert "0.0099" in greedy.call.error.message
    poor = await journal.spawn_child(run.id, "c2", child_of(run, wanted=Budget(max_cost_micros=500)))
    assert failed(poor) == "budget_too_small"
    assert len(await journal.read_ledger(run.id)) == lines
    assert (await journal.get_run(run.id)).children == 0


async def test_what_the_agent_itself_may_spend_bounds_the_slice(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    own = Budget(max_cost_micros=5_000, max_output_tokens=700, on_limit="stop")
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=50_000), own=own)
    assert child.budget == Budget(5_000, None, 700, "stop")
    assert (await journal.get_run(run.id)).account.reserved == Amount(5_000, 0, 0)


async def test_an_unbudgeted_parent_reserves_nothing(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2")
    assert (await spawned(journal, run, "c1")).budget is None
    child = await spawned(journal, run, "c2", wanted=Budget(max_tokens=5_000))
    assert child.budget == Budget(max_tokens=5_000)
    assert [line for line in await journal.read_ledger(run.id) if line.key.startswith("child-")] == []


async def test_a_childs_budget_is_raised_out_of_its_parents(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=20_000))
    await journal.update_run(child.id, budget=Budget(max_cost_micros=30_000))
    assert (await journal.get_run(run.id)).account.reserved.cost_micros == 30_000
    for too_much in (Budget(max_cost_micros=95_000), Budget()):
        with pytest.raises(SliceTooLarge):
            await journal.update_run(child.id, budget=too_much)
    assert (await journal.get_run(child.id)).budget == Budget(max_cost_micros=30_000)
    await finish(journal, child.id)
    assert (await journal.get_run(run.id)).account.reserved == Amount()


async def test_a_slice_is_never_less_than_what_the_child_has_spent_and_may_still_spend(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=50_000))
    other = await spawned(journal, run, "c2", wanted=Budget(max_cost_micros=10_000))
    attempt = await begin(journal, child.id, ask=FIRST)
    await journal.commit_model(child.id, "model-1", attempt, asks("g1"))
    await begin(journal, child.id, 2, ask=FIRST)
    account = (await journal.get_run(child.id)).account
    used = account.spent.cost_micros + account.reserved.cost_micros
    assert used > account.spent.cost_micros > 1
    await journal.update_run(child.id, budget=Budget(max_cost_micros=1))
    assert (await journal.get_run(child.id)).budget == Budget(max_cost_micros=1)
    assert (await journal.get_run(run.id)).account.reserved.cost_micros == used + 10_000
    with pytest.raises(SliceTooLarge):
        await journal.update_run(other.id, budget=Budget(max_cost_micros=100_000 - used))
    await journal.record(child.id, "finish", (), DONE)
    assert not any(line.overrun for line in await journal.read_ledger(run.id))


async def test_nobody_gives_a_child_more_when_its_parent_has_ended(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", background=True, detached=True, wanted=Budget(max_cost_micros=9_000))
    await journal.record(run.id, "finish", (), DONE)
    for too_much in (Budget(max_cost_micros=9_001), Budget(max_tokens=100)):
        with pytest.raises(SliceTooLarge, match="has ended"):
            await journal.update_run(child.id, budget=too_much)
    await journal.update_run(child.id, budget=Budget(max_cost_micros=2_000))
    await journal.update_run(child.id, budget=Budget(max_cost_micros=9_000))


async def test_a_parents_limit_is_not_lowered_below_what_its_children_may_spend(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=20_000))
    spent = (await journal.get_run(run.id)).account.spent.cost_micros
    with pytest.raises(SlicesGiven):
        await journal.update_run(run.id, budget=Budget(max_cost_micros=spent + 19_999))
    with pytest.raises(SlicesGiven):
        await journal.update_run(run.id, budget=Budget(max_cost_micros=100_000, max_tokens=10**9))
    assert (await journal.get_run(run.id)).budget == Budget(max_cost_micros=100_000), "nothing is half done"
    await journal.update_run(run.id, budget=Budget(max_cost_micros=spent + 20_000))
    await journal.update_run(child.id, budget=Budget(max_cost_micros=5_000))
    await journal.update_run(run.id, budget=Budget(max_cost_micros=spent + 5_000))
    await journal.update_run(run.id, budget=Budget(max_cost_micros=spent + 30_000))
    await finish(journal, child.id)
    await journal.update_run(run.id, budget=Budget(max_cost_micros=1, max_tokens=1))
    free = await parent_of(journal, "c1")
    await spawned(journal, free, "c1")
    with pytest.raises(SlicesGiven):
        await journal.update_run(free.id, budget=Budget(max_cost_micros=10**9))


async def test_what_a_child_overspends_is_flagged_on_its_parent(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", wanted=Budget(max_cost_micros=2_000))
    attempt = await begin(journal, child.id, ask=FIRST)
    await journal.commit_model(child.id, "model-1", attempt, said("dear", Usage(60, 30, cost_micros=90_000)))
    await journal.record(child.id, "finish", (), DONE)
    (line,) = [line for line in await journal.read_ledger(run.id) if line.key == "child-c1" and line.kind == "settled"]
    assert (line.amount.cost_micros, line.overrun) == (90_000, True)
    told = await types(journal, run.id)
    assert told.count("budget.overrun") == 1
    assert told.count("budget.warning") == 1


async def test_usage_counts_each_call_once_whoever_paid_for_it(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id)
    rows = {row.group: row for row in await journal.usage_by("default", "run", from_ms=None, before_ms=None)}
    assert rows[child.id].cost_micros == 210
    assert rows[run.id].model_calls == 1


# Ends --------------------------------------------------------------------------------------------------


async def three_generations(journal: Journal, **more: Any) -> tuple[RunRow, RunRow, RunRow]:
    run = await parent_of(journal, "c1", "c2", **more)
    child = await spawned(journal, run, "c1")
    await ask_for(journal, child.id, "g1")
    return run, child, await spawned(journal, child, "g1")


async def test_a_run_that_ends_takes_all_below_along_in_one_transaction(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal, budget=Budget(max_cost_micros=100_000))
    await begin(journal, grandchild.id, ask=FIRST)
    aftermath = await journal.record(run.id, "finish", (), DONE)
    assert set(aftermath.ended) == {child.id, grandchild.id}
    for one in (child, grandchild):
        ended = await journal.get_run(one.id)
        assert (ended.status, ended.stop_reason) == ("cancelled", "parent_ended")
        assert ended.account.reserved == Amount()
        assert (await types(journal, one.id))[-1] == "run.cancelled"
    whole = (await journal.get_run(run.id)).account
    assert whole.reserved == Amount()
    own = (await journal.get_run(grandchild.id)).account.spent.cost_micros
    assert (await journal.get_run(child.id)).account.spent.cost_micros == own + 100
    assert whole.spent.cost_micros == own + 200
    assert set(await journal.left_workflows(limit=10)) == {child.id, grandchild.id}
    await journal.workflows_heard([child.id, grandchild.id])
    assert await journal.left_workflows(limit=10) == []
    for parent, taken in ((run, child), (child, grandchild)):
        (told,) = await all_events(journal, parent.id, types=["child.failed"])
        assert (told.data["run_id"], told.data["status"]) == (taken.id, "cancelled")
    assert (await types(journal, run.id))[-1] == "run.completed"
    with pytest.raises(RunOver):
        await journal.spawn_child(grandchild.id, "gg", child_of(grandchild))


async def test_a_forced_end_reaches_every_generation_and_the_parent_hears_of_it(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    await journal.force_cancel(child.id, "stuck")
    assert (await journal.get_run(grandchild.id)).status == "cancelled"
    assert (await journal.get_run(run.id)).status not in TERMINAL
    assert (await result(journal, run, "c1"))["error"]["message"] == "stuck"
    assert set(await journal.left_workflows(limit=10)) == {child.id, grandchild.id}


async def test_a_run_whose_workflow_is_lost_takes_its_family_along(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    await journal.end_orphan(run.id, Failure("internal", "gone"))
    assert [(await journal.get_run(one.id)).status for one in (run, child, grandchild)] == [
        "failed", "cancelled", "cancelled",
    ]  # fmt: skip


async def test_a_detached_child_outlives_its_parent_and_its_slice_counts_as_spent(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1", background=True, detached=True, wanted=Budget(max_cost_micros=9_000))
    await journal.record(run.id, "finish", (), DONE)
    assert (await journal.get_run(child.id)).status == "queued"
    account = (await journal.get_run(run.id)).account
    assert (account.spent.cost_micros, account.reserved) == (9_100, Amount())
    ledger = await journal.read_ledger(run.id)
    await finish(journal, child.id)
    assert await journal.read_ledger(run.id) == ledger
    assert (await journal.get_run(child.id)).status == "completed"


async def test_orders_go_to_the_whole_family_but_to_those_that_are_detached(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    away = await spawned(journal, run, "c2", background=True, detached=True)
    assert await journal.give_family_order(run.id, Order(0, "pause")) == [run.id, child.id, grandchild.id]
    assert await journal.undelivered_orders(away.id, limit=9) == []


async def test_an_interrupt_goes_to_the_whole_family_but_to_those_that_are_detached(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    away = await spawned(journal, run, "c2", background=True, detached=True)
    said = text("Stop")
    async with journal.follow_interrupts(grandchild.id) as below, journal.follow_interrupts(away.id) as beside:
        for follower in (below, beside):
            while await follower.wait(0.2):  # whoever begins to listen may be woken once
                pass
        quiet = await journal.accept_message(run.id, NewMessage("msg_1", text("By the way"), "steer"))
        assert quiet.told == ()
        row = await journal.accept_message(run.id, NewMessage("msg_2", said, "interrupt"))
        assert row.told == (child.id, grandchild.id)
        assert await below.wait(5)
        assert not await beside.wait(0.1)
    for one in (child, grandchild):
        (heard,) = await journal.list_inbox(one.id, waiting=True)
        assert (heard.delivery, heard.content[1:]) == ("interrupt", said)
        assert [order.verb for order in await journal.undelivered_orders(one.id, limit=9)] == ["message"]
    again = await journal.accept_message(run.id, NewMessage("msg_2", said, "interrupt"))
    assert again.number == row.number
    assert len(await journal.list_inbox(child.id, waiting=True)) == 1, "a request that comes again says nothing new"
    assert await journal.list_inbox(away.id, waiting=True) == []


async def test_urgent_signals_and_the_agents_own_interrupts_reach_those_below_too(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    await ask_for(journal, run.id, "c9", turn=2)
    done = await journal.message_child(run.id, "c9", child.id, NewMessage("msg_1", text("Stop"), "interrupt"))
    assert done.told == (child.id, grandchild.id)
    row = await journal.send_signal(run.id, NewSignal("sig_1", "fire", None, "critical"))
    assert (row.disposition, row.told) == ("interrupting", (child.id, grandchild.id))
    (replaced,) = await journal.replace_inbox(run.id, [NewMessage("msg_3", text("No"), "interrupt")])
    assert replaced.told == (child.id, grandchild.id)
    assert len(await journal.list_inbox(grandchild.id, waiting=True)) == 3


async def test_a_child_whose_inbox_is_full_is_not_interrupted_and_nobody_else_is_kept_from_it(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    await journal.replace_inbox(child.id, [NewMessage(f"m{n}", text("x"), "enqueue") for n in range(INBOX_WAITING_MAX)])
    row = await journal.accept_message(run.id, NewMessage("msg_1", text("Stop"), "interrupt"))
    assert row.told == (grandchild.id,)
    waiting = await journal.list_inbox(child.id, waiting=True)
    assert (len(waiting), {one.delivery for one in waiting}) == (INBOX_WAITING_MAX, {"enqueue"})
    await journal.withdraw_message(child.id, "m0")
    assert (await journal.accept_message(child.id, NewMessage("y", text("y"), "steer"))).status == "accepted"


async def test_the_end_of_a_child_is_recorded_once(journal: Journal) -> None:
    run = await parent_of(journal, "c1", budget=Budget(max_cost_micros=100_000))
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id)
    told = await types(journal, run.id)
    again = await journal.record(child.id, "finish", (), DONE)
    assert again.told == (run.id,), "whoever lost its report delivers the order again"
    assert await types(journal, run.id) == told


# Reading -------------------------------------------------------------------------------------------------


async def test_a_family_is_read_from_the_top_down(journal: Journal) -> None:
    run, child, grandchild = await three_generations(journal)
    await new_run(journal)
    assert [row.id for row in await journal.list_family(run.id, limit=10)] == [run.id, child.id, grandchild.id]
    assert [row.id for row in await journal.list_family(child.id, limit=10)] == [child.id, grandchild.id]
    rows = await journal.read_family_events(run.id, after=None, limit=1_000)
    assert {row.run_id for row in rows} == {run.id, child.id, grandchild.id}
    assert [row.at_ms for row in rows] == sorted(row.at_ms for row in rows)
    some = await journal.read_family_events(run.id, after=f"{rows[4].run_id}:{rows[4].seq}", limit=3)
    assert some == rows[5:8]
    only = await journal.read_family_events(run.id, after=None, limit=99, types=["child.started"])
    assert [row.run_id for row in only] == [run.id, child.id]
    for odd in ("run_x:1", f"{run.id}:99999", "nonsense"):
        with pytest.raises(InvalidCursor):
            await journal.read_family_events(run.id, after=odd, limit=3)


# Storms --------------------------------------------------------------------------------------------------


class Storm:
    """Random deeds in one tree, one after another or at once; whatever happens, the root's limit holds."""

    def __init__(self, journals: list[Journal], chance: Random) -> None:
        self.journals, self.chance = journals, chance
        self.turns: dict[str, int] = {}
        self.calls: list[tuple[str, str]] = []
        self.open: list[tuple[str, int, int]] = []

    @property
    def journal(self) -> Journal:
        return self.chance.choice(self.journals)

    async def deed(self) -> None:
        with contextlib.suppress(RunOver):
            await self.chance.choice(
                (
                    self.think,
                    self.think,
                    self.answer,
                    self.answer,
                    self.spawn,
                    self.spawn,
                    self.spawn,
                    self.end,
                    self.kill,
                    self.change,
                )
            )()

    async def think(self) -> None:
        run_id = self.chance.choice(list(self.turns))
        if any(one[0] == run_id for one in self.open):
            return
        turn = self.turns[run_id] = self.turns[run_id] + 1
        want = Ask(self.chance.randrange(50, 400), self.chance.randrange(256, 900), price)
        begun = await self.journal.begin_model(run_id, f"model-{turn}", turn, model="m", worker="w", ask=want)
        if begun.grant:
            self.open.append((run_id, turn, begun.attempt))

    async def answer(self) -> None:
        if not self.open:
            return
        run_id, turn, attempt = self.open.pop(self.chance.randrange(len(self.open)))
        if self.chance.random() < 0.2:
            failure = Failure("timeout", "late", True)
            await self.journal.fail_model_attempt(
                run_id, f"model-{turn}", attempt, failure, retry_in_seconds=None, billed=self.chance.random() < 0.5
            )
            return
        calls = [f"call_{run_id[-4:]}_{turn}_{number}" for number in range(2)]
        commit: ModelCommit = asks(*calls)
        await self.journal.commit_model(run_id, f"model-{turn}", attempt, commit)
        self.calls += [(run_id, call) for call in calls]

    async def spawn(self) -> None:
        if not self.calls:
            return
        run_id, call = self.calls.pop(self.chance.randrange(len(self.calls)))
        run = await self.journal.get_run(run_id)
        cost = self.chance.choice((None, self.chance.randrange(1_000, 60_000)))
        new = child_of(run, background=self.chance.random() < 0.5, wanted=Budget(max_cost_micros=cost))
        done = await self.journal.spawn_child(run_id, call, new)
        if done.child:
            self.turns.setdefault(done.child.id, 0)

    async def change(self) -> None:
        """A child's limit is set anew, far up or far down, as a person would do."""
        if len(self.turns) > 2:
            run_id, cost = self.chance.choice(list(self.turns)[1:]), self.chance.choice((1, 20_000, 60_000, 10**6))
            with contextlib.suppress(SliceTooLarge, SlicesGiven):
                await self.journal.update_run(run_id, budget=Budget(self.chance.randrange(1, cost + 1)))

    async def end(self) -> None:
        if len(self.turns) > 3:
            run_id = self.chance.choice(list(self.turns)[1:])
            await self.journal.record(run_id, "finish", (), DONE)

    async def kill(self) -> None:
        if len(self.turns) > 6:
            await self.journal.force_cancel(self.chance.choice(list(self.turns)[1:]), "storm")


def kept(lines: list[LedgerRow]) -> None:
    """Spent and reserved are within the limit in force at each line; one that was lowered below them is not passed any
    further. What a slice releases to be set anew counts until it is."""
    limit = used_before = 0
    for line in lines:
        used = line.account.spent.cost_micros + line.account.reserved.cost_micros
        if line.kind == "limit":
            assert line.limits is not None
            assert line.limits.max_cost_micros is not None
            limit = line.limits.max_cost_micros
        else:
            assert used <= max(limit, used_before), line
        if not (line.kind == "released" and line.key.startswith("child-")):
            used_before = used
        assert not line.overrun, line


async def all_kept(journal: Journal, root: str) -> list[RunRow]:
    """In every ledger of the tree; and what the root has spent is what all of them have."""
    runs = await journal.list_family(root, limit=1_000)
    own = 0
    for run in runs:
        assert run.budget is not None
        lines = await journal.read_ledger(run.id)
        kept(lines)
        own += sum(
            line.amount.cost_micros
            for line in lines
            if line.kind in ("settled", "corrected") and not line.key.startswith("child-")
        )
    assert runs[0].account.spent.cost_micros + runs[0].account.reserved.cost_micros >= own
    return runs


@pytest.mark.parametrize("seed", range(6))
async def test_the_budget_of_the_root_holds_for_all_its_descendants(
    journal: Journal, open_another: Open, seed: int
) -> None:
    chance = Random(seed)
    limit = Budget(max_cost_micros=chance.randrange(100_000, 400_000), on_limit=chance.choice(("wrap_up", "stop")))
    root = await new_run(journal, limits=LIMITS, budget=limit)
    storm = Storm([journal, await open_another()], chance)
    storm.turns[root.id] = 0
    for _ in range(40):
        await asyncio.gather(*(storm.deed() for _ in range(4)))
    runs = await all_kept(journal, root.id)
    assert len(runs) > 3, "the storm made a family"
    await journal.record(root.id, "finish", (), DONE)
    runs = await all_kept(journal, root.id)
    assert all(run.status in TERMINAL for run in runs)
    for run in runs:
        await types(journal, run.id)  # numbers without gaps
        assert run.account.reserved == Amount()
    own: dict[str, Json] = {run.id: run.account.spent.cost_micros for run in runs}
    for run in runs:
        below = sum(int(str(own[child.id])) for child in runs if child.parent_run_id == run.id)
        lines = await journal.read_ledger(run.id)
        settled = [line for line in lines if line.key.startswith("child-") and line.kind == "settled"]
        assert sum(line.amount.cost_micros for line in settled) == below


# Answers that have to be JSON ---------------------------------------------------------------------------


async def test_an_answer_that_has_to_be_json_and_fits_is_json_in_the_parents_result(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id, '```json\n{"stars": 4}\n```', said=Said('{"stars": 4}', typed=True))
    assert (await result(journal, run, "c1"))["output"] == {"stars": 4}
    assert (await journal.get_call(run.id, "c1")).status == "completed"


async def test_a_half_character_in_an_answer_that_is_json_does_not_keep_the_child_from_its_end(
    journal: Journal,
) -> None:
    run = await parent_of(journal, "c1", "c2")
    for call_id, words in (("c1", '{"t":"\ud800"}'), ("c2", '{"t":"\\ud800"}')):  # as it is, and as JSON escapes it
        child = await spawned(journal, run, call_id)
        await finish(journal, child.id, words, said=Said(words, typed=True))
        assert (await result(journal, run, call_id))["output"] == {"t": "\ud800"}
    for stored in ('["\ud800"]', '["\\ud800"]', dump(["\ud800"])):
        assert load(stored) == ["\ud800"]


async def test_an_answer_that_does_not_fit_fails_the_call_and_the_child_stays_completed(journal: Journal) -> None:
    run = await parent_of(journal, "c1")
    child = await spawned(journal, run, "c1")
    await finish(journal, child.id, "four", said=Said("four", misfit="the answer is no JSON"))
    told = await result(journal, run, "c1")
    assert (told["status"], told["output"]) == ("completed", "four")
    assert told["error"] == {"code": "output_schema_unsatisfied", "message": "the answer is no JSON"}
    call = await journal.get_call(run.id, "c1")
    assert call.error is not None
    assert (call.status, call.error.code) == ("failed", "output_schema_unsatisfied")
    assert (await journal.get_run(child.id)).status == "completed"


async def test_whoever_waits_for_several_gets_json_and_misfits_alike(journal: Journal) -> None:
    run = await parent_of(journal, "c1", "c2", "c3")
    one = await spawned(journal, run, "c1", background=True)
    two = await spawned(journal, run, "c2", background=True)
    await finish(journal, one.id, "[1]", said=Said("[1]", typed=True))
    await finish(journal, two.id, "none", said=Said("none", misfit="no JSON"))
    await journal.await_children(run.id, "c3", Awaits((one.id, two.id)), FAR)
    first, second = (await result(journal, run, "c3"))["agents"]
    assert first["output"] == [1]
    assert second["error"]["code"] == "output_schema_unsatisfied"
    words = [row.content for row in await journal.list_inbox(run.id, waiting=True)]
    assert "has answered, but no JSON" in str(words)

"""Timers, signals and pauses in the journal: who sleeps is woken once, what happens outside is told or kept, and each
disposition is an event. On both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import update

from perdure.core.happenings import AskSettled, CallAsked
from perdure.core.state import Json, OutboxEvent, Outcome, Usage
from perdure.store.journal import Journal
from perdure.store.rows import SIGNAL_KEPT_MS, SIGNALS_BUFFERED_MAX, ModelCommit, NewSignal, RunRow, ToolCommit
from perdure.store.schema import signals
from perdure.store.trouble import AskResolved, NotFound, RunOver
from tests.store.asking import asking, new_ask, orders, result_of, the_ask
from tests.store.runs import FAR, MODEL, all_events, asks, begin, new_run, outbox, types


async def sleeping(journal: Journal, **more: Any) -> RunRow:
    return await asking(journal, new_ask("timer", reason="the market opens"), **more)


async def waiting(
    journal: Journal, match: Json = None, name: str = "paid", run: RunRow | None = None, turn: int = 1, **more: Any
) -> RunRow:
    """A run whose newest call waits for an event."""
    run = run or await new_run(journal, **more)
    call_id = f"call_{turn}"
    base = asks(call_id, arguments={"name": name, "match": match})
    ask = new_ask("event", call_id, name=name)
    call = CallAsked(call_id, "wait_for_event", waits="event", expires_ms=FAR)
    commit = ModelCommit(base.content, MODEL, "tool_calls", Usage(1, 1), [call], {}, hashes=["a" * 64], asks=[ask])
    await journal.commit_model(run.id, f"model-{turn}", await begin(journal, run.id, turn), commit)
    return run


def signal(number: int, payload: Json = None, **more: Any) -> NewSignal:
    return NewSignal(f"sig_{number}", more.pop("name", "paid"), payload, **more)


async def told(journal: Journal, run: RunRow) -> list[tuple[str, str]]:
    return [
        (str(event.data["signal_id"]), str(event.data["disposition"]))
        for event in await all_events(journal, run.id)
        if event.type == "signal.received"
    ]


async def data_of(journal: Journal, run: RunRow, type_: str) -> list[dict[str, Json]]:
    return [event.data for event in await all_events(journal, run.id) if event.type == type_]


# Timers -----------------------------------------------------------------------------------------


async def test_a_timer_fires_when_its_time_comes_and_once(journal: Journal) -> None:
    run = await sleeping(journal)
    timer = await the_ask(journal, run)
    assert (timer.type, timer.id[:4], timer.reason, timer.status) == ("timer", "tmr_", "the market opens", "open")
    for _ in range(2):
        settled = await journal.settle_ask(run.id, "settle-call_1-0", "call_1", [])
        assert settled == AskSettled("settle-call_1-0", "call_1", "answered")
    text, is_error = await result_of(journal, run) or ("", True)
    assert (json.loads(text)["woken"], is_error) == (False, False)
    assert await data_of(journal, run, "timer.started") == [
        {"timer_id": timer.id, "until_ms": FAR, "reason": "the market opens"}
    ]
    assert await data_of(journal, run, "timer.fired") == [{"timer_id": timer.id, "late_ms": 0}]
    assert await orders(journal, run) == [], "the run has asked itself"


async def test_a_timer_is_fired_or_cancelled_by_hand_and_the_run_is_told(journal: Journal) -> None:
    run, other = await sleeping(journal), await sleeping(journal)
    timer = await the_ask(journal, run)
    for _ in range(2):
        fired = await journal.end_timer(run.id, timer.id, "ada", fires=True)
        assert (fired.status, fired.decided_by) == ("answered", "ada")
    with pytest.raises(AskResolved):
        await journal.end_timer(run.id, timer.id, "ada", fires=False)
    assert await orders(journal, run) == [("answer", "call_1")]
    cancelled = await journal.end_timer(other.id, (await the_ask(journal, other)).id, "ada", fires=False)
    assert cancelled.status == "cancelled"
    assert (await result_of(journal, other) or ("", False))[1] is True
    with pytest.raises(NotFound):
        await journal.end_timer(other.id, timer.id, "ada", fires=True)
    approval = await asking(journal, new_ask())
    with pytest.raises(NotFound):
        await journal.end_timer(approval.id, (await the_ask(journal, approval)).id, "ada", fires=True)


async def test_of_the_time_and_a_hand_at_the_same_instant_one_fires(journal: Journal) -> None:
    for _ in range(5):
        run = await sleeping(journal)
        timer = await the_ask(journal, run)
        await asyncio.gather(
            journal.settle_ask(run.id, "settle-call_1-0", "call_1", []),
            journal.end_timer(run.id, timer.id, "ada", fires=True),
            return_exceptions=True,
        )
        assert (await types(journal, run.id)).count("timer.fired") == 1


async def test_a_message_that_wakes_and_the_end_of_the_run_cancel_a_timer(journal: Journal) -> None:
    woken, ended = await sleeping(journal), await sleeping(journal)
    await journal.commit_tool(woken.id, "call_1", ToolCommit("completed", "{}", "woken"))
    await journal.record(ended.id, "finish", [], Outcome("cancelled", "enough"))
    assert [one["reason"] for one in await data_of(journal, woken, "timer.cancelled")] == ["message"]
    assert [one["reason"] for one in await data_of(journal, ended, "timer.cancelled")] == ["run_ended"]
    with pytest.raises(RunOver):
        await journal.end_timer(ended.id, (await the_ask(journal, ended)).id, "ada", fires=True)


# Signals ----------------------------------------------------------------------------------------


async def test_a_signal_is_the_result_of_the_call_that_waits_for_it(journal: Journal) -> None:
    run = await waiting(journal, {"order": {"id": 7}})
    missed = await journal.send_signal(run.id, signal(1, {"order": {"id": 8}}))
    found = await journal.send_signal(run.id, signal(2, {"order": {"id": 7, "sum": 9}}, by="shop"))
    assert (missed.disposition, found.disposition, found.call_id) == ("buffered", "delivered", "call_1")
    again = await journal.send_signal(run.id, signal(2, {"order": {"id": 7}}))
    assert again == found, "told again, it is the same signal"
    text, is_error = await result_of(journal, run) or ("", True)
    assert (json.loads(text)["payload"], is_error) == ({"order": {"id": 7, "sum": 9}}, False)
    assert await orders(journal, run) == [("answer", "call_1")]
    assert await told(journal, run) == [("sig_1", "buffered"), ("sig_2", "delivered")]
    assert (await the_ask(journal, run)).status == "answered"


async def test_what_came_early_is_heard_by_the_next_call_that_waits_for_it_the_oldest_first(journal: Journal) -> None:
    run = await new_run(journal)
    for number, payload in enumerate(({"n": 1}, {"n": 2}, {"n": 3})):
        await journal.send_signal(run.id, signal(number, payload))
    await journal.send_signal(run.id, signal(9, name="other"))
    await waiting(journal, {"n": 2}, run=run)
    await waiting(journal, run=run, turn=2)
    texts = [json.loads((await result_of(journal, run, call_id) or ("",))[0]) for call_id in ("call_1", "call_2")]
    assert [text["payload"] for text in texts] == [{"n": 2}, {"n": 1}]
    assert await orders(journal, run) == [("answer", "call_1"), ("answer", "call_2")]
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    assert (await told(journal, run))[-2:] == [("sig_2", "returned"), ("sig_9", "returned")]
    assert (await types(journal, run.id))[-1] == "run.completed"
    with pytest.raises(RunOver):
        await journal.send_signal(run.id, signal(10))


async def test_a_full_buffer_takes_what_matters_more_and_says_what_it_drops(journal: Journal) -> None:
    run = await new_run(journal)
    for number in range(SIGNALS_BUFFERED_MAX):
        urgency = "low" if number == 5 else "normal"
        assert (await journal.send_signal(run.id, signal(number, urgency=urgency))).disposition == "buffered"
    assert (await journal.send_signal(run.id, signal(100, urgency="low"))).disposition == "dropped"
    assert (await journal.send_signal(run.id, signal(101))).disposition == "buffered"
    assert (await journal.send_signal(run.id, signal(102))).disposition == "dropped"
    assert (await told(journal, run))[-4:] == [
        ("sig_100", "dropped"), ("sig_5", "dropped"), ("sig_101", "buffered"), ("sig_102", "dropped"),
    ]  # fmt: skip


async def test_a_signal_that_nobody_waits_for_within_a_day_is_forgotten(journal: Any) -> None:
    run = await new_run(journal)
    await journal.send_signal(run.id, signal(1, dedupe_key="a"))

    def age(connection: Any) -> None:
        connection.execute(update(signals).values(at_ms=signals.c.at_ms - SIGNAL_KEPT_MS))

    await journal._database.write(age)
    again = await journal.send_signal(run.id, signal(2, dedupe_key="a"))
    assert again.disposition == "buffered", "its key is forgotten, too"
    assert await told(journal, run) == [("sig_1", "buffered"), ("sig_1", "expired"), ("sig_2", "buffered")]


async def test_a_dedupe_key_counts_once_whatever_became_of_the_first(journal: Journal) -> None:
    run = await waiting(journal)
    assert (await journal.send_signal(run.id, signal(1, dedupe_key="a"))).disposition == "delivered"
    assert (await journal.send_signal(run.id, signal(2, dedupe_key="a"))).disposition == "duplicate"
    other = await new_run(journal)
    assert (await journal.send_signal(other.id, signal(1, dedupe_key="a"))).disposition == "buffered"
    assert (await journal.send_signal(other.id, signal(2, dedupe_key="a"))).disposition == "duplicate"


async def test_what_is_urgent_interrupts_who_does_not_wait_for_it(journal: Journal) -> None:
    run = await sleeping(journal)
    for number, urgency in enumerate(("critical", "high")):
        row = await journal.send_signal(run.id, signal(number, {"disk": "full"}, urgency=urgency, by="ada"))
        assert row.disposition == "interrupting"
    inbox = await journal.list_inbox(run.id, waiting=True)
    assert [message.delivery for message in inbox] == ["interrupt", "interrupt"]
    assert inbox[0].content == [{"type": "text", "text": '[Perdure] Signal paid (critical) from ada: {"disk":"full"}'}]
    waits = await waiting(journal)
    assert (await journal.send_signal(waits.id, signal(1, urgency="critical"))).disposition == "delivered"
    assert await journal.list_inbox(waits.id, waiting=True) == []


async def test_only_runs_that_wait_for_an_event_are_found_by_its_name_and_their_labels(journal: Journal) -> None:
    name = f"deploy.{id(journal)}"
    blue = await waiting(journal, name=name, labels={"team": "blue"})
    red = await waiting(journal, name=name, labels={"team": "red"})
    over = await waiting(journal, name=name)
    await journal.record(over.id, "finish", [], Outcome("completed", "end"))
    await waiting(journal, name="other")
    assert await journal.runs_waiting_for("default", name, labels={}, limit=9) == [blue.id, red.id]
    assert await journal.runs_waiting_for("default", name, labels={"team": "red"}, limit=9) == [red.id]
    assert await journal.runs_waiting_for("elsewhere", name, labels={}, limit=9) == []
    sent = await journal.send_signal(blue.id, signal(1, name=name), only_waiting=True)
    assert sent.disposition == "delivered"
    assert await journal.runs_waiting_for("default", name, labels={}, limit=9) == [red.id]
    nothing = await journal.send_signal(blue.id, signal(2, name=name), only_waiting=True)
    assert nothing.disposition == "not_waiting"
    assert await told(journal, blue) == [("sig_1", "delivered")]


async def test_a_wait_whose_time_is_over_says_so(journal: Journal) -> None:
    run = await waiting(journal)
    await journal.settle_ask(run.id, "settle-call_1-0", "call_1", [])
    text, is_error = await result_of(journal, run) or ("", True)
    assert (json.loads(text), is_error) == ({"received": False, "timed_out": True}, False)
    assert (await journal.send_signal(run.id, signal(1))).disposition == "buffered"


# Polls and starts -------------------------------------------------------------------------------


async def test_a_poll_that_pauses_takes_another_attempt_and_a_lost_one_pauses_nothing(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1"))
    first = await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=True)
    await journal.pause_tool(run.id, "call_1", first.attempt, next_ms=5, ends_ms=9, message="not yet")
    second = await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=True)
    assert (second.attempt, second.lost_attempt) == (2, None)
    assert second.call is not None
    assert second.call.outcome == {"ends_ms": 9}
    await journal.pause_tool(run.id, "call_1", first.attempt, next_ms=6, ends_ms=9)
    assert [one["next_at_ms"] for one in await data_of(journal, run, "tool.progress")] == [5]
    await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "there"))
    assert (await journal.get_call(run.id, "call_1")).status == "completed"


async def test_a_run_that_starts_later_is_scheduled_until_its_workflow_says_so(journal: Journal) -> None:
    run = await new_run(journal, start_ms=FAR)
    assert (run.status, run.start_ms, await types(journal, run.id)) == (
        "scheduled", FAR, ["run.created", "message.added"],
    )  # fmt: skip
    assert run.id in [one.id for one in await journal.unstarted_runs(older_than_ms=-1_000, limit=1_000)]
    said: list[OutboxEvent] = [outbox("run.queued"), outbox("run.started")]
    await begin(journal, run.id, outbox=said)
    now = await journal.get_run(run.id)
    assert (now.status, now.started_ms is not None) == ("running", True)

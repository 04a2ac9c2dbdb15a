"""Model calls and tool calls through lost workers, late workers and second answers."""

from __future__ import annotations

import asyncio

import pytest

from perdure.core.happenings import CallAsked
from perdure.core.state import Failure, Outcome, Usage
from perdure.store.journal import Journal
from perdure.store.rows import Begun, Delta, ModelCommit, NewMessage, ToolCommit
from perdure.store.trouble import NotFound
from tests.store.conftest import Open
from tests.store.runs import ASK, MODEL, USAGE, all_events, asks, begin, new_run, outbox, said, text, types

BROKE = Failure("model_rate_limited", "slow down", retryable=True)


async def test_a_turn_with_a_tool_tells_its_whole_story_in_order(journal: Journal) -> None:
    run = await new_run(journal)
    attempt = await begin(journal, run.id, outbox=[outbox("run.started")])
    await journal.commit_model(run.id, "model-1", attempt, asks("call_1"))
    begun = await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=False)
    assert begun == Begun(1, call=begun.call, tries=1)
    assert begun.call is not None
    assert begun.call.arguments == {"room": 7}
    await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "room 7 is yours"))
    await journal.commit_model(run.id, "model-2", await begin(journal, run.id, 2), said("Done."))
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    assert await types(journal, run.id) == [
        "run.created", "message.added", "run.queued", "run.started", "turn.started", "model.started",
        "message.added", "tool.requested", "model.completed", "tool.started", "message.added", "tool.completed",
        "turn.completed", "turn.started", "model.started", "message.added", "model.completed", "turn.completed",
        "run.completed",
    ]  # fmt: skip
    run = await journal.get_run(run.id)
    assert (run.status, run.turns, run.output, run.recovering) == ("completed", 2, text("Done."), False)
    assert run.usage == Usage(150, 25, cost_micros=475)
    messages = await journal.list_messages(run.session_id)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    calls = await journal.list_calls(run.id)
    assert [(call.key, call.kind, call.status) for call in calls] == [
        ("model-1", "model", "completed"), ("call_1", "tool", "completed"), ("model-2", "model", "completed"),
    ]  # fmt: skip
    assert calls[1] == await journal.get_call(run.id, "call_1")
    assert await journal.list_calls(run.id, after=1, limit=1) == [calls[1]]
    (ended,) = [event for event in await all_events(journal, run.id) if event.type == "run.completed"]
    assert ended.data["usage"] == {
        "input_tokens": 150, "output_tokens": 25, "cache_read_tokens": 0, "cache_write_tokens": 0,
        "reasoning_tokens": 0, "cost_usd": "0.000475",
    }  # fmt: skip


async def test_a_lost_model_call_is_aborted_in_the_stream_and_taken_up_by_the_next_worker(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    again = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    assert (again.attempt, again.lost_attempt, again.ended) == (2, 1, None)
    assert (await journal.get_run(run.id)).recovering
    await journal.commit_model(run.id, "model-1", 2, said("Hello."))
    assert (await types(journal, run.id))[3:] == [
        "turn.started", "model.started", "model.aborted", "run.recovering", "model.started", "message.added",
        "model.completed", "turn.completed", "run.recovered",
    ]  # fmt: skip
    assert not (await journal.get_run(run.id)).recovering


async def test_an_answer_in_the_journal_is_handed_back_and_never_bought_again(journal: Journal) -> None:
    run = await new_run(journal)
    commit = asks("call_1")
    row = await journal.commit_model(run.id, "model-1", await begin(journal, run.id), commit)
    before = await types(journal, run.id)
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    assert begun.ended == row
    assert row.outcome == commit.outcome
    assert await journal.commit_model(run.id, "model-1", 1, commit) == row
    assert await types(journal, run.id) == before
    assert (await journal.get_run(run.id)).usage == commit.usage


@pytest.mark.parametrize("late", [1, 2])
async def test_of_two_answers_the_first_counts_and_both_are_paid(journal: Journal, late: int) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    first = await journal.commit_model(run.id, "model-1", 3 - late, said("First."))
    for _ in range(2):  # and the late one may come twice
        assert await journal.commit_model(run.id, "model-1", late, said("Second.", Usage(7, 7, cost_micros=7))) == first
    run = await journal.get_run(run.id)
    assert run.output == text("First.")
    assert run.usage == Usage(107, 27, cost_micros=382)
    events = await all_events(journal, run.id)
    assert [event.data["attempt"] for event in events if event.type == "usage.updated"] == [late]
    assert late in [event.attempt for event in events if event.type == "model.aborted"]
    assert len(await journal.list_messages(run.session_id)) == 2


async def test_deltas_of_a_superseded_attempt_or_an_ended_call_are_dropped(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    journal.live(Delta(run.id, "model-1", 1, "text.delta", "half "))
    await journal.flush_live(run.id, "model-1")
    await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    journal.live(Delta(run.id, "model-1", 1, "text.delta", "of a ghost"))
    journal.live(Delta(run.id, "model-1", 2, "text.delta", "whole"))
    await journal.flush_live(run.id, "model-1")
    await journal.commit_model(run.id, "model-1", 2, said("whole"))
    journal.live(Delta(run.id, "model-1", 2, "text.delta", "too late"))
    journal.live(Delta("run_none", "model-1", 2, "text.delta", "to nowhere"))
    await journal.flush_live(run.id, "model-1")
    await journal.flush_live("run_none", "model-1")
    deltas = [event for event in await all_events(journal, run.id) if event.type == "text.delta"]
    assert [(event.attempt, event.data) for event in deltas] == [
        (1, {"text": "half ", "index": 0}),
        (2, {"text": "whole", "index": 0}),
    ]


async def test_live_text_is_whole_and_in_order_whatever_the_pace(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    words = [f"word-{n} " for n in range(400)]
    for n, word in enumerate(words):
        journal.live(Delta(run.id, "model-1", 1, "text.delta" if n % 100 else "reasoning.delta", word, n // 200))
        if n % 10 == 0:
            await asyncio.sleep(0.002)
    await journal.flush_live(run.id, "model-1")
    deltas = [event for event in await all_events(journal, run.id) if event.type.endswith(".delta")]
    assert "".join(str(event.data["text"]) for event in deltas) == "".join(words)
    assert len(deltas) < 30
    assert [event.data["index"] for event in deltas] == sorted(int(str(event.data["index"])) for event in deltas)


async def test_the_first_piece_of_text_is_there_at_once(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    async with journal.follow(run.id) as follower:
        journal.live(Delta(run.id, "model-1", 1, "text.delta", "first"))
        while not await all_events(journal, run.id, types=["text.delta"]):
            assert await follower.wait(5)
    assert [e.data for e in await all_events(journal, run.id, types=["text.delta"])] == [{"text": "first", "index": 0}]
    assert await all_events(journal, run.id, types=["text.delta"], deltas=False) == []


async def test_a_failed_attempt_says_when_the_next_comes(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.fail_model_attempt(
        run.id, "model-1", await begin(journal, run.id), BROKE, retry_in_seconds=2.5, billed=True
    )
    await journal.fail_model_attempt(run.id, "model-1", 1, BROKE, retry_in_seconds=2.5, billed=True)
    assert (await types(journal, run.id))[-2:] == ["model.aborted", "model.retrying"]
    again = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK)
    assert (again.attempt, again.lost_attempt) == (2, None)
    await journal.fail_model_attempt(run.id, "model-1", 2, BROKE, retry_in_seconds=None, billed=True)
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK)
    assert begun.ended is not None
    assert (begun.ended.status, begun.ended.error) == ("failed", BROKE)


async def test_a_once_tool_whose_worker_is_gone_is_not_begun_again(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1"))
    await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=False)
    for _ in range(2):
        begun = await journal.begin_tool(run.id, "call_1", worker="w2", may_repeat=False)
        assert (begun.attempt, begun.lost_attempt, begun.ended) == (1, 1, None)
    row = await journal.commit_tool(run.id, "call_1", ToolCommit("unknown", "nobody knows", "tool_outcome_unknown"))
    assert (row.status, row.attempts) == ("unknown", 1)
    assert (await types(journal, run.id))[-5:] == [
        "tool.started", "run.recovering", "message.added", "tool.unknown", "run.recovered",
    ]  # fmt: skip


async def test_a_tool_that_may_repeat_is_begun_again_and_its_first_result_stands(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1"))
    await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=True)
    again = await journal.begin_tool(run.id, "call_1", worker="w2", may_repeat=True)
    assert (again.attempt, again.lost_attempt) == (2, 1)
    await journal.fail_tool_attempt(run.id, "call_1", 1, BROKE, retry_in_seconds=1)  # of the lost one: nothing
    await journal.fail_tool_attempt(run.id, "call_1", 2, BROKE, retry_in_seconds=1)
    assert (await journal.begin_tool(run.id, "call_1", worker="w2", may_repeat=True)).lost_attempt is None
    row = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "one"))
    assert await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "two")) == row
    assert (await types(journal, run.id))[8:] == [
        "tool.started", "run.recovering", "tool.retrying", "tool.started", "tool.retrying", "run.recovered",
        "tool.started", "message.added", "tool.completed",
    ]  # fmt: skip


async def test_parallel_calls_are_answered_each_once_in_any_order(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    run = await new_run(journal)
    calls = [f"call_{n}" for n in range(10)]
    await journal.commit_model(
        run.id, "model-1", await begin(journal, run.id), asks(*calls, arguments={"n": [1, None]})
    )

    async def work(worker: Journal, call: str) -> None:
        await worker.begin_tool(run.id, call, worker="w", may_repeat=True)
        await worker.commit_tool(run.id, call, ToolCommit("completed", call))

    await asyncio.gather(*(work(worker, call) for call in calls for worker in (journal, other)))
    results = (await journal.list_messages(run.session_id))[2:]
    assert (
        sorted(block["call_id"] for m in results for block in m["content"] if block["type"] == "tool_result") == calls
    )
    seen = await types(journal, run.id)
    assert seen.count("tool.completed") == seen.count("tool.requested") == 10
    assert all(row.arguments == {"n": [1, None]} for row in (await journal.list_calls(run.id))[1:])


@pytest.mark.parametrize(
    ("commit", "event"),
    [
        (ToolCommit("failed", "you may not", "tool_denied"), "tool.denied"),
        (ToolCommit("failed", "it broke", "tool_error"), "tool.failed"),
        (ToolCommit("completed", "start of it", blob="blob_" + "a" * 64, bytes=5_000_000), "tool.completed"),
    ],
)
async def test_a_call_can_be_answered_without_having_been_started(
    journal: Journal, commit: ToolCommit, event: str
) -> None:
    run = await new_run(journal)
    refused = ModelCommit(
        asks("call_1").content, MODEL, "tool_calls", USAGE, [CallAsked("call_1", "book", "not this one")], {}
    )
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), refused)
    row = await journal.commit_tool(run.id, "call_1", commit)
    assert (row.status, row.attempts, row.error is None) == (commit.status, 0, commit.status == "completed")
    events = await all_events(journal, run.id)
    assert [e.data["refusal"] for e in events if e.type == "tool.requested"] == ["not this one"]
    assert events[-1].type == event
    (result,) = (await journal.list_messages(run.session_id))[-1]["content"]
    assert result["type"] == "tool_result"
    assert (result["is_error"], result.get("blob"), result.get("bytes")) == (
        commit.status != "completed", commit.blob, 5_000_000 if commit.blob else None,
    )  # fmt: skip


async def test_a_clients_message_is_applied_once_or_handed_back(journal: Journal) -> None:
    run = await new_run(journal)
    for message in ("msg_a", "msg_a", "msg_b", "msg_c", "msg_d"):
        await journal.accept_message(run.id, NewMessage(message, text(message), "enqueue"))
    await journal.withdraw_message(run.id, "msg_c")
    await begin(journal, run.id, apply=((1, 3), (9, 9)))
    await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK, apply=((1, 3),))
    assert (await journal.withdraw_message(run.id, "msg_a")).status == "applied"
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    messages = await journal.list_messages(run.session_id)
    assert [message["id"] for message in messages[1:]] == ["msg_a", "msg_b"]
    events = await all_events(journal, run.id)
    assert [e.message_id for e in events if e.type == "inbox.accepted"] == ["msg_a", "msg_b", "msg_c", "msg_d"]
    assert [e.message_id for e in events if e.type == "inbox.applied"] == ["msg_a", "msg_b"]
    assert [e.message_id for e in events if e.type == "inbox.returned"] == ["msg_c", "msg_d"]


async def test_events_of_the_outbox_come_first_in_order_and_once(journal: Journal) -> None:
    run = await new_run(journal)
    carried = [outbox(n=1), outbox(n=2)]
    await journal.record(run.id, "record-1", carried[:1], None)
    await begin(journal, run.id, outbox=carried)
    await journal.record(run.id, "record-1", carried, None)
    assert (await types(journal, run.id))[3:] == ["log", "log", "turn.started", "model.started"]


async def test_calls_nobody_asked_for_are_not_found_and_call_ids_are_not_reused(journal: Journal) -> None:
    run = await new_run(journal)
    for missing in (
        journal.get_call(run.id, "model-1"),
        journal.begin_tool(run.id, "call_1", worker="w", may_repeat=True),
        journal.commit_model(run.id, "model-1", 1, said("unasked")),
    ):
        with pytest.raises(NotFound):
            await missing
    await begin(journal, run.id)
    with pytest.raises(ValueError, match="call ids must be new"):
        await journal.commit_model(run.id, "model-1", 1, asks("call_1", "call_1"))
    await journal.commit_model(run.id, "model-1", 1, asks("call_1", "call_2"))
    await begin(journal, run.id, 2)
    with pytest.raises(ValueError, match="call ids must be new"):
        await journal.commit_model(run.id, "model-2", 1, asks("call_1"))
    await types(journal, run.id)

"""What nobody answered in time, what nobody knows the outcome of, and calls that a person takes in hand."""

from __future__ import annotations

import json

import pytest

from perdure.core.happenings import AskSettled
from perdure.core.policy import ApprovalTerms, OnExpiry
from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.rows import AskType, RunRow, ToolCommit, ToolResult
from perdure.store.trouble import AskResolved, NotFound
from tests.store.asking import SHA, approve, asking, deny, edit, new_ask, orders, result_of, the_ask
from tests.store.runs import ASK, MODEL, all_events, asks, begin, new_run, outbox, said, types

KEY = "settle-call_1-0"


async def settle(journal: Journal, run: RunRow, key: str = KEY) -> AskSettled:
    return await journal.settle_ask(run.id, key, "call_1", [outbox(key="o")])


async def lost(journal: Journal, **more: object) -> RunRow:
    """A run with a ``once`` call whose worker is gone."""
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1"))
    await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=False)
    await journal.begin_tool(run.id, "call_1", worker="w2", may_repeat=False)
    return run


async def parked(journal: Journal, on_expiry: OnExpiry = "deny") -> RunRow:
    run = await lost(journal)
    terms = ApprovalTerms(60.0, on_expiry)
    await journal.park_tool(run.id, "call_1", 1, new_ask("unknown_outcome", terms=terms, reason="nobody knows"))
    return run


@pytest.mark.parametrize("type_", ["approval", "unknown_outcome"])
async def test_what_nobody_decides_is_denied_in_the_end(journal: Journal, type_: AskType) -> None:
    run = await asking(journal, new_ask()) if type_ == "approval" else await parked(journal)
    for _ in range(2):
        assert await settle(journal, run) == AskSettled(KEY, "call_1", "answered")
    ask = await the_ask(journal, run)
    assert (ask.status, ask.decision, ask.ended_ms is None) == ("expired", None, False)
    call = await journal.get_call(run.id, "call_1")
    result = await result_of(journal, run)
    assert result is not None
    assert result[1]
    assert "in time" in result[0]
    (expired,) = await all_events(journal, run.id, types=["approval.expired"])
    assert expired.data == {"approval_id": ask.id, "reason": "deny"}
    assert (await types(journal, run.id)).count("log") == 1
    assert await orders(journal, run) == [], "the workflow asked, and was told"
    if type_ == "approval":
        assert (call.status, call.error and call.error.code) == ("failed", "tool_denied")
    else:
        assert (call.status, call.error and call.error.code) == ("unknown", "tool_outcome_unknown")
        assert not (await journal.get_run(run.id)).recovering


async def test_what_nobody_decides_is_prolonged_once_where_it_escalates(journal: Journal) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(3_600.0, "escalate")))
    before = await the_ask(journal, run)
    for _ in range(2):  # a worker that did not hear the answer asks again
        settled = await settle(journal, run)
        assert (settled.outcome, settled.expires_ms) == ("escalated", before.expires_ms + 3_600_000)
    ask = await the_ask(journal, run)
    assert (ask.status, ask.escalated, ask.expires_ms) == ("open", True, settled.expires_ms)
    page = await journal.list_asks(
        "default", types=["approval"], limit=9, cursor=None, descending=False, escalated=True
    )
    assert page.rows == [ask]
    assert (await settle(journal, run, "settle-call_1-1")).outcome == "answered"
    expired = await all_events(journal, run.id, types=["approval.expired"])
    assert [event.data["reason"] for event in expired] == ["escalate", "deny"]


async def test_what_nobody_decides_ends_the_run_where_the_policy_says_so(journal: Journal) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(1.0, "fail")))
    for _ in range(2):
        assert (await settle(journal, run)).outcome == "failed"
    assert (await the_ask(journal, run)).status == "expired"
    assert (await journal.get_call(run.id, "call_1")).status == "requested"
    await journal.record(run.id, "finish", [], Outcome("failed", "tool_error"))
    assert (await types(journal, run.id))[-4:] == ["approval.expired", "message.added", "tool.failed", "run.failed"]


async def test_a_question_with_defaults_answers_itself_and_one_without_fails(journal: Journal) -> None:
    questions = [{"id": "q1", "question": "?", "default": "7"}, {"id": "q2", "question": "?", "default": None}]
    run = await asking(journal, new_ask("question", questions=questions))
    for _ in range(2):
        assert (await settle(journal, run)).outcome == "answered"
    result = await result_of(journal, run)
    assert result is not None
    assert (json.loads(result[0]), result[1]) == ({"q1": "7", "q2": None}, False)
    ask = await the_ask(journal, run)
    assert (ask.status, ask.answers) == ("expired", {"q1": "7", "q2": None})
    (expired,) = await all_events(journal, run.id, types=["question.expired"])
    assert expired.data == {"question_id": ask.id, "reason": "default"}
    run = await asking(journal, new_ask("question", questions=[*questions, {"id": "q3", "question": "?"}]))
    assert (await settle(journal, run)).outcome == "answered"
    result = await result_of(journal, run)
    assert result is not None
    assert result[1]


async def test_a_client_that_says_nothing_fails_its_call(journal: Journal) -> None:
    run = await asking(journal, new_ask("client_tool"))
    for _ in range(2):
        assert (await settle(journal, run)).outcome == "answered"
    call = await journal.get_call(run.id, "call_1")
    assert (call.status, call.error and call.error.code) == ("failed", "tool_timeout")


async def test_what_was_decided_just_before_its_time_was_over_holds(journal: Journal) -> None:
    run = await asking(journal, new_ask())
    await journal.decide("default", (await the_ask(journal, run)).id, approve())
    for _ in range(2):
        assert await settle(journal, run) == AskSettled(KEY, "call_1", "approved")
    run = await asking(journal, new_ask())
    await journal.decide("default", (await the_ask(journal, run)).id, deny())
    assert (await settle(journal, run)).outcome == "answered"
    run = await asking(journal, new_ask(client_seconds=600.0))
    await journal.decide("default", (await the_ask(journal, run)).id, approve())
    client = await the_ask(journal, run)
    for _ in range(2):
        assert await settle(journal, run) == AskSettled(KEY, "call_1", "approved", client.expires_ms)
    assert (await the_ask(journal, run)).status == "open"
    assert (await settle(journal, run, "settle-call_1-later")).outcome == "answered", (
        "now it is the client that is late"
    )
    with pytest.raises(NotFound):
        await journal.settle_ask(run.id, KEY, "call_9", [])


async def test_a_call_whose_outcome_nobody_knows_waits_for_a_person(journal: Journal) -> None:
    run = await lost(journal)
    new = new_ask("unknown_outcome", reason="its worker is gone")
    ask = await journal.park_tool(run.id, "call_1", 1, new)
    assert (ask.type, ask.status, ask.id[:4], ask.arguments) == ("unknown_outcome", "open", "apv_", {"room": 7})
    assert await journal.park_tool(run.id, "call_1", 1, new) == ask
    assert (await types(journal, run.id))[-3:] == ["run.recovering", "tool.unknown", "approval.requested"]
    (requested,) = await all_events(journal, run.id, types=["approval.requested"])
    assert requested.data["about"] == "unknown_outcome"
    assert (await journal.get_call(run.id, "call_1")).status == "started"
    with pytest.raises(NotFound):
        await journal.park_tool(run.id, "model-1", 1, new)


async def test_a_person_may_order_a_call_of_unknown_outcome_to_run_again(journal: Journal) -> None:
    run = await parked(journal)
    await journal.decide("default", (await the_ask(journal, run)).id, approve(scope="session"))
    assert await orders(journal, run) == [("approve", "call_1")]
    assert not (await journal.get_run(run.id)).recovering
    begun = await journal.begin_tool(run.id, "call_1", worker="w3", may_repeat=False)
    assert (begun.attempt, begun.lost_attempt, begun.ended) == (2, None, None)
    late = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "first"), attempt=1)
    assert late.status == "started", "the attempt that was given up is not heard any more"
    done = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "second"), attempt=2)
    assert done.status == "completed"
    assert await result_of(journal, run) == ("second", False)
    assert await journal.standing_decision(run.id, "book", SHA) is None, "to run again is no leave to run"


async def test_a_call_of_unknown_outcome_that_is_lost_again_is_asked_about_again(journal: Journal) -> None:
    run = await parked(journal)
    first = await the_ask(journal, run)
    await journal.decide("default", first.id, edit("bob", {"room": 9}))
    await journal.begin_tool(run.id, "call_1", worker="w3", may_repeat=False)
    begun = await journal.begin_tool(run.id, "call_1", worker="w4", may_repeat=False)
    assert (begun.attempt, begun.lost_attempt) == (2, 2)
    with pytest.raises(AskResolved):
        await journal.park_tool(run.id, "call_1", 1, new_ask("unknown_outcome"))
    again = await journal.park_tool(run.id, "call_1", 2, new_ask("unknown_outcome"))
    assert again.id != first.id
    assert again.arguments == {"room": 9}
    assert (await types(journal, run.id)).count("tool.unknown") == 2


async def test_a_denied_call_of_unknown_outcome_is_told_to_the_model_as_unknown(journal: Journal) -> None:
    run = await parked(journal)
    await journal.decide("default", (await the_ask(journal, run)).id, deny(message="it is booked, I looked"))
    call = await journal.get_call(run.id, "call_1")
    assert (call.status, await result_of(journal, run)) == ("unknown", ("it is booked, I looked", True))
    assert not (await journal.get_run(run.id)).recovering


async def test_a_worker_that_was_thought_dead_may_still_answer_and_the_run_hears_of_it(journal: Journal) -> None:
    run = await parked(journal)
    row = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "booked"), attempt=1)
    assert row.status == "completed"
    assert (await the_ask(journal, run)).status == "cancelled"
    assert await orders(journal, run) == [("answer", "call_1")]
    assert (await types(journal, run.id))[-4:] == [
        "approval.expired", "message.added", "tool.completed", "run.recovered",
    ]  # fmt: skip


async def test_a_call_that_is_refused_takes_its_question_away(journal: Journal) -> None:
    run = await asking(journal, new_ask(), new_ask("question", "call_2"))
    await journal.commit_tool(run.id, "call_1", ToolCommit("failed", "not run: a message arrived", "skipped"))
    assert [row.call_id for row in (await journal.open_asks([run.id]))[run.id]] == ["call_2"]
    ask = await the_ask(journal, run)
    with pytest.raises(AskResolved):
        await journal.decide("default", ask.id, approve())
    (expired,) = await all_events(journal, run.id, types=["approval.expired"])
    assert expired.data == {"approval_id": ask.id, "reason": "cancelled"}
    assert await orders(journal, run) == []


async def test_a_stuck_call_is_ordered_to_run_again(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1", "call_2"))
    await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=False)
    row = await journal.retry_call(run.id, "call_1", "bob", "it hangs")
    assert (row.status, row.open_attempt, row.attempts) == ("started", None, 1)
    assert await orders(journal, run) == [("retry_call", "call_1")]
    (retrying,) = await all_events(journal, run.id, types=["tool.retrying"])
    assert (retrying.data["attempt"], retrying.data["code"]) == (1, "retried")
    assert "bob" in str(retrying.data["message"])
    assert "it hangs" in str(retrying.data["message"])
    begun = await journal.begin_tool(run.id, "call_1", worker="w2", may_repeat=False, ordered=1)
    assert (begun.attempt, begun.lost_attempt) == (2, None)
    assert (await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "late"), attempt=1)).status == "started"
    await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "done"), attempt=2)
    for wrong, error in (("call_1", AskResolved), ("call_2", AskResolved), ("call_9", NotFound), ("model-1", NotFound)):
        with pytest.raises(error):
            await journal.retry_call(run.id, wrong, "bob", "")


async def test_a_retry_is_no_way_around_an_approval(journal: Journal) -> None:
    run = await asking(journal, new_ask())
    with pytest.raises(AskResolved):
        await journal.retry_call(run.id, "call_1", "bob", "now")
    assert (await the_ask(journal, run)).status == "open"
    assert await orders(journal, run) == []


async def test_a_parked_call_is_retried_and_its_question_closed(journal: Journal) -> None:
    run = await parked(journal)
    await journal.retry_call(run.id, "call_1", "bob", "")
    assert (await the_ask(journal, run)).status == "cancelled"
    assert (await journal.begin_tool(run.id, "call_1", worker="w", may_repeat=False)).lost_attempt is None


@pytest.mark.parametrize("how", ["started", "parked", "approval", "client_tool"])
async def test_a_person_may_give_a_calls_result_by_hand_or_abort_it(journal: Journal, how: str) -> None:
    match how:
        case "started":
            run = await lost(journal)
        case "parked":
            run = await parked(journal)
        case _:
            run = await asking(journal, new_ask(how))  # type: ignore[arg-type]
    row = await journal.resolve_call(run.id, "call_1", ToolCommit("failed", "aborted: wrong room", "aborted"), "bob")
    assert (row.status, row.error and row.error.code) == ("failed", "aborted")
    assert await journal.open_asks([run.id]) == {}
    assert await orders(journal, run) == [("answer", "call_1")]
    ended = (await all_events(journal, run.id, types=["tool.failed"]))[-1]
    assert ended.data["by"] == "bob"
    assert (await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "late"))).status == "failed"
    for again in (
        journal.resolve_call(run.id, "call_1", ToolCommit("completed", "x"), "bob"),
        journal.park_tool(run.id, "call_1", 1, new_ask("unknown_outcome")),
    ):
        with pytest.raises(AskResolved):
            await again
    with pytest.raises(NotFound):
        await journal.resolve_call(run.id, "call_9", ToolCommit("completed", "x"), "bob")
    if how == "client_tool":
        with pytest.raises(AskResolved):
            await journal.give_results(run.id, [ToolResult("call_1", "mine")], "bob")


async def test_what_an_answer_asked_for_that_was_called_off_is_closed_with_every_call_before(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    await journal.commit_model(run.id, "model-1", 1, asks("call_1"))  # its worker dies before it reports
    again = {"model": MODEL, "worker": "w", "ask": ASK}
    await journal.begin_model(run.id, "model-1-1", 1, closes="model-1", **again)  # and so does this one
    await journal.begin_model(run.id, "model-1-2", 1, closes="model-1-1", **again)
    calls = {call.key: call for call in await journal.list_calls(run.id)}
    assert (calls["call_1"].status, calls["model-1-1"].status) == ("failed", "failed")
    assert calls["call_1"].error
    assert calls["call_1"].error.code == "skipped"
    assert (await journal.get_run(run.id)).account.reserved.cost_micros > 0, "only the newest call holds money"
    await journal.commit_model(run.id, "model-1-2", 1, said("Done."))
    assert (await journal.get_run(run.id)).account.reserved.cost_micros == 0


async def test_a_delivery_from_before_an_order_to_retry_leaves_the_new_attempt_alone(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    await journal.commit_model(run.id, "model-1", 1, asks("call_1"))
    once = {"worker": "w", "may_repeat": False, "tries_max": 3}
    await journal.begin_tool(run.id, "call_1", **once)
    await journal.retry_call(run.id, "call_1", "ada", "")
    await journal.retry_call(run.id, "call_1", "ada", "")
    number = (await journal.undelivered_orders(run.id, limit=9))[-1].number
    assert (await journal.begin_tool(run.id, "call_1", **once)).superseded, "its worker was thought dead"
    assert (await journal.begin_tool(run.id, "call_1", ordered=number - 1, **once)).superseded, "the first order"
    begun = await journal.begin_tool(run.id, "call_1", ordered=number, **once)
    assert (begun.attempt, begun.tries, begun.lost_attempt) == (2, 1, None)
    assert (await journal.begin_tool(run.id, "call_1", **once)).superseded
    assert "tool.unknown" not in await types(journal, run.id)


async def test_each_order_to_retry_gives_a_tool_its_tries_anew(journal: Journal) -> None:
    run = await new_run(journal)
    await begin(journal, run.id)
    await journal.commit_model(run.id, "model-1", 1, asks("call_1"))
    again = {"worker": "w", "may_repeat": True, "tries_max": 2}
    tries = [await journal.begin_tool(run.id, "call_1", **again) for _ in range(3)]
    assert [begun.given_up for begun in tries] == [False, False, True]
    assert (await types(journal, run.id)).count("tool.started") == 2, "what is given up has not started"
    await journal.retry_call(run.id, "call_1", "ada", "")
    number = (await journal.undelivered_orders(run.id, limit=9))[-1].number
    tries = [await journal.begin_tool(run.id, "call_1", ordered=number, **again) for _ in range(3)]
    assert [(begun.attempt, begun.given_up) for begun in tries] == [(3, False), (4, False), (4, True)]

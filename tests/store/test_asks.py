"""Approvals, questions and client tools: who may decide what, who wins, and what becomes of the call."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from perdure.core.budget import Budget
from perdure.core.happenings import Order
from perdure.core.policy import ApprovalTerms
from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.rows import AskRow, Decision, NewRun, ToolCommit, ToolResult
from perdure.store.trouble import AskExpired, AskResolved, AskStale, InvalidCursor, NotEligible, NotFound, RunOver
from tests.store.asking import (
    OTHER_SHA,
    QUESTIONS,
    SHA,
    approve,
    asking,
    deny,
    edit,
    new_ask,
    orders,
    result_of,
    the_ask,
)
from tests.store.conftest import Open
from tests.store.runs import AGENT, FAR, all_events, asks, begin, new_run, text, types


async def test_what_must_be_asked_is_asked_with_the_answer_that_wants_it(journal: Journal) -> None:
    terms = ApprovalTerms(60.0, "escalate", 2, True)
    run = await asking(
        journal, new_ask(terms=terms), new_ask("question", "call_2", questions=QUESTIONS),
        new_ask("client_tool", "call_3"), requested_by="ann",
    )  # fmt: skip
    assert (await types(journal, run.id))[6:] == [
        "tool.requested", "tool.requested", "tool.requested", "approval.requested", "question.asked",
        "model.completed",
    ]  # fmt: skip
    approval, question, client = (await journal.open_asks([run.id, "run_none"]))[run.id]
    assert [ask.id[:4] for ask in (approval, question, client)] == ["apv_", "qst_", "ctc_"]
    assert approval == AskRow(
        id=approval.id, type="approval", status="open", project_id="default", run_id=run.id,
        session_id=run.session_id, call_id="call_1", tool="book", arguments={"room": 7}, args_sha256=SHA,
        rule="rules[0]", reason="it costs money", terms=terms, requested_by="ann", questions=None, answers=None,
        votes=[], decision=None, decided_by=None, message=None, edited=False, scope="once", escalated=False,
        client_seconds=None, asked_ms=approval.asked_ms, expires_ms=FAR, ended_ms=None,
    )  # fmt: skip
    assert (question.questions, client.type) == (QUESTIONS, "client_tool")
    requested, asked = await all_events(journal, run.id, types=["approval.requested", "question.asked"])
    assert (requested.call_id, requested.data) == (
        "call_1",
        {
            "approval_id": approval.id, "tool": "book", "args_sha256": SHA, "arguments_preview": '{"room":7}',
            "rule": "rules[0]", "reason": "it costs money", "expires_at_ms": FAR, "quorum": 2, "four_eyes": True,
            "about": "call",
        },
    )  # fmt: skip
    assert asked.data == {"question_id": question.id, "questions": QUESTIONS, "expires_at_ms": FAR}
    assert await journal.get_ask("default", approval.id) == approval == await the_ask(journal, run)
    for project, ask_id, kind in (("other", approval.id, "approval"), ("default", "qst_x", "question"),
                                  ("default", "x", "ask")):  # fmt: skip
        with pytest.raises(NotFound) as missing:
            await journal.get_ask(project, ask_id)
        assert missing.value.kind == kind
    with pytest.raises(NotFound):
        await journal.find_ask(run.id, "call_9")


async def test_an_approved_call_goes_on_and_approving_twice_is_approving_once(journal: Journal) -> None:
    run = await asking(journal, new_ask())
    ask = await the_ask(journal, run)
    decided = await journal.decide("default", ask.id, approve(message="fine", args_sha256=SHA))
    assert (decided.status, decided.decision, decided.decided_by, decided.message) == (
        "approved", "approve", "bob", "fine",
    )  # fmt: skip
    assert [(vote.by, vote.decision) for vote in decided.votes] == [("bob", "approve")]
    assert decided == await the_ask(journal, run)
    before = await types(journal, run.id)
    assert await journal.decide("default", ask.id, approve(message="fine")) == decided
    assert await types(journal, run.id) == before
    assert await orders(journal, run) == [("approve", "call_1")]
    assert await journal.open_asks([run.id]) == {}
    (event,) = await all_events(journal, run.id, types=["approval.decided"])
    assert event.data == {
        "approval_id": ask.id, "decision": "approve", "by": "bob", "scope": "once", "message": "fine",
        "args_sha256": SHA,
    }  # fmt: skip
    for other in (approve("carl"), deny(), approve(message="fine", scope="run"), approve(message="better")):
        with pytest.raises(AskResolved) as resolved:
            await journal.decide("default", ask.id, other)
        assert resolved.value.row == decided
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    assert (await journal.decide("default", ask.id, approve(message="fine"))).status == "approved"
    with pytest.raises(NotFound):
        await journal.decide("other", ask.id, approve(message="fine"))


async def test_one_denial_is_enough_and_is_the_calls_answer(journal: Journal) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(quorum=3)))
    ask = await the_ask(journal, run)
    await journal.decide("default", ask.id, approve("ann"))
    denied = await journal.decide("default", ask.id, deny(message="too dear"))
    assert (denied.status, denied.decision, denied.decided_by) == ("denied", "deny", "bob")
    assert [(vote.by, vote.decision) for vote in denied.votes] == [("ann", "approve"), ("bob", "deny")]
    assert await result_of(journal, run) == ("too dear", True)
    assert await orders(journal, run) == [("answer", "call_1")]
    assert (await types(journal, run.id))[-4:] == [
        "approval.voted", "approval.decided", "message.added", "tool.denied",
    ]  # fmt: skip
    call = await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "booked anyway"))
    assert call.status == "failed"


async def test_a_response_is_the_calls_result(journal: Journal) -> None:
    run = await asking(journal, new_ask())
    ask = await the_ask(journal, run)
    for _ in range(2):
        row = await journal.decide("default", ask.id, Decision("respond", "bob", "room 7 is mine already"))
        assert row.status == "responded"
    with pytest.raises(AskResolved):
        await journal.decide("default", ask.id, Decision("respond", "bob", "no, room 8"))
    assert await result_of(journal, run) == ("room 7 is mine already", False)
    assert (await journal.get_call(run.id, "call_1")).status == "completed"
    assert await orders(journal, run) == [("answer", "call_1")]


async def test_a_quorum_counts_different_people_and_the_narrowest_scope(journal: Journal) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(quorum=3)))
    ask = await the_ask(journal, run)
    for by, scope in (("ann", "session"), ("ann", "session"), ("bob", "run")):
        row = await journal.decide("default", ask.id, approve(by, scope=scope))
        assert row.status == "open"
    with pytest.raises(NotEligible):
        await journal.decide("default", ask.id, approve("ann", scope="once"))
    assert await orders(journal, run) == []
    voted = await all_events(journal, run.id, types=["approval.voted"])
    assert [(e.data["by"], e.data["votes"], e.data["quorum"]) for e in voted] == [("ann", 1, 3), ("bob", 2, 3)]
    row = await journal.decide("default", ask.id, approve("carl", scope="session"))
    assert (row.status, row.decided_by, row.scope) == ("approved", "carl", "run")
    assert await journal.decide("default", ask.id, approve("ann", scope="session")) == row


@pytest.mark.parametrize(("requested_by", "same"), [("ann", "ann"), (None, "anonymous"), ("anonymous", "anonymous")])
async def test_with_four_eyes_whoever_asked_for_the_run_may_only_deny(
    journal: Journal, requested_by: str | None, same: str
) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(four_eyes=True)), requested_by=requested_by)
    ask = await the_ask(journal, run)
    for decision in (approve(same), edit(same, {"room": 8}), Decision("respond", same, "done")):
        with pytest.raises(NotEligible):
            await journal.decide("default", ask.id, decision)
    assert (await the_ask(journal, run)) == ask
    assert (await journal.get_call(run.id, "call_1")).arguments == {"room": 7}
    assert (await journal.decide("default", ask.id, deny(same))).status == "denied"


async def test_edited_arguments_take_the_place_of_the_models_and_make_votes_void(journal: Journal) -> None:
    run = await asking(journal, new_ask(terms=ApprovalTerms(quorum=2)))
    ask = await the_ask(journal, run)
    await journal.decide("default", ask.id, approve("ann"))
    row = await journal.decide("default", ask.id, edit("bob", {"room": 8}))
    assert (row.status, row.edited, row.arguments, row.args_sha256) == ("open", True, {"room": 8}, OTHER_SHA)
    assert [vote.by for vote in row.votes] == ["bob"]
    assert await journal.decide("default", ask.id, edit("bob", {"room": 8})) == row
    with pytest.raises(AskStale) as stale:
        await journal.decide("default", ask.id, approve("carl", args_sha256=SHA))
    assert stale.value.args_sha256 == OTHER_SHA
    with pytest.raises(NotEligible):
        await journal.decide("default", ask.id, approve("bob"))
    row = await journal.decide("default", ask.id, approve("ann", args_sha256=OTHER_SHA))
    assert (row.status, row.decision, row.edited) == ("approved", "approve", True)
    (event,) = await all_events(journal, run.id, types=["approval.decided"])
    assert (event.data["edited"], event.data["args_sha256"]) == (True, OTHER_SHA)
    begun = await journal.begin_tool(run.id, "call_1", worker="w", may_repeat=False)
    assert begun.call is not None
    assert begun.call.arguments == {"room": 8}
    assert (await journal.list_calls(run.id))[1].arguments == {"room": 8}
    asked = (await journal.list_messages(run.session_id))[1]["content"][0]
    assert asked["type"] == "tool_call"
    assert asked["arguments"] == {"room": 7}, "what the model said stays said"


async def test_a_decision_after_its_time_is_too_late_whether_or_not_anybody_noticed(journal: Journal) -> None:
    run = await asking(journal, new_ask(expires_ms=1_000), new_ask("question", "call_2", expires_ms=1_000),
                       new_ask("client_tool", "call_3", expires_ms=1_000))  # fmt: skip
    approval, question, _ = (await journal.open_asks([run.id]))[run.id]
    for _ in range(2):
        for late in (
            journal.decide("default", approval.id, approve()),
            journal.decide("default", approval.id, deny()),
            journal.answer("default", question.id, {"q1": "7"}, "bob"),
            journal.give_results(run.id, [ToolResult("call_3", "x")], "bob"),
        ):
            with pytest.raises(AskExpired):
                await late
        for number in "123":
            await journal.settle_ask(run.id, f"settle-call_{number}-0", f"call_{number}", [])


async def test_nothing_is_decided_in_a_run_that_is_over(journal: Journal) -> None:
    run = await asking(journal, new_ask(), new_ask("question", "call_2"), new_ask("client_tool", "call_3"))
    approval, question, _ = (await journal.open_asks([run.id]))[run.id]
    await journal.force_cancel(run.id, "enough")
    for late in (
        journal.decide("default", approval.id, approve()),
        journal.answer("default", question.id, {}, "bob"),
        journal.give_results(run.id, [ToolResult("call_3", "x")], "bob"),
        journal.settle_ask(run.id, "settle-call_1-0", "call_1", []),
        journal.retry_call(run.id, "call_1", "bob", ""),
        journal.resolve_call(run.id, "call_1", ToolCommit("completed", "x"), "bob"),
        journal.park_tool(run.id, "call_1", 1, new_ask("unknown_outcome")),
    ):
        with pytest.raises(RunOver):
            await late
    assert await journal.open_asks([run.id]) == {}
    assert (await the_ask(journal, run)).status == "cancelled"
    assert (await types(journal, run.id))[-9:] == [
        "approval.expired", "question.expired", *["message.added", "tool.failed"] * 3, "run.cancelled",
    ]  # fmt: skip


async def test_of_many_who_decide_at_once_one_wins_and_the_others_are_told(
    journal: Journal, open_another: Open
) -> None:
    other = await open_another()
    for n in range(5):
        run = await asking(journal, new_ask())
        ask = await the_ask(journal, run)
        people = [approve("ann"), deny("bob"), Decision("respond", "carl", "x"), edit("dora", {"room": 8})] * 2
        outcomes = await asyncio.gather(
            *(
                j.decide("default", ask.id, d)
                for j, d in zip((journal, other) * 4, people[n:] + people[:n], strict=True)
            ),
            return_exceptions=True,
        )
        winners = [outcome for outcome in outcomes if isinstance(outcome, AskRow)]
        assert len(winners) == 2, "whoever won said it twice, and was right twice"
        assert winners[0] == winners[1] == await the_ask(journal, run)
        assert sum(isinstance(outcome, AskResolved) for outcome in outcomes) == 6
        assert len(await orders(journal, run)) == 1
        seen = await types(journal, run.id)
        assert seen.count("approval.decided") == 1
        assert seen.count("tool.denied") + seen.count("tool.completed") <= 1


async def test_two_processes_that_decide_at_once_cannot_both_win(
    journal: Journal, sql_url: str, blob_folder: Path
) -> None:
    runs = [await asking(journal, new_ask()) for _ in range(10)]
    ids = [(await the_ask(journal, run)).id for run in runs]
    code = (
        "import asyncio, pathlib, sys\n"
        "from perdure.store.rows import Decision\nfrom perdure.store.trouble import AskResolved\n"
        "from perdure.store.sql import open_journal\n"
        "async def main():\n"
        "    url, blobs, name, *ids = sys.argv[1:]\n"
        "    journal = await open_journal(url, pathlib.Path(blobs))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    won = 0\n"
        "    for ask_id in ids:\n"
        "        try:\n"
        "            await journal.decide('default', ask_id, Decision('approve', name))\n"
        "            won += 1\n"
        "        except AskResolved:\n"
        "            pass\n"
        "    print(won)\n"
        "    await journal.close()\n"
        "asyncio.run(main())"
    )
    pipe = asyncio.subprocess.PIPE
    racing = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, sql_url, str(blob_folder), name, *ids, stdin=pipe, stdout=pipe
        )
        for name in ("ann", "bob")
    ]
    for process in racing:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    heard = await asyncio.gather(*(process.communicate(b"go\n") for process in racing))
    assert sum(int(out) for out, _ in heard) == 10
    for run in runs:
        assert (await types(journal, run.id)).count("approval.decided") == 1
        assert await orders(journal, run) == [("approve", "call_1")]


# Questions and client tools -------------------------------------------------------------------------


async def test_answers_to_a_question_are_its_calls_result(journal: Journal) -> None:
    run = await asking(journal, new_ask("question", questions=QUESTIONS))
    ask = await the_ask(journal, run)
    answers = {"q1": "7", "q2": ["a", None]}
    for by in ("bob", "carl"):
        row = await journal.answer("default", ask.id, dict(reversed(answers.items())), by)  # type: ignore[arg-type]
        assert (row.status, row.answers, row.decided_by) == ("answered", answers, "bob")
    with pytest.raises(AskResolved):
        await journal.answer("default", ask.id, {"q1": "8"}, "bob")
    with pytest.raises(NotFound):
        await journal.decide("default", ask.id, approve())
    result = await result_of(journal, run)
    assert result is not None
    assert (json.loads(result[0]), result[1]) == (answers, False)
    assert (await types(journal, run.id))[-3:] == ["question.answered", "message.added", "tool.completed"]
    assert await orders(journal, run) == [("answer", "call_1")]


async def test_a_clients_results_are_taken_all_or_none_and_once(journal: Journal) -> None:
    run = await asking(journal, new_ask("client_tool"), new_ask("client_tool", "call_2"), new_ask("question", "call_3"))
    ok, bad = ToolResult("call_1", "7 is free"), ToolResult("call_2", "no such room", is_error=True)
    for missing in ("call_3", "call_9", "model-1"):
        with pytest.raises(NotFound):
            await journal.give_results(run.id, [ok, ToolResult(missing, "x")], "bob")
    with pytest.raises(AskResolved):
        await journal.give_results(run.id, [ok, ToolResult("call_1", "another")], "bob")
    assert await orders(journal, run) == []
    rows = await journal.give_results(run.id, [ok, bad, ok], "bob")
    assert [(row.call_id, row.status, row.decided_by) for row in rows] == [
        ("call_1", "answered", "bob"), ("call_2", "answered", "bob"),
    ]  # fmt: skip
    before = await types(journal, run.id)
    assert [row.status for row in await journal.give_results(run.id, [ok], "carl")] == ["answered"]
    with pytest.raises(AskResolved):
        await journal.give_results(run.id, [ToolResult("call_1", "7 is taken")], "bob")
    assert await types(journal, run.id) == before
    assert before[-4:] == ["message.added", "tool.completed", "message.added", "tool.failed"]
    assert await result_of(journal, run, "call_2") == ("no such room", True)
    assert await orders(journal, run) == [("answer", "call_1"), ("answer", "call_2")]


async def test_a_large_result_of_a_client_stands_in_a_blob(journal: Journal) -> None:
    run = await asking(journal, new_ask("client_tool"))
    large = ToolResult("call_1", "the start of it", blob="blob_" + "a" * 64, bytes=5_000_000)
    for _ in range(2):
        await journal.give_results(run.id, [large], "bob")
    (block,) = (await journal.list_messages(run.session_id))[-1]["content"]
    assert block["type"] == "tool_result"
    assert (block.get("blob"), block.get("bytes")) == (large.blob, large.bytes)


async def test_an_approved_client_tool_goes_to_the_client(journal: Journal) -> None:
    run = await asking(journal, new_ask(client_seconds=30.0))
    approval = await the_ask(journal, run)
    await journal.decide("default", approval.id, approve())
    client = await the_ask(journal, run)
    assert (client.type, client.status, client.arguments) == ("client_tool", "open", {"room": 7})
    assert client.expires_ms == client.asked_ms + 30_000
    assert await journal.undelivered_orders(run.id, limit=9) == [
        Order(1, "approve", call_id="call_1", expires_ms=client.expires_ms)
    ]
    await journal.give_results(run.id, [ToolResult("call_1", "done")], "bob")
    assert await result_of(journal, run) == ("done", False)


# Lists and precedents -------------------------------------------------------------------------------


async def test_asks_are_listed_across_runs_filtered_and_paged(journal: Journal) -> None:
    runs = [await asking(journal, new_ask(), new_ask("question", "call_2", questions=QUESTIONS)) for _ in range(3)]
    foreign = await asking(journal, new_ask(), project_id="other")
    made = [(await the_ask(journal, run)).id for run in runs]
    for descending in (False, True):
        seen, cursor = [], None
        while True:
            page = await journal.list_asks(
                "default", types=["approval", "unknown_outcome"], limit=2, cursor=cursor, descending=descending
            )
            seen += [row.id for row in page.rows]
            if (cursor := page.next_cursor) is None:
                break
        assert seen == (made[::-1] if descending else made)
    await journal.decide("default", made[0], deny())

    async def listed(**filters: object) -> list[str]:
        page = await journal.list_asks(
            "default", types=["approval"], limit=9, cursor=None, descending=False, **filters  # type: ignore[arg-type]
        )  # fmt: skip
        return [row.id for row in page.rows]

    assert await listed(statuses=["open"]) == made[1:]
    assert await listed(statuses=["open", "denied"], run_id=runs[0].id) == made[:1]
    assert await listed(escalated=True) == []
    assert await listed(escalated=False) == made
    with pytest.raises(InvalidCursor):
        await journal.list_asks("other", types=["approval"], limit=2, cursor=made[0], descending=False)
    pending = await journal.open_asks([foreign.id, runs[0].id, runs[1].id])
    assert {run_id: [row.type for row in rows] for run_id, rows in pending.items()} == {
        foreign.id: ["approval"], runs[0].id: ["question"], runs[1].id: ["approval", "question"],
    }  # fmt: skip
    assert await journal.open_asks([]) == {}


async def test_a_decision_stands_as_far_as_its_scope_goes(journal: Journal) -> None:
    run = await asking(journal, new_ask(), new_ask(call_id="call_2", args_sha256=OTHER_SHA))
    first, second = (await journal.open_asks([run.id]))[run.id]
    assert await journal.standing_decision(run.id, "book", SHA) is None
    decided = await journal.decide("default", first.id, approve(scope="run"))
    await journal.decide("default", second.id, approve())
    assert await journal.standing_decision(run.id, "book", SHA) == decided
    assert await journal.standing_decision(run.id, "book", OTHER_SHA) is None, "once is once"
    assert await journal.standing_decision(run.id, "cancel", SHA) is None
    for call_id in ("call_1", "call_2"):
        await journal.commit_tool(run.id, call_id, ToolCommit("completed", "x"))
    await asking(journal, new_ask(call_id="call_3", args_sha256="c" * 64), turn=2, run=run)
    denied = await journal.decide(
        "default", (await the_ask(journal, run, "call_3")).id, deny(message="never", scope="session")
    )
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    later = await new_run(journal, session_id=run.session_id)
    stranger = await new_run(journal)
    assert await journal.standing_decision(later.id, "book", "c" * 64) == denied
    assert await journal.standing_decision(later.id, "book", SHA) is None, "another run of the session"
    assert await journal.standing_decision(stranger.id, "book", "c" * 64) is None


async def test_edited_arguments_are_what_stands_and_the_newest_word_counts(journal: Journal) -> None:
    run = await asking(journal, new_ask(), new_ask(call_id="call_2", args_sha256=OTHER_SHA))
    first, second = (await journal.open_asks([run.id]))[run.id]
    await journal.decide("default", first.id, edit("bob", {"room": 8}, scope="session"))
    assert await journal.standing_decision(run.id, "book", SHA) is None
    standing = await journal.standing_decision(run.id, "book", OTHER_SHA)
    assert standing is not None
    assert standing.status == "approved"
    await asyncio.sleep(0.002)
    await journal.decide("default", second.id, deny(scope="run"))
    standing = await journal.standing_decision(run.id, "book", OTHER_SHA)
    assert standing is not None
    assert standing.status == "denied"


async def test_identical_failures_in_a_row_are_counted(journal: Journal) -> None:
    run = await new_run(journal)
    turn = 0

    async def call(status: str, sha256: str = SHA, tool: str = "book", code: str = "tool_error") -> int:
        nonlocal turn
        turn += 1
        commit = asks(f"call_{turn}")
        commit = type(commit)(
            [{**commit.content[0], "name": tool}], "m", "tool_calls", commit.usage,  # type: ignore[list-item]
            [type(commit.calls[0])(f"call_{turn}", tool)], {}, hashes=[sha256],
        )  # fmt: skip
        await journal.commit_model(run.id, f"model-{turn}", await begin(journal, run.id, turn), commit)
        await journal.commit_tool(run.id, f"call_{turn}", ToolCommit(status, "x", code))  # type: ignore[arg-type]
        return await journal.failures_in_a_row(run.id, "book", SHA)

    assert await journal.failures_in_a_row(run.id, "book", SHA) == 0
    assert [await call("failed"), await call("failed")] == [1, 2]
    assert await call("failed", tool="cancel") == 2, "another tool is not in between"
    assert await call("failed", code="skipped") == 2, "it was not even tried"
    assert await call("failed") == 3
    assert await call("failed", sha256=OTHER_SHA) == 0
    assert [await call("failed"), await call("completed"), await call("unknown"), await call("failed")] == [1, 0, 0, 1]


async def test_odd_words_in_decisions_do_no_harm(journal: Journal) -> None:
    odd = "nul \0 half \ud83d"
    run = await journal.create_run(NewRun("run_odd", AGENT, text("x"), FAR, {}, budget=Budget(10**9), requested_by=odd))
    run = await asking(journal, new_ask(reason=odd), new_ask("question", "call_2", questions=[{"id": odd}]), run=run)
    approval, question = (await journal.open_asks([run.id]))[run.id]
    assert question.questions == [{"id": odd}]
    for _ in range(2):
        row = await journal.decide("default", approval.id, deny(odd, odd))
        assert row.status == "denied"
        assert (await journal.answer("default", question.id, {odd: odd}, odd)).answers == {odd: odd}
    with pytest.raises(NotFound):
        await journal.get_ask("default", odd)

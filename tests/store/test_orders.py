"""Orders to a run and messages in its inbox: numbered once, delivered until confirmed, applied or handed back."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from perdure.core.budget import Budget
from perdure.core.happenings import Order
from perdure.core.numbers import Numbers
from perdure.core.spec import Limits
from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.rows import INBOX_WAITING_MAX, InboxRow, NewMessage
from perdure.store.trouble import InboxFull, NotFound, RunOver
from tests.store.conftest import Open
from tests.store.runs import ASK, MODEL, all_events, begin, new_run, outbox, said, text, types


def message(name: str, delivery: str = "steer") -> NewMessage:
    return NewMessage(f"msg_{name}", text(name), delivery)  # type: ignore[arg-type]


def shown(rows: list[InboxRow]) -> list[tuple[str, int, str]]:
    return [(row.id, row.number, row.status) for row in rows]


async def test_orders_are_numbered_in_one_sequence_and_delivered_until_they_are_confirmed(journal: Journal) -> None:
    run = await new_run(journal)
    pause = await journal.give_order(run.id, Order(0, "pause", reason="lunch"))
    accepted = await journal.accept_message(run.id, message("a", "interrupt"))
    await journal.withdraw_message(run.id, "msg_a")
    await journal.update_run(run.id, limits={"max_turns": 7}, budget=Budget(1, on_limit="pause"), deadline_ms=99)
    again = await journal.give_order(run.id, Order(77, "resume"))
    assert (pause.number, accepted.number, again.number) == (1, 2, 5)
    orders = [
        Order(1, "pause", reason="lunch"),
        Order(2, "message", delivery="interrupt"),
        Order(3, "withdraw", numbers=((2, 2),)),
        Order(4, "limits", limits=Limits(max_turns=7), on_limit="pause", deadline_ms=99),
        Order(5, "resume"),
    ]
    for _ in range(2):
        assert await journal.undelivered_orders(run.id, limit=10) == orders
    assert await journal.undelivered_orders(run.id, limit=2) == orders[:2]
    await journal.confirm_orders(run.id, [1, 3, 3, 9])
    await journal.confirm_orders(run.id, [1])
    await journal.confirm_orders(run.id, [])
    assert await journal.undelivered_orders(run.id, limit=10) == [orders[1], *orders[3:]]
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    assert await journal.undelivered_orders(run.id, limit=10) == []
    with pytest.raises(RunOver):
        await journal.give_order(run.id, Order(0, "pause"))
    with pytest.raises(NotFound):
        await journal.give_order("run_none", Order(0, "pause"))
    assert await journal.undelivered_orders("run_none", limit=10) == []


async def test_runs_whose_orders_nobody_delivers_are_found_the_oldest_first(journal: Journal) -> None:
    first, second, over, unstarted, heard = [await new_run(journal) for _ in range(5)]
    for run in (first, second, over, heard):
        await journal.mark_workflow_started(run.id)
    for run in (first, second, over, unstarted, heard, first):
        await journal.give_order(run.id, Order(0, "pause"))
        await asyncio.sleep(0.003)
    await journal.confirm_orders(heard.id, [1])
    await journal.force_cancel(over.id, "")
    assert await journal.runs_with_orders(older_than_ms=0, limit=10) == [first.id, second.id]
    assert await journal.runs_with_orders(older_than_ms=0, limit=1) == [first.id]
    assert await journal.runs_with_orders(older_than_ms=60_000, limit=10) == []
    await journal.confirm_orders(first.id, [1])
    assert await journal.runs_with_orders(older_than_ms=0, limit=10) == [second.id, first.id]


async def test_orders_given_at_once_by_many_have_each_a_number_of_their_own(
    journal: Journal, open_another: Open
) -> None:
    other = await open_another()
    run = await new_run(journal)
    given = await asyncio.gather(
        *(j.give_order(run.id, Order(0, "cancel", reason=str(n))) for n, j in enumerate((journal, other) * 15))
    )
    assert sorted(order.number for order in given) == list(range(1, 31))
    assert await other.undelivered_orders(run.id, limit=99) == sorted(given, key=lambda order: order.number)


async def test_an_order_is_no_sign_of_life_of_its_run(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.give_order(run.id, Order(0, "pause"))
    assert await journal.get_run(run.id) == run


async def test_a_message_waits_until_it_is_applied_withdrawn_or_handed_back(journal: Journal) -> None:
    run = await new_run(journal)
    for name in "abcd":
        row = await journal.accept_message(run.id, message(name, "enqueue"))
    assert row == InboxRow("msg_d", run.id, 4, text("d"), "enqueue", "accepted", row.at_ms)
    assert await journal.accept_message(run.id, message("d", "enqueue")) == row
    assert shown([await journal.withdraw_message(run.id, "msg_b")]) == [("msg_b", 2, "returned")]
    assert (await journal.withdraw_message(run.id, "msg_b")).status == "returned"
    with pytest.raises(NotFound):
        await journal.withdraw_message(run.id, "msg_none")
    await begin(journal, run.id, apply=((1, 3),))
    assert shown(await journal.list_inbox(run.id, waiting=True)) == [("msg_d", 4, "accepted")]
    assert shown(await journal.list_inbox(run.id, waiting=False)) == [
        ("msg_a", 1, "applied"), ("msg_b", 2, "returned"), ("msg_c", 3, "applied"), ("msg_d", 4, "accepted"),
    ]  # fmt: skip
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    assert await journal.list_inbox(run.id, waiting=True) == []
    assert (await journal.withdraw_message(run.id, "msg_a")).status == "applied"
    assert (await journal.accept_message(run.id, message("a"))).status == "applied"
    returned = await all_events(journal, run.id, types=["inbox.returned"])
    assert [(e.message_id, e.data["reason"]) for e in returned] == [("msg_b", "withdrawn"), ("msg_d", "run_ended")]
    assert [order.verb for order in await journal.undelivered_orders(run.id, limit=9)] == []


async def test_the_inbox_is_replaced_as_a_whole(journal: Journal) -> None:
    run = await new_run(journal)
    for name in "abc":
        await journal.accept_message(run.id, message(name))
    wanted = [message("c"), message("x", "enqueue"), message("y")]
    for _ in range(2):  # and again, by whoever did not hear that it was done
        rows = await journal.replace_inbox(run.id, wanted)
        assert shown(rows) == [("msg_c", 3, "accepted"), ("msg_x", 5, "accepted"), ("msg_y", 6, "accepted")]
    orders = await journal.undelivered_orders(run.id, limit=9)
    assert orders[3:] == [
        Order(4, "withdraw", numbers=((1, 2),)), Order(5, "message", delivery="enqueue"), Order(6, "message"),
    ]  # fmt: skip
    assert (await types(journal, run.id))[6:] == ["inbox.returned"] * 2 + ["inbox.accepted"] * 2
    assert await journal.replace_inbox(run.id, []) == []
    assert (await journal.undelivered_orders(run.id, limit=9))[6:] == [
        Order(7, "withdraw", numbers=((3, 3), (5, 6))),
    ]  # fmt: skip
    await journal.force_cancel(run.id, "")
    with pytest.raises(RunOver):
        await journal.replace_inbox(run.id, wanted)


async def test_a_call_that_was_wanted_for_messages_only_is_not_made_without_them(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("Done."))
    await journal.accept_message(run.id, message("a"))
    await journal.withdraw_message(run.id, "msg_a")
    apply: Numbers = ((1, 1),)

    async def attempt() -> tuple[bool, int]:
        begun = await journal.begin_model(
            run.id, "model-2", 2, model=MODEL, worker="w", ask=ASK, apply=apply, only_for_messages=True,
            outbox=[outbox(key="o")],
        )  # fmt: skip
        return begun.nothing_new, begun.attempt

    for _ in range(2):
        assert await attempt() == (True, 0)
    assert "model-2" not in [call.key for call in await journal.list_calls(run.id)]
    assert (await types(journal, run.id)).count("log") == 1
    await journal.accept_message(run.id, message("b"))
    apply = ((1, 1), (3, 3))
    assert await attempt() == (False, 1)
    assert await attempt() == (False, 2), "an attempt that was lost has left its message in the transcript"


async def test_ten_thousand_messages_are_applied_at_once_and_one_more_is_refused(journal: Journal) -> None:
    run = await new_run(journal)
    wanted = [message(str(n)) for n in range(INBOX_WAITING_MAX)]
    await journal.replace_inbox(run.id, wanted)
    with pytest.raises(InboxFull):
        await journal.accept_message(run.id, message("one more"))
    before = time.monotonic()
    await begin(journal, run.id, apply=((1, INBOX_WAITING_MAX),))
    assert time.monotonic() - before < 20
    messages = await journal.list_messages(run.session_id, after=1)
    assert [m["id"] for m in messages] == [m.id for m in wanted]
    assert await journal.list_inbox(run.id, waiting=True) == []
    await journal.accept_message(run.id, message("one more"))
    await types(journal, run.id)


async def test_those_who_follow_interrupts_hear_of_nothing_else(
    journal: Journal, open_another: Open, sql_url: str, blob_folder: Path
) -> None:
    other = await open_another()
    run, quiet = await new_run(journal), await new_run(journal)
    async with journal.follow_interrupts(run.id) as here, other.follow_interrupts(run.id) as there:
        for follower in (here, there):
            while await follower.wait(0.2):  # whoever begins to listen may be woken once
                pass
        await journal.accept_message(run.id, message("a", "steer"))
        await journal.record(run.id, "r", [outbox()], None)
        await journal.accept_message(quiet.id, message("b", "interrupt"))
        assert not await here.wait(0.1)
        assert not await there.wait(0.1)
        await journal.accept_message(run.id, message("c", "interrupt"))
        assert await here.wait(5)
        assert await there.wait(5)
        await other.replace_inbox(run.id, [message("d", "enqueue"), message("e", "interrupt")])
        assert await here.wait(5)
        assert await there.wait(5)
        code = (
            "import asyncio, pathlib, sys\n"
            "from perdure.store.rows import NewMessage\n"
            "from perdure.store.sql import open_journal\n"
            "async def main():\n"
            "    journal = await open_journal(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
            "    await journal.accept_message(sys.argv[3], NewMessage('msg_far', [], 'interrupt'))\n"
            "    await journal.close()\n"
            "asyncio.run(main())"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, sql_url, str(blob_folder), run.id)
        assert await here.wait(30)
        assert await there.wait(5)
        assert await process.wait() == 0


async def test_a_status_says_why_while_it_lasts(journal: Journal) -> None:
    run = await new_run(journal)

    async def status(event: str, **data: str) -> tuple[str, str | None]:
        await journal.record(run.id, "r", [outbox(event, **data)], None)
        row = await journal.get_run(run.id)
        return row.status, row.status_reason

    assert await status("run.paused", reason="budget_reached: max_tokens") == ("paused", "budget_reached: max_tokens")
    assert await status("run.resumed") == ("running", None)
    assert await status("run.requires_action", reason="approval") == ("requires_action", "approval")
    assert await status("run.waiting", reason="rate_limit: book") == ("waiting", "rate_limit: book")
    assert await status("run.paused") == ("paused", None)
    await status("run.waiting", reason="x")
    await journal.record(run.id, "finish", [], Outcome("incomplete", "max_turns"))
    assert (await journal.get_run(run.id)).status_reason is None


async def test_a_patch_of_budget_and_limits_is_in_the_row_the_ledger_and_the_events(journal: Journal) -> None:
    run = await new_run(journal, requested_by="ann")
    assert (run.requested_by, run.budget, run.limits) == ("ann", None, {"max_turns": 100})
    budget = Budget(2_500_000, None, 9, "stop")
    patched = await journal.update_run(run.id, budget=budget, limits={"max_turns": 3, "max_questions": 1})
    assert (patched.budget, patched.limits) == (budget, {"max_turns": 3, "max_questions": 1})
    assert patched.deadline_ms == run.deadline_ms
    updated = (await all_events(journal, run.id))[-1]
    assert updated.data == {
        "budget": {"max_cost_usd": "2.50", "max_tokens": None, "max_output_tokens": 9, "on_limit": "stop"},
        "limits": {"max_turns": 3, "max_questions": 1},
    }  # fmt: skip
    assert [row.limits for row in await journal.read_ledger(run.id)] == [budget]
    await journal.update_run(run.id, labels={"a": "b"})
    assert len(await journal.undelivered_orders(run.id, limit=9)) == 1
    assert len(await journal.read_ledger(run.id)) == 1
    patched = await journal.update_run(run.id, deadline_ms=5)
    assert (patched.deadline_ms, patched.budget, patched.labels) == (5, budget, {"a": "b"})

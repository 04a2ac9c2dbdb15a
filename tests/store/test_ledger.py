"""Money: reserved before each attempt, settled after it, and never more of it than the limit, whatever gets lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from perdure.core.budget import KEPT_ASIDE_PERCENT, Amount, Ask, Budget, Grant
from perdure.core.happenings import CallAsked
from perdure.core.state import Failure, Outcome, Usage
from perdure.store.journal import Journal
from perdure.store.rows import Calibration, LedgerRow, ModelCommit, NewMessage, NewRun, RulingShown
from perdure.store.schema import ledger
from perdure.store.sql import SqlJournal, open_journal
from perdure.store.trouble import NotFound, RunOver
from tests.store.conftest import Open
from tests.store.runs import AGENT, ASK, FAR, MODEL, all_events, asks, begin, new_run, price, said, text, types

BROKE = Failure("overloaded", "try later", retryable=True)


def amount(row: LedgerRow) -> tuple[int, int, int]:
    return row.amount.cost_micros, row.amount.tokens, row.amount.output_tokens


def used(input_tokens: int, output_tokens: int, cached: int = 0) -> Usage:
    return Usage(input_tokens, output_tokens, cached, cost_micros=price(input_tokens, output_tokens))


def kinds(rows: Sequence[LedgerRow]) -> list[str]:
    return [row.kind for row in rows]


async def test_every_attempt_is_reserved_at_its_worst_and_settled_at_what_it_was(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(100_000, 50_000, 9_000))
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK)
    assert begun.grant == Grant(1_000, Amount(6_000, 2_000, 1_000), binding=True)
    assert (await journal.get_run(run.id)).account.reserved == begun.grant.amount
    await journal.commit_model(run.id, "model-1", 1, said("Hello.", used(800, 100)))
    await journal.commit_model(run.id, "model-1", 1, said("Hello.", used(800, 100)))
    rows = await journal.read_ledger(run.id)
    assert [(row.entry, row.kind, row.key, row.attempt) for row in rows] == [
        (1, "limit", "", None), (2, "reserved", "model-1", 1), (3, "settled", "model-1", 1),
    ]  # fmt: skip
    assert rows[0].limits == Budget(100_000, 50_000, 9_000)
    assert [amount(row) for row in rows[1:]] == [(6_000, 2_000, 1_000), (1_300, 900, 100)]
    assert (rows[2].assumed, rows[2].overrun, rows[2].model) == (False, False, MODEL)
    run = await journal.get_run(run.id)
    assert (run.account.spent, run.account.reserved) == (Amount(1_300, 900, 100), Amount())
    assert (rows[2].account, run.overrun) == (run.account, False)
    assert await journal.read_ledger(run.id, after=1, limit=1) == rows[1:2]
    assert await journal.read_ledger(run.id, descending=True) == rows[::-1]
    assert await journal.read_ledger(run.id, after=3, limit=1, descending=True) == rows[1:2]
    with pytest.raises(NotFound):
        await journal.read_ledger("run_none")


async def test_a_run_without_a_budget_has_a_ledger_too(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("Hello.", used(5_000, 9)))
    rows = await journal.read_ledger(run.id)
    assert kinds(rows) == ["reserved", "settled"]
    assert rows[1].overrun
    assert (await journal.get_run(run.id)).overrun
    assert "budget.overrun" not in await types(journal, run.id)
    assert (run.budget, (await journal.get_run(run.id)).account.spent) == (None, Amount(5_045, 5_009, 9))


async def test_a_lost_attempt_costs_what_was_reserved_until_its_answer_comes(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(100_000))
    await begin(journal, run.id)
    again = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    assert again.lost_attempt == 1
    rows = await journal.read_ledger(run.id)
    assert kinds(rows) == ["limit", "reserved", "settled", "reserved"]
    assert (rows[2].assumed, amount(rows[2])) == (True, (6_000, 2_000, 1_000))
    await journal.commit_model(run.id, "model-1", 2, said("Second.", used(500, 10)))
    for _ in range(2):
        await journal.commit_model(run.id, "model-1", 1, said("First.", used(400, 20)))
    rows = await journal.read_ledger(run.id)
    assert [(row.kind, row.attempt) for row in rows[4:]] == [("settled", 2), ("corrected", 1)]
    assert amount(rows[5]) == (500 - 6_000, 420 - 2_000, 20 - 1_000)
    run = await journal.get_run(run.id)
    assert run.account.spent == Amount(550 + 500, 510 + 420, 10 + 20)
    assert run.usage == Usage(900, 30, cost_micros=1_050)
    assert (run.exact_tokens, run.exact_number) == (510, 2)


async def test_when_the_lost_attempt_answers_first_the_other_one_is_assumed(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(100_000))
    await begin(journal, run.id)
    await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    await journal.commit_model(run.id, "model-1", 1, said("First.", used(400, 20)))
    rows = await journal.read_ledger(run.id)
    assert [(row.kind, row.attempt, row.assumed) for row in rows[4:]] == [
        ("corrected", 1, False), ("settled", 2, True),
    ]  # fmt: skip
    assert (await journal.get_run(run.id)).account.reserved == Amount()
    await journal.commit_model(run.id, "model-1", 2, said("Second.", used(100, 1)))
    assert (await journal.get_run(run.id)).account.spent == Amount(500 + 105, 420 + 101, 21)
    aborted = [event.attempt for event in await all_events(journal, run.id, types=["model.aborted"])]
    assert sorted(a for a in aborted if a) == [1, 2]


@pytest.mark.parametrize("billed", [True, False])
async def test_a_failed_attempt_is_paid_only_if_it_may_have_been_billed(journal: Journal, billed: bool) -> None:
    run = await new_run(journal, budget=Budget(100_000))
    await journal.fail_model_attempt(
        run.id, "model-1", await begin(journal, run.id), BROKE, retry_in_seconds=1.0, billed=billed
    )
    row = (await journal.read_ledger(run.id))[-1]
    assert (row.kind, row.assumed) == (("settled", True) if billed else ("released", False))
    assert amount(row) == (6_000, 2_000, 1_000)
    account = (await journal.get_run(run.id)).account
    assert (account.spent, account.reserved) == (Amount(6_000, 2_000, 1_000) if billed else Amount(), Amount())


async def test_a_vendor_that_says_nothing_of_usage_is_taken_to_have_used_all_of_it(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_tokens=50_000))
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("?", Usage(unpriced_calls=1)))
    row = (await journal.read_ledger(run.id))[-1]
    assert (row.kind, row.assumed, amount(row)) == ("settled", True, (6_000, 2_000, 1_000))
    assert (await journal.get_run(run.id)).exact_tokens is None


async def test_what_a_vendor_uses_beyond_its_allowance_is_recorded_and_told(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_tokens=2_300, on_limit="stop"))
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("Much.", used(1_900, 1_000)))
    row = (await journal.read_ledger(run.id))[-1]
    assert (row.overrun, amount(row)) == (True, (6_900, 2_900, 1_000))
    overrun, warning = [e for e in await all_events(journal, run.id) if e.type.startswith("budget.")]
    assert overrun.data == {
        "key": "model-1", "limit": "max_tokens",
        "reserved": {"cost_usd": "0.006", "tokens": 2_000, "output_tokens": 1_000},
        "used": {"cost_usd": "0.0069", "tokens": 2_900, "output_tokens": 1_000},
    }  # fmt: skip
    assert warning.data == {"limit": "max_tokens", "percent": 80}


async def test_a_warning_comes_once_when_four_fifths_are_spent_and_again_after_a_raise(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_output_tokens=1_000, on_limit="stop"))
    for turn, (tokens, warnings) in enumerate(((799, 0), (1, 1), (50, 1)), 1):
        ask = Ask(10, 150 if turn > 1 else 1_000, price)
        attempt = await begin(journal, run.id, turn, ask=ask)
        await journal.commit_model(run.id, f"model-{turn}", attempt, said("x", used(5, tokens)))
        assert (await types(journal, run.id)).count("budget.warning") == warnings
    await journal.update_run(run.id, budget=Budget(max_output_tokens=1_100, on_limit="stop"))
    await journal.commit_model(
        run.id, "model-4", await begin(journal, run.id, 4, ask=Ask(9, 200, price)), said("x", used(5, 100))
    )
    assert (await types(journal, run.id)).count("budget.warning") == 2


async def test_a_call_that_does_not_fit_takes_no_attempt_and_its_messages_wait_on(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_tokens=1_100, on_limit="pause"))
    message = await journal.accept_message(run.id, NewMessage("msg_1", text("hurry"), "steer"))
    for _ in range(2):  # a worker that did not hear the answer asks again
        begun = await journal.begin_model(
            run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK, apply=((message.number, message.number),)
        )
        assert (begun.reached, begun.attempt, begun.grant) == ("max_tokens", 0, None)
    assert (await types(journal, run.id))[3:] == ["inbox.accepted", "budget.reached"]
    assert kinds(await journal.read_ledger(run.id)) == ["limit"]
    assert [row.id for row in await journal.list_inbox(run.id, waiting=True)] == ["msg_1"]
    await journal.update_run(run.id, budget=Budget(max_tokens=50_000, on_limit="pause"))
    begun = await journal.begin_model(
        run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK, apply=((message.number, message.number),)
    )
    assert begun.attempt == 1
    assert begun.grant is not None
    assert begun.grant.amount.tokens > 2_000 + 16, "the message it takes along is paid, too"
    await journal.commit_model(run.id, "model-1", 1, said("x", used(900, 900)))
    await journal.update_run(run.id, budget=Budget(max_tokens=1_700, on_limit="pause"))  # less than is spent
    begun = await journal.begin_model(run.id, "model-2", 2, model=MODEL, worker="w", ask=ASK)
    assert begun.reached == "max_tokens"
    assert [e.data for e in await all_events(journal, run.id, types=["budget.reached"])] == [
        {"limit": "max_tokens"}
    ] * 2


async def test_a_lost_attempt_that_leaves_nothing_for_another_one_is_settled_all_the_same(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_tokens=2_500, on_limit="stop"))
    await begin(journal, run.id)
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w2", ask=ASK)
    assert (begun.reached, begun.lost_attempt, begun.attempt) == ("max_tokens", 1, 1)
    assert (await types(journal, run.id))[5:] == [
        "model.aborted", "budget.warning", "run.recovering", "budget.reached", "run.recovered",
    ]  # fmt: skip
    run = await journal.get_run(run.id)
    assert (run.recovering, run.account) == (False, (await journal.read_ledger(run.id))[-1].account)
    await journal.record(run.id, "finish", [], Outcome("incomplete", "budget_reached"))
    run = await journal.get_run(run.id)
    assert (run.status, run.stop_reason, run.status_reason) == ("incomplete", "budget_reached", "max_tokens")
    assert (await types(journal, run.id)).count("model.aborted") == 1


async def test_a_wrap_up_may_spend_what_was_kept_aside_and_its_size_is_no_measure(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_tokens=3_000))
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("x", used(1_000, 1_000)))
    assert (await journal.begin_model(run.id, "model-2", 2, model=MODEL, worker="w", ask=ASK)).reached
    last = Ask(700, 1_000, price, wrap_up=True)
    begun = await journal.begin_model(run.id, "wrap-up-2", 2, model=MODEL, worker="w", ask=last)
    assert begun.grant is not None
    assert (begun.grant.output_tokens, begun.grant.clamped_by) == (300, "max_tokens")
    await journal.commit_model(run.id, "wrap-up-2", 1, said("Done so far: x.", used(600, 90)))
    run = await journal.get_run(run.id)
    assert (run.exact_tokens, run.exact_number, run.account.spent.tokens) == (2_000, 2, 2_690)


async def test_a_call_that_was_called_off_without_a_word_is_closed_by_the_next(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(100_000))
    await begin(journal, run.id)
    begun = await journal.begin_model(run.id, "model-1-1", 1, model=MODEL, worker="w", ask=ASK, closes="model-1")
    assert begun.attempt == 1
    closed = await journal.get_call(run.id, "model-1")
    assert (closed.status, closed.error and closed.error.code) == ("failed", "cancelled")
    rows = await journal.read_ledger(run.id)
    assert [(row.kind, row.key, row.assumed) for row in rows[1:]] == [
        ("reserved", "model-1", False), ("settled", "model-1", True), ("reserved", "model-1-1", False),
    ]  # fmt: skip
    await journal.commit_model(run.id, "model-1", 1, said("too late", used(10, 10)))
    assert (await journal.read_ledger(run.id))[-1].kind == "corrected"
    assert len(await journal.list_messages(run.session_id)) == 1
    await journal.begin_model(run.id, "model-1-1", 1, model=MODEL, worker="w", ask=ASK, closes="model-1")
    assert (await types(journal, run.id)).count("turn.started") == 1


async def test_an_interrupted_answer_is_kept_marked_and_paid(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(100_000))
    attempt = await begin(journal, run.id)
    for _ in range(2):
        await journal.interrupt_model(run.id, "model-1", attempt, text("I was just"), MODEL)
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=ASK)
    assert begun.ended is not None
    assert begun.ended.error is not None
    assert (begun.ended.status, begun.ended.error.code) == ("failed", "interrupted")
    message = (await journal.list_messages(run.session_id))[-1]
    assert (message["role"], message["content"], message["stop_reason"]) == (
        "assistant", text("I was just"), "interrupted",
    )  # fmt: skip
    (aborted,) = await all_events(journal, run.id, types=["model.aborted"])
    assert aborted.data == {"attempt": 1, "reason": "interrupted"}
    assert [(row.kind, row.assumed) for row in (await journal.read_ledger(run.id))[2:]] == [("settled", True)]
    run = await journal.get_run(run.id)
    assert (run.exact_tokens, run.output, run.turns) == (None, text("I was just"), 1)
    await journal.interrupt_model(run.id, "model-2", await begin(journal, run.id, 2), [], MODEL)
    assert len(await journal.list_messages(run.session_id)) == 2, "nothing was said, nothing is kept"
    attempt = await begin(journal, run.id, 3)
    spent = (await journal.get_run(run.id)).account.spent
    await journal.interrupt_model(run.id, "model-3", attempt, [], MODEL, billed=False)
    after = (await journal.get_run(run.id)).account
    assert (after.spent, after.reserved) == (spent, Amount()), "nobody was asked: nothing is spent"


async def test_nothing_is_reserved_any_more_when_a_run_ends_however_it_ends(journal: Journal) -> None:
    async def finish(run_id: str) -> None:
        await journal.record(run_id, "finish", [], Outcome("expired", "deadline"))

    async def cancel(run_id: str) -> None:
        await journal.force_cancel(run_id, "enough")

    async def orphan(run_id: str) -> None:
        await journal.end_orphan(run_id, Failure("internal", "gone"))

    for end in (finish, cancel, orphan):
        run = await new_run(journal, budget=Budget(100_000))
        await begin(journal, run.id)
        await end(run.id)
        assert [(row.kind, row.assumed) for row in (await journal.read_ledger(run.id))[1:]] == [
            ("reserved", False), ("settled", True),
        ]  # fmt: skip
        assert (await journal.get_run(run.id)).account.reserved == Amount()
        with pytest.raises(RunOver):
            await journal.commit_model(run.id, "model-1", 1, said("late"))


async def test_an_answer_that_a_limit_cut_short_says_which(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_output_tokens=500, on_limit="stop"))
    attempt = await begin(journal, run.id)
    cut = ModelCommit(text("half"), MODEL, "max_output_tokens", used(9, 500), [], {}, limit="max_output_tokens")
    await journal.commit_model(run.id, "model-1", attempt, cut)
    assert [e.data for e in await all_events(journal, run.id, types=["budget.reached"])] == [
        {"limit": "max_output_tokens"}
    ]


async def test_half_a_call_at_the_end_of_a_cut_answer_is_no_call(journal: Journal) -> None:
    run = await new_run(journal)
    cut = ModelCommit(asks("call_1").content, MODEL, "max_output_tokens", used(9, 9), [], {})
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), cut)
    assert [call.key for call in await journal.list_calls(run.id)] == ["model-1"]


# Whatever happens -------------------------------------------------------------------------------------


@dataclass
class Storm:
    """A run whose attempts are lost, late, doubled and failed in any order. A vendor never uses more than it
    was allowed, and its answer may come whenever it likes, but not of an attempt that it refused."""

    journal: Journal
    run_id: str
    choose: Callable[[int], int]  # a number below its argument
    turn: int = 1
    asked: dict[tuple[str, int], tuple[Ask, Grant]] = field(default_factory=dict)
    usages: dict[tuple[str, int], Usage] = field(default_factory=dict)
    refused: set[tuple[str, int]] = field(default_factory=set)
    recalled: int = 0

    @property
    def key(self) -> str:
        return f"model-{self.turn}" + (f"-{self.recalled}" if self.recalled else "")

    async def step(self) -> None:
        match self.choose(9):
            case 0 | 1 | 2:
                await self.begin()
            case 3 | 4 | 5 if self.asked:
                await self.answer()
            case 6 if self.asked:
                await self.fail()
            case 7 if self.asked:
                key, attempt = self.some()
                await self.journal.interrupt_model(self.run_id, key, attempt, text("half"), MODEL)
                if key == self.key and (await self.journal.get_call(self.run_id, key)).status == "failed":
                    self.turn, self.recalled = self.turn + 1, 0
            case 8:
                before = (await self.journal.get_run(self.run_id)).budget or Budget()
                more = 1 + self.choose(5_000)
                cost, tokens, output = ((limit or 0) + more for limit in limits(before))
                await self.journal.update_run(self.run_id, budget=Budget(cost, tokens, output, before.on_limit))
            case _:
                pass

    async def begin(self) -> None:
        ask = Ask(1 + self.choose(900), 1 + self.choose(900), price)
        closes = ""
        if self.choose(5) == 0 and (self.key, 1) in self.asked:
            closes = self.key
            self.recalled += 1
        begun = await self.journal.begin_model(
            self.run_id, self.key, self.turn, model=MODEL, worker="w", ask=ask, closes=closes
        )
        if begun.grant:
            self.asked[self.key, begun.attempt] = (ask, begun.grant)
        elif begun.ended:
            self.turn, self.recalled = self.turn + 1, 0

    def some(self) -> tuple[str, int]:
        return list(self.asked)[self.choose(len(self.asked))]

    async def answer(self) -> None:
        which = self.some()
        if which in self.refused:
            return
        ask, grant = self.asked[which]
        if which not in self.usages:
            self.usages[which] = used(self.choose(ask.input_tokens + 1), self.choose(grant.output_tokens + 1))
        await self.journal.commit_model(self.run_id, *which, said("x", self.usages[which]))

    async def fail(self) -> None:
        which = self.some()
        row = await self.journal.get_call(self.run_id, which[0])
        billed = self.choose(2) == 0
        if not billed and row.open_attempt == which[1]:
            self.refused.add(which)
        await self.journal.fail_model_attempt(
            self.run_id, *which, BROKE, retry_in_seconds=None if self.choose(4) == 0 else 0.0, billed=billed
        )


def limits(budget: Budget) -> tuple[int | None, int | None, int | None]:
    return budget.max_cost_micros, budget.max_tokens, budget.max_output_tokens


def three(amount: Amount) -> tuple[int, int, int]:
    return amount.cost_micros, amount.tokens, amount.output_tokens


def check_prefixes(rows: Sequence[LedgerRow]) -> None:
    """At every entry: the balance follows from the lines so far, and stays within the limits."""
    spent, reserved, open_, given_up = [0, 0, 0], [0, 0, 0], {}, {}
    budget = Budget()
    assert [row.entry for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        which, now = (row.key, row.attempt), three(row.amount)
        match row.kind:
            case "limit":
                assert row.limits is not None
                budget = row.limits
            case "reserved":
                assert which not in open_
                assert which not in given_up, "an attempt is reserved once"
                open_[which] = now
                reserved = [a + b for a, b in zip(reserved, now, strict=True)]
            case "settled" | "released":
                held = open_.pop(which)
                reserved = [a - b for a, b in zip(reserved, held, strict=True)]
                if row.kind == "settled":
                    spent = [a + b for a, b in zip(spent, now, strict=True)]
                    assert row.assumed is False or now == held
                given_up[which] = row.assumed
            case "corrected":
                assert given_up[which] is True, "only what was assumed is corrected, and once"
                given_up[which] = False
                spent = [a + b for a, b in zip(spent, now, strict=True)]
        assert three(row.account.spent) == tuple(spent)
        assert three(row.account.reserved) == tuple(reserved)
        assert not row.overrun
        for limit, a, b in zip(limits(budget), spent, reserved, strict=True):
            assert limit is None or a + b <= limit, f"entry {row.entry}: {a} + {b} > {limit}"


async def weather(journal: Journal, choose: Callable[[int], int], steps: int) -> None:
    budget = Budget(choose(20_000), choose(8_000), choose(3_000), on_limit=("wrap_up", "pause", "stop")[choose(3)])
    run = await new_run(journal, budget=budget)
    storm = Storm(journal, run.id, choose)
    for _ in range(steps):
        await storm.step()
    await journal.record(run.id, "finish", [], Outcome("completed", "end"))
    rows = await journal.read_ledger(run.id)
    check_prefixes(rows)
    run = await journal.get_run(run.id)
    assert (run.account.reserved, run.account) == (Amount(), rows[-1].account)
    await types(journal, run.id)


@pytest.mark.parametrize("seed", range(6))
async def test_in_any_weather_no_prefix_of_the_ledger_is_above_the_limit(journal: Journal, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(4):
        await weather(journal, dice.randrange, 60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_lost_late_or_doubled_no_prefix_of_the_ledger_is_above_the_limit(
    tmp_path: Path, data: st.DataObject
) -> None:
    async def story() -> None:
        journal = await open_journal(f"sqlite:///{tmp_path / 'weather.db'}", tmp_path / "blobs")
        await weather(journal, lambda below: data.draw(st.integers(0, below - 1)) if below > 1 else 0, 20)
        await journal.close()

    asyncio.run(story())


async def test_two_workers_cannot_spend_the_same_money(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    run = await new_run(journal, budget=Budget(max_tokens=5_000, on_limit="stop"))
    begun = await asyncio.gather(
        *(
            j.begin_model(run.id, f"model-{n}", n, model=MODEL, worker="w", ask=ASK)
            for n, j in enumerate((journal, other) * 4, 1)
        )
    )
    granted = [one.grant.amount.tokens for one in begun if one.grant]
    assert sum(granted) <= 5_000
    assert len(granted) == 2 + (1 if len(granted) > 2 else 0)
    check_prefixes(await journal.read_ledger(run.id))


# Sums -------------------------------------------------------------------------------------------------


async def test_usage_is_summed_by_run_agent_model_session_and_day(journal: SqlJournal) -> None:
    one = await new_run(journal)
    two = await journal.create_run(NewRun("run_2", {**AGENT, "name": "cook"}, text("x"), FAR, {}))
    foreign = await new_run(journal, project_id="other")
    for run, usage in ((one, used(100, 10, 50)), (two, used(900, 90)), (foreign, used(1, 1))):
        await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said("x", usage))
    await begin(journal, one.id, 2)
    await journal.begin_model(one.id, "model-2", 2, model="scripted/other", worker="w", ask=ASK)
    await journal.commit_model(one.id, "model-2", 2, said("x", Usage(7, 3, unpriced_calls=1)))

    async def sums(group: Any, **between: int | None) -> list[tuple[Any, ...]]:
        rows = await journal.usage_by("default", group, **{"from_ms": None, "before_ms": None, **between})
        return [
            (r.group, r.model_calls, r.input_tokens, r.output_tokens, r.cache_read_tokens, r.cost_micros,
             r.assumed_cost_micros, r.unpriced_calls)
            for r in rows
        ]  # fmt: skip

    ones = (3, 1_107, 1_013, 50, 150 + 6_000 + 6_000, 12_000, 1)
    twos = (1, 900, 90, 0, 1_350, 0, 0)
    assert await sums("run") == [(one.id, *ones), ("run_2", *twos)]
    assert await sums("agent") == [("clerk", *ones), ("cook", *twos)]
    assert await sums("session") == [(one.session_id, *ones), (two.session_id, *twos)]
    assert [row[:2] for row in await sums("model")] == [(MODEL, 3), ("scripted/other", 1)]
    yesterday = update(ledger).values(at_ms=ledger.c.at_ms - 86_400_000).where(ledger.c.model == "scripted/other")
    await journal._database.write(lambda connection: connection.execute(yesterday))
    days = await sums("day")
    assert [row[1] for row in days] == [3, 1]
    assert days[0][0] > days[1][0]
    assert len(days[0][0]) == len("2026-11-24")
    newest = max(row.at_ms for row in await journal.read_ledger(two.id))
    assert await sums("run", from_ms=newest + 86_400_000) == []
    assert len(await sums("day", before_ms=newest - 80_000_000)) == 1
    # The answer of the lost attempt comes after all: what was assumed is known now.
    await journal.commit_model(one.id, "model-2", 1, said("x", used(50, 5)))
    (row,) = [row for row in await sums("run") if row[0] == one.id]
    assert row[1:] == (3, 157, 18, 50, 150 + 6_000 + 75, 6_000, 1)


async def test_bounds_are_compared_with_what_vendors_counted(journal: Journal) -> None:
    assert await journal.calibrations() == []
    run = await new_run(journal)
    for turn, counted in enumerate((400, 1_000, 1_001), 1):
        attempt = await begin(journal, run.id, turn)
        await journal.commit_model(run.id, f"model-{turn}", attempt, said("x", used(counted, 10)))
    await begin(journal, run.id, 4)
    await begin(journal, run.id, 4)  # lost: nobody counted it
    assert await journal.calibrations() == [Calibration(MODEL, 3, 1, 1_001)]


async def test_the_aside_is_kept_from_the_start(journal: Journal) -> None:
    run = await new_run(journal, budget=Budget(max_output_tokens=10_000))
    begun = await journal.begin_model(run.id, "model-1", 1, model=MODEL, worker="w", ask=Ask(1, 10**6, price))
    assert begun.grant is not None
    assert begun.grant.output_tokens == 10_000 * (100 - KEPT_ASIDE_PERCENT) // 100


async def test_calls_are_filed_with_their_hashes_and_rulings(journal: Journal) -> None:
    run = await new_run(journal)
    base = asks("call_1", "call_2")
    commit = ModelCommit(
        base.content, MODEL, "tool_calls", used(1, 1), [CallAsked("call_1", "book"), CallAsked("call_2", "book", "no")],
        {}, hashes=["aa", "bb"], rulings=[RulingShown("allow", "default"), RulingShown("deny", "rules[0]", "never")],
    )  # fmt: skip
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), commit)
    first, second = await all_events(journal, run.id, types=["tool.requested"])
    assert (first.data["verdict"], first.data["rule"], "reason" in first.data) == ("allow", "default", False)
    assert (second.data["verdict"], second.data["rule"], second.data["reason"]) == ("deny", "rules[0]", "never")

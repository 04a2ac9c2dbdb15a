"""Budgets over real processes: what a run was given is never exceeded, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.e2e.ledgers import held, ledger
from tests.e2e.stack import Stack
from tests.e2e.story import told_well, types

SPENDER = "scripted/big-spender"


def spend(stack: Stack, **budget: Any) -> dict[str, Any]:
    return stack.post_run(SPENDER, ["calculator"], budget=budget, limits={"max_turns": 1_000})


def test_a_run_at_its_limit_says_what_is_done_and_what_is_not_within_the_limit(stack: Stack) -> None:
    run = stack.wait_for_end(spend(stack, max_cost_usd="0.03")["id"])
    assert (run["status"], run["stop_reason"], run["status_reason"]) == ("incomplete", "budget_reached", "max_cost_usd")
    assert run["output_text"] == "Wrap-up: the sums are done up to here, the rest is not."
    assert Decimal(run["budget"]["spent"]["cost_usd"]) == Decimal(run["usage"]["cost_usd"]) <= Decimal("0.03")
    assert run["budget"]["reserved"]["cost_usd"] == "0.00"
    told = types(told_well(stack, run["id"]))
    assert (told["budget.warning"], told["budget.reached"]) == (1, 1)
    held(stack, run["id"])


def test_tokens_and_output_tokens_hold_like_money(stack: Stack) -> None:
    for limit, name in ((20_000, "max_tokens"), (1_500, "max_output_tokens")):
        run = stack.wait_for_end(spend(stack, **{name: limit})["id"])
        assert (run["status"], run["status_reason"]) == ("incomplete", name)
        assert run["usage"]["input_tokens"] + run["usage"]["output_tokens"] <= (
            limit if name == "max_tokens" else 10**9
        )
        assert run["usage"]["output_tokens"] <= limit
        held(stack, run["id"])


def test_on_limit_stop_ends_without_another_word(stack: Stack) -> None:
    run = stack.wait_for_end(spend(stack, max_cost_usd="0.02", on_limit="stop")["id"])
    assert (run["status"], run["stop_reason"]) == ("incomplete", "budget_reached")
    assert "Wrap-up" not in run["output_text"]
    held(stack, run["id"])


def test_on_limit_pause_waits_for_more_money_and_goes_on(stack: Stack) -> None:
    run = spend(stack, max_cost_usd="0.02", on_limit="pause")
    stack.wait_until(lambda: stack.run(run["id"])["status"] == "paused", "the run pauses")
    paused = stack.run(run["id"])
    assert paused["status_reason"].startswith("budget_reached")
    turns = paused["turns"]
    answer = stack.http.patch(f"/v1/runs/{run['id']}", json={"budget": {"max_cost_usd": "0.04"}})
    assert answer.status_code == 200, answer.text
    assert answer.json()["budget"]["limit"]["max_cost_usd"] == "0.04"
    stack.wait_until(
        lambda: stack.run(run["id"])["status"] == "paused" and stack.run(run["id"])["turns"] > turns,
        "the run pauses again, later",
    )
    stack.http.patch(f"/v1/runs/{run['id']}", json={"budget": {"on_limit": "stop"}}).raise_for_status()
    assert stack.wait_for_end(run["id"])["stop_reason"] == "budget_reached"
    held(stack, run["id"])


def test_a_limit_lowered_below_what_is_spent_holds_at_once(stack: Stack) -> None:
    run = spend(stack, max_cost_usd="5")
    stack.wait_until(lambda: stack.run(run["id"])["turns"] >= 3, "something is spent")
    answer = stack.http.patch(
        f"/v1/runs/{run['id']}", json={"budget": {"max_cost_usd": "0.000001", "on_limit": "stop"}}
    )
    assert answer.status_code == 200, answer.text
    ended = stack.wait_for_end(run["id"])
    assert (ended["status"], ended["stop_reason"]) == ("incomplete", "budget_reached")
    lines = ledger(stack, run["id"])
    lowered = next(line["entry"] for line in reversed(lines) if line["kind"] == "limit")
    assert [line for line in lines if line["entry"] > lowered and line["kind"] == "reserved"] == []


def test_a_vendor_that_uses_more_than_it_was_allowed_is_recorded_and_flagged(stack: Stack) -> None:
    run = stack.post_run("scripted/overcharger", ["calculator"], budget={"max_cost_usd": "0.05"})
    ended = stack.wait_for_end(run["id"])
    assert (ended["status"], ended["stop_reason"]) == ("incomplete", "budget_reached")
    assert ended["budget"]["overrun"] is True
    assert Decimal(ended["budget"]["spent"]["cost_usd"]) > Decimal("0.36")
    assert types(stack.events(run["id"]))["budget.overrun"] == 1
    assert [line["overrun"] for line in ledger(stack, run["id"]) if line["kind"] == "settled"] == [True]


def test_an_answer_that_the_budget_cuts_short_counts_as_the_limit(stack: Stack) -> None:
    run = stack.wait_for_end(spend(stack, max_output_tokens=400)["id"])
    assert (run["status"], run["stop_reason"]) == ("incomplete", "budget_reached")
    assert run["usage"]["output_tokens"] <= 400


def test_what_a_lost_attempt_may_have_cost_is_counted(build: Callable[..., Stack]) -> None:
    stack = build().start()
    run = stack.post_run("scripted/held", budget={"max_cost_usd": "0.20"})
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.kill("worker")
    stack.spawn("worker", "-m", "worker")
    stack.wait_until(lambda: types(stack.events(run["id"]))["model.started"] == 2, "the model is asked again")
    stack.open_gate("held")
    ended = stack.wait_for_end(run["id"])
    assert ended["status"] == "completed"
    settled = [line for line in ledger(stack, run["id"]) if line["kind"] == "settled"]
    assert [line["assumed"] for line in settled] == [True, False]
    assert Decimal(ended["budget"]["spent"]["cost_usd"]) > Decimal(ended["usage"]["cost_usd"])
    held(stack, run["id"])


def test_a_tools_own_budget_blocks_or_steers(stack: Stack) -> None:
    limits = {"tools": {"book_idempotent": {"max_calls": 3, "on_exceed": "block"}}, "max_turns": 8}
    run = stack.wait_for_end(stack.post_run("scripted/busy", ["book_idempotent"], limits=limits)["id"])
    results = [event for event in stack.events(run["id"]) if event["type"] in ("tool.completed", "tool.failed")]
    assert [event["type"] for event in results[:5]] == ["tool.completed"] * 3 + ["tool.failed"] * 2
    assert results[3]["data"]["code"] == "tool_call_limit"
    limits["tools"]["book_idempotent"]["on_exceed"] = "steer"
    run = stack.wait_for_end(stack.post_run("scripted/busy", ["book_idempotent"], limits=limits)["id"])
    previews = [event["data"]["preview"] for event in stack.events(run["id"]) if event["type"] == "tool.completed"]
    assert ["over its budget" in preview for preview in previews[:5]] == [False] * 3 + [True] * 2


def test_usage_is_summed_by_whatever_is_asked_for(stack: Stack) -> None:
    run = stack.wait_for_end(spend(stack, max_cost_usd="0.02")["id"])
    by_run = stack.http.get("/v1/usage?group_by=run").raise_for_status().json()["data"]
    [row] = [row for row in by_run if row["group"] == run["id"]]
    assert row["cost_usd"] == run["budget"]["spent"]["cost_usd"]
    assert row["input_tokens"] == run["usage"]["input_tokens"]
    csv = stack.http.get("/v1/usage?group_by=model", headers={"accept": "text/csv"}).raise_for_status()
    assert csv.text.splitlines()[0].startswith("group,")
    assert any(line.startswith(SPENDER) for line in csv.text.splitlines())

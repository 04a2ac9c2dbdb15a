"""Families over real processes: a parent leads children under one budget, and nobody is left behind."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.e2e.ledgers import held, ledger
from tests.e2e.stack import TERMINAL, Stack
from tests.e2e.story import told_well, types

LEADER = ["calculator", "spawn_agent", "wait_for_agents", "message_agent", "cancel_agent", "ask_user"]
BUDGET = {"max_cost_usd": "2.00"}


def lead(stack: Stack, script: str, tools: list[str] = LEADER, **body: Any) -> dict[str, Any]:
    return stack.post_run(f"scripted/{script}", tools, **body)


def children(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    found = stack.http.get(f"/v1/runs?parent_run_id={run_id}&limit=100&order=asc").raise_for_status().json()["data"]
    return [dict(run) for run in found]


def tree(stack: Stack, run_id: str) -> dict[str, Any]:
    return dict(stack.http.get(f"/v1/runs/{run_id}/tree").raise_for_status().json())


def nodes(of: dict[str, Any]) -> list[dict[str, Any]]:
    return [of, *(below for child in of["children"] for below in nodes(child))]


def results(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    """The tool results of a run, in their order."""
    messages = stack.http.get(f"/v1/runs/{run_id}/messages?limit=100").raise_for_status().json()["data"]
    return [block for message in messages for block in message["content"] if block["type"] == "tool_result"]


def all_accounted(stack: Stack, root: str) -> list[dict[str, Any]]:
    """Every run of the tree has ended, its ledger was kept, and the root has spent what all of them have."""
    runs = nodes(tree(stack, root))
    assert all(run["status"] in TERMINAL for run in runs), [(run["id"], run["status"]) for run in runs]
    for run in runs:
        held(stack, run["id"])
        told_well(stack, run["id"])
    own = sum(
        Decimal(line["amount"]["cost_usd"])
        for run in runs
        for line in ledger(stack, run["id"])
        if line["kind"] in ("settled", "corrected") and not line["key"].startswith("child-")
    )
    budget = runs[0]["budget"]
    assert own == Decimal(budget["spent"]["cost_usd"]) <= Decimal(budget["limit"]["max_cost_usd"])
    assert Decimal(budget["reserved"]["cost_usd"]) == 0
    return runs


def test_a_parent_leads_five_children_in_parallel_under_one_budget(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-five", budget=BUDGET)["id"])
    assert run["status"] == "completed", run
    found = children(stack, run["id"])
    assert [child["status"] for child in found] == ["completed"] * 5
    assert {child["output_text"] for child in found} == {
        f"{name} is done." for name in ("one", "two", "three", "four", "five")
    }
    for child in found:
        assert (child["parent_run_id"], child["root_run_id"], child["depth"]) == (run["id"], run["id"], 1)
        assert child["session_id"] != run["session_id"]
    answers = [json.loads(block["text"]) for block in results(stack, run["id"])]
    assert [answer["status"] for answer in answers] == ["completed"] * 5
    assert {answer["output"] for answer in answers} == {child["output_text"] for child in found}
    told = types(stack.events(run["id"]))
    assert (told["child.started"], told["child.completed"]) == (5, 5)
    runs = all_accounted(stack, run["id"])
    assert len(runs) == 6
    assert runs[0]["total"]["runs"] == 6
    assert Decimal(runs[0]["total"]["usage"]["cost_usd"]) == Decimal(run["budget"]["spent"]["cost_usd"])


def test_a_child_in_the_background_gives_a_handle_at_once_and_its_result_to_whoever_waits(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-background")["id"])
    assert run["status"] == "completed", run
    (child,) = children(stack, run["id"])
    handle, waited = (json.loads(block["text"]) for block in results(stack, run["id"]))
    assert (handle["id"], handle["status"]) == (child["id"], "running")
    assert [(one["id"], one["status"]) for one in waited["agents"]] == [(child["id"], "completed")]
    assert waited["timed_out"] is False
    assert child["budget"]["on_limit"] is None, "unbudgeted parents have unbudgeted children"


def test_the_end_of_a_child_that_nobody_waits_for_comes_as_a_message_and_disturbs_no_work(stack: Stack) -> None:
    run = lead(stack, "lead-message", [*LEADER, "book_when_open"])
    stack.wait_until(lambda: types(stack.events(run["id"]))["child.completed"] == 1, "the child ends")
    assert stack.run(run["id"])["status"] == "running", "the tool goes on"
    stack.effects.with_suffix(".open").touch()
    ended = stack.wait_for_end(run["id"])
    (child,) = children(stack, run["id"])
    assert child["id"] in ended["output_text"]
    assert "first is done." in ended["output_text"]
    told = types(stack.events(run["id"]))
    assert (told["inbox.accepted"], told["inbox.applied"], told["tool.failed"]) == (1, 1, 0)


def test_a_child_that_fails_is_a_typed_result_that_its_parent_can_handle(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-broken", budget=BUDGET)["id"])
    assert run["status"] == "completed"
    (result,) = results(stack, run["id"])
    told = json.loads(result["text"])
    assert result["is_error"]
    assert (told["status"], told["error"]["code"]) == ("failed", "child_failed")
    assert types(stack.events(run["id"]))["child.failed"] == 1
    all_accounted(stack, run["id"])


def test_whatever_cannot_be_is_an_error_that_the_model_can_mend_and_starts_nothing(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-wrong", budget=BUDGET)["id"])
    assert run["output_text"] == "I do it myself."
    failed = [event["data"]["code"] for event in stack.events(run["id"]) if event["type"] == "tool.failed"]
    assert Counter(failed) == Counter(
        {"agent_not_found": 4, "unknown_tool": 1, "budget_too_small": 1}
    )  # fmt: skip
    assert children(stack, run["id"]) == []
    deep = stack.wait_for_end(lead(stack, "lead-five", limits={"max_depth": 0})["id"])
    assert {json.loads(json.dumps(block["text"]))[:11] for block in results(stack, deep["id"])} == {"this run is"}
    few = stack.wait_for_end(lead(stack, "lead-five", limits={"max_children": 2})["id"])
    assert len(children(stack, few["id"])) == 2
    failed = [event["data"]["code"] for event in stack.events(few["id"]) if event["type"] == "tool.failed"]
    assert failed == ["children_limit"] * 3
    crowded = stack.wait_for_end(lead(stack, "lead-five", limits={"max_running_children": 0})["id"])
    failed = [event["data"]["code"] for event in stack.events(crowded["id"]) if event["type"] == "tool.failed"]
    assert failed == ["running_children_limit"] * 5


def test_what_a_child_asks_of_people_is_pending_on_its_parent_and_people_answer_it(stack: Stack) -> None:
    run = lead(stack, "lead-asking")
    stack.wait_until(lambda: bool(stack.run(run["id"])["pending_actions"]), "the question is shown on the parent")
    parent = stack.run(run["id"])
    (child,) = children(stack, run["id"])
    (asked,) = parent["pending_actions"]
    assert (asked["type"], asked["run_id"], parent["status"]) == ("question", child["id"], "waiting")
    assert [(wait["type"], wait["ref"]) for wait in parent["waiting_for"]] == [("children", child["id"])]
    stack.http.post(f"/v1/questions/{asked['id']}/answer", json={"answers": {"go": "yes"}}).raise_for_status()
    assert "I was told" in stack.wait_for_end(run["id"])["output_text"]


def test_a_parent_that_ends_early_takes_its_children_along_but_those_that_are_detached(stack: Stack) -> None:
    stack.close_gate("bees")
    run = stack.wait_for_end(lead(stack, "lead-and-leave", budget=BUDGET)["id"])
    assert run["status"] == "completed"
    first, second = sorted(children(stack, run["id"]), key=lambda child: child["input"][0]["text"])
    assert (first["status"], first["stop_reason"]) == ("cancelled", "parent_ended")
    assert second["status"] not in TERMINAL
    assert Decimal(run["budget"]["reserved"]["cost_usd"]) == 0, "the slice of a detached child counts as spent"
    stack.open_gate("bees")
    assert stack.wait_for_end(second["id"])["status"] == "completed"
    assert Decimal(stack.run(run["id"])["budget"]["spent"]["cost_usd"]) <= Decimal("2.00")


def test_a_message_ends_the_wait_for_a_child_and_the_child_goes_on(stack: Stack) -> None:
    stack.close_gate("bees")
    run = lead(stack, "lead-slow")
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.http.post(f"/v1/runs/{run['id']}/messages", json={"content": "What is it?"}).raise_for_status()
    stack.wait_until(lambda: bool(results(stack, run["id"])), "the call is answered")
    told = json.loads(results(stack, run["id"])[0]["text"])
    assert told["woken"] is True
    (child,) = children(stack, run["id"])
    assert [one["id"] for one in told["agents"]] == [child["id"]]
    stack.open_gate("bees")
    stack.wait_for_end(run["id"])


def test_an_interrupt_cuts_short_what_everybody_below_says(stack: Stack) -> None:
    stack.close_gate("bees")
    stack.close_gate("lead")
    run = lead(stack, "lead-interrupted")
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.http.post(
        f"/v1/runs/{run['id']}/messages", json={"content": "Not to Bob.", "delivery": "interrupt"}
    ).raise_for_status()
    (child,) = children(stack, run["id"])
    stack.wait_until(lambda: types(stack.events(child["id"]))["model.started"] == 2, "the child speaks anew")
    aborted = [event["data"]["reason"] for event in stack.events(child["id"]) if event["type"] == "model.aborted"]
    assert aborted == ["interrupted"]
    stack.open_gate("bees")
    assert stack.wait_for_end(child["id"])["status"] == "completed"
    said = stack.http.get(f"/v1/runs/{child['id']}/messages").raise_for_status().json()["data"]
    texts = [block["text"] for message in said if message["role"] == "user" for block in message["content"]]
    assert texts[0] == "a letter"
    assert texts[1].startswith("[Perdure] The agent that you work for has been interrupted.")
    assert texts[2] == "Not to Bob."
    stack.open_gate("lead")
    assert stack.wait_for_end(run["id"])["status"] == "completed"
    told_well(stack, run["id"])


def test_pause_holds_the_whole_family_and_resume_lets_it_go_on(stack: Stack) -> None:
    stack.close_gate("bees")
    run = lead(stack, "lead-slow")
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.http.post(f"/v1/runs/{run['id']}/pause", json={"reason": "lunch"}).raise_for_status()
    (child,) = children(stack, run["id"])
    stack.open_gate("bees")
    stack.wait_until(lambda: stack.run(run["id"])["status"] == "paused", "the parent is held")
    stack.http.post(f"/v1/runs/{run['id']}/resume", json={}).raise_for_status()
    assert stack.wait_for_end(run["id"])["status"] == "completed"
    assert stack.run(child["id"])["status"] == "completed"


def test_a_cancel_reaches_every_generation(stack: Stack) -> None:
    stack.close_gate("bees")
    run = lead(stack, "lead-slow", budget=BUDGET)
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.http.post(f"/v1/runs/{run['id']}/cancel", json={"reason": "enough"}).raise_for_status()
    assert stack.wait_for_end(run["id"])["status"] == "cancelled"
    stack.open_gate("bees")
    runs = all_accounted(stack, run["id"])
    assert [one["status"] for one in runs] == ["cancelled", "cancelled"]


def test_a_tree_is_cancelled_by_force_without_a_worker(build: Callable[..., Stack]) -> None:
    stack = build().start()
    stack.close_gate("bees")
    run = lead(stack, "lead-slow", budget=BUDGET)
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.kill("worker")
    answer = stack.http.post(f"/v1/runs/{run['id']}/cancel", json={"mode": "force", "reason": "now"})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    runs = all_accounted(stack, run["id"])
    assert [(one["status"], one["stop_reason"]) for one in runs] == [
        ("cancelled", "now"),
        ("cancelled", "parent_ended"),
    ]


def test_a_tree_is_cancelled_gracefully_once_a_worker_is_there_again(build: Callable[..., Stack]) -> None:
    stack = build().start()
    stack.close_gate("bees")
    run = lead(stack, "lead-slow", budget=BUDGET)
    stack.wait_until(lambda: stack.held("bees") == 1, "the child talks")
    stack.kill("worker")
    assert stack.http.post(f"/v1/runs/{run['id']}/cancel", json={"reason": "enough"}).status_code == 202
    stack.open_gate("bees")
    stack.spawn("worker", "-m", "worker")
    assert stack.wait_for_end(run["id"])["status"] == "cancelled"
    assert all(one["status"] == "cancelled" for one in all_accounted(stack, run["id"]))


def test_the_events_of_a_family_are_read_together(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-five")["id"])
    path = f"/v1/runs/{run['id']}/events?include_children=true&deltas=false"
    answer = stack.http.get(path, headers={"accept": "application/jsonl"}).raise_for_status()
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert len({event["run_id"] for event in events}) == 6
    assert sum(event["type"] == "run.completed" for event in events) == 6
    paged: list[dict[str, Any]] = []
    after = ""
    while True:
        page = stack.http.get(f"{path}&limit=50{after}").raise_for_status().json()
        paged += page["data"]
        if not page["has_more"]:
            break
        after = f"&after={page['next_cursor']}"
    assert [event["id"] for event in paged] == [event["id"] for event in events]
    assert stack.http.get(f"{path}&after=run_x:1").status_code == 400
    assert stack.http.get(path, headers={"accept": "text/event-stream"}).status_code == 400

"""Blackboards over real processes: children and their parent write on one board, and a crash writes nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.e2e.story import told_well, types
from tests.e2e.test_crashes import database_url
from tests.e2e.test_family import children, lead, results

__all__ = ["database_url"]

TOOLS = ["spawn_agent", "board_read", "board_post", "board_update"]


def board(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    return list(stack.http.get(f"/v1/runs/{run_id}/board").raise_for_status().json()["data"])


def test_two_children_and_their_parent_write_on_one_board(stack: Stack) -> None:
    run = stack.wait_for_end(lead(stack, "lead-board", TOOLS)["id"])
    assert run["output_text"] == "The board is read.", run
    by_task = {child["input"][0]["text"]: child["id"] for child in children(stack, run["id"])}
    entries = board(stack, run["id"])
    assert {entry["text"]: entry["posted_by"]["run_id"] for entry in entries} == {
        "found by one": by_task["one"],
        "found by two": by_task["two"],
        "the lead was here": run["id"],
    }
    assert [entry["number"] for entry in entries] == [1, 2, 3]
    for id_ in (run["id"], *by_task.values()):
        assert board(stack, id_) == entries
        assert types(told_well(stack, id_))["board.posted"] == 1
    read = next(json.loads(block["text"]) for block in results(stack, run["id"]) if block["name"] == "board_read")
    assert [entry["text"] for entry in read["entries"]] == [entry["text"] for entry in entries[:2]]
    failed = [event["data"]["code"] for event in stack.events(run["id"]) if event["type"] == "tool.failed"]
    assert Counter(failed) == {"entry_not_found": 1, "invalid_arguments": 1}


@pytest.mark.parametrize("point", ["tool.after_effect:board_post", "tool.before_effect:board_post"])
def test_a_worker_killed_while_it_posts_leaves_one_entry(
    build: Callable[..., Stack], database_url: str | None, point: str
) -> None:
    stack = build(database_url).start(worker=False)
    mark = stack.home / "killed"
    doomed = stack.spawn("doomed", "-m", "tests.e2e.faulty_worker", FAULT=point, FAULT_MARK=str(mark))
    run_id = stack.post_run("scripted/board-alone", ["board_post"])["id"]
    doomed.wait(timeout=30)
    assert mark.exists(), stack.logs()
    assert len(board(stack, run_id)) == (1 if "after" in point else 0)
    stack.spawn("worker", "-m", "worker")
    run = stack.wait_for_end(run_id)
    assert run["status"] == "completed"
    told = types(told_well(stack, run_id))
    assert (told["tool.started"], told["board.posted"], told["tool.completed"]) == (2, 1, 1)
    (entry,) = board(stack, run_id)
    assert (entry["text"], entry["version"]) == ("written once", 1)
    assert entry["id"] in run["output_text"], "the attempt that was repeated has told of the first one's entry"

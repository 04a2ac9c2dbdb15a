"""Bad and odd input where it meets Temporal, vendors and tools. What the API alone refuses is in tests/api."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.e2e.story import told_well

AGENT = {"model": "scripted/echo"}

# Temporal counts bytes where people count characters, and has limits of its own for what its UI shows.
ODD_TEXTS = {
    "emoji": "🦊" * 500,
    "one long line": "x" * 100_000,
    "controls": "\x01\x1b[31mred\x7f\x85\u2028\u202eback\ufeff\ufffe\uffff\t\r\n",
    "blank first line": "\n\n  \u00a0\n said at last",
    "looks like markup": "<script>alert(1)</script> {{x}} %s ${HOME} **bold** `code` '; DROP TABLE runs; --",
    "combining": "e" + "\u0301" * 2_000,
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_text_goes_through_every_part_and_comes_back_as_it_was(stack: Stack, name: str) -> None:
    text = ODD_TEXTS[name]
    run = stack.wait_for_end(stack.post_run("scripted/echo", input=text)["id"], 20)
    assert run["status"] == "completed", run
    assert run["input"][0]["text"] == text
    assert run["output_text"] == text
    told_well(stack, run["id"])


@pytest.mark.parametrize("reason", ["🦊" * 200, "\x01\x1b[31m\n\n", "x" * 500], ids=["emoji", "controls", "long"])
def test_a_run_is_cancelled_for_any_reason(stack: Stack, reason: str) -> None:
    run_id = stack.post_run("scripted/hanging")["id"]
    stack.wait_until(lambda: stack.run(run_id)["status"] == "running", "the run is under way")
    answer = stack.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": reason})
    assert answer.status_code == 202, answer.text
    run = stack.wait_for_end(run_id, 15)
    assert (run["status"], run["stop_reason"]) == ("cancelled", reason)


def test_a_reason_without_measure_is_refused_and_the_run_goes_on(stack: Stack) -> None:
    run_id = stack.post_run("scripted/hanging")["id"]
    answer = stack.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "x" * 3_000_000})
    assert answer.status_code == 422, answer.text[:500]
    assert answer.json()["errors"][0]["pointer"] == "/reason"
    assert stack.run(run_id)["status"] in ("queued", "running")
    stack.http.post(f"/v1/runs/{run_id}/cancel", json={"mode": "force"})


def test_an_input_of_many_megabytes_is_a_run_and_one_beyond_the_limit_is_none(stack: Stack) -> None:
    before = count(stack)
    refused = stack.http.post("/v1/runs", json={"agent_inline": AGENT, "input": "x" * (17 * 1024 * 1024)})
    assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    assert count(stack) == before
    run = stack.wait_for_end(stack.post_run("scripted/hello", input="word " * 2_000_000)["id"], 30)
    assert run["status"] == "completed", run


def test_what_is_refused_leaves_neither_a_run_nor_a_workflow_nor_a_bill(stack: Stack) -> None:
    before, asked = count(stack), stack.summary()["asked"]
    bodies: list[Any] = [
        {"agent_inline": {"model": "scripted/nobody"}, "input": "x"},
        {"agent_inline": {**AGENT, "tools": ["no_such_tool"]}, "input": "x"},
        {"agent": "nobody", "input": "x"},
        {"agent_inline": AGENT, "input": ""},
        {"agent_inline": AGENT, "input": "a\0b"},
        {"agent_inline": AGENT, "input": "x", "limits": {"max_turns": 10**30}},
        {"agent_inline": AGENT, "input": "x", "deadline": "soon"},
        {"agent_inline": AGENT, "input": "x", "session_id": "ses_nobody"},
        [],
    ]
    for body in bodies:
        answer = stack.http.post("/v1/runs", json=body)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] not in ("internal", "not_found")
    time.sleep(0.5)
    assert count(stack) == before
    assert stack.summary()["asked"] == asked


def test_a_session_takes_one_run_at_a_time_and_says_which_one_it_has(stack: Stack) -> None:
    first = stack.post_run("scripted/hanging")
    second = stack.http.post(
        "/v1/runs", json={"agent_inline": AGENT, "input": "me too", "session_id": first["session_id"]}
    )
    assert (second.status_code, second.json()["code"]) == (409, "session_busy")
    assert first["id"] in second.json()["detail"]
    stack.http.post(f"/v1/runs/{first['id']}/cancel", json={"mode": "force"})
    third = stack.wait_for_end(stack.post_run("scripted/echo", input="now", session_id=first["session_id"])["id"])
    assert (third["status"], third["output_text"]) == ("completed", "now")


def count(stack: Stack) -> int:
    """Runs in the journal; each of them has one workflow, and no workflow is without one."""
    runs: list[str] = []
    page = stack.http.get("/v1/runs?limit=100").raise_for_status().json()
    while True:
        runs += [run["id"] for run in page["data"]]
        if not page["has_more"]:
            return len(runs)
        page = stack.http.get(f"/v1/runs?limit=100&after={page['next_cursor']}").raise_for_status().json()

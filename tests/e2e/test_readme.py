"""The README's tour, word for word: every block in order in one shell, against the live product."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.house.readme import tour_blocks

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")

MARK = "=== the next block ==="


@pytest.fixture(scope="module")
def said(stack: Stack) -> list[str]:
    """What each block printed."""
    stack.wait_until(lambda: stack.http.get("/readyz").status_code == 200, "the stack is ready")
    script = f"\nprintf '\\n%s\\n' '{MARK}'\n".join(tour_blocks())
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script],
        env={**os.environ, "PERDURE_API_URL": stack.api_url, "no_proxy": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,  # the tour streams for about twenty seconds; a loaded machine takes its time
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:] + stack.logs()
    assert done.stderr == ""
    return done.stdout.split(MARK)


def block(said: list[str], containing: str) -> str:
    """What the one block printed whose commands contain this text."""
    [index] = [index for index, commands in enumerate(tour_blocks()) if containing in commands]
    return said[index].strip()


def documents(text: str) -> list[dict[str, Any]]:
    """JSON documents written one after the other."""
    decoder, found, position = json.JSONDecoder(), [], 0
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def ids(stream: str) -> list[int]:
    return [int(number) for number in re.findall(r"^id: (\d+)$", stream, re.MULTILINE)]


def test_the_service_says_that_it_is_alive_ready_and_what_it_is(said: list[str]) -> None:
    alive, ready, info = documents(block(said, "/readyz"))
    assert (alive["status"], ready["status"], info["name"]) == ("ok", "ready", "perdure")


def test_a_run_is_watched_from_its_first_event_to_its_end(said: list[str]) -> None:
    stream = block(said, "curl -sN $API/v1/runs/$RUN/events -H 'accept: text/event-stream'\n")
    assert ids(stream)[0] == 1
    assert ids(stream) == list(range(1, len(ids(stream)) + 1))
    assert stream.count("event: run.completed") == 1


def test_a_reader_who_comes_back_gets_the_rest(said: list[str]) -> None:
    text = block(said, "last-event-id: 20")
    stream, brace, rest = text.partition("\n{\n")
    assert ids(stream)[0] == 21
    page, *lines = documents(brace.strip() + rest)
    assert len(page["data"]) == 5
    assert all(event["seq"] > 20 for event in page["data"])
    assert lines
    assert {line["type"] for line in lines} == {"message.added"}


def test_run_steps_transcript_and_list_tell_what_it_came_to(said: list[str]) -> None:
    run, steps, messages, runs = documents(block(said, "$RUN/steps"))
    assert run["status"] == "completed"
    assert float(run["usage"]["cost_usd"]) > 0
    assert {step["status"] for step in steps["data"]} == {"completed"}
    assert messages["data"][0]["role"] == "user"
    assert run["id"] in {other["id"] for other in runs["data"]}


def test_waiting_and_streaming_replies_bring_the_answer(said: list[str]) -> None:
    text = block(said, 'prefer: wait=30\' \\\n  -d \'{"agent_inline": {"model": "scripted/hello"')
    assert text.startswith("Hello from a scripted model")
    assert re.search(r"^x-run-id: run_\w+", text, re.MULTILINE | re.IGNORECASE)
    assert "event: run.completed" in text


def test_a_request_sent_twice_is_one_run(said: list[str]) -> None:
    text = block(said, "idempotency-key")
    assert "201 Created" in text
    assert text.lower().endswith("idempotent-replayed: true")


def test_an_agent_is_stored_and_found(said: list[str]) -> None:
    made, listed, found = documents(block(said, "$API/v1/agents/clerk"))
    assert made["name"] == found["name"] == "clerk"
    assert [agent["name"] for agent in listed["data"]] == ["clerk"]


def test_a_session_holds_both_runs(said: list[str]) -> None:
    status, _, rest = block(said, "SESSION=").partition("\n")
    assert status == "completed"
    [messages] = documents(rest.strip())
    assert [message["role"] for message in messages["data"]] == ["user", "assistant", "user", "assistant"]


def test_a_cancelled_run_is_cancelled(said: list[str]) -> None:
    assert block(said, "STUCK=").endswith("cancelled")


def test_an_error_says_what_is_wrong_and_where(said: list[str]) -> None:
    problem, models, tools = documents(block(said, "scripted/nobody"))
    assert problem["code"] == "unknown_model"
    assert problem["errors"][0]["pointer"] == "/agent_inline/model"
    assert "scripted/tour" in {model["id"] for model in models["data"]}
    assert "write_file" in {tool["name"] for tool in tools["data"]}


def test_a_budget_ends_its_run_with_last_words_and_a_ledger_that_was_kept(said: list[str]) -> None:
    run, ledger, usage, _ = [*documents(block(said, "RICH=").partition("group,")[0]), None]
    assert (run["status"], run["stop_reason"]) == ("incomplete", "budget_reached")
    assert run["output_text"].startswith("I was stopped by the budget.")
    assert float(run["budget"]["spent"]["cost_usd"]) <= 0.03
    assert [line["kind"] for line in ledger["data"][:3]] == ["limit", "reserved", "settled"]
    assert "scripted/spender" in {row["group"] for row in usage["data"]}
    assert re.search(r"^20\d\d-\d\d-\d\d,", block(said, "RICH="), re.MULTILINE), "usage by day, as CSV"


def test_a_paused_run_goes_on_with_more_money(said: list[str]) -> None:
    reason, stopped = block(said, "POOR=").splitlines()
    assert reason.startswith("budget_reached")
    assert stopped == "budget_reached"


def test_policy_is_shown_whole_and_says_what_it_would_say(said: list[str]) -> None:
    agent, ruling = documents(block(said, "policy:check"))
    assert agent["policy"]["guardrails"] == ["destructive_commands", "secrets"]
    assert (ruling["verdict"], ruling["reason"]) == ("deny", "stay in your folder")


def test_an_edited_approval_is_what_runs(said: list[str]) -> None:
    status, _, rest = block(said, "LETTER=").partition("\n")
    assert status == "requires_action"
    assert '"status": "approved"' in rest
    assert rest.splitlines()[-1] == "The letter says: Dear Ada, it works very well."


def test_a_question_is_answered(said: list[str]) -> None:
    status, _, rest = block(said, "RELEASE=").partition("\n")
    assert status == "requires_action"
    assert "staging" in rest.splitlines()[-1]
    assert "a small release" in rest.splitlines()[-1]


def test_a_message_interrupts_and_a_run_is_steered(said: list[str]) -> None:
    text = block(said, "TALK=")
    assert '"delivery": "interrupt"' in text
    assert "cancelled" in text.splitlines()
    assert '"reason": "interrupted"' in text


def test_a_sleeper_is_woken_by_hand_and_hears_of_the_event_it_waits_for(said: list[str]) -> None:
    text = block(said, "scripted/patient")
    timers, rest = documents_before(text, "fired")
    assert [timer["reason"] for timer in timers[0]["data"]] == ["until the shop opens"]
    assert '"delivered"' in rest or '"buffered"' in rest
    assert rest.strip().splitlines()[-1].startswith("What came: ")
    assert '"from":"Ada"' in rest.strip().splitlines()[-1].replace(" ", "")


def test_a_schedule_is_made_looked_at_fired_by_hand_and_removed(said: list[str]) -> None:
    text = block(said, "v1/schedules -H")
    made, following, fired, invocations = documents(text.removesuffix("204").strip())
    assert (made["name"], made["overlap"]) == ("nightly", "skip")
    assert len(following["data"]) == 3
    assert fired
    assert [row["run_id"][:4] for row in invocations["data"]] == ["run_"]
    assert text.endswith("204")


def test_a_leader_has_three_others_at_work_under_one_budget(said: list[str]) -> None:
    text = block(said, "scripted/lead")
    words, brace, rest = text.partition("\n{")
    tree, children, ledger = documents(brace.strip() + rest)
    assert words.startswith("All three are back.")
    assert [child["status"] for child in tree["children"]] == ["completed"] * 3
    assert tree["total"]["runs"] == 4
    assert {child["parent_run_id"] for child in children["data"]} == {tree["id"]}
    assert [line["kind"] for line in ledger["data"]].count("reserved") >= 3


def test_a_conversation_is_forked_exported_imported_and_erased(said: list[str]) -> None:
    text = block(said, "sessions:import")
    [imported] = documents(text.removesuffix("204").strip())
    assert imported["id"].startswith("ses_")
    assert text.endswith("204")


def documents_before(text: str, word: str) -> tuple[list[dict[str, Any]], str]:
    """The documents in front of a line, and everything after it."""
    before, _, after = text.partition(f"\n{word}\n")
    return documents(before.strip()), after

"""Runs that sleep, wait for events and poll, over real processes: they wake when they should, whatever dies meanwhile,
and whoever has something to say need not wait for it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client

from perdure.dev_server import start_dev_server
from tests.e2e.stack import Stack
from tests.e2e.story import told_well, types

TOOLS = ["sleep", "wait_for_event", "poll", "look", "book_once"]


def start(stack: Stack, script: str, arguments: Any = None, **body: Any) -> str:
    given = {} if arguments is None else {"input": json.dumps(arguments)}
    return str(stack.post_run(f"scripted/{script}", TOOLS, **given, **body)["id"])


def asleep(stack: Stack, run_id: str) -> dict[str, Any]:
    """The run as it is once it waits."""
    stack.wait_until(lambda: stack.run(run_id)["status"] == "waiting", "the run sleeps")
    return stack.run(run_id)


def event(stack: Stack, run_id: str, type_: str) -> dict[str, Any]:
    [found] = [one for one in stack.events(run_id) if one["type"] == type_]
    return dict(found)


def at(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def result(stack: Stack, run_id: str) -> Any:
    """What the model was told of its last call, as the scripts retell it."""
    text = stack.wait_for_end(run_id)["output_text"]
    return json.loads(text.partition(": ")[2])


def test_a_turn_and_a_tool_have_no_more_time_than_the_run_gives_them(stack: Stack) -> None:
    limits = {"turn_timeout_seconds": 1, "tool_timeouts": {"book_when_open": 1}}
    run = stack.post_run("scripted/hangs-once", ["book_when_open"], limits=limits)
    ended = stack.wait_for_end(run["id"])
    assert ended["status"] == "completed"
    failed = event(stack, run["id"], "tool.failed")
    assert failed["data"]["code"] == "tool_timeout"
    told = types(told_well(stack, run["id"]))
    assert told["model.completed"] == 2
    assert told["model.started"] == 3, "the attempt that hung was given up, and made again"


# Sleep ------------------------------------------------------------------------------------------


def test_a_run_sleeps_and_wakes_when_it_said(stack: Stack) -> None:
    run_id = start(stack, "sleeper", {"for_seconds": 2, "reason": "the market opens"})
    run = asleep(stack, run_id)
    assert (run["status_reason"], run["pending_actions"]) == ("timer", [])
    [timer] = stack.http.get(f"/v1/runs/{run_id}/timers").json()["data"]
    [wait] = run["waiting_for"]
    assert wait == {"type": "timer", "until": timer["until"], "ref": timer["id"]}
    assert (timer["status"], timer["reason"]) == ("open", "the market opens")
    told = result(stack, run_id)
    assert told["woken"] is False
    assert 2 <= told["slept_seconds"] < 4
    told_well(stack, run_id)
    started, fired = event(stack, run_id, "timer.started"), event(stack, run_id, "timer.fired")
    assert started["data"]["reason"] == "the market opens"
    assert 0 <= at(fired) * 1_000 - started["data"]["until_ms"] < 1_500
    assert stack.http.get(f"/v1/runs/{run_id}/timers?status=fired").json()["data"][0]["ended_by"] is None


def test_a_long_wait_is_set_anew_just_before_its_end(stack: Stack) -> None:
    run_id = start(stack, "sleeper", {"for_seconds": 11})
    asleep(stack, run_id)
    assert result(stack, run_id)["woken"] is False

    async def set_to() -> list[float]:
        client = await Client.connect(stack.temporal.address)
        history = await client.get_workflow_handle(run_id).fetch_history()
        started = [one for one in history.events if one.HasField("timer_started_event_attributes")]
        return [one.timer_started_event_attributes.start_to_fire_timeout.ToMilliseconds() / 1_000 for one in started]

    whole_run, far, near, *_ = asyncio.run(set_to())
    assert whole_run > 11
    assert 8 < far <= 9
    assert 0 < near <= 2


def test_a_run_sleeps_until_a_local_time(stack: Stack) -> None:
    until = datetime.now(UTC) + timedelta(hours=3)
    run_id = start(
        stack, "sleeper", {"until": until.replace(tzinfo=None).isoformat(timespec="seconds"), "timezone": "UTC"}
    )
    [wait] = asleep(stack, run_id)["waiting_for"]
    assert wait["until"].startswith(until.strftime("%Y-%m-%dT%H:%M:%S"))
    stack.http.post(f"/v1/runs/{run_id}/cancel", json={}).raise_for_status()
    assert stack.wait_for_end(run_id)["status"] == "cancelled"
    assert event(stack, run_id, "timer.cancelled")["data"]["reason"] == "run_ended"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"until": "2020-01-01T00:00:00Z"}, "in the past"),
        ({"until": "2030-01-01T09:00", "timezone": "Europe/Atlantis"}, "IANA name"),
        ({"for_seconds": 40_000_000}, "for_seconds"),
        ({"for_seconds": 31_000_000}, "deadline"),
        ({}, "either for_seconds or until"),
    ],
)
def test_a_sleep_that_cannot_be_is_a_tool_error_that_the_model_can_mend(
    stack: Stack, arguments: dict[str, Any], word: str
) -> None:
    run_id = start(stack, "sleeper", arguments)
    assert stack.wait_for_end(run_id)["status"] == "completed"
    failed = event(stack, run_id, "tool.failed")
    assert failed["data"]["code"] == "invalid_arguments"
    assert word in stack.run(run_id)["output_text"]
    assert types(stack.events(run_id))["timer.started"] == 0


def test_a_message_wakes_a_sleeper_who_hears_how_long_was_left_and_may_sleep_on(stack: Stack) -> None:
    run_id = start(stack, "sleeps-on")
    asleep(stack, run_id)
    path = f"/v1/runs/{run_id}/messages"
    stack.http.post(path, json={"content": "later", "delivery": "enqueue"}).raise_for_status()
    time.sleep(0.5)
    assert stack.run(run_id)["status"] == "waiting", "what is enqueued wakes nobody"
    stack.http.post(path, json={"content": "how is it going"}).raise_for_status()
    assert stack.wait_for_end(run_id)["output_text"] == "And heard later."
    texts = stack.http.get(f"/v1/runs/{run_id}/messages").text
    for words in ("seconds_left", "Heard how is it going, and I sleep on.", 'Woke: {\\"woken\\":false'):
        assert words in texts
    cancelled = [one for one in told_well(stack, run_id) if one["type"] == "timer.cancelled"]
    assert [one["data"]["reason"] for one in cancelled] == ["message"]


def test_a_timer_is_fired_by_hand_once_and_says_by_whom(stack: Stack) -> None:
    run_id = start(stack, "sleeper", {"for_seconds": 3_000})
    timer = asleep(stack, run_id)["waiting_for"][0]["ref"]
    path = f"/v1/runs/{run_id}/timers"
    assert stack.http.post(f"{path}/tmr_none/fire").json()["code"] == "timer_not_found"
    for _ in range(2):
        fired = stack.http.post(f"{path}/{timer}/fire", headers={"x-actor": "ada"})
        assert (fired.status_code, fired.json()["status"]) == (200, "fired"), fired.text
    told = result(stack, run_id)
    assert (told["woken"], told["by"]) == (True, "ada")
    assert 2_900 < told["seconds_left"] < 3_000
    assert event(stack, run_id, "timer.fired")["data"]["by"] == "ada"
    told_well(stack, run_id)
    cancelled = stack.http.post(f"{path}/{timer}/cancel", headers={"x-actor": "bob"})
    assert (cancelled.status_code, cancelled.json()["code"]) == (409, "run_terminal")


def test_a_sleep_that_somebody_cancels_has_failed_and_the_run_goes_on(stack: Stack) -> None:
    run_id = start(stack, "sleeper", {"for_seconds": 3_000})
    timer = asleep(stack, run_id)["waiting_for"][0]["ref"]
    answer = stack.http.post(f"/v1/runs/{run_id}/timers/{timer}/cancel", headers={"x-actor": "ada"})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert "ada cancelled this sleep" in stack.wait_for_end(run_id)["output_text"]
    assert event(stack, run_id, "timer.cancelled")["data"] == {"timer_id": timer, "reason": "cancelled", "by": "ada"}


# Events -----------------------------------------------------------------------------------------


def test_a_run_waits_for_the_event_that_fits_and_gets_its_payload(stack: Stack) -> None:
    wants = {"name": "order.paid", "match": {"order": {"id": 7}}, "timeout_seconds": 600}
    run_id = start(stack, "waiter", wants)
    [wait] = asleep(stack, run_id)["waiting_for"]
    assert (wait["type"], wait["ref"]) == ("event", "order.paid")
    path = f"/v1/runs/{run_id}/signals"
    other = stack.http.post(f"{path}/order.paid", json={"payload": {"order": {"id": 8}}})
    assert (other.status_code, other.json()["disposition"]) == (202, "buffered")
    right = stack.http.post(f"{path}/order.paid", json={"payload": {"order": {"id": 7}, "sum": "9.50"}})
    assert right.json()["disposition"] == "delivered", right.text
    told = result(stack, run_id)
    assert (told["received"], told["payload"]["sum"]) == (True, "9.50")
    dispositions = [one["data"]["disposition"] for one in told_well(stack, run_id) if one["type"] == "signal.received"]
    assert dispositions == ["buffered", "delivered", "returned"]
    assert stack.http.post(f"{path}/order.paid").json()["code"] == "run_terminal"


def test_a_signal_that_came_before_anybody_waited_is_not_lost(stack: Stack) -> None:
    at_start = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    run_id = start(stack, "waiter", {"name": "order.paid", "timeout_seconds": 600}, start_at=at_start)
    sent = stack.http.post(
        f"/v1/runs/{run_id}/signals/order.paid", json={"payload": 42, "dedupe_key": "a"}, headers={"x-actor": "shop"}
    )
    assert sent.json()["disposition"] == "buffered"
    again = stack.http.post(f"/v1/runs/{run_id}/signals/order.paid", json={"payload": 42, "dedupe_key": "a"})
    assert again.json()["disposition"] == "duplicate"
    began = time.monotonic()
    assert result(stack, run_id)["payload"] == 42
    assert time.monotonic() - began < 10
    told_well(stack, run_id)


def test_an_event_that_never_comes_is_waited_for_no_longer_than_said(stack: Stack) -> None:
    run_id = start(stack, "waiter", {"name": "order.paid", "timeout_seconds": 1})
    assert result(stack, run_id) == {"received": False, "timed_out": True}


def test_one_signal_reaches_all_runs_that_wait_for_it_and_no_other(stack: Stack) -> None:
    wants = {"name": "deploy.done", "timeout_seconds": 600}
    blue = [start(stack, "waiter", wants, labels={"team": "blue"}) for _ in range(3)]
    red = start(stack, "waiter", wants, labels={"team": "red"})
    picky = start(stack, "waiter", {**wants, "match": {"ok": False}}, labels={"team": "blue"})
    for run_id in (*blue, red, picky):
        asleep(stack, run_id)
    answer = stack.http.post("/v1/signals/deploy.done", json={"payload": {"ok": True}, "labels": {"team": "blue"}})
    assert answer.status_code == 202, answer.text
    became = {one["run_id"]: one["disposition"] for one in answer.json()["data"]}
    assert became == {**dict.fromkeys(blue, "delivered"), picky: "not_waiting"}
    for run_id in blue:
        assert result(stack, run_id)["payload"] == {"ok": True}
    for run_id in (red, picky):
        assert stack.run(run_id)["status"] == "waiting"
        stack.http.post(f"/v1/runs/{run_id}/cancel", json={"mode": "force"}).raise_for_status()


def test_a_critical_signal_wakes_a_sleeper_as_a_message(stack: Stack) -> None:
    run_id = start(stack, "sleeps-on")
    asleep(stack, run_id)
    body = {"payload": {"disk": "full"}, "urgency": "critical"}
    sent = stack.http.post(f"/v1/runs/{run_id}/signals/alarm", json=body)
    assert sent.json()["disposition"] == "interrupting"
    stack.wait_for_end(run_id)
    texts = stack.http.get(f"/v1/runs/{run_id}/messages").text
    assert "Signal alarm (critical)" in texts
    assert types(told_well(stack, run_id))["inbox.applied"] == 1


# Poll -------------------------------------------------------------------------------------------


def test_a_poll_tries_until_its_condition_holds_without_a_model_call_in_between(stack: Stack) -> None:
    until = {"properties": {"count": {"minimum": 3}}, "required": ["count"]}
    wants = {"tool": "look", "arguments": {"at": "door"}, "every_seconds": 1, "until": until, "timeout_seconds": 60}
    run_id = start(stack, "poller", wants)
    run = asleep(stack, run_id)
    assert (run["status_reason"], run["waiting_for"][0]["type"]) == ("poll", "poll")
    assert result(stack, run_id) == {"at": "door", "count": 3}
    told = types(told_well(stack, run_id))
    assert (told["model.started"], told["tool.started"], told["tool.progress"]) == (2, 3, 2)
    assert (told["run.waiting"], told["run.resumed"]) == (1, 1), "tries are not told as work"


def test_a_poll_gives_up_in_time_and_a_message_ends_it(stack: Stack) -> None:
    wants = {"tool": "look", "arguments": {"at": "sea"}, "every_seconds": 1, "until": False, "timeout_seconds": 2}
    never = {**wants, "until": {"type": "string"}}
    run_id = start(stack, "poller", never)
    assert "not so within 2 s, after 3 tries" in stack.wait_for_end(run_id)["output_text"]
    run_id = start(stack, "poller", {**never, "every_seconds": 500, "timeout_seconds": 5_000})
    asleep(stack, run_id)
    stack.http.post(f"/v1/runs/{run_id}/messages", json={"content": "stop"}).raise_for_status()
    stack.wait_for_end(run_id)
    assert "given up for it" in stack.http.get(f"/v1/runs/{run_id}/messages").text


@pytest.mark.parametrize(("tool", "word"), [("book_once", "cannot be polled"), ("poll", "cannot be polled")])
def test_only_tools_that_read_are_polled(stack: Stack, tool: str, word: str) -> None:
    wants = {"tool": tool, "arguments": {"what": "x"}, "every_seconds": 1, "until": {}, "timeout_seconds": 5}
    run_id = start(stack, "poller", wants)
    assert word in stack.wait_for_end(run_id)["output_text"]


def test_a_poll_may_not_do_what_policy_denies(stack: Stack) -> None:
    wants = {"tool": "look", "arguments": {"at": "x"}, "every_seconds": 1, "until": {}, "timeout_seconds": 5}
    policy = {"rules": [{"tool": "look", "action": "deny", "reason": "no looking"}]}
    run_id = start(stack, "poller", wants, policy=policy)
    stack.wait_for_end(run_id)
    assert "no looking" in event(stack, run_id, "tool.denied")["data"]["message"]


# Start later ------------------------------------------------------------------------------------


def test_a_run_starts_when_it_was_asked_to(stack: Stack) -> None:
    start_at = datetime.now(UTC) + timedelta(seconds=2)
    run = stack.post_run("scripted/hello", start_at=start_at.isoformat())
    assert (run["status"], run["started_at"]) == ("scheduled", None)
    assert run["waiting_for"][0]["type"] == "start"
    ended = stack.wait_for_end(run["id"])
    late = datetime.fromisoformat(ended["started_at"]) - start_at
    assert timedelta() <= late < timedelta(seconds=0.5), late
    order = [one["type"] for one in told_well(stack, run["id"])][:4]
    assert order == ["run.created", "message.added", "run.queued", "run.started"]


def test_a_run_that_has_not_started_yet_can_be_cancelled_and_paused(stack: Stack) -> None:
    start_at = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    gone = stack.post_run("scripted/hello", start_at=start_at)["id"]
    stack.http.post(f"/v1/runs/{gone}/cancel", json={}).raise_for_status()
    assert stack.wait_for_end(gone)["status"] == "cancelled"
    assert types(stack.events(gone))["model.started"] == 0
    held = stack.post_run("scripted/hello", start_at=start_at)["id"]
    stack.http.post(f"/v1/runs/{held}/pause", json={}).raise_for_status()
    stack.wait_until(lambda: stack.run(held)["status"] == "paused", "it is held at its start")
    stack.http.post(f"/v1/runs/{held}/resume", json={}).raise_for_status()
    assert stack.wait_for_end(held)["status"] == "completed"


@pytest.mark.parametrize(
    "body",
    [
        {"start_at": "2020-01-01T00:00:00Z"},
        {"start_at": "2999-01-01T00:00:00Z"},
        {"start_at": "tomorrow"},
        {"start_at": "{soon}", "deadline": "{sooner}"},
    ],
)
def test_a_start_that_cannot_be_is_refused_with_a_pointer(stack: Stack, body: dict[str, str]) -> None:
    now = datetime.now(UTC)
    given = {
        name: value.format(soon=(now + timedelta(60)).isoformat(), sooner=(now + timedelta(30)).isoformat())
        for name, value in body.items()
    }
    agent = {"model": "scripted/hello"}
    answer = stack.http.post("/v1/runs", json={"agent_inline": agent, "input": "go", **given})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    assert answer.json()["errors"][0]["pointer"] in ("/start_at", "/deadline")


# What dies while a run sleeps -------------------------------------------------------------------


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a Temporal server of its own, which the tests may take down."""
    folder = tmp_path_factory.mktemp("fragile")
    one = Stack(folder / "home", start_dev_server(folder / "temporal.db"))
    try:
        yield one.start()
    finally:
        one.stop()
        one.temporal.stop()


def test_a_sleeper_wakes_although_its_worker_was_killed(build: Callable[..., Stack]) -> None:
    stack = build().start()
    run_id = start(stack, "sleeper", {"for_seconds": 4})
    poll = {"tool": "look", "arguments": {"at": "gate"}, "every_seconds": 1, "timeout_seconds": 60}
    polls = start(stack, "poller", {**poll, "until": {"properties": {"count": {"minimum": 4}}}})
    asleep(stack, run_id)
    asleep(stack, polls)
    stack.kill("worker")
    time.sleep(1)
    stack.spawn("worker", "-m", "worker")
    assert result(stack, run_id)["woken"] is False
    assert event(stack, run_id, "timer.fired")["data"]["late_ms"] < 3_000
    assert result(stack, polls)["count"] == 4
    told_well(stack, polls)


def test_two_hundred_sleepers_wake_soon_after_a_server_that_was_killed_is_back(fragile: Stack) -> None:
    stack = fragile
    until = datetime.now(UTC) + timedelta(seconds=45)
    arguments = {"until": until.isoformat(timespec="seconds")}
    ids = [start(stack, "sleeper", arguments) for _ in range(200)]
    for run_id in ids:
        asleep(stack, run_id)
    stack.temporal.kill()
    down_until = max(time.time() + 2, until.timestamp() + 1)  # it comes back after they should have woken
    time.sleep(max(0.0, down_until - time.time()))
    stack.temporal = start_dev_server(stack.temporal.db, stack.temporal.port)
    back = time.time()
    ends = [stack.wait_for_end(run_id, 60) for run_id in ids]
    assert {end["status"] for end in ends} == {"completed"}
    woke = [at(event(stack, run_id, "timer.fired")) for run_id in ids]
    late = max(woke) - back
    print(f"200 sleepers woke {late:.2f} s after the server was back at the latest")
    assert late < 30, "3 s on a machine that does nothing else; here others may be at work, too"
    assert min(woke) >= until.timestamp() - 1

"""Schedules on real processes: they fire on time, hold their policies for runs, and outlive every process."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from perdure.dev_server import DevServer, start_dev_server
from tests.e2e.stack import TERMINAL, Stack
from tests.e2e.story import told_well
from tests.postgres import PostgresServer

Object = dict[str, Any]


@pytest.fixture(autouse=True)
def no_schedule_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "stack" in request.fixturenames:
        stack: Stack = request.getfixturevalue("stack")
        for schedule in stack.http.get("/v1/schedules?limit=100").json()["data"]:
            stack.http.delete(f"/v1/schedules/{schedule['id']}").raise_for_status()


def made(stack: Stack, model: str = "scripted/recall", **body: Any) -> Object:
    whole = {
        "name": f"s-{time.monotonic_ns()}",
        "agent_inline": {"model": model, "instructions": "Do as scripted."},
        "input": "Good evening.",
        "spec": {"every_seconds": 2},
        **body,
    }
    answer = stack.http.post("/v1/schedules", json=whole)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def order(stack: Stack, schedule: Object, verb: str, **body: Any) -> Object:
    answer = stack.http.post(f"/v1/schedules/{schedule['id']}/{verb}", json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def book(stack: Stack, schedule: Object, **like: Any) -> list[Object]:
    """Its invocations in the order planned: those with these members."""
    rows = stack.http.get(f"/v1/schedules/{schedule['id']}/invocations?limit=100").raise_for_status().json()["data"]
    fitting = [row for row in rows if all(row[name] == value for name, value in like.items())]
    return sorted(fitting, key=lambda row: str(row["planned_at"]))


def wait_for(stack: Stack, schedule: Object, count: int, timeout_seconds: float = 30, **like: Any) -> list[Object]:
    stack.wait_until(
        lambda: len(book(stack, schedule, **like)) >= count,
        f"{count} invocations {like}: {book(stack, schedule)}",
        timeout_seconds,
    )
    return book(stack, schedule, **like)


def lateness(row: Object) -> float:
    planned, actual = (datetime.fromisoformat(row[name]) for name in ("planned_at", "actual_at"))
    return (actual - planned).total_seconds()


def far_away() -> Object:
    """A spec that fires by itself in the next year only."""
    return {"calendar": {"year": datetime.now(UTC).year + 2, "month": 1, "day_of_month": 1}}


# Firing -------------------------------------------------------------------------------------------


def test_a_schedule_fires_on_time_and_each_firing_is_a_run_like_any_other(stack: Stack) -> None:
    schedule = made(stack, labels={"team": "night"})
    rows = wait_for(stack, schedule, 3, status="started", cause="schedule")
    late = [lateness(row) for row in rows[:3]]
    print(f"[measured] fired {', '.join(f'{seconds:.3f}' for seconds in late)} s after the planned time")
    assert all(0 <= seconds < 2 for seconds in late)
    planned = [datetime.fromisoformat(row["planned_at"]) for row in rows[:3]]
    assert [b - a for a, b in pairwise(planned)] == [timedelta(seconds=2)] * 2
    run = stack.wait_for_end(rows[0]["run_id"])
    assert (run["status"], run["schedule_id"], run["labels"]) == ("completed", schedule["id"], {"team": "night"})
    events = told_well(stack, run["id"])
    assert events[0]["data"]["schedule_id"] == schedule["id"]
    listed = stack.http.get(f"/v1/runs?schedule_id={schedule['id']}&limit=100").json()["data"]
    assert {row["run_id"] for row in rows} <= {run["id"] for run in listed}
    assert len({run["session_id"] for run in listed}) == len(listed)


def test_a_paused_schedule_is_silent_until_it_is_resumed_and_nothing_counts_as_missed(stack: Stack) -> None:
    schedule = made(stack)
    wait_for(stack, schedule, 1, status="started")
    assert order(stack, schedule, "pause", reason="holidays")["status"] == "paused"
    paused = datetime.now(UTC)
    time.sleep(1)  # what was on its way has arrived
    before = len(book(stack, schedule, status="started"))
    time.sleep(4.5)
    assert len(book(stack, schedule, status="started")) == before
    resumed = datetime.now(UTC)
    assert order(stack, schedule, "resume")["status"] == "active"
    wait_for(stack, schedule, before + 1, status="started")
    planned = [datetime.fromisoformat(row["planned_at"]) for row in book(stack, schedule)]
    assert not [at for at in planned if paused < at < resumed], book(stack, schedule)


def test_a_trigger_fires_at_once_even_when_the_schedule_is_paused(stack: Stack) -> None:
    schedule = made(stack, spec=far_away())
    order(stack, schedule, "pause")
    order(stack, schedule, "trigger")
    (row,) = wait_for(stack, schedule, 1)
    assert (row["cause"], row["status"]) == ("manual", "started")
    assert stack.wait_for_end(row["run_id"])["output_text"] == "Good evening."


def test_a_trigger_with_an_idempotency_key_fires_once(stack: Stack) -> None:
    schedule = made(stack, spec=far_away())
    for _ in range(2):
        answer = stack.http.post(
            f"/v1/schedules/{schedule['id']}/trigger", json={}, headers={"idempotency-key": schedule["id"]}
        )
        assert answer.status_code == 202
    wait_for(stack, schedule, 1)
    time.sleep(1.5)
    assert len(book(stack, schedule)) == 1


def test_a_backfill_fires_at_each_time_of_the_past_one_after_another(stack: Stack) -> None:
    schedule = made(stack, spec={"every_seconds": 3_600}, overlap="skip")
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    order(stack, schedule, "backfill", **{"from": (hour - timedelta(hours=3)).isoformat(), "to": hour.isoformat()})
    rows = wait_for(stack, schedule, 4, status="started")
    assert [datetime.fromisoformat(row["planned_at"]) for row in rows] == [
        hour - timedelta(hours=back) for back in (3, 2, 1, 0)
    ]
    runs = [stack.wait_for_end(row["run_id"]) for row in rows]
    ends = [(run["created_at"], run["completed_at"]) for run in runs]
    assert all(before[1] <= after[0] for before, after in pairwise(ends)), ends


@pytest.mark.parametrize(
    ("zone", "line", "overlap", "planned"),
    [
        ("America/New_York", "15 1 * * *", "buffer_all", ["10-31T05:15", "11-01T06:15", "11-02T06:15"]),
        ("America/New_York", "15 1 * * *", "allow_all", ["10-31T05:15", "11-01T06:15", "11-02T06:15"]),
        ("Europe/Berlin", "15 1 * * *", "buffer_all", ["10-23T23:15", "10-24T23:15", "10-26T00:15"]),
        ("Europe/Berlin", "0 1,2 * * *", "buffer_all", ["10-24T23:00", "10-25T01:00"]),
    ],
)
def test_a_time_that_comes_twice_when_clocks_are_put_back_fires_once(
    stack: Stack, zone: str, line: str, overlap: str, planned: list[str]
) -> None:
    schedule = made(stack, spec={"cron": line}, timezone=zone, overlap="allow_all", jitter_seconds=600)
    first, last = (f"2026-{at}:00Z" for at in (planned[0], planned[-1]))
    order(stack, schedule, "backfill", **{"from": first, "to": last, "overlap": overlap})
    wait_for(stack, schedule, len(planned), status="started")
    time.sleep(1.5)  # a firing more would have come
    rows = book(stack, schedule)
    assert [(row["planned_at"][5:16], row["cause"], row["status"]) for row in rows] == [
        (at, "schedule", "started") for at in planned
    ]
    assert len(stack.http.get(f"/v1/runs?schedule_id={schedule['id']}").json()["data"]) == len(planned)


def test_orders_that_come_at_once_are_all_kept(stack: Stack) -> None:
    schedule = made(stack, spec={"every_seconds": 86_400}, overlap="allow_all")
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    ago = [(day - timedelta(days=days)).isoformat() for days in (9, 8, 6, 5)]

    def ordered(one: tuple[str, Object]) -> int:
        path = f"/v1/schedules/{schedule['id']}/{one[0]}"
        while (answer := stack.http.post(path, json=one[1])).status_code == 503:
            time.sleep(0.5)  # on a machine this slow Temporal may be late: then nothing has happened
        return int(answer.status_code)

    orders: list[tuple[str, Object]] = [("trigger", {})] * 5
    orders += [("backfill", {"from": from_, "to": to}) for from_, to in (ago[:2], ago[2:])]
    with ThreadPoolExecutor(len(orders)) as pool:
        assert set(pool.map(ordered, orders)) == {202}
    wait_for(stack, schedule, 5, 40, cause="manual", status="started")
    wait_for(stack, schedule, 4, 40, cause="schedule", status="started")
    time.sleep(1)
    assert len(book(stack, schedule)) == 9


def test_however_many_triggers_come_at_once_each_is_accepted_and_fires(stack: Stack) -> None:
    schedule = made(stack, spec=far_away(), overlap="allow_all")

    def triggered(_: int) -> int:
        return int(stack.http.post(f"/v1/schedules/{schedule['id']}/trigger", json={}).status_code)

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(triggered, range(40))) == {202}
    wait_for(stack, schedule, 40, 60, cause="manual", status="started")


@pytest.mark.parametrize("overlap", ["buffer_one", "cancel_other"])
def test_a_trigger_that_temporal_drops_is_in_the_book(stack: Stack, overlap: str) -> None:
    schedule = made(stack, "scripted/nap", spec=far_away(), overlap=overlap)
    for _ in range(4):
        order(stack, schedule, "trigger")
    stack.wait_until(lambda: len(book(stack, schedule)) == 4, f"each has a row: {book(stack, schedule)}", 60)
    skipped = book(stack, schedule, status="skipped")
    assert {(row["reason"], row["cause"]) for row in skipped} <= {("overlap", "manual")}
    if overlap == "buffer_one":
        assert skipped


# Policies are about runs ----------------------------------------------------------------------------


def test_a_firing_during_a_run_is_skipped_and_the_book_says_so(stack: Stack) -> None:
    schedule = made(stack, "scripted/nap", overlap="skip")
    skipped = wait_for(stack, schedule, 2, status="skipped")
    assert {row["reason"] for row in skipped} == {"overlap"}
    assert all(row["run_id"] is None for row in skipped)
    first, second = wait_for(stack, schedule, 2, status="started")[:2]
    assert stack.run(first["run_id"])["completed_at"] <= second["actual_at"]
    rows = book(stack, schedule)
    assert len({row["planned_at"] for row in rows}) == len(rows)


def test_cancel_other_ends_the_run_in_order_and_starts_the_next(stack: Stack) -> None:
    schedule = made(stack, "scripted/nap", overlap="cancel_other", spec={"every_seconds": 3})
    first, second = wait_for(stack, schedule, 2, status="started")[:2]
    ended = stack.wait_for_end(first["run_id"])
    assert (ended["status"], ended["stop_reason"]) == ("cancelled", "cancelled by its schedule")
    assert ended["completed_at"] <= second["actual_at"]
    told_well(stack, first["run_id"])


def test_terminate_other_ends_the_run_by_force(stack: Stack) -> None:
    schedule = made(stack, "scripted/nap", overlap="terminate_other", spec={"every_seconds": 3})
    first, second = wait_for(stack, schedule, 2, status="started")[:2]
    ended = stack.wait_for_end(first["run_id"])
    assert (ended["status"], ended["stop_reason"]) == ("cancelled", "ended by the next firing of its schedule")
    assert stack.run(second["run_id"])["status"] in {"queued", "running", *TERMINAL}


def test_allow_all_runs_them_side_by_side(stack: Stack) -> None:
    schedule = made(stack, "scripted/nap", overlap="allow_all", spec={"every_seconds": 1})
    rows = wait_for(stack, schedule, 3, status="started")
    assert stack.run(rows[2]["run_id"])["created_at"] < stack.wait_for_end(rows[0]["run_id"])["completed_at"]


def test_a_run_that_fails_pauses_a_schedule_that_pauses_on_failure(stack: Stack) -> None:
    schedule = made(stack, "scripted/doomed", pause_on_failure=True)
    (row, *_) = wait_for(stack, schedule, 1, run_status="failed")
    stack.wait_until(
        lambda: stack.http.get(f"/v1/schedules/{schedule['id']}").json()["status"] == "paused", "it is paused"
    )
    shown = stack.http.get(f"/v1/schedules/{schedule['id']}").json()
    assert shown["paused_reason"] == f"run {row['run_id']} has failed"
    before = len(book(stack, schedule))
    time.sleep(4.5)
    assert len(book(stack, schedule)) == before


def test_quiet_hours_are_silent_and_written_down_and_a_trigger_is_heard_all_the_same(stack: Stack) -> None:
    now = datetime.now(UTC)
    clock = [(now + timedelta(hours=hours)).strftime("%H:%M") for hours in (-2, 2)]
    schedule = made(stack, quiet_hours={"from": clock[0], "to": clock[1]})
    assert schedule["next_at"] > (now + timedelta(hours=1)).isoformat()
    rows = wait_for(stack, schedule, 2)
    assert {(row["status"], row["reason"]) for row in rows} == {("skipped", "quiet_hours")}
    order(stack, schedule, "trigger")
    (row,) = wait_for(stack, schedule, 1, status="started")
    assert stack.wait_for_end(row["run_id"])["status"] == "completed"


# One conversation -----------------------------------------------------------------------------------


def test_a_schedule_may_continue_one_session_over_all_its_runs(stack: Stack) -> None:
    schedule = made(stack, session="continue")
    rows = wait_for(stack, schedule, 3, status="started")
    runs = [stack.wait_for_end(row["run_id"]) for row in rows[:3]]
    assert {run["session_id"] for run in runs} == {schedule["session"]["session_id"]}
    order(stack, schedule, "pause")
    messages = stack.http.get(f"/v1/sessions/{runs[0]['session_id']}/messages?limit=100").json()["data"]
    assert [message["role"] for message in messages[:6]] == ["user", "assistant"] * 3


def test_when_the_session_is_busy_the_input_goes_to_the_run_that_is_active_in_it(stack: Stack) -> None:
    session = {"mode": "continue", "on_conflict": "enqueue"}
    schedule = made(stack, "scripted/nap", session=session, spec=far_away(), overlap="allow_all")
    order(stack, schedule, "trigger")
    (first,) = wait_for(stack, schedule, 1, status="started")
    order(stack, schedule, "trigger")
    (second,) = wait_for(stack, schedule, 1, status="delivered")
    assert (second["run_id"], second["reason"]) == (first["run_id"], "enqueue")
    ended = stack.wait_for_end(first["run_id"])
    assert ended["status"] == "completed"
    asked = [m for m in stack.http.get(f"/v1/runs/{ended['id']}/messages").json()["data"] if m["role"] == "user"]
    assert len(asked) == 2


def test_a_busy_session_is_a_reason_to_skip_unless_something_else_was_said(stack: Stack) -> None:
    schedule = made(stack, "scripted/nap", session="continue", overlap="allow_all")
    row = wait_for(stack, schedule, 1, status="skipped")[0]
    assert row["reason"] == "session_busy"


def test_when_the_conversation_was_deleted_the_book_says_so_and_the_schedule_is_paused(stack: Stack) -> None:
    schedule = made(stack, session="continue", spec={"every_seconds": 5}, pause_on_failure=True)
    stack.http.delete(f"/v1/sessions/{schedule['session']['session_id']}").raise_for_status()
    row = wait_for(stack, schedule, 1, status="failed")[0]
    assert row["reason"].startswith("session_deleted: ")
    stack.wait_until(
        lambda: stack.http.get(f"/v1/schedules/{schedule['id']}").json()["status"] == "paused", "it is paused"
    )


# Changes ---------------------------------------------------------------------------------------------


def test_a_changed_schedule_fires_by_its_new_times_and_a_deleted_one_never_again(stack: Stack) -> None:
    schedule = made(stack, spec=far_away())
    answer = stack.http.patch(
        f"/v1/schedules/{schedule['id']}",
        json={"spec": {"every_seconds": 1}, "input": "Good morning."},
        headers={"if-match": f'"{schedule["version"]}"'},
    )
    assert answer.status_code == 200, answer.text
    rows = wait_for(stack, schedule, 2, status="started")
    assert stack.wait_for_end(rows[1]["run_id"])["output_text"] == "Good morning."
    assert stack.http.delete(f"/v1/schedules/{schedule['id']}").status_code == 204
    time.sleep(1)

    def count() -> int:
        return len(stack.http.get(f"/v1/runs?schedule_id={schedule['id']}&limit=100").json()["data"])

    before = count()
    time.sleep(3)
    assert count() == before


# Outages ---------------------------------------------------------------------------------------------


@pytest.fixture
def own_temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """A server that the test may kill; ``current`` is the newest on its file."""
    server = start_dev_server(tmp_path_factory.mktemp("own") / "temporal.db")
    servers = [server]
    server_list.append(servers)
    yield server
    servers[-1].stop()
    server_list.pop()


server_list: list[list[DevServer]] = []


def restarted(server: DevServer) -> None:
    server_list[-1].append(start_dev_server(server.db, server.port))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_schedule_outlives_the_kill_of_its_worker_of_the_api_and_of_temporal(
    build: Callable[..., Stack], request: pytest.FixtureRequest, own_temporal: DevServer, database: str
) -> None:
    url = None
    if database == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.fresh_database()
    stack = build(url)
    stack.temporal = own_temporal
    stack.env["TEMPORAL_ADDRESS"] = own_temporal.address
    stack.start()
    schedule = made(stack, overlap="allow_all")
    wait_for(stack, schedule, 1, status="started")

    stack.kill("worker")
    time.sleep(3)  # it misses one firing at least
    stack.spawn("worker", "-m", "worker")
    wait_for(stack, schedule, 4, status="started")

    stack.kill("api")
    time.sleep(3)
    stack.spawn("api", "-m", "api")
    stack.wait_until(lambda: _healthy(stack), "the API answers")

    own_temporal.kill()
    killed = datetime.now(UTC)
    time.sleep(5)
    restarted(own_temporal)
    back = time.monotonic()
    stack.wait_until(
        lambda: any(
            datetime.fromisoformat(row["planned_at"]) > killed + timedelta(seconds=6)
            for row in book(stack, schedule, status="started")
        ),
        "it fires again",
        90,
    )
    print(f"[measured] fires again {time.monotonic() - back:.1f} s after Temporal is back ({database})")
    order(stack, schedule, "pause")
    time.sleep(1)
    rows = book(stack, schedule)
    planned = [datetime.fromisoformat(row["planned_at"]) for row in rows]
    assert len(set(planned)) == len(planned), "no firing twice"
    assert {b - a for a, b in pairwise(planned)} == {timedelta(seconds=2)}, "and none lost"
    assert {row["status"] for row in rows} == {"started"}
    for row in rows:
        assert stack.wait_for_end(row["run_id"])["status"] == "completed"


def test_a_schedule_made_and_changed_while_temporal_is_away_is_told_when_it_is_back(
    build: Callable[..., Stack], own_temporal: DevServer
) -> None:
    stack = build()
    stack.env["TEMPORAL_ADDRESS"] = own_temporal.address
    stack.start()
    stack.wait_until(lambda: stack.http.get("/readyz").status_code == 200, "a worker is there")
    first = made(stack, spec=far_away())
    assert first["applied"]
    own_temporal.kill()
    late = made(stack)
    assert not late["applied"]
    stack.http.patch(
        f"/v1/schedules/{first['id']}", json={"spec": {"every_seconds": 1}}, headers={"if-match": '"1"'}
    ).raise_for_status()
    refused = stack.http.post(f"/v1/schedules/{first['id']}/trigger", json={})
    assert (refused.status_code, refused.json()["code"]) == (503, "temporal_unavailable")
    restarted(own_temporal)
    for schedule in (first, late):
        wait_for(stack, schedule, 1, status="started")
        assert stack.http.get(f"/v1/schedules/{schedule['id']}").json()["applied"]
    stack.temporal = own_temporal


def _healthy(stack: Stack) -> bool:
    try:
        return bool(stack.http.get("/healthz").status_code == 200)
    except Exception:
        return False


# Agents that schedule themselves --------------------------------------------------------------------


def results(stack: Stack, run_id: str) -> list[Object]:
    """Its tool results, in order."""
    messages = stack.http.get(f"/v1/runs/{run_id}/messages?limit=100").json()["data"]
    return [block for message in messages for block in message["content"] if block["type"] == "tool_result"]


TOOLS = ["schedule_run", "list_schedules", "cancel_schedule"]


def test_an_agent_wakes_itself_up_in_the_same_conversation(stack: Stack) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=20)).replace(microsecond=0)
    agent = {"model": "scripted/self-waker", "tools": TOOLS, "instructions": "Sleep."}
    other = made(stack, name="somebody-elses", spec=far_away())
    run = stack.http.post(
        "/v1/runs", json={"agent_inline": agent, "input": soon.isoformat(), "budget": {"max_cost_usd": "1"}}
    ).json()
    ended = stack.wait_for_end(run["id"])
    assert ended["output_text"] == "Good night."
    made_, listed, minute, *wrong, cancelled = results(stack, run["id"])
    assert made_["text"].startswith('{"id": "sch_')
    assert '"my-wake"' in listed["text"]
    assert "my-minute" in minute["text"]
    assert all(result["is_error"] for result in wrong)
    yours = "yours are: my-wake, my-minute"
    words = ("every_seconds", "31 February", "one of at", "future", "Mars/X", "already", yours)
    for word, result in zip(words, sorted(wrong, key=lambda found: str(found["call_id"])), strict=True):
        assert word in result["text"], result
        assert "/spec" not in result["text"], "the model has no such parameter"
    assert cancelled["text"] == "my-minute fires no more"
    schedule = stack.http.get("/v1/schedules/my-wake").json()
    assert (schedule["made_by_run_id"], schedule["session"]["session_id"]) == (run["id"], run["session_id"])
    assert schedule["budget"]["max_cost_usd"] == "1.00"
    assert stack.http.get(f"/v1/schedules/{other['id']}").status_code == 200
    (row,) = wait_for(stack, schedule, 1, 60, status="started")
    woken = stack.wait_for_end(row["run_id"])
    assert (woken["session_id"], woken["input"][0]["text"]) == (run["session_id"], "wake up")
    assert woken["schedule_id"] == schedule["id"]
    assert stack.http.get("/v1/schedules/my-wake").json()["status"] == "ended"
    stack.http.delete(f"/v1/sessions/{run['session_id']}").raise_for_status()
    assert stack.http.get("/v1/schedules/my-wake").status_code == 404, "it has gone with its conversation"


def test_an_agent_may_make_so_many_schedules_and_policy_is_asked_before(build: Callable[..., Stack]) -> None:
    stack = build()
    stack.env["PERDURE_LIMITS__MAX_SCHEDULES_PER_AGENT"] = "2"
    stack.start()
    run = stack.wait_for_end(stack.post_run("scripted/many", TOOLS)["id"])
    *good, full = results(stack, run["id"])
    assert not any(result["is_error"] for result in good)
    assert full["is_error"]
    assert "cancel one" in full["text"]
    policy = {"rules": [{"tool": "schedule_run", "action": "deny", "reason": "no initiative here"}]}
    denied = stack.wait_for_end(stack.post_run("scripted/many", TOOLS, policy=policy)["id"])
    assert all("no initiative here" in result["text"] for result in results(stack, denied["id"]))
    assert len(stack.http.get("/v1/schedules").json()["data"]) == 2


# The command line -----------------------------------------------------------------------------------


def cli(stack: Stack, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "perdure.cli", *words, "--api-url", stack.api_url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_schedule_is_made_watched_and_removed_on_the_command_line(stack: Stack) -> None:
    model = ("--model", "scripted/recall")
    made_ = cli(stack, "schedule", "create", "by-hand", "Good evening.", "--cron", "0 2 * * *", *model,
                "--timezone", "Asia/Tokyo", "--quiet", "22:00-01:00", "--one-session", "--max-cost", "1")  # fmt: skip
    assert re.search(r"fires next at \d{4}-\d\d-\d\d 02:00:00 JST", made_)
    listed = cli(stack, "schedules")
    assert "by-hand" in listed
    assert "0 2 * * *" in listed
    assert len(cli(stack, "schedule", "next", "by-hand", "--count", "3").splitlines()) == 3
    cli(stack, "schedule", "trigger", "by-hand")
    wait_for(stack, {"id": "by-hand"}, 1, 60, run_status="completed")
    assert "completed" in cli(stack, "schedule", "show", "by-hand")
    cli(stack, "schedule", "pause", "by-hand", "--reason", "holidays")
    assert "paused: holidays" in cli(stack, "schedule", "show", "by-hand")
    assert "it is paused" in cli(stack, "schedule", "next", "by-hand")
    cli(stack, "schedule", "resume", "by-hand")
    assert "removed" in cli(stack, "schedule", "delete", "by-hand")
    assert "schedule_not_found" in cli(stack, "schedule", "show", "by-hand", status=1)
    assert "one of --cron" in cli(stack, "schedule", "create", "x", "y", *model, status=2)
    assert "span of time" in cli(stack, "schedule", "create", "x", "y", "--every", "soon", *model, status=2)
    assert "never_fires" not in cli(stack, "schedules", "--json")
    refused = cli(stack, "schedule", "create", "x", "y", "--cron", "0 0 31 2 *", *model, status=1)
    assert "/spec/cron" in refused

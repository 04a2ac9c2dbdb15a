"""Outages of every part while runs are in flight, as a user sees them: what was accepted is done, what
was paid is kept, what was said is said once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.dev_server import start_dev_server
from tests.cli.test_up import UpProcess, environment
from tests.e2e.stack import SCRIPTS, Stack
from tests.e2e.story import effects, spoken, told_well, types, written


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with a Temporal server of its own, which the tests may take down."""
    folder = tmp_path_factory.mktemp("outages")
    stack = Stack(folder / "home", start_dev_server(folder / "temporal.db"))
    try:
        yield stack.start()
    finally:
        stack.stop()
        stack.temporal.stop()


@pytest.fixture
def stack(shared: Stack) -> Iterator[Stack]:
    """The shared stack, whole again, with every gate closed."""
    mend(shared)
    for gate in ("held", "first", "second"):
        shared.close_gate(gate)
    shared.effects.with_suffix(".open").unlink(missing_ok=True)
    yield shared
    mend(shared)


def mend(stack: Stack) -> None:
    if stack.temporal.process.poll() is not None:
        bring_temporal_back(stack)
    for name in set(stack.children) - {"vendors", "api", "worker"}:
        stack.kill(name)
    if not stack.alive("api"):
        bring_api_back(stack)
    if not stack.alive("worker"):
        stack.spawn("worker", "-m", "worker")


def bring_temporal_back(stack: Stack) -> None:
    stack.temporal = start_dev_server(stack.temporal.db, stack.temporal.port)


def bring_api_back(stack: Stack) -> None:
    stack.spawn("api", "-m", "api")
    stack.wait_until(lambda: healthy(stack), "the API answers")


def healthy(stack: Stack) -> bool:
    try:
        return bool(stack.http.get("/healthz").status_code == 200)
    except Exception:
        return False


def freeze_between_writes(stack: Stack, run_id: str) -> None:
    """A process that is frozen while it writes keeps SQLite's one write lock, and nobody can help that."""
    before: list[dict[str, Any]] = []
    while (now := stack.events(run_id)) != before:
        before = now
        time.sleep(0.3)  # live text is written every 50 ms while there is some
    stack.freeze("worker")


class Reader(threading.Thread):
    """Follows a run's events in the background, as a browser does: reconnects with the last id it saw."""

    def __init__(self, stack: Stack, run_id: str) -> None:
        super().__init__(daemon=True)
        self.stack, self.run_id = stack, run_id
        self.seen: list[dict[str, Any]] = []
        self.connections = 0
        self.start()

    def run(self) -> None:
        while not (self.seen and self.seen[-1]["type"].startswith("run.") and self.over()):
            self.connections += 1
            try:
                for event in self.stack.follow(self.run_id, after=self.seen[-1]["seq"] if self.seen else 0):
                    self.seen.append(event)
            except Exception:
                time.sleep(0.1)

    def over(self) -> bool:
        return self.seen[-1]["type"] in (
            "run.completed", "run.cancelled", "run.expired", "run.failed", "run.incomplete",
        )  # fmt: skip

    def all(self) -> list[dict[str, Any]]:
        self.join(timeout=15)
        assert not self.is_alive(), self.seen[-3:]
        return self.seen


# Temporal ---------------------------------------------------------------------------------------


def test_a_run_posted_while_temporal_is_down_is_accepted_and_starts_when_it_is_back(stack: Stack) -> None:
    stack.temporal.kill()
    posted = stack.post_run("scripted/booking", ["book_idempotent"])
    assert posted["status"] == "queued"
    reader = Reader(stack, posted["id"])
    assert stack.run(posted["id"])["status"] == "queued"
    assert stack.http.get("/readyz").status_code == 503
    bring_temporal_back(stack)
    back = time.monotonic()
    run = stack.wait_for_end(posted["id"], 20)
    print(f"[measured] accepted without Temporal, completed {time.monotonic() - back:.1f} s after it was back")
    assert run["status"] == "completed"
    assert reader.all() == told_well(stack, run["id"])
    assert set(effects(stack, run["id"]).values()) == {1}


def test_runs_in_flight_when_temporal_is_killed_go_on_when_it_is_back(stack: Stack) -> None:
    runs = [stack.post_run("scripted/busy", ["book_idempotent"], limits={"max_turns": 100})["id"] for _ in range(3)]
    readers = [Reader(stack, run) for run in runs]
    for seconds in (0.7, 0.4):
        time.sleep(seconds)
        stack.temporal.kill()
        bring_temporal_back(stack)
    back = time.monotonic()
    for run_id, reader in zip(runs, readers, strict=True):
        assert stack.wait_for_end(run_id, 30)["status"] == "completed"
        print(f"[measured] in flight at two kills of Temporal, completed {time.monotonic() - back:.1f} s after")
        assert reader.all() == told_well(stack, run_id)
        assert all(counts["completed"] == 1 for counts in stack.bill(run_id).values())
        assert len(effects(stack, run_id)) == 60
        assert set(effects(stack, run_id).values()) == {1}


def test_an_answer_that_comes_while_temporal_is_down_is_paid_once(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    reader = Reader(stack, run_id)
    stack.temporal.kill()
    stack.open_gate("held")
    stack.wait_until(lambda: types(stack.events(run_id))["model.completed"] == 1, "the answer is in the journal")
    bring_temporal_back(stack)
    back = time.monotonic()
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    print(f"[measured] answered without Temporal, completed {time.monotonic() - back:.1f} s after it was back")
    assert reader.all() == told_well(stack, run_id)
    assert stack.bill(run_id)["model-1"]["completed"] == 1
    assert stack.bill(run_id)["model-1"]["asked"] == 1


# The journal ------------------------------------------------------------------------------------


def test_an_answer_that_comes_while_postgresql_is_down_is_kept_and_not_bought_again(
    build: Callable[..., Stack], request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres")
    stack = build(server.fresh_database()).start()
    run_id = stack.post_run("scripted/held-twice", ["book_idempotent"])["id"]
    reader = Reader(stack, run_id)
    stack.wait_until(lambda: stack.held("first") == 1, "the model talks")
    server.stop()
    try:
        stack.open_gate("first")
        stack.open_gate("second")
        for method, path in (("GET", f"/v1/runs/{run_id}"), ("GET", "/v1/runs"), ("POST", "/v1/runs")):
            body = {"agent_inline": {"model": "scripted/hello"}, "input": "x"} if method == "POST" else None
            asked = time.monotonic()
            answer = stack.http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "journal_unavailable"), answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) > 0
            assert time.monotonic() - asked < 6
        stack.wait_until(lambda: stack.bill(run_id)["model-1"]["completed"] == 1, "the answer is paid")
        time.sleep(4)  # longer than the heartbeat timeout
    finally:
        server.start()
    back = time.monotonic()
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    print(f"[measured] PostgreSQL was away, completed {time.monotonic() - back:.1f} s after it was back")
    assert reader.all() == told_well(stack, run_id)
    assert reader.connections == 1, "the stream outlived the outage"
    assert {key: counts["completed"] for key, counts in stack.bill(run_id).items()} == {"model-1": 1, "model-2": 1}
    assert set(effects(stack, run_id).values()) == {1}
    assert stack.wait_for_end(stack.post_run("scripted/hello")["id"])["status"] == "completed"


def test_a_run_goes_on_when_the_sqlite_file_was_locked_and_requests_say_so_meanwhile(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    reader = Reader(stack, run_id)
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    other = sqlite3.connect(stack.home / "journal.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        stack.open_gate("held")
        refused = stack.http.post(
            "/v1/runs", json={"agent_inline": {"model": "scripted/hello"}, "input": "x"}
        )  # waits for other writers for ten seconds
        assert (refused.status_code, refused.json()["code"]) == (503, "journal_unavailable")
        assert stack.run(run_id)["status"] == "running", "readers do not wait for writers"
    finally:
        other.close()
    back = time.monotonic()
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    print(f"[measured] SQLite was locked, completed {time.monotonic() - back:.1f} s after it was free")
    assert reader.all() == told_well(stack, run_id)
    assert stack.bill(run_id)["model-1"]["completed"] == 1


# The API ----------------------------------------------------------------------------------------


def test_a_reader_resumes_without_loss_or_repetition_when_the_api_was_killed(stack: Stack) -> None:
    run_id = stack.post_run("scripted/busy", ["book_idempotent"], limits={"max_turns": 100})["id"]
    reader = Reader(stack, run_id)
    for seen in (50, 150):
        stack.wait_until(lambda seen=seen: len(reader.seen) > seen, "the reader sees the run go on")  # type: ignore[misc]
        stack.kill("api")
        bring_api_back(stack)
    assert reader.all() == told_well(stack, run_id)
    assert reader.connections > 2
    assert len(effects(stack, run_id)) == 60


def test_a_post_repeated_after_the_api_died_between_journal_and_temporal_is_one_run(stack: Stack) -> None:
    request = {
        "headers": {"idempotency-key": f"key-{time.monotonic_ns()}"},
        "json": {"agent_inline": {"model": "scripted/echo"}, "input": "once"},
    }
    before = {run["id"] for run in stack.http.get("/v1/runs?limit=100").json()["data"]}
    stack.temporal.process.send_signal(signal.SIGSTOP)  # it takes the order to start, and does not answer
    try:
        lost = threading.Thread(target=lambda: _never_answered(stack, request))
        lost.start()
        stack.wait_until(
            lambda: len(stack.http.get("/v1/runs?limit=100").json()["data"]) > len(before), "the run is in the journal"
        )
        stack.kill("api")
        lost.join()
    finally:
        stack.temporal.process.send_signal(signal.SIGCONT)
    bring_api_back(stack)
    died = time.monotonic()

    def answered() -> bool:
        nonlocal answer
        answer = stack.http.post("/v1/runs", **request)
        return bool(answer.status_code != 409)  # the first request counts as in progress for a while

    answer = None
    stack.wait_until(answered, "the repeated request is answered", 45)
    assert answer.status_code == 201, answer.text
    print(f"[measured] Idempotency-Key of a dead API process was answered {time.monotonic() - died:.1f} s after")
    run = stack.wait_for_end(answer.json()["id"])
    assert run["status"] == "completed"
    after = {run["id"] for run in stack.http.get("/v1/runs?limit=100").json()["data"]}
    assert after - before == {run["id"]}
    assert stack.bill(run["id"])["model-1"]["asked"] == 1


def _never_answered(stack: Stack, request: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r".*"):
        stack.http.post("/v1/runs", **request)


# The worker -------------------------------------------------------------------------------------


def test_a_worker_that_was_frozen_and_wakes_mixes_nothing_and_both_answers_are_billed(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held-twice", ["book_idempotent"])["id"]
    reader = Reader(stack, run_id)
    stack.wait_until(lambda: stack.held("first") == 1, "the model talks to the first worker")
    freeze_between_writes(stack, run_id)
    frozen = time.monotonic()
    try:
        stack.spawn("second", "-m", "worker")
        stack.wait_until(lambda: stack.held("first") == 2, "the second worker takes the call over")
        print(f"[measured] a frozen worker's model call was taken over after {time.monotonic() - frozen:.1f} s")
        stack.open_gate("first")
        stack.wait_until(lambda: stack.held("second") == 1, "the run has gone on")
    finally:
        stack.thaw("worker")
    stack.wait_until(lambda: types(stack.events(run_id))["usage.updated"] > 0, "the late answer is billed")
    stack.open_gate("second")
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    events = told_well(stack, run_id)
    assert reader.all() == events
    first = [event for event in events if event.get("call_id") == "model-1"]
    assert types(first)["model.completed"] == 1
    assert stack.bill(run_id)["model-1"]["completed"] == 2
    assert types(first)["usage.updated"] == 1
    taken_over = next(event["seq"] for event in first if event["type"] == "model.started" and event["attempt"] == 2)
    assert {event["attempt"] for event in first if event["seq"] > taken_over and "delta" in event["type"]} == {2}
    messages = stack.http.get(f"/v1/runs/{run_id}/messages").json()["data"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert set(effects(stack, run_id).values()) == {1}


def test_an_idempotent_tool_of_a_worker_that_was_frozen_takes_effect_once(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held-tool", ["book_when_open"])["id"]
    stack.wait_until(lambda: types(stack.events(run_id))["tool.started"] == 1, "the tool runs")
    freeze_between_writes(stack, run_id)
    try:
        stack.spawn("second", "-m", "worker")
        stack.wait_until(lambda: types(stack.events(run_id))["tool.started"] == 2, "the second worker runs it")
        stack.effects.with_suffix(".open").touch()
        assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    finally:
        stack.thaw("worker")
    before = stack.events(run_id)
    time.sleep(1.5)  # the first worker comes to its end, too
    assert stack.events(run_id) == before
    told_well(stack, run_id)
    assert effects(stack, run_id).total() == 1


def test_a_worker_that_is_asked_to_stop_finishes_its_call_and_the_next_goes_on(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held-twice", ["book_idempotent"])["id"]
    stack.wait_until(lambda: stack.held("first") == 1, "the model talks")
    old = stack.children.pop("worker")
    old.terminate()
    stack.spawn("worker", "-m", "worker")
    time.sleep(1)
    stack.open_gate("first")
    assert old.wait(timeout=10) == 0
    gone = time.monotonic()
    stack.open_gate("second")
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    print(f"[measured] after a graceful stop the run completed in {time.monotonic() - gone:.1f} s")
    events = told_well(stack, run_id)
    assert types(events)["model.aborted"] == 0
    assert [(counts["asked"], counts["completed"]) for counts in stack.bill(run_id).values()] == [(1, 1), (1, 1)]
    assert set(effects(stack, run_id).values()) == {1}


def test_a_worker_whose_grace_is_over_hands_its_call_over_at_once(stack: Stack) -> None:
    stack.kill("worker")
    impatient = stack.spawn("impatient", "-m", "worker", PERDURE_WORKER__GRACEFUL_STOP_SECONDS="1")
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.spawn("worker", "-m", "worker")
    stack.wait_until(lambda: stack.http.get("/readyz").status_code == 200, "the next worker is there")
    time.sleep(1)
    impatient.terminate()
    asked = time.monotonic()
    stack.wait_until(lambda: stack.bill(run_id)["model-1"]["asked"] == 2, "the call is asked again")
    print(f"[measured] grace of 1 s: asked again {time.monotonic() - asked:.1f} s after SIGTERM")
    assert impatient.wait(timeout=10) == 0
    stack.open_gate("held")
    assert stack.wait_for_end(run_id, 20)["status"] == "completed"
    events = told_well(stack, run_id)
    assert types(events)["model.aborted"] == 1
    assert stack.bill(run_id)["model-1"]["completed"] == 1


# Ending -----------------------------------------------------------------------------------------


def test_force_cancel_ends_a_run_with_no_worker_alive(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.kill("worker")
    answer = cancel(stack, run_id, "force")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert told_well(stack, run_id)[-1]["type"] == "run.cancelled"


def test_with_temporal_down_a_graceful_cancel_is_carried_out_when_it_is_back(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.temporal.kill()
    assert cancel(stack, run_id, "graceful").status_code == 202
    bring_temporal_back(stack)
    assert stack.wait_for_end(run_id, 30)["status"] == "cancelled"
    assert told_well(stack, run_id)[-1]["type"] == "run.cancelled"


def test_with_temporal_down_force_cancel_works_at_once(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.temporal.kill()
    assert cancel(stack, run_id, "force").json()["status"] == "cancelled"
    before = told_well(stack, run_id)
    stack.open_gate("held")
    bring_temporal_back(stack)
    time.sleep(2)  # what was in flight comes to its end
    assert stack.events(run_id) == before
    assert before[-1]["type"] == "run.cancelled"


def test_a_graceful_cancel_is_durable_with_no_worker_alive(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    stack.kill("worker")
    assert cancel(stack, run_id, "graceful").status_code == 202
    stack.spawn("worker", "-m", "worker")
    assert stack.wait_for_end(run_id, 15)["status"] == "cancelled"
    told_well(stack, run_id)


def test_a_graceful_cancel_ends_a_tool_in_flight_and_says_what_became_of_it(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held-tool", ["book_when_open"])["id"]
    stack.wait_until(lambda: types(stack.events(run_id))["tool.started"] == 1, "the tool runs")
    asked = time.monotonic()
    assert cancel(stack, run_id, "graceful").status_code == 202
    assert stack.wait_for_end(run_id, 10)["status"] == "cancelled"
    print(f"[measured] a tool in flight was cancelled within {time.monotonic() - asked:.1f} s")
    events = told_well(stack, run_id)
    assert types(events)["tool.failed"] == 1
    stack.effects.with_suffix(".open").touch()
    time.sleep(0.5)
    assert effects(stack, run_id).total() == 0


def test_a_deadline_that_passes_while_a_model_hangs_ends_the_run_as_expired(stack: Stack) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=3)
    run_id = stack.post_run("scripted/hanging", deadline=deadline.isoformat())["id"]
    run = stack.wait_for_end(run_id, 15)
    late = datetime.now(UTC) - deadline
    print(f"[measured] expired {late.total_seconds():.1f} s after the deadline")
    assert (run["status"], run["stop_reason"]) == ("expired", "deadline")
    told_well(stack, run_id)


def test_a_call_that_ends_after_its_run_was_cancelled_by_force_writes_nothing(stack: Stack) -> None:
    run_id = stack.post_run("scripted/held")["id"]
    stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
    freeze_between_writes(stack, run_id)
    try:
        assert cancel(stack, run_id, "force").json()["status"] == "cancelled"
        before = told_well(stack, run_id)
        stack.open_gate("held")
        stack.wait_until(lambda: stack.bill(run_id)["model-1"]["completed"] == 1, "the late answer is paid")
    finally:
        stack.thaw("worker")
    time.sleep(1.5)  # it comes to its end
    assert stack.events(run_id) == before
    assert stack.wait_for_end(stack.post_run("scripted/hello")["id"])["status"] == "completed"


def cancel(stack: Stack, run_id: str, mode: str) -> Any:
    return stack.http.post(f"/v1/runs/{run_id}/cancel", json={"mode": mode, "reason": "a test"})


# All of it --------------------------------------------------------------------------------------


def test_one_run_outlives_the_death_of_every_child_of_up_in_turn(tmp_path: Path) -> None:
    up = UpProcess(tmp_path / "home", "--workers", "2", "--scripts", str(SCRIPTS), cwd=tmp_path).ready()
    reader = None
    try:
        command = ["run", "Go", "--model", "scripted/steady", "--tool", "calculator", "--no-follow", "--json"]
        run_id = json.loads(up.perdure(*command).stdout)["id"]
        watch = [sys.executable, "-P", "-m", "perdure.cli", "watch", run_id, "--json", "--home", str(up.home)]
        reader = subprocess.Popen(watch, env=environment(), stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        events = []
        for name in ("temporal", "worker-1", "api", "vendors", "worker-2"):
            events += [json.loads(reader.stdout.readline()) for _ in range(15)]
            assert events[-1]["type"] != "run.completed"
            os.kill(up.pids()[name], signal.SIGKILL)
        killed = time.monotonic()
        events += [json.loads(line) for line in reader.stdout]
        print(f"[measured] five children killed, completed {time.monotonic() - killed:.1f} s after the last")
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert events[-1]["type"] == "run.completed"
        assert spoken(events) == written(events)
        assert types(events)["tool.completed"] == 10
    finally:
        if reader:
            reader.kill()
            reader.wait()
        up.end()

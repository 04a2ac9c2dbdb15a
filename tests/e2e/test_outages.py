"""Outages of every part while runs are in flight, as a user sees them: what was accepted is done, what
was paid is kept, what was said is said once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from perdure.dev_server import start_dev_server
from tests.e2e.stack import Stack
from tests.e2e.story import effects, told_well, types


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

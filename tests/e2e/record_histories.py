"""Record histories of real runs, to be replayed by every later workflow (``test_recorded_histories.py``).

``make histories`` before a release. Whatever tells of the machine is taken out; previews are off, so no content is in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory

from perdure.dev_server import start_dev_server
from perdure.runs import DATA_CONVERTER
from tests.e2e.stack import Stack

HISTORIES = Path(__file__).parent / "histories"
LEADER = ["calculator", "spawn_agent", "wait_for_agents", "book_idempotent", "poll", "look"]


async def chain_of(address: str, run_id: str) -> list[WorkflowHistory]:
    """All executions of a run, the newest first."""
    client = await Client.connect(address, data_converter=DATA_CONVERTER)
    chain = [await client.get_workflow_handle(run_id).fetch_history()]
    while before := chain[-1].events[0].workflow_execution_started_event_attributes.continued_execution_run_id:
        chain.append(await client.get_workflow_handle(run_id, run_id=before).fetch_history())
    return chain


def carried(chain: list[WorkflowHistory], words: bytes) -> bool:
    """Whether one of the executions began with a state that says this."""
    return any(words in history.events[0].SerializeToString() for history in chain)


def impersonal(value: Any, name: str = "") -> Any:
    """Without what tells of the machine: process and host names, queues, paths in traces."""
    match value:
        case {"kind": "TASK_QUEUE_KIND_STICKY"}:  # named after host and process
            return {**value, "name": "perdure", "normalName": "perdure"}
        case dict():
            return {key: impersonal(inner, key) for key, inner in value.items()}
        case list():
            return [impersonal(inner, name) for inner in value]
        case str() if name in ("identity", "stackTrace", "buildId"):
            return ""
        case str() if name in ("name", "normalName") and value.startswith("e2e-"):
            return "perdure"
        case _:
            return value


def text_of(chain: list[WorkflowHistory]) -> str:
    """JSON with one event a line, the oldest execution first."""
    executions = []
    for history in reversed(chain):
        events = [json.dumps(impersonal(event)) for event in json.loads(history.to_json())["events"]]
        executions.append("[\n" + ",\n".join(events) + "\n]")
    return f'{{"workflow_id": "{chain[0].workflow_id}", "executions": [' + ",\n".join(executions) + "]}\n"


class Recorder:
    """Makes the runs on one stack, all at once, and files what became of them."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.runs: dict[str, str] = {}

    def start(self, name: str, script: str, tools: list[str], **body: Any) -> str:
        self.runs[name] = str(self.stack.post_run(f"scripted/{script}", tools, **body)["id"])
        return self.runs[name]

    def post(self, path: str, **body: Any) -> None:
        self.stack.http.post(path, json=body).raise_for_status()

    def until(self, run_id: str, holds: Callable[[dict[str, Any]], Any], what: str) -> None:
        self.stack.wait_until(lambda: bool(holds(self.stack.run(run_id))), what)

    def play(self) -> None:
        stack = self.stack
        stack.close_gate("bees")
        stack.close_gate("listener")
        long = self.start("long", "recorded-long", LEADER)
        budget = {"max_cost_usd": "1.00"}
        family = self.start("family", "recorded-family", LEADER, budget=budget)
        timed = self.start("time", "recorded-time", ["sleep", "wait_for_event", "poll", "look"])
        talks = self.start("steered", "listener", [])
        policy = {"rules": [{"tool": "book_once", "action": "ask"}]}
        tools = ["book_once", "book_idempotent"]
        asked = self.start("approved", "two-bookings", tools, policy=policy, budget=budget)
        question = self.start("answered", "asker", ["ask_user", "book_idempotent"])
        cancelled = self.start("cancelled", "sleeper", ["sleep"], input=json.dumps({"for_seconds": 600}))
        self.start("failed", "doomed", [])

        self.until(talks, lambda _: stack.held("listener"), "the model talks")
        self.post(f"/v1/runs/{talks}/messages", content="stop", delivery="interrupt")
        stack.open_gate("listener")
        self.until(asked, lambda run: run["pending_actions"], "the run asks")
        self.post(f"/v1/runs/{asked}/pause")
        self.until(asked, lambda run: run["status"] == "paused", "the run pauses")
        self.post(f"/v1/runs/{asked}/messages", content="more", delivery="enqueue")
        stack.http.patch(f"/v1/runs/{asked}", json={"budget": {"max_cost_usd": "2.00"}}).raise_for_status()
        [action] = stack.run(asked)["pending_actions"]
        self.post(f"/v1/approvals/{action['id']}/decide", decision="approve", scope="run")
        self.post(f"/v1/runs/{asked}/resume")
        self.until(question, lambda run: run["pending_actions"], "the run asks")
        [action] = stack.run(question)["pending_actions"]
        self.post(f"/v1/questions/{action['id']}/answer", answers={"env": "staging", "when": "now"})
        self.until(cancelled, lambda run: run["status"] == "waiting", "the run sleeps")
        self.post(f"/v1/runs/{cancelled}/cancel", mode="graceful", reason="enough")
        self.until(timed, lambda run: run["status_reason"] == "event", "the run waits for its event")
        self.post(f"/v1/runs/{timed}/signals/paid", payload={})
        self.until(long, lambda run: run["turns"] >= 6, "the long run has polled")
        stack.open_gate("bees")
        for name, run_id in self.runs.items():
            wanted = name if name in ("failed", "cancelled") else "completed"
            self.until(run_id, lambda run, wanted=wanted: run["status"] == wanted, f"{name} is {wanted}")  # type: ignore[misc]
        found = stack.http.get(f"/v1/runs?parent_run_id={family}").raise_for_status().json()["data"]
        self.runs["child"] = found[0]["id"]

    async def texts(self) -> dict[str, str]:
        chains = {name: await chain_of(self.stack.temporal.address, run_id) for name, run_id in self.runs.items()}
        assert len(chains["long"]) >= 3, "the long run continues as new twice at least"
        assert carried(chains["long"], b'"waits":"poll"'), "once while it polls"
        assert carried(chains["long"], b'"children":["'), "and while a child is at work"
        return {name: text_of(chain) for name, chain in chains.items()}


def record(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        server = start_dev_server(Path(work) / "temporal.db")
        stack = Stack(Path(work) / "home", server)
        stack.env |= {"PERDURE_PREVIEWS": "false", "PERDURE_WORKER__CONTINUE_AS_NEW_EVENTS": "50"}
        try:
            recorder = Recorder(stack.start())
            recorder.play()
            texts = asyncio.run(recorder.texts())
        finally:
            stack.stop()
            server.stop()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / f"{name}.json").write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Record the histories that later workflows replay.")
    parser.add_argument("--to", type=Path, default=HISTORIES, help="the folder that is replaced")
    folder = parser.parse_args().to
    began = time.monotonic()
    record(folder)
    files = sorted(folder.glob("*.json"))
    size = sum(path.stat().st_size for path in files)
    print(f"{len(files)} histories, {size // 1_000} kB, in {time.monotonic() - began:.0f} s: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

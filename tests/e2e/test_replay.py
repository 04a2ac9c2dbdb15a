"""Real histories of real runs replay without a difference, hold no content, and stay short. A change of
the workflow that would break runs in flight fails here first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from perdure.contract import WORKFLOW, AgentRunInput
from perdure.core.state import Outcome
from perdure.dev_server import DevServer
from perdure.runs import DATA_CONVERTER
from tests.e2e.record_histories import chain_of
from tests.e2e.stack import Stack
from workflows.agent_run import AgentRun

BUSY_TURNS = 61
EVENTS_PER_TURN_MAX = 13  # a model call and a tool call: two activities and two workflow tasks of three events each


class Histories:
    """The histories of the runs that this file makes, by what is special about the run."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        secret = {
            "model": "scripted/parallel",
            "instructions": "secret-instructions",
            "tools": ["calculator", "measure", "book_idempotent", "blow_up_with"],
        }
        ids = {
            "parallel": stack.post_run("", agent_inline=secret, input="secret-prompt")["id"],
            "long": stack.post_run("scripted/busy", ["book_idempotent"], limits={"max_turns": 100})["id"],
            "failed": stack.post_run("scripted/doomed")["id"],
            "cancelled": stack.post_run("scripted/held")["id"],
        }
        ids["asked"] = self._asked(stack)
        stack.wait_until(lambda: stack.held("held") == 1, "the model talks")
        stack.http.post(f"/v1/runs/{ids['cancelled']}/cancel", json={"mode": "graceful", "reason": "enough"})
        self.runs = {name: stack.wait_for_end(run_id) for name, run_id in ids.items()}
        self.chains = {name: asyncio.run(executions(stack, run_id)) for name, run_id in ids.items()}

    def _asked(self, stack: Stack) -> str:
        """A run that met everything an order can be: an approval, messages of two kinds, a pause, a raised limit."""
        policy = {"rules": [{"tool": "book_once", "action": "ask"}]}
        budget = {"max_cost_usd": "1.00"}
        run_id = str(
            stack.post_run("scripted/two-bookings", ["book_once", "book_idempotent"], policy=policy, budget=budget)[
                "id"
            ]
        )
        stack.wait_until(lambda: bool(stack.run(run_id)["pending_actions"]), "the run asks")
        stack.http.post(f"/v1/runs/{run_id}/pause", json={}).raise_for_status()
        stack.wait_until(lambda: stack.run(run_id)["status"] == "paused", "the run pauses")
        body = {"content": "secret-message", "delivery": "enqueue"}
        stack.http.post(f"/v1/runs/{run_id}/messages", json=body).raise_for_status()
        stack.http.patch(f"/v1/runs/{run_id}", json={"budget": {"max_cost_usd": "2.00"}}).raise_for_status()
        [action] = stack.run(run_id)["pending_actions"]
        body = {"decision": "approve", "message": "secret-reason", "scope": "run"}
        stack.http.post(f"/v1/approvals/{action['id']}/decide", json=body).raise_for_status()
        stack.http.post(f"/v1/runs/{run_id}/resume", json={}).raise_for_status()
        return run_id


async def executions(stack: Stack, run_id: str) -> list[WorkflowHistory]:
    """All executions of a run, the newest first."""
    return await chain_of(stack.temporal.address, run_id)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory, temporal: DevServer) -> Iterator[Histories]:
    stack = Stack(tmp_path_factory.mktemp("replay") / "home", temporal)
    stack.env |= {"PERDURE_PREVIEWS": "false", "PERDURE_WORKER__CONTINUE_AS_NEW_EVENTS": "200"}
    try:
        yield Histories(stack.start())
    finally:
        stack.stop()


async def replayed(history: WorkflowHistory, workflow_class: type = AgentRun) -> Exception | None:
    """What is wrong with the workflow's answer to its own history."""
    replayer = Replayer(
        workflows=[workflow_class], data_converter=DATA_CONVERTER, workflow_runner=UnsandboxedWorkflowRunner()
    )
    result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    return result.replay_failure


@workflow.defn(name=WORKFLOW)
class Hasty(AgentRun):
    """A change that looks harmless: it waits a moment before it starts."""

    @workflow.init
    def __init__(self, start: AgentRunInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: AgentRunInput) -> Outcome:
        await workflow.sleep(1)
        return await super().run(start)


@pytest.mark.parametrize("name", ["parallel", "long", "failed", "cancelled", "asked"])
def test_a_run_of_today_is_understood_by_the_workflow_of_tomorrow(histories: Histories, name: str) -> None:
    expected = {"parallel": "completed", "long": "completed", "failed": "failed", "cancelled": "cancelled"}
    expected["asked"] = "completed"
    assert histories.runs[name]["status"] == expected[name]
    for history in histories.chains[name]:
        assert asyncio.run(replayed(history)) is None


def test_a_wrong_change_of_the_workflow_is_refused(histories: Histories) -> None:
    for chain in histories.chains.values():
        failure = asyncio.run(replayed(chain[0], Hasty))
        assert failure is not None
        assert "ondeterminis" in f"{type(failure).__name__} {failure}"


def test_a_long_run_continues_as_new_and_each_part_stays_short(histories: Histories) -> None:
    chain = histories.chains["long"]
    assert len(chain) > 2
    assert max(len(history.events) for history in chain) < 200 + 3 * EVENTS_PER_TURN_MAX
    events = sum(len(history.events) for history in chain)
    print(f"[measured] {events / BUSY_TURNS:.1f} events a turn over {len(chain)} executions")
    assert events / BUSY_TURNS <= EVENTS_PER_TURN_MAX


def test_nothing_that_was_said_enters_temporals_history_when_previews_are_off(histories: Histories) -> None:
    transcript = histories.stack.http.get(f"/v1/runs/{histories.runs['parallel']['id']}/messages").text
    for said in (
        "secret-prompt",
        "secret-argument",
        "secret-broken",
        "secret-wrong",
        "secret-failure",
        "secret-answer",
    ):
        assert said in transcript
    steps = histories.stack.http.get(f"/v1/runs/{histories.runs['failed']['id']}/steps").json()["data"]
    assert "secret-trouble" in steps[0]["error"]["message"]
    found = {
        event.event_type: event
        for history in (*histories.chains["parallel"], *histories.chains["failed"], *histories.chains["asked"])
        for event in history.events
        if b"secret" in event.SerializeToString()
    }
    assert found == {}


def test_what_a_refused_call_did_wrong_is_told_to_the_model_all_the_same(histories: Histories) -> None:
    results = [
        block
        for message in histories.stack.http.get(f"/v1/runs/{histories.runs['parallel']['id']}/messages").json()["data"]
        for block in message["content"]
        if block["type"] == "tool_result" and block["is_error"]
    ]
    texts: dict[str, Any] = {block["name"]: block["text"] for block in results}
    assert "available tools" in texts["no_such_tool"]
    assert "secret-broken" in texts["calculator"]
    assert "blob" in texts["measure"]
    assert texts["blow_up_with"] == "secret-failure"

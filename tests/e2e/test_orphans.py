"""A run whose workflow was ended or lost in Temporal itself does not stay ``running`` for ever."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import Client

from api.starting import end_orphans
from perdure.assembly import assemble
from perdure.settings import Settings
from tests.e2e.stack import Stack


async def test_a_run_whose_workflow_was_terminated_in_temporal_fails_and_its_session_is_free(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await asyncio.to_thread(stack.post_run, "scripted/slow")
    await asyncio.to_thread(stack.wait_until, lambda: stack.run(run["id"])["status"] == "running", "the run is at work")
    client = await Client.connect(stack.temporal.address)
    monkeypatch.setenv("TEMPORAL_ADDRESS", stack.temporal.address)
    assembly = await assemble(Settings(home=stack.home))
    try:
        await end_orphans(assembly, silent_ms=-60_000)
        assert (await assembly.journal.get_run(run["id"])).status == "running"  # its workflow is there
        await client.get_workflow_handle(run["id"]).terminate("by hand")
        await end_orphans(assembly, silent_ms=-60_000)
    finally:
        await assembly.close()
    ended = await asyncio.to_thread(stack.run, run["id"])
    assert (ended["status"], ended["error"]["code"]) == ("failed", "internal")
    types = [event["type"] for event in await asyncio.to_thread(stack.events, run["id"])]
    assert types[-1] == "run.failed"
    assert "model.aborted" in types
    await asyncio.to_thread(stack.post_run, "scripted/hello", session_id=run["session_id"])

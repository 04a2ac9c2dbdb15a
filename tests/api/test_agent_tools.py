"""Agents as tools over HTTP: what is stored and shown, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.app import BadAgentSettings, store_configured_agents
from perdure.assembly import assemble
from perdure.settings import AgentSettings, Settings
from perdure.tools.agent_tools import TASK_SCHEMA
from tests.api.service import AGENT, Service


async def store(service: Service, name: str, *tools: Any, **more: Any) -> Any:
    made = [tool if isinstance(tool, dict) else {"agent": tool} for tool in tools]
    return await service.post("/v1/agents", {"name": name, **AGENT, "agent_tools": made, **more})


def errors(reply: Any) -> list[tuple[str, str]]:
    assert reply.status_code == 422, reply.text
    return [(error["pointer"], error["code"]) for error in reply.json()["errors"]]


async def test_an_agent_shows_its_agents_with_every_default_filled_in(service: Service) -> None:
    await store(service, "res.earcher")
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    whole = {
        "agent": "res.earcher@1", "name": "look", "description": "Looks.", "input_schema": schema,
        "output_schema": {"type": "array"}, "budget": {"max_cost_usd": "0.05", "max_tokens": 900},
        "timeout_seconds": 60,
    }  # fmt: skip
    stored = await store(service, "lead", "res.earcher", whole)
    assert stored.status_code == 201, stored.text
    shown = (await service.get("/v1/agents/lead")).json()["agent_tools"]
    assert shown[0] == {
        "agent": "res.earcher", "name": "res_earcher", "input_schema": TASK_SCHEMA, "output_schema": None,
        "description": "Give a task to the agent res.earcher. It works by itself, and answers with its result.",
        "budget": None, "timeout_seconds": None,
    }  # fmt: skip
    budget = {"max_cost_usd": "0.05", "max_tokens": 900, "max_output_tokens": None, "on_limit": None}
    assert shown[1] == {**whole, "budget": budget}
    assert (await store(service, "lead", "res.earcher", whole)).status_code == 200, "the same is no new version"
    assert (await service.get("/v1/agents/res.earcher")).json()["agent_tools"] == []


async def test_a_circle_of_agents_as_tools_is_refused_wherever_it_closes(service: Service) -> None:
    await store(service, "c")
    await store(service, "b", "c")
    await store(service, "a", "b")
    assert errors(await store(service, "c", "b")) == [("/agent_tools/0/agent", "agent_cycle")]
    reply = await store(service, "c", "a")
    assert errors(reply) == [("/agent_tools/0/agent", "agent_cycle")]
    assert "c → a → b → c" in reply.json()["detail"]
    assert errors(await store(service, "new", "new")) == [("/agent_tools/0/agent", "agent_cycle")]
    assert (await service.get("/v1/agents/c")).json()["version"] == 1, "nothing was stored"
    # A pinned version that leads nowhere forms no circle, nor does an inline agent, which nobody can name.
    assert (await store(service, "c", "c@1")).status_code == 201
    inline = {**AGENT, "name": "c", "agent_tools": [{"agent": "a"}]}
    assert (await service.post("/v1/runs", {"agent_inline": inline, "input": "go"})).status_code == 201


async def test_what_cannot_be_a_tool_is_refused_with_pointers(service: Service) -> None:
    await store(service, "c")
    wrong = [
        "nobody",
        {"agent": "c@7", "name": "later"},
        {"agent": "c", "name": "calculator"},
        {"agent": "c", "name": "http_get"},
        "c",
        "c",
        {"agent": "c", "name": "x", "input_schema": {"type": "string"}},
        {"agent": "c", "name": "y", "output_schema": {"type": "nothing"}},
    ]
    expected = [
        ("/agent_tools/2/name", "tool_exists"),
        ("/agent_tools/3/name", "tool_exists"),
        ("/agent_tools/5/name", "duplicate"),
        ("/agent_tools/6/input_schema", "invalid_schema"),
        ("/agent_tools/7/output_schema", "invalid_schema"),
        ("/agent_tools/0/agent", "unknown_agent"),
        ("/agent_tools/1/agent", "unknown_agent"),
    ]
    assert errors(await store(service, "lead", *wrong)) == expected
    assert (await service.get("/v1/agents/lead")).status_code == 404
    body = {"name": "lead", **AGENT, "agent_tools": [one if isinstance(one, dict) else {"agent": one} for one in wrong]}
    dry = (await service.post("/v1/agents:validate", body)).json()
    assert [(error["pointer"], error["code"]) for error in dry["errors"]] == expected
    inline = {key: value for key, value in body.items() if key != "name"}
    refused = await service.post("/v1/runs", {"agent_inline": inline, "input": "go"})
    assert errors(refused) == [(f"/agent_inline{pointer}", code) for pointer, code in expected]
    for bad in (
        {"agent": "no name"},
        {"agent": "c", "timeout_seconds": 0},
        {"agent": "c", "budget": {"on_limit": "stop"}},
    ):
        assert (await store(service, "lead", bad)).status_code == 422


async def test_policies_and_limits_may_name_an_agent_that_is_a_tool(service: Service) -> None:
    await store(service, "c")
    policy = {
        "rules": [{"tool": "look", "action": "ask"}],
        "rate_limits": [{"tool": "lo*", "max_calls": 1, "window_seconds": 9}],
    }
    limits = {"tools": {"look": {"max_calls": 2}}}
    stored = await store(service, "lead", {"agent": "c", "name": "look"}, policy=policy, limits=limits)
    assert stored.status_code == 201, stored.text
    check = {"agent": "lead", "tool": "look", "arguments": {"task": "x"}}
    verdict = (await service.post("/v1/policy:check", check)).json()
    assert (verdict["verdict"], verdict["rule"], verdict["problem"]) == ("ask", "rules[0]", None)
    wrong = (await service.post("/v1/policy:check", {**check, "arguments": {}})).json()
    assert "task" in wrong["problem"]
    narrower = {"rules": [{"tool": "look", "action": "deny"}]}
    run = await service.post("/v1/runs", {"agent": "lead", "input": "go", "policy": narrower})
    assert run.status_code == 201, run.text
    client = [{"name": "look"}]
    clash = await service.post("/v1/runs", {"agent": "lead", "input": "go", "client_tools": client})
    assert errors(clash) == [("/client_tools/0/name", "tool_exists")]


async def test_configured_agents_may_name_each_other_but_not_in_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")  # nobody is there, and nobody is asked
    model = {"model": "openai/any"}

    def settings(**agents: Any) -> Settings:
        tables = {name: AgentSettings.model_validate({**model, **table}) for name, table in agents.items()}
        return Settings(home=tmp_path, agents=tables)

    good = await assemble(settings(lead={"agent_tools": [{"agent": "helper"}]}, helper={}))
    bad = await assemble(
        settings(lead={"agent_tools": [{"agent": "helper"}]}, helper={"agent_tools": [{"agent": "lead"}]})
    )
    try:
        await store_configured_agents(good)
        assert (await good.journal.get_agent("default", "lead")).definition.get("agent_tools")
        with pytest.raises(BadAgentSettings, match=r"\[agents.lead\] agent_tools.0.agent: .*lead → helper → lead"):
            await store_configured_agents(bad)
    finally:
        await good.close()
        await bad.close()

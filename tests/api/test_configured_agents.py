"""``[agents.NAME]`` of the settings are held to what POST /v1/agents asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.app import BadAgentSettings, store_configured_agents
from perdure.assembly import assemble
from perdure.settings import AgentSettings, Settings
from perdure.store.trouble import NotFound

GOOD = {"model": "openai/any", "tools": ["calculator"]}


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({**GOOD, "model": "nobody/nothing"}, r"\[agents.clerk\] model: no endpoint 'nobody'"),
        ({**GOOD, "tools": ["calculator", "fly"]}, r"\[agents.clerk\] tools.1: there is no tool 'fly'"),
        ({**GOOD, "tools": ["calculator", "calculator"]}, r"\[agents.clerk\] tools.1: .*twice"),
        ({**GOOD, "limits": {"max_turns": 0}}, r"\[agents.clerk\] limits.max_turns: "),
        ({**GOOD, "budget": {"max_cost_usd": -1}}, r"\[agents.clerk\] budget.max_cost_usd: "),
        ({**GOOD, "budget": {"max_cost_usd": float("nan")}}, r"\[agents.clerk\] budget.max_cost_usd: "),
        ({**GOOD, "model": "openai/no-price", "budget": {"max_cost_usd": 1}}, r"budget.max_cost_usd: .*price"),
        ({**GOOD, "policy": {"rules": [{"tool": "calc[", "action": "deny"}]}}, r"policy.rules.0.tool: "),
        ({**GOOD, "policy": {"guardrails": ["no-such"]}}, r"policy.guardrails.0: "),
    ],
)
async def test_a_table_that_is_no_agent_ends_the_start_by_name_and_no_agent_is_stored(
    table: dict[str, Any], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")  # nobody is there, and nobody is asked
    agents = {"first": AgentSettings.model_validate(GOOD), "clerk": AgentSettings.model_validate(table)}
    assembly = await assemble(Settings(home=tmp_path, agents=agents))
    try:
        with pytest.raises(BadAgentSettings, match=named):
            await store_configured_agents(assembly)
        with pytest.raises(NotFound):
            await assembly.journal.get_agent("default", "first")
    finally:
        await assembly.close()

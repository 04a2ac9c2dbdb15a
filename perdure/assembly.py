"""The composition root of every process: settings in, adapters out. Nothing else builds adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from perdure.core.budget import Budget
from perdure.core.spec import RateLimit, RunSpec, ToolRule
from perdure.definitions import BudgetDefinition, LimitsDefinition, RateLimitDefinition, ToolDescription, core_limits
from perdure.providers import EndpointConfig, PriceConfig, build_catalog
from perdure.providers.port import ModelCatalog
from perdure.runs import Runs, connect
from perdure.schedules import Schedules
from perdure.settings import Settings
from perdure.store.journal import Journal
from perdure.store.rows import AgentRow, NewRun, RunRow
from perdure.store.schedule_rows import ScheduleRow
from perdure.store.sql import open_journal
from perdure.tools.builtin.family import TRANSFER_TO_AGENT
from perdure.tools.client_tools import run_toolbox
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolBox
from perdure.tools.registry import build_toolbox


@dataclass(frozen=True)
class Assembly:
    """The adapters of one process."""

    settings: Settings
    journal: Journal
    catalog: ModelCatalog
    toolbox: ToolBox
    runs: Runs
    schedules: Schedules

    async def close(self) -> None:
        await self.catalog.close()
        await self.journal.close()


async def assemble(settings: Settings, *, lazy: bool = True) -> Assembly:
    """Open the journal (migrating it when needed), load tools and models, find Temporal.

    ``lazy`` waits with connecting to Temporal until the first order; workers need ``lazy=False``.
    Raises what is wrong: JournalTrouble, a tool module's error, TemporalUnavailable.
    """
    toolbox = build_toolbox(
        settings.tools,
        limits=ToolLimits(
            **_hashable(settings.tool_settings.model_dump()),
            # What is read back of a spooled result must not be spooled again.
            read_result_bytes_max=settings.limits.spool_bytes * 4 // 5,
        ),
        tool_threads=settings.worker.tool_threads,
    )
    catalog = build_catalog(
        endpoints=[
            EndpointConfig(name=name, **_hashable(end.model_dump())) for name, end in settings.endpoints.items()
        ],
        prices={name: PriceConfig(**price.model_dump()) for name, price in settings.prices.items()},
        scripted_url=settings.scripted_url,
        scripts=settings.scripts,
        output_tokens_default=settings.limits.output_tokens_default,
    )
    client = await connect(lazy=lazy)
    journal = await open_journal(settings.sql_url, settings.blob_folder)

    def spec_of(run: RunRow) -> RunSpec:
        return run_spec(run, settings, toolbox)

    runs = Runs(client, task_queue=settings.task_queue, spec_of=spec_of, search_attributes=settings.search_attributes)
    schedules = Schedules(client, task_queue=settings.task_queue, previews=settings.previews)
    return Assembly(settings, journal, catalog, toolbox, runs, schedules)


def run_spec(run: RunRow, settings: Settings, toolbox: ToolBox) -> RunSpec:
    """What the core is told of a run: the pinned definition, resolved against settings and tools."""
    definition, limits = run.definition, run.limits
    policies = [definition.get("policy"), definition.get("run_policy"), *definition.get("further_policies", [])]
    rates = [rate for each in policies if each for rate in each["rate_limits"]]
    box = run_toolbox(toolbox, definition)
    return RunSpec(
        run_id=run.id,
        agent=definition["name"],
        model=definition["model"],
        deadline_ms=run.deadline_ms,
        start_ms=run.start_ms or 0,
        limits=core_limits(limits),
        tools=tuple(_tool_rule(tool, limits, rates) for tool in box.describe()),
        rate_limits=tuple(RateLimit(rate["max_calls"], rate["window_seconds"], rate["tool"]) for rate in rates),
        on_limit=run.budget.on_limit if run.budget else None,
        ask_about_unknown=any(each is not None and each["unknown_outcome"] == "ask" for each in policies),
        model_timeout_seconds=_turn_seconds(limits, settings),
        model_max_attempts=settings.worker.model_max_attempts,
        heartbeat_timeout_seconds=settings.worker.heartbeat_timeout_seconds,
        continue_as_new_events=settings.worker.continue_as_new_events,
        previews=settings.previews,
        search_attributes=settings.search_attributes,
        transfers=run.transfers,
    )


def default_limits(settings: Settings) -> LimitsDefinition:
    """Of agents and runs that name none."""
    limits = settings.limits
    return LimitsDefinition(
        max_turns=limits.max_turns,
        max_tool_calls=limits.max_tool_calls,
        max_questions=limits.max_questions,
        max_children=limits.max_children,
        max_depth=limits.max_depth,
        max_running_children=limits.max_running_children,
        tool_output_bytes_per_turn=limits.tool_output_bytes_per_turn,
    )


def default_budget(settings: Settings) -> Budget:
    """Of agents and runs that name none; all limits None is none."""
    budget = settings.budget
    cost = None if budget.max_cost_usd is None else int(budget.max_cost_usd * 1_000_000)
    return Budget(cost, budget.max_tokens, budget.max_output_tokens, budget.on_limit)


def resolved_limits(settings: Settings, of_agent: LimitsDefinition, of_run: LimitsDefinition) -> LimitsDefinition:
    """All of them; the tools' own budgets by name."""
    tools = {**of_agent.get("tools", {}), **of_run.get("tools", {})}
    limits: LimitsDefinition = {**default_limits(settings), **of_agent, **of_run, "tools": tools}
    if timeouts := {**of_agent.get("tool_timeouts", {}), **of_run.get("tool_timeouts", {})}:
        limits["tool_timeouts"] = timeouts
    return limits


def resolved_budget(settings: Settings, of_agent: BudgetDefinition, of_run: BudgetDefinition) -> Budget | None:
    """None when nobody has set a limit, nor said what should happen at one."""
    said: BudgetDefinition = {**of_agent, **of_run}
    budget = replace(default_budget(settings), **said)
    limited = (budget.max_cost_micros, budget.max_tokens, budget.max_output_tokens) != (None, None, None)
    return budget if limited or "on_limit" in said else None


def run_of_schedule(settings: Settings, row: ScheduleRow, agent: AgentRow | None, run_id: str, at_ms: int) -> NewRun:
    """The run that a firing starts: the agent of now (``agent``, or the schedule's inline definition) with what the
    schedule says over it."""
    schedule = row.definition
    definition = agent.definition if agent else schedule["inline"]
    assert definition is not None, "a schedule names an agent or holds one"
    if schedule["policy"] is not None:
        definition = {**definition, "run_policy": schedule["policy"]}
    limits = resolved_limits(settings, definition["limits"], schedule["limits"])
    return NewRun(
        run_id=run_id,
        definition={**definition, "limits": limits},
        input=schedule["input"],
        deadline_ms=at_ms + settings.limits.deadline_seconds * 1_000,
        limits=limits,
        budget=resolved_budget(settings, definition.get("budget", {}), schedule["budget"] or {}),
        requested_by=row.requested_by,
        agent_id=agent.id if agent else None,
        agent_version=agent.version if agent else None,
        session_id=row.session_id,
        project_id=row.project_id,
        schedule_id=row.id,
        labels=schedule["labels"],
        metadata=schedule["metadata"],
    )


def _turn_seconds(limits: LimitsDefinition, settings: Settings) -> float:
    most = settings.worker.model_timeout_seconds
    return min(limits.get("turn_timeout_seconds") or most, most)


def _tool_rule(tool: ToolDescription, limits: LimitsDefinition, rates: Sequence[RateLimitDefinition]) -> ToolRule:
    own = limits.get("tools", {}).get(tool["name"])
    return ToolRule(
        tool["name"],
        tool["effect"],
        tool["parallel"],
        min(tool["timeout_seconds"], limits.get("tool_timeouts", {}).get(tool["name"], tool["timeout_seconds"])),
        tool["max_attempts"],
        tool["answered_by"],
        own["max_calls"] if own else None,
        own["on_exceed"] if own else "block",
        tuple(index for index, rate in enumerate(rates) if fnmatchcase(tool["name"], rate["tool"])),
        tool["name"] == TRANSFER_TO_AGENT,
    )


def _hashable(table: dict[str, Any]) -> dict[str, Any]:
    """Lists of a settings table as the tuples that frozen configurations hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}

"""The composition root of every process: settings in, adapters out. Nothing else builds adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from perdure.core.spec import Limits, RunSpec, ToolRule
from perdure.providers import EndpointConfig, PriceConfig, build_catalog
from perdure.providers.port import ModelCatalog
from perdure.runs import Runs, connect
from perdure.settings import Settings
from perdure.store.journal import Journal
from perdure.store.rows import RunRow
from perdure.store.sql import open_journal
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
    return Assembly(settings, journal, catalog, toolbox, runs)


def run_spec(run: RunRow, settings: Settings, toolbox: ToolBox) -> RunSpec:
    """What the core is told of a run: the pinned definition, resolved against settings and tools."""
    definition, limits = run.definition, run.definition["limits"]
    return RunSpec(
        run_id=run.id,
        agent=definition["name"],
        model=definition["model"],
        deadline_ms=run.deadline_ms,
        limits=Limits(
            max_turns=limits.get("max_turns", settings.limits.max_turns),
            max_tool_calls=limits.get("max_tool_calls", settings.limits.max_tool_calls),
        ),
        tools=tuple(
            ToolRule(tool["name"], tool["effect"], tool["parallel"], tool["timeout_seconds"], tool["max_attempts"])
            for tool in toolbox.describe(definition["tools"])
        ),
        model_timeout_seconds=settings.worker.model_timeout_seconds,
        model_max_attempts=settings.worker.model_max_attempts,
        heartbeat_timeout_seconds=settings.worker.heartbeat_timeout_seconds,
        continue_as_new_events=settings.worker.continue_as_new_events,
        previews=settings.previews,
        search_attributes=settings.search_attributes,
    )


def _hashable(table: dict[str, Any]) -> dict[str, Any]:
    """Lists of a settings table as the tuples that frozen configurations hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}

"""The schedules an agent makes for itself: the book that ``schedule_run`` and its like write in."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from ulid import ULID

from perdure.core.budget import Budget
from perdure.core.state import Json
from perdure.definitions import AgentDefinition, BudgetDefinition
from perdure.runs import TemporalUnavailable
from perdure.schedules import Schedules, apply_newest
from perdure.scheduling.definition import ScheduleDefinition, TimingDefinition
from perdure.scheduling.flaws import CATCHUP_SECONDS_DEFAULT, Flaw, timing_flaws
from perdure.scheduling.timetable import Timetable
from perdure.store.journal import Journal
from perdure.store.rows import RunRow
from perdure.store.schedule_rows import NewSchedule, ScheduleChange, ScheduleRow
from perdure.store.trouble import NotFound, ScheduleNameTaken, TooManySchedules
from perdure.tools.call import current_call
from perdure.tools.port import ToolTrouble

SHOWN_MAX = 100


@dataclass(frozen=True)
class ScheduleBooks:
    """What the book of any run needs. ``most`` schedules of the service, ``most_of_owner`` of one agent."""

    journal: Journal
    schedules: Schedules
    most: int
    most_of_owner: int

    def of(self, run: RunRow) -> ScheduleBook:
        return ScheduleBook(self, run)


@dataclass(frozen=True)
class ScheduleBook:
    """See ``perdure.tools.port.OwnSchedules``. What a run may do now, its later self may do then, and no more: same
    definition, policy, limits and budget, in the same conversation."""

    shelf: ScheduleBooks
    run: RunRow

    @property
    def owner(self) -> str:
        """The stored agent; an inline one is known by its conversation."""
        return self.run.agent_id or self.run.session_id

    async def add(self, name: str | None, task: str, timing: TimingDefinition, timezone: str) -> dict[str, Json]:
        definition = self._definition(task, timing, timezone)
        if flaws := timing_flaws(definition, _now_ms()):
            raise ToolTrouble("; ".join(_in_its_words(flaw) for flaw in flaws), code="invalid_schedule")
        id_ = self._id()
        new = NewSchedule(
            id=id_,
            name=name or f"wake-{id_[-8:].lower()}",
            definition=definition,
            requested_by=self.run.requested_by or self.run.definition["name"],
            project_id=self.run.project_id,
            session_id=self.run.session_id,
            owner=self.owner,
            made_by_run_id=self.run.id,
        )
        try:
            row = await self.shelf.journal.create_schedule(
                new, most=self.shelf.most, most_of_owner=self.shelf.most_of_owner
            )
        except ScheduleNameTaken as taken:
            raise ToolTrouble(f"there is a schedule {taken.name!r} already", code="name_taken") from None
        except TooManySchedules as full:
            raise ToolTrouble(f"{full}; cancel one that is not needed", code="too_many_schedules") from None
        return _shown(await self._told(row))

    async def list(self) -> list[dict[str, Json]]:
        page = await self.shelf.journal.list_schedules(
            self.run.project_id, limit=SHOWN_MAX, cursor=None, descending=False, owner=self.owner
        )
        return [_shown(row) for row in page.rows]

    async def cancel(self, name: str) -> str:
        try:
            row = await self.shelf.journal.get_schedule(self.run.project_id, name)
            if row.owner != self.owner:  # somebody else's is not there
                raise NotFound("schedule", name)
            row = await self.shelf.journal.change_schedule(row.project_id, row.id, ScheduleChange(deleted=True))
        except NotFound:
            if current_call().attempt > 1:  # an attempt that was lost has done it
                return f"{name} fires no more"
            known = ", ".join(str(one["name"]) for one in await self.list()) or "none"
            raise ToolTrouble(f"you have no schedule {name!r}; yours are: {known}", code="unknown_schedule") from None
        await self._told(row)
        return f"{row.name} fires no more"

    async def _told(self, row: ScheduleRow) -> ScheduleRow:
        with suppress(TemporalUnavailable):  # the API's keeper tells it when Temporal is back
            return await apply_newest(self.shelf.journal, self.shelf.schedules, row)
        return row

    def _definition(self, task: str, timing: TimingDefinition, timezone: str) -> ScheduleDefinition:
        own = {name: part for name, part in self.run.definition.items() if name != "client_tools"}  # nobody is there
        return ScheduleDefinition(
            agent=None,
            inline=cast("AgentDefinition", own),
            input=[{"type": "text", "text": task}],
            timing=timing,
            timezone=timezone,
            jitter_seconds=0,
            overlap="allow_all",  # a run that is still at work gets the task as a message
            catchup_window_seconds=CATCHUP_SECONDS_DEFAULT,
            pause_on_failure=False,
            starts_ms=None,
            ends_ms=None,
            quiet_hours=None,
            session={"mode": "continue", "on_conflict": "enqueue"},
            budget=None if self.run.budget is None else _said(self.run.budget),
            limits=self.run.limits,
            policy=None,  # the run's own is a part of its definition
            labels=self.run.labels,
            metadata=self.run.metadata,
        )

    def _id(self) -> str:
        """The same for the same call, on every attempt."""
        digest = hashlib.sha256(current_call().idempotency_key.encode()).digest()[:10]
        return f"sch_{ULID.from_bytes(self.run.created_ms.to_bytes(6, 'big') + digest)}"


def _in_its_words(flaw: Flaw) -> str:
    """With the name of the tool's parameter: /spec/cron/0 is its cron."""
    return f"{flaw.pointer.removeprefix('/spec').split('/')[1]}: {flaw.message}"


def _said(budget: Budget) -> BudgetDefinition:
    return BudgetDefinition(
        max_cost_micros=budget.max_cost_micros,
        max_tokens=budget.max_tokens,
        max_output_tokens=budget.max_output_tokens,
        on_limit=budget.on_limit,
    )


def _shown(row: ScheduleRow) -> dict[str, Json]:
    next_ms = Timetable(row.definition).next(_now_ms())
    return {
        "id": row.id,
        "name": row.name,
        "task": "".join(block["text"] for block in row.definition["input"] if block["type"] == "text"),
        "next_at": None if next_ms is None else datetime.fromtimestamp(next_ms / 1_000, UTC).isoformat(),
        "paused": row.paused,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

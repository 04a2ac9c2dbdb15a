"""Schedules and invocations as the JSON of this API."""

from __future__ import annotations

import time as clock

from api import money_rendering
from api.rendering import blocks
from api.times import Object, time, time_or_none
from perdure.definitions import AgentDefinition
from perdure.scheduling.timetable import Timetable
from perdure.store.schedule_rows import InvocationRow, ScheduleRow


def schedule(row: ScheduleRow) -> Object:
    said = row.definition
    next_ms = Timetable(said).next(now_ms())
    return {
        "id": row.id,
        "object": "schedule",
        "name": row.name,
        "status": "paused" if row.paused else "ended" if next_ms is None else "active",
        "paused_reason": row.paused_reason or None,
        "agent": said["agent"],
        "agent_inline": None if said["inline"] is None else _inline(said["inline"]),
        "input": blocks(list(said["input"])),
        "spec": {
            "cron": said["timing"].get("cron"),
            "every_seconds": said["timing"].get("every_seconds"),
            "offset_seconds": said["timing"].get("offset_seconds"),
            "calendar": said["timing"].get("calendar"),
            "at": [time(at_ms) for at_ms in said["timing"]["at_ms"]] if "at_ms" in said["timing"] else None,
        },
        "timezone": said["timezone"],
        "jitter_seconds": said["jitter_seconds"],
        "overlap": said["overlap"],
        "catchup_window_seconds": said["catchup_window_seconds"],
        "pause_on_failure": said["pause_on_failure"],
        "starts_at": time_or_none(said["starts_ms"]),
        "ends_at": time_or_none(said["ends_ms"]),
        "quiet_hours": said["quiet_hours"],
        "session": {**said["session"], "session_id": row.session_id},
        "budget": None if said["budget"] is None else money_rendering.definition(said["budget"]),
        "limits": said["limits"],
        "policy": said["policy"],
        "next_at": None if row.paused else time_or_none(next_ms),
        "applied": row.applied_version == row.version,
        "made_by_run_id": row.made_by_run_id,
        "requested_by": row.requested_by,
        "created_at": time(row.created_ms),
        "updated_at": time(row.updated_ms),
        "labels": said["labels"],
        "metadata": said["metadata"],
        "version": row.version,
    }


def _inline(definition: AgentDefinition) -> Object:
    return {
        "name": definition["name"],
        "model": definition["model"],
        "instructions": definition["instructions"],
        "tools": definition["tools"],
        "model_settings": definition["model_settings"],
        "limits": definition["limits"],
        "budget": money_rendering.definition(definition["budget"]) if "budget" in definition else None,
        "policy": definition.get("policy"),
    }


def moment(at_ms: int) -> Object:
    return {"id": time(at_ms), "object": "schedule_time", "at": time(at_ms)}


def invocation(row: InvocationRow) -> Object:
    return {
        "id": row.id,
        "object": "schedule_invocation",
        "schedule_id": row.schedule_id,
        "planned_at": time(row.planned_ms),
        "actual_at": time_or_none(row.actual_ms),
        "cause": row.cause,
        "status": row.status,
        "reason": row.reason or None,
        "run_id": row.run_id,
        "run_status": row.run_status,
    }


def now_ms() -> int:
    return clock.time_ns() // 1_000_000

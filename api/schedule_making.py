"""From what a client says to a schedule's definition: everything it names must exist now, and it must fire at least
once."""

from __future__ import annotations

from collections.abc import Sequence

from api.definitions import find_agent, input_blocks, resolve_agent, resolve_run
from api.problems import FieldError, errors_problem, field_problem
from api.requests import CreateRun
from api.schedule_bodies import CreateSchedule, PatchSchedule, QuietHoursIn, SessionIn
from api.schedule_rendering import now_ms
from api.times import milliseconds
from perdure.assembly import Assembly
from perdure.content import Block
from perdure.definitions import AgentDefinition
from perdure.scheduling.definition import QuietHours, ScheduleDefinition, ScheduleSession
from perdure.scheduling.flaws import timing_flaws
from perdure.store.rows import AgentRow
from perdure.store.schedule_rows import ScheduleRow
from perdure.tools.policy import normalized


async def new_definition(assembly: Assembly, body: CreateSchedule) -> ScheduleDefinition:
    content = input_blocks(body.input)
    base, agent = await resolve_agent(assembly, body.agent, body.agent_inline)
    _check_run(assembly, base, agent, body, content)
    session = body.session if isinstance(body.session, SessionIn) else SessionIn(mode=body.session)
    if session.mode == "new" and session.session_id is not None:
        raise field_problem("validation_failed", "/session/session_id", "a new session has no id yet", kind="conflict")
    definition = ScheduleDefinition(
        agent=body.agent,
        inline=None if agent else base,
        input=content,
        timing=body.spec.definition(),
        timezone=body.timezone,
        jitter_seconds=body.jitter_seconds,
        overlap=body.overlap,
        catchup_window_seconds=body.catchup_window_seconds,
        pause_on_failure=body.pause_on_failure,
        starts_ms=None if body.starts_at is None else milliseconds(body.starts_at),
        ends_ms=None if body.ends_at is None else milliseconds(body.ends_at),
        quiet_hours=_quiet(body.quiet_hours, body.timezone),
        session=ScheduleSession(mode=session.mode, on_conflict=session.on_conflict),
        budget=None if body.budget is None else body.budget.definition(),
        limits=body.limits.definition(),
        policy=None if body.policy is None else normalized(body.policy.definition(), of_run=True),
        labels=body.labels,
        metadata=body.metadata,
    )
    check_timing(definition)
    return definition


async def changed_definition(assembly: Assembly, row: ScheduleRow, patch: PatchSchedule) -> ScheduleDefinition:
    """The definition with what is given in place of what was there."""
    given, now = patch.model_fields_set, row.definition
    if not given:
        raise field_problem("validation_failed", "", "give at least one member", kind="empty")
    for member in sorted(given.difference(_NULLABLE)):
        if getattr(patch, member) is None:
            message = f"null does not remove {member}: give a value, or leave it out"
            raise field_problem("validation_failed", f"/{member}", message, kind="null")
    new = _timed(row.definition, patch)
    base, agent = await _agent_of(assembly, now, patch)
    if patch.agent is not None or patch.agent_inline is not None:
        new["agent"], new["inline"] = patch.agent, None if agent else base
    if patch.input is not None:
        new["input"] = input_blocks(patch.input)
    _check_run(assembly, base, agent, patch, new["input"])
    for name in ("overlap", "pause_on_failure", "labels", "metadata"):
        if (value := getattr(patch, name)) is not None:
            new[name] = value
    if "budget" in given:
        new["budget"] = None if patch.budget is None else patch.budget.definition()
    if patch.limits is not None:
        new["limits"] = patch.limits.definition()
    if "policy" in given:
        new["policy"] = None if patch.policy is None else normalized(patch.policy.definition(), of_run=True)
    check_timing(new)
    return new


_NULLABLE = ("starts_at", "ends_at", "quiet_hours", "budget", "policy")


def _timed(now: ScheduleDefinition, patch: PatchSchedule) -> ScheduleDefinition:
    given, new = patch.model_fields_set, now.copy()
    if patch.spec is not None:
        new["timing"] = patch.spec.definition()
    if patch.timezone is not None:
        new["timezone"] = patch.timezone
    if patch.jitter_seconds is not None:
        new["jitter_seconds"] = patch.jitter_seconds
    if patch.catchup_window_seconds is not None:
        new["catchup_window_seconds"] = patch.catchup_window_seconds
    if "starts_at" in given:
        new["starts_ms"] = None if patch.starts_at is None else milliseconds(patch.starts_at)
    if "ends_at" in given:
        new["ends_ms"] = None if patch.ends_at is None else milliseconds(patch.ends_at)
    if "quiet_hours" in given:
        new["quiet_hours"] = _quiet(patch.quiet_hours, new["timezone"])
    return new


async def _agent_of(
    assembly: Assembly, now: ScheduleDefinition, patch: PatchSchedule
) -> tuple[AgentDefinition, AgentRow | None]:
    if patch.agent is not None or patch.agent_inline is not None:
        return await resolve_agent(assembly, patch.agent, patch.agent_inline)
    if now["inline"] is not None:
        return now["inline"], None
    assert now["agent"] is not None, "a schedule names an agent or holds one"
    row = await find_agent(assembly, now["agent"])
    return row.definition, row


def _check_run(
    assembly: Assembly,
    definition: AgentDefinition,
    agent: AgentRow | None,
    body: CreateSchedule | PatchSchedule,
    content: list[Block],
) -> None:
    """Would POST /v1/runs take such a run now?"""
    parts = {"budget": body.budget, "policy": body.policy}
    if body.limits is not None:
        parts["limits"] = body.limits  # type: ignore[assignment]
    resolve_run(assembly, definition, agent, CreateRun(agent="checked", input="checked", **parts), content)  # type: ignore[arg-type]


def check_timing(definition: ScheduleDefinition) -> None:
    """``validation_failed`` with everything that is wrong with the times."""
    if flaws := timing_flaws(definition, now_ms()):
        raise errors_problem(errors_of(flaws))


def errors_of(flaws: Sequence[tuple[str, str, str]]) -> list[FieldError]:
    return [FieldError(*flaw) for flaw in flaws]


def _quiet(given: QuietHoursIn | None, timezone: str) -> QuietHours | None:
    return None if given is None else {"from": given.from_, "to": given.to, "timezone": given.timezone or timezone}

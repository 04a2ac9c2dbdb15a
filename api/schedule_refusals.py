"""What is known of a trigger when it is given: one that would come to nothing at once is refused."""

from __future__ import annotations

from api.problems import Problem
from perdure.scheduling.definition import Overlap
from perdure.store.journal import Journal
from perdure.store.schedule_rows import ScheduleRow
from perdure.store.trouble import SessionDeleted


async def check_trigger(journal: Journal, row: ScheduleRow, overlap: Overlap) -> None:
    """``invalid_transition`` for a trigger that would be skipped, SessionDeleted for one that would fail."""
    under_way = await journal.open_runs(row.id) if overlap == "skip" else []
    if under_way:
        raise Problem(
            "invalid_transition",
            f"Run {under_way[0]} of this schedule is under way, and its overlap policy is to skip: wait for the run, "
            "cancel it, or give another `overlap`.",
        )
    if row.session_id is None:
        return
    session = await journal.get_session(row.project_id, row.session_id)
    if session.deleted_ms is not None:
        raise SessionDeleted(session.id)
    if session.active_run_id is None or row.definition["session"]["on_conflict"] != "reject":
        return
    active = await journal.get_run(session.active_run_id)
    if active.schedule_id != row.id or overlap == "allow_all":  # another policy waits for the end of its own run
        raise Problem(
            "invalid_transition",
            f"Run {active.id} is active in the conversation {session.id} of this schedule, whose `on_conflict` is "
            "`reject`: wait for the run, or cancel it.",
        )

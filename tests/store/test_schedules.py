"""Schedules in the journal: versions, names, limits, and the book of firings. On both databases."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import update
from ulid import ULID

from perdure.core.state import Outcome
from perdure.store.journal import Journal
from perdure.store.rows import NewMessage, NewRun
from perdure.store.schedule_rows import (
    INVOCATIONS_KEPT,
    InvocationRow,
    NewInvocation,
    NewSchedule,
    ScheduleChange,
    ScheduleRow,
)
from perdure.store.schema import invocations, schedules
from perdure.store.trouble import (
    NotFound,
    RunOver,
    ScheduleNameTaken,
    SessionBusy,
    SessionDeleted,
    TooManySchedules,
    VersionMismatch,
)
from tests.scheduling.definitions import defined
from tests.store.conftest import Open
from tests.store.runs import AGENT, FAR, all_events, new_run, outbox, text

FAR_OFF: Any = {"at_ms": [FAR]}


async def made(journal: Journal, timing: Any = None, **more: Any) -> ScheduleRow:
    rest = {name: more.pop(name) for name in ("owner", "session_id") if name in more}
    most = {"most": more.pop("most", 100), "most_of_owner": more.pop("most_of_owner", 10)}
    id_, name = more.pop("id", f"sch_{ULID()}"), more.pop("name", f"n-{ULID()}")
    definition = defined(timing or FAR_OFF, **more)
    row = await journal.create_schedule(NewSchedule(id_, name, definition, "ana", **rest), **most)
    await journal.confirm_schedule(row.id, row.version)
    return await journal.find_schedule(row.id)


def fired(row: ScheduleRow, planned_ms: int, **more: Any) -> NewInvocation:
    run_id = more.pop("run_id", f"run_{ULID()}")
    run = NewRun(run_id, AGENT, text("Go."), FAR, {"max_turns": 9}, schedule_id=row.id)
    known: dict[str, Any] = {"version": row.version, "key": f"{row.id}-{planned_ms}", "run": run, **more}
    return NewInvocation(row.id, planned_ms=planned_ms, **known)


async def book(journal: Journal, row: ScheduleRow) -> list[InvocationRow]:
    return (await journal.list_invocations(row.id, limit=2_000, cursor=None, descending=False)).rows


def now() -> int:
    return time.time_ns() // 1_000_000


async def started(journal: Journal, row: ScheduleRow, planned_ms: int, **more: Any) -> InvocationRow:
    opened = await journal.open_invocation(fired(row, planned_ms, **more))
    assert opened is not None
    return opened


async def over(journal: Journal, run_id: str | None) -> None:
    assert run_id is not None
    await journal.record(run_id, "finish", [], Outcome("completed", "end"))


# Rows ---------------------------------------------------------------------------------------------


async def test_a_schedule_is_found_by_its_id_and_by_its_name_and_made_once(journal: Journal) -> None:
    row = await made(journal, name="nightly", id="sch_1")
    again = await journal.create_schedule(
        NewSchedule("sch_1", "other", defined(FAR_OFF), "bob"), most=1, most_of_owner=1
    )
    assert again == row
    assert await journal.get_schedule("default", "nightly") == row == await journal.get_schedule("default", "sch_1")
    with pytest.raises(NotFound):
        await journal.get_schedule("elsewhere", "nightly")


async def test_a_name_is_free_again_when_its_schedule_is_deleted(journal: Journal) -> None:
    row = await made(journal, name="nightly")
    with pytest.raises(ScheduleNameTaken):
        await made(journal, name="nightly")
    await journal.change_schedule("default", row.id, ScheduleChange(deleted=True))
    await made(journal, name="nightly")
    with pytest.raises(NotFound):
        await journal.get_schedule("default", row.id)
    assert (await journal.find_schedule(row.id)).deleted


async def test_two_who_take_one_name_at_once_cannot_both_have_it(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    found = await asyncio.gather(made(journal, name="x"), made(other, name="x"), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["ScheduleNameTaken", "ScheduleRow"]


async def test_there_are_only_so_many_of_the_project_and_of_an_owner(journal: Journal) -> None:
    await made(journal, owner="agt_1", most_of_owner=1)
    with pytest.raises(TooManySchedules):
        await made(journal, owner="agt_1", most_of_owner=1)
    await made(journal, owner="agt_2", most_of_owner=1)
    with pytest.raises(TooManySchedules):
        await made(journal, most=2)
    page = await journal.list_schedules("default", limit=9, cursor=None, descending=True, owner="agt_1")
    assert [row.owner for row in page.rows] == ["agt_1"]


async def test_a_change_makes_the_next_version_and_only_from_the_one_that_was_read(journal: Journal) -> None:
    row = await made(journal)
    changed = await journal.change_schedule("default", row.id, ScheduleChange(1, name="renamed"))
    assert (changed.version, changed.timing_version, changed.applied_version) == (2, 1, 1)
    with pytest.raises(VersionMismatch) as caught:
        await journal.change_schedule("default", row.id, ScheduleChange(1, name="again"))
    assert caught.value.version == 2
    same = await journal.change_schedule("default", row.id, ScheduleChange(2, name="renamed"))
    assert same.version == 2
    moved = await journal.change_schedule("default", row.id, ScheduleChange(definition=defined({"every_seconds": 9})))
    assert (moved.version, moved.timing_version) == (3, 3)
    held = await journal.change_schedule("default", row.id, ScheduleChange(paused=True, reason="tired"))
    assert (held.version, held.paused, held.paused_reason) == (4, True, "tired")
    assert (await journal.change_schedule("default", row.id, ScheduleChange(paused=True))).version == 4


async def test_what_temporal_was_not_told_is_found_until_it_is_told(journal: Journal) -> None:
    row = await made(journal)
    assert await journal.unapplied_schedules(older_than_ms=0, limit=9) == []
    await journal.change_schedule("default", row.id, ScheduleChange(paused=True))
    (late,) = await journal.unapplied_schedules(older_than_ms=0, limit=9)
    assert not await journal.confirm_schedule(row.id, 1)
    assert await journal.confirm_schedule(row.id, late.version)
    await journal.change_schedule("default", row.id, ScheduleChange(deleted=True))
    (gone,) = await journal.unapplied_schedules(older_than_ms=0, limit=9)
    assert gone.deleted
    assert await journal.applied_schedules(after="", limit=9) == []


async def test_each_trigger_has_a_second_of_its_own_beside_the_planned_ones(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 2})
    taken = [await journal.accept_trigger(row.id, f"ord_{n}", None) for n in range(5)]
    assert len(set(taken)) == 5
    assert all(at is not None and at % 2_000 == 1_000 for at in taken)
    assert await journal.accept_trigger(row.id, "ord_4", None) == taken[4], "known already"
    while at := await journal.accept_trigger(row.id, f"ord_{ULID()}", None):
        assert at <= now() + 60_000


async def test_orders_are_taken_one_at_a_time_and_in_their_order(journal: Journal, open_another: Open) -> None:
    row, other = await made(journal), await open_another()
    await journal.accept_trigger(row.id, "ord_1", "allow_all")
    await journal.accept_backfill(row.id, "ord_2", 1_000, 2_000, "buffer_all")
    first, none = await asyncio.gather(*(each.take_schedule_order(row.id, hold_ms=60_000) for each in (journal, other)))
    first = first or none
    assert first is not None
    assert (first.id, first.kind, first.overlap, first.sent) == ("ord_1", "trigger", "allow_all", False)
    assert await other.take_schedule_order(row.id, hold_ms=60_000) is None, "one is on its way"
    await journal.schedule_order_sent(first, dropped=0, look_ms=0)
    second = await other.take_schedule_order(row.id, hold_ms=0)
    assert second is not None
    assert (second.id, second.kind, second.from_ms, second.to_ms) == ("ord_2", "backfill", 1_000, 2_000)
    again = await journal.take_schedule_order(row.id, hold_ms=60_000)
    assert again == second, "whoever held it has died"
    await journal.schedule_order_sent(second, dropped=0, look_ms=0)
    (open_,) = await journal.due_schedule_orders(limit=9)
    assert (open_.id, open_.sent, open_.tries) == ("ord_1", True, 1)
    await journal.hold_schedule_order("ord_1", hold_ms=0, again=True)
    (open_,) = await journal.due_schedule_orders(limit=9)
    assert not open_.sent


async def test_a_trigger_is_done_when_its_firing_is_in_the_book_or_the_book_says_why_not(journal: Journal) -> None:
    row = await made(journal)
    fires_ms = await journal.accept_trigger(row.id, "ord_1", None)
    late_ms = await journal.accept_trigger(row.id, "ord_2", None)
    assert fires_ms is not None
    assert late_ms is not None
    first, second = await journal.due_schedule_orders(limit=9)
    await started(journal, row, fires_ms)
    assert await journal.due_schedule_orders(limit=9) == [second]
    await journal.end_schedule_order(first, "skipped", "overlap")
    await journal.end_schedule_order(second, "skipped", "overlap")
    rows = await book(journal, row)
    assert [(one.planned_ms, one.cause, one.status, one.reason) for one in rows] == [
        (fires_ms, "manual", "started", ""), (late_ms, "manual", "skipped", "overlap"),
    ]  # fmt: skip
    assert await journal.due_schedule_orders(limit=9) == []
    await over(journal, rows[0].run_id)
    await started(journal, row, late_ms)
    assert [one.status for one in await book(journal, row)] == ["started", "started"], "it fired after all"


async def test_a_conversation_that_a_living_schedule_goes_on_with_is_not_pruned_by_itself(journal: Journal) -> None:
    session = {"mode": "continue", "on_conflict": "reject"}
    row = await made(journal, session=session)
    ended = await made(journal, {"at_ms": [1_000]}, session=session)
    gone = await made(journal, session=session)
    await journal.change_schedule("default", gone.id, ScheduleChange(deleted=True))
    pruned, _ = await journal.prune(sessions_before_ms=now() + 1_000, limit=100)
    assert pruned.sessions == 2
    assert row.session_id is not None
    assert ended.session_id is not None
    assert (await journal.get_session("default", row.session_id)).deleted_ms is None
    assert (await journal.get_session("default", ended.session_id)).deleted_ms is not None
    await journal.delete_session("default", row.session_id)
    with pytest.raises(SessionDeleted):
        await started(journal, row, 1_000)


# Firings ------------------------------------------------------------------------------------------


async def test_a_firing_makes_its_run_and_its_row_together_and_once(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 60})
    planned = now() // 60_000 * 60_000
    one = await started(journal, row, planned, run_id="run_a")
    again = await journal.open_invocation(fired(row, planned, run_id="run_b"))
    assert again == one
    assert (one.status, one.cause, one.run_id, one.run_status) == ("started", "schedule", "run_a", "queued")
    run = await journal.get_run("run_a")
    assert run.schedule_id == row.id
    assert (await all_events(journal, "run_a"))[0].data["schedule_id"] == row.id
    with pytest.raises(NotFound):
        await journal.get_run("run_b")
    assert await journal.open_runs(row.id) == ["run_a"]
    await over(journal, "run_a")
    assert await journal.open_runs(row.id) == []
    listed = await journal.list_runs("default", limit=9, cursor=None, descending=True, schedule_id=row.id)
    assert [found.id for found in listed.rows] == ["run_a"]


async def test_a_firing_of_a_deleted_schedule_does_nothing(journal: Journal) -> None:
    row = await made(journal)
    await journal.change_schedule("default", row.id, ScheduleChange(deleted=True))
    assert await journal.open_invocation(fired(row, 1_000)) is None
    assert await journal.open_invocation(NewInvocation("sch_none", 1, "k", 1_000)) is None
    assert await book(journal, row) == []


async def test_a_firing_that_temporal_planned_before_it_heard_of_a_change_is_void(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 60})
    moved = await journal.change_schedule("default", row.id, ScheduleChange(definition=defined({"every_seconds": 90})))
    assert (await started(journal, row, 60_000)).reason == "changed"
    await journal.change_schedule("default", row.id, ScheduleChange(paused=True))
    void = await started(journal, moved, 90_000, key="later")
    assert (void.status, void.reason) == ("skipped", "paused")


async def test_a_trigger_of_a_paused_schedule_that_temporal_knows_to_be_paused_runs(journal: Journal) -> None:
    row = await made(journal)
    held = await journal.change_schedule("default", row.id, ScheduleChange(paused=True))
    await journal.confirm_schedule(row.id, held.version)
    one = await started(journal, held, 1_000)
    assert (one.status, one.cause) == ("started", "manual")


async def test_a_firing_in_quiet_hours_is_skipped_and_a_trigger_is_not(journal: Journal) -> None:
    quiet = {"from": "00:00", "to": "12:00", "timezone": "UTC"}
    row = await made(journal, {"every_seconds": 3_600}, quiet_hours=quiet)
    assert (await started(journal, row, 3 * 3_600_000)).reason == "quiet_hours"
    assert (await started(journal, row, 3 * 3_600_000 + 1_000)).status == "started"


async def test_a_failed_firing_says_why(journal: Journal) -> None:
    row = await made(journal)
    one = await journal.open_invocation(NewInvocation(row.id, 1, "k", 1_000, failed="there is no agent"))
    assert one is not None
    assert (one.status, one.reason, one.run_id) == ("failed", "there is no agent", None)


async def test_all_runs_of_a_continued_session_are_in_it_and_only_one_at_a_time(journal: Journal) -> None:
    row = await made(journal, session={"mode": "continue", "on_conflict": "enqueue"})
    first = await started(journal, row, 1_000, run_id="run_a")
    with pytest.raises(SessionBusy) as busy:
        await journal.open_invocation(fired(row, 2_000, run_id="run_b"))
    message = NewMessage("msg_b", text("Go."), "enqueue")
    given = await journal.deliver_invocation(fired(row, 2_000), busy.value.run_id, message)
    again = await journal.deliver_invocation(fired(row, 2_000), busy.value.run_id, message)
    assert given == again
    assert given is not None
    assert (given.status, given.run_id) == ("delivered", "run_a")
    assert [one.id for one in await journal.list_inbox("run_a", waiting=True)] == ["msg_b"]
    await over(journal, first.run_id)
    with pytest.raises(RunOver):
        await journal.deliver_invocation(fired(row, 3_000), "run_a", NewMessage("msg_c", text("x"), "steer"))
    await started(journal, row, 3_000, run_id="run_c")
    assert (await journal.get_run("run_c")).session_id == (await journal.get_run("run_a")).session_id == row.session_id


async def test_a_schedule_may_continue_a_session_that_is_there_and_no_other(journal: Journal) -> None:
    run = await new_run(journal)
    session = {"mode": "continue", "on_conflict": "reject"}
    assert (await made(journal, session=session, session_id=run.session_id)).session_id == run.session_id
    with pytest.raises(NotFound):
        await made(journal, session=session, session_id="ses_none")


# The book -----------------------------------------------------------------------------------------


async def settled_since(journal: Journal, row: ScheduleRow, ago_ms: int) -> None:
    """As if the schedule had been made so long ago."""
    then = now() - ago_ms
    statement = update(schedules).where(schedules.c.id == row.id).values(settled_ms=then, settle_at_ms=then)
    await journal._database.write(lambda c: c.execute(statement) and None)  # type: ignore[attr-defined]


async def test_firings_that_did_not_take_place_are_written_down_with_their_reason(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 10}, catchup_window_seconds=30)
    await settled_since(journal, row, 120_000)
    assert await journal.settle_schedules(limit=9) == 1
    rows = await book(journal, row)
    assert {(one.status, one.reason, one.run_id) for one in rows} == {("skipped", "missed", None)}
    planned = [one.planned_ms for one in rows]
    assert planned == list(range(planned[0], planned[-1] + 1, 10_000))
    assert now() - planned[-1] >= 35_000, "younger ones may still come"
    assert await journal.settle_schedules(limit=9) == 0
    late = await started(journal, row, planned[-1])
    assert late.status == "started", "it came after all"
    assert [one.planned_ms for one in await book(journal, row)] == planned


async def test_a_firing_skipped_for_a_run_that_was_under_way_is_an_overlap(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 10})
    await settled_since(journal, row, 60_000)
    first = now() // 10_000 * 10_000 - 30_000
    one = await started(journal, row, first)
    before = [found for found in await book(journal, row) if found.planned_ms < first]
    assert {found.reason for found in before} == {"missed"}
    statement = update(invocations).where(invocations.c.id == one.id).values(actual_ms=first)
    await journal._database.write(lambda c: c.execute(statement) and None)  # type: ignore[attr-defined]
    await settled_again(journal, row)
    after = [found for found in await book(journal, row) if found.planned_ms > first]
    assert after[0].planned_ms == first + 10_000
    assert {found.reason for found in after} == {"overlap"}
    assert all(found.planned_ms < now() - 5_000 for found in after), "younger ones may still be on their way"


async def test_a_paused_schedule_misses_nothing(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 10}, catchup_window_seconds=10)
    await journal.change_schedule("default", row.id, ScheduleChange(paused=True))
    await settled_since(journal, row, 120_000)
    assert await journal.settle_schedules(limit=9) == 0
    await journal.change_schedule("default", row.id, ScheduleChange(paused=False))
    await journal.settle_schedules(limit=9)
    assert await book(journal, row) == []


async def test_quiet_hours_are_in_the_book(journal: Journal) -> None:
    quiet = {"from": "00:00", "to": "23:59", "timezone": "UTC"}
    row = await made(journal, {"every_seconds": 600}, quiet_hours=quiet)
    await settled_since(journal, row, 3_600_000)
    await journal.settle_schedules(limit=9)
    rows = await book(journal, row)
    assert len(rows) == 6
    assert {one.reason for one in rows} == {"quiet_hours"}


async def test_the_book_keeps_the_newest_thousand(journal: Journal) -> None:
    row = await made(journal, {"every_seconds": 1}, catchup_window_seconds=10)
    await settled_since(journal, row, 1_500_000)
    for _ in range(3):
        await settled_again(journal, row)
    rows = await book(journal, row)
    assert len(rows) == INVOCATIONS_KEPT
    assert rows[-1].planned_ms - rows[0].planned_ms == (INVOCATIONS_KEPT - 1) * 1_000


async def settled_again(journal: Journal, row: ScheduleRow) -> None:
    statement = update(schedules).where(schedules.c.id == row.id).values(settle_at_ms=0)
    await journal._database.write(lambda c: c.execute(statement) and None)  # type: ignore[attr-defined]
    await journal.settle_schedules(limit=9)


async def test_invocations_are_read_page_by_page(journal: Journal) -> None:
    row = await made(journal)
    for second in range(1, 6):
        await started(journal, row, second * 1_000)
    page = await journal.list_invocations(row.id, limit=2, cursor=None, descending=True)
    rest = await journal.list_invocations(row.id, limit=9, cursor=page.next_cursor, descending=True)
    assert [one.planned_ms for one in page.rows + rest.rows] == [5_000, 4_000, 3_000, 2_000, 1_000]
    with pytest.raises(NotFound):
        await journal.list_invocations("sch_none", limit=2, cursor=None, descending=True)


async def test_a_run_that_says_it_has_started_needs_nobody_to_confirm_its_workflow(journal: Journal) -> None:
    run = await new_run(journal)
    assert [one.id for one in await journal.unstarted_runs(older_than_ms=0, limit=9)] == [run.id]
    await journal.record(run.id, "record-1", [outbox("run.started")], None)
    assert (await journal.get_run(run.id)).workflow_started

"""A conversation is erased with what the agents it has started said, on both databases, and kept with them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perdure.store.rows import NewMessage, NewRun, RunRow, Said, StoredReply, ToolCommit
from perdure.store.schedule_rows import InvocationRow, NewInvocation, NewSchedule, ScheduleChange
from perdure.store.sql import SqlJournal
from perdure.store.trouble import NotFound, SessionBusy, SessionDeleted
from tests.scheduling.definitions import defined
from tests.store.conftest import Open
from tests.store.runs import AGENT, FAR, all_events, begin, new_run, said, text
from tests.store.test_family import DONE, FIRST, ask_for, finish, parent_of, spawned
from tests.store.test_sessions import LATER, dump_of, fork, words


async def a_family(journal: SqlJournal) -> tuple[RunRow, RunRow, RunRow]:
    """A root with a child and a grandchild, all of whom have ended; only those below have said anything secret."""
    root = await parent_of(journal, "c1", "c2", "c3")
    child = await spawned(journal, root, "c1", task="secret task", background=True)
    await journal.post_entry(child.id, "p0", "secret entry", "secret topic")
    await ask_for(journal, child.id, "d1", "d2")
    grandchild = await spawned(journal, child, "d1", task="secret errand", background=True)
    await journal.accept_message(grandchild.id, NewMessage("msg_s", text("secret hurry"), "enqueue"))
    await journal.begin_tool(child.id, "d2", worker="w", may_repeat=True)
    blob = await journal.put_blob(b"secret " * 10_000, "text/plain")
    await journal.commit_tool(child.id, "d2", ToolCommit("completed", "secret result", blob=blob, bytes=70_000))
    made = await journal.post_entry(grandchild.id, "p1", "secret find", None)
    await journal.update_entry(root.id, "p2", made.entry_id, "the lead says this", None)
    gone = await journal.post_entry(child.id, "p3", "secret mistake", None)
    await journal.remove_entry(root.id, "p4", gone.entry_id, None)
    await finish(journal, grandchild.id, "secret deep answer")
    large = await journal.put_blob(b"secret words at length " * 10_000, "text/plain")
    attempt = await begin(journal, child.id, 2, ask=FIRST)
    await journal.commit_model(child.id, "model-2", attempt, said("secret answer"))
    await journal.record(child.id, "finish", (), DONE, Said("secret words at", large, 230_000))
    return root, child, grandchild


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_deleted_session_takes_along_all_that_was_said_below_it(journal: SqlJournal, blob_folder: Path) -> None:
    journal.blob_rest_ms = -1
    root, child, grandchild = await a_family(journal)
    await journal.record(root.id, "finish", [], DONE)
    assert "secret" in await dump_of(journal)
    assert b"secret" in files(blob_folder)
    assert await journal.delete_session("default", root.session_id) == [root.id, child.id, grandchild.id]
    left = await dump_of(journal)
    assert "secret" not in left
    assert "the lead says this" not in left
    assert b"secret" not in files(blob_folder)
    assert (await journal.read_board(child.id)).entries == []
    for run in (child, grandchild):
        assert (await journal.get_session("default", run.session_id)).deleted_ms is not None
        over = await journal.get_run(run.id)
        assert (over.status, over.input, over.output) == ("completed", [], None)
        assert over.usage.cost_micros > 0, "what it has cost stays"
        with pytest.raises(SessionDeleted):
            await new_run(journal, session_id=run.session_id)
    assert await journal.delete_session("default", root.session_id) == []
    assert await journal.delete_session("default", child.session_id) == []


async def test_nothing_is_erased_while_somebody_below_is_at_work(journal: SqlJournal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", task="take care", background=True, detached=True)
    await journal.post_entry(child.id, "p1", "still here", None)
    await journal.record(root.id, "finish", [], DONE)
    before = await dump_of(journal)
    with pytest.raises(SessionBusy) as busy:
        await journal.delete_session("default", root.session_id)
    assert (busy.value.session_id, busy.value.run_id) == (child.session_id, child.id)
    assert await dump_of(journal) == before
    await finish(journal, child.id)
    assert await journal.delete_session("default", root.session_id) == [root.id, child.id]
    assert "still here" not in await dump_of(journal)


async def test_a_conversation_that_was_gone_on_with_below_goes_too_with_those_below_it(journal: SqlJournal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    await finish(journal, child.id)
    await journal.record(root.id, "finish", [], DONE)
    later = await parent_of(journal, "e1", words="secret follow-up", session_id=child.session_id)
    below = await spawned(journal, later, "e1", task="secret detour", background=True)
    await journal.post_entry(below.id, "p1", "secret note", None)
    with pytest.raises(SessionBusy):
        await journal.delete_session("default", root.session_id)
    await finish(journal, below.id, "secret way")
    await journal.record(later.id, "finish", [], DONE)
    branch = await fork(journal, below.session_id)
    assert await journal.delete_session("default", root.session_id) == [root.id, child.id, later.id, below.id]
    assert words(await journal.list_messages(branch)) == ["secret detour", "secret way"], "a fork keeps what it shares"
    await journal.delete_session("default", branch)
    assert "secret" not in await dump_of(journal)


async def test_a_childs_session_that_is_deleted_alone_is_quoted_by_no_event_and_no_board(
    journal: SqlJournal, blob_folder: Path
) -> None:
    journal.blob_rest_ms = -1
    root, child, grandchild = await a_family(journal)
    await journal.post_entry(root.id, "p9", "mine", None)
    assert await journal.delete_session("default", child.session_id) == [child.id, grandchild.id]
    for event in await all_events(journal, root.id):
        if event.type.startswith(("child.", "board.")):
            assert "secret" not in str(event.data), event
    told = {event.type: event.data for event in await all_events(journal, root.id)}
    assert (told["child.completed"]["run_id"], told["child.completed"]["status"]) == (child.id, "completed")
    assert [entry.text for entry in (await journal.read_board(root.id)).entries] == ["mine"]
    assert b"secret" not in files(blob_folder)
    again = await journal.post_entry(root.id, "p10", "and on", None)
    assert again.number == 5, "the root is at work, and its board goes on"
    assert (await journal.get_session("default", root.session_id)).deleted_ms is None


def own_schedule(run: RunRow, name: str, timing: Any = None) -> NewSchedule:
    """As an agent makes it for itself, all of its words secret."""
    inline = {
        **AGENT, "instructions": "secret instructions", "output_schema": {"title": "secret"},
        "policy": {"rules": [{"tool": "book", "action": "ask", "reason": "secret reason"}]},
    }  # fmt: skip
    definition = defined(
        timing or {"every_seconds": 3_600}, agent=None, inline=inline, input=text("secret task"),
        labels={"about": "secret label"}, metadata={"note": "secret note"}, policy=inline["policy"],
        session={"mode": "continue", "on_conflict": "enqueue"},
    )  # fmt: skip
    return NewSchedule(
        f"sch_{name}", f"secret-{name}", definition, "ana", session_id=run.session_id, owner=run.session_id,
        made_by_run_id=run.id,
    )  # fmt: skip


async def test_the_schedules_that_a_family_has_made_go_with_its_conversation(journal: SqlJournal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True)
    mine = await journal.create_schedule(own_schedule(root, "mine"), most=9, most_of_owner=9)
    await journal.confirm_schedule(mine.id, 1)
    childs = await journal.create_schedule(own_schedule(child, "childs"), most=9, most_of_owner=9)
    over = await journal.create_schedule(own_schedule(root, "over"), most=9, most_of_owner=9)
    await journal.change_schedule("default", over.id, ScheduleChange(deleted=True))
    await journal.change_schedule("default", childs.id, ScheduleChange(paused=True, reason="secret pause"))
    fails = NewInvocation(mine.id, 1, "k1", 3_600_000, failed="secret trouble")
    assert await journal.open_invocation(fails) is not None
    await journal.accept_trigger(mine.id, "ord_1", "skip")
    for key, about in (("by id", mine.id), ("by name", childs.name), ("of an order", "ord_1")):
        await journal.reserve_key("default", key, "f", about)
        await journal.keep_reply("default", key, StoredReply(200, {}, b"secret reply"))
    session = {"mode": "continue", "on_conflict": "reject"}
    somebodys = NewSchedule("sch_s", "somebodys", defined({"every_seconds": 60}, session=session), "bob")
    await journal.create_schedule(replace(somebodys, session_id=root.session_id), most=9, most_of_owner=9)
    await finish(journal, child.id)
    await journal.record(root.id, "finish", [], DONE)
    await journal.delete_session("default", root.session_id)
    left = await dump_of(journal)
    assert "secret" not in left
    assert "Be brief." not in left
    page = await journal.list_schedules("default", limit=9, cursor=None, descending=False)
    assert [row.name for row in page.rows] == ["somebodys"], "what a person has made is that person's"
    untold = {row.id: row.deleted for row in await journal.unapplied_schedules(older_than_ms=0, limit=9)}
    assert untold == {mine.id: True, childs.id: True, over.id: True, "sch_s": False}
    assert await journal.open_invocation(replace(fails, key="k2", planned_ms=7_200_000)) is None
    with pytest.raises(SessionDeleted):
        await journal.create_schedule(own_schedule(root, "late"), most=9, most_of_owner=9)


async def test_a_firing_and_the_erasure_of_its_conversation_do_not_wait_for_each_other(
    journal: SqlJournal, open_another: Open
) -> None:
    other = await open_another()
    for number in range(8):
        run = await new_run(journal)
        row = await journal.create_schedule(own_schedule(run, f"s{number}"), most=99, most_of_owner=9)
        await journal.record(run.id, "finish", [], DONE)
        woken = NewRun(f"run_{number}", AGENT, text("secret task"), FAR, {}, schedule_id=row.id)
        firing = other.open_invocation(NewInvocation(row.id, 1, "k", 3_600_000, run=woken))
        fired, erased = await asyncio.gather(
            firing, journal.delete_session("default", run.session_id), return_exceptions=True
        )
        if isinstance(erased, SessionBusy):  # the firing was first
            assert isinstance(fired, InvocationRow)
            assert fired.run_id == woken.run_id
            await journal.record(woken.run_id, "finish", [], DONE)
            erased = await journal.delete_session("default", run.session_id)
            assert erased == [run.id, woken.run_id]
        else:
            assert erased == [run.id]
            assert fired is None or isinstance(fired, SessionDeleted)
        assert "secret" not in await dump_of(journal)


async def test_retention_takes_along_the_schedules_that_will_never_fire_again(journal: SqlJournal) -> None:
    for name, timing in (("once", {"at_ms": [1_000]}), ("often", None)):
        run = await new_run(journal, name, run_id=f"run_{name}")
        await journal.create_schedule(own_schedule(run, name, timing), most=9, most_of_owner=9)
        await journal.record(run.id, "finish", [], DONE)
    assert (await journal.prune(sessions_before_ms=LATER, limit=9))[1] == ["run_once"]
    page = await journal.list_schedules("default", limit=9, cursor=None, descending=False)
    assert [row.id for row in page.rows] == ["sch_often"]
    assert "secret-once" not in await dump_of(journal)


async def test_retention_keeps_a_childs_session_as_long_as_its_roots(journal: SqlJournal) -> None:
    root = await parent_of(journal, "c1")
    child = await spawned(journal, root, "c1", background=True, detached=True)
    other = await new_run(journal, "alone")
    await journal.record(other.id, "finish", [], DONE)
    await journal.record(root.id, "finish", [], DONE)
    assert (await journal.prune(sessions_before_ms=LATER, limit=9))[1] == [other.id], "the child is at work"
    ended_ms = (await journal.get_run(root.id)).completed_ms
    assert ended_ms is not None
    await asyncio.sleep(0.01)
    await finish(journal, child.id)
    assert (await journal.prune(sessions_before_ms=ended_ms, limit=9))[1] == [], "the child has ended after that"
    pruned, run_ids = await journal.prune(sessions_before_ms=LATER, limit=9)
    assert (pruned.sessions, run_ids) == (1, [root.id, child.id])
    for session_id in (root.session_id, child.session_id):
        assert (await journal.get_session("default", session_id)).deleted_ms is not None


async def test_a_session_of_another_project_is_not_found_and_nothing_below_it_is_touched(journal: SqlJournal) -> None:
    root, *_ = await a_family(journal)
    await journal.record(root.id, "finish", [], DONE)
    with pytest.raises(NotFound):
        await journal.delete_session("other", root.session_id)
    assert "secret" in await dump_of(journal)
    alone = await journal.create_run(NewRun("run_alone", AGENT, text("hi"), FAR, {}))
    await journal.record(alone.id, "finish", [], DONE)
    assert await journal.delete_session("default", alone.session_id) == ["run_alone"]
    assert "secret" in await dump_of(journal)

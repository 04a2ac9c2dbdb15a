"""Runs, sessions, agents, lists, idempotency keys and blobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import update
from ulid import ULID

from perdure.core.state import Failure, OutboxEvent, Outcome
from perdure.store.blobs import write_blob
from perdure.store.journal import Journal
from perdure.store.rows import NewMessage, StoredReply
from perdure.store.schema import idempotency_keys
from perdure.store.sql import SqlJournal
from perdure.store.trouble import InvalidCursor, KeyInProgress, KeyReused, NameTaken, NotFound, RunOver, SessionBusy
from tests.store.conftest import Open
from tests.store.runs import AGENT, ASK, FAR, all_events, asks, begin, new_run, outbox, said, text, types


async def test_a_new_run_is_queued_with_its_first_message(journal: Journal) -> None:
    run = await new_run(journal, "Book a room", labels={"team": "blue"}, metadata={"n": [1, None]})
    assert (run.status, run.input, run.output, run.turns) == ("queued", text("Book a room"), None, 0)
    assert (run.labels, run.metadata, run.definition) == ({"team": "blue"}, {"n": [1, None]}, AGENT)
    assert await types(journal, run.id) == ["run.created", "message.added", "run.queued"]
    (message,) = await journal.list_messages(run.session_id)
    assert (message["number"], message["role"], message["run_id"]) == (1, "user", run.id)
    events = await all_events(journal, run.id)
    assert events[1].data == {"message": message}
    assert events[1].message_id == message["id"]
    assert await journal.get_run(run.id) == run


async def test_a_run_posted_twice_under_one_id_is_one_run(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    run_id = f"run_{ULID()}"
    first, *rest = await asyncio.gather(*(new_run(j, run_id=run_id) for j in (journal, other, journal, other)))
    assert all(run == first for run in rest)
    assert len(await types(journal, run_id)) == 3
    assert len((await journal.list_sessions("default", limit=10, cursor=None, descending=False)).rows) == 1


async def test_a_session_has_one_active_run_and_goes_on_with_the_next(journal: Journal) -> None:
    first = await new_run(journal)
    with pytest.raises(SessionBusy) as busy:
        await new_run(journal, session_id=first.session_id)
    assert busy.value.run_id == first.id
    await journal.record(first.id, "finish", [], Outcome("completed", "end"))
    second = await new_run(journal, "And a table", session_id=first.session_id)
    messages = await journal.list_messages(first.session_id)
    assert [(m["number"], m["run_id"]) for m in messages] == [(1, first.id), (2, second.id)]
    assert second.input == text("And a table")
    assert await journal.list_messages(first.session_id, run_id=second.id) == messages[1:]
    assert await journal.list_messages(first.session_id, after=1) == messages[1:]
    session = await journal.get_session("default", first.session_id)
    assert (session.last_number, session.active_run_id) == (2, second.id)


async def test_what_belongs_to_somebody_else_is_not_found(journal: Journal) -> None:
    run = await new_run(journal)
    with pytest.raises(NotFound):
        await journal.get_run(run.id, "other")
    with pytest.raises(NotFound):
        await journal.get_session("other", run.session_id)
    with pytest.raises(NotFound):
        await new_run(journal, project_id="other", session_id=run.session_id)
    with pytest.raises(NotFound):
        await journal.get_run("run_\0\ud800")
    with pytest.raises(NotFound):
        await journal.read_events("run_none", after=0, limit=10)


async def test_a_run_that_is_over_takes_nothing_more(journal: Journal) -> None:
    run = await new_run(journal)
    attempt = await begin(journal, run.id, outbox=[outbox("run.started")])
    await journal.commit_model(run.id, "model-1", attempt, asks("call_1"))
    failure = Failure("model_error", "the vendor said no")
    await journal.record(run.id, "finish", [outbox()], Outcome("failed", "model_error", failure))
    before = await types(journal, run.id)
    assert before[-4:] == ["log", "message.added", "tool.failed", "run.failed"]
    for write in (
        journal.begin_model(run.id, "model-2", 2, model="m", worker="w", ask=ASK),
        journal.commit_model(run.id, "model-1", 2, said("late")),
        journal.fail_model_attempt(run.id, "model-1", 1, failure, retry_in_seconds=None, billed=True),
        journal.begin_tool(run.id, "call_1", worker="w", may_repeat=True),
        journal.record(run.id, "record-9", [outbox()], None),
        journal.record(run.id, "other", [], Outcome("completed", "end")),
        journal.accept_message(run.id, NewMessage("msg_x", text("hello"), "steer")),
        journal.force_cancel(run.id, "again"),
        journal.update_run(run.id, labels={}, metadata=None),
    ):
        with pytest.raises(RunOver):
            await write
    assert await types(journal, run.id) == before
    over = await journal.get_run(run.id)
    assert (over.status, over.error, over.stop_reason) == ("failed", failure, "model_error")
    assert over.completed_ms is not None
    assert (await journal.get_session("default", run.session_id)).active_run_id is None


async def test_the_end_may_be_recorded_again_by_whoever_did_not_hear_that_it_was(journal: Journal) -> None:
    run = await new_run(journal)
    last = outbox()
    for _ in range(2):
        await journal.record(run.id, "finish", [last], Outcome("completed", "end"))
    assert (await types(journal, run.id))[-2:] == ["log", "run.completed"]


async def test_force_cancel_ends_a_run_that_nobody_works_on(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.accept_message(run.id, NewMessage("msg_1", text("hurry"), "steer"))
    cancelled = await journal.force_cancel(run.id, "no worker")
    assert (cancelled.status, cancelled.stop_reason) == ("cancelled", "no worker")
    assert (await types(journal, run.id))[-2:] == ["inbox.returned", "run.cancelled"]


async def test_the_status_follows_the_events(journal: Journal) -> None:
    run = await new_run(journal)
    started = outbox("run.started")
    for event, status in (
        (started, "running"),
        (outbox("run.waiting"), "waiting"),
        (outbox("run.cancelling"), "cancelling"),
        (started, "cancelling"),
    ):
        await journal.record(run.id, f"record-{event.key}", [event], None)
        assert (await journal.get_run(run.id)).status == status
    assert (await journal.get_run(run.id)).started_ms is not None


async def test_lists_are_paged_in_both_directions_without_loss(journal: Journal) -> None:
    made = [(await new_run(journal, f"run {n}", labels={"odd": str(n % 2)})).id for n in range(7)]
    for descending in (False, True):
        seen: list[str] = []
        cursor = None
        while True:
            page = await journal.list_runs("default", limit=3, cursor=cursor, descending=descending)
            seen += [run.id for run in page.rows]
            if (cursor := page.next_cursor) is None:
                break
        assert seen == (made[::-1] if descending else made)
    page = await journal.list_runs("default", limit=7, cursor=None, descending=False, labels={"odd": "1"})
    assert [run.id for run in page.rows] == made[1::2]
    assert page.next_cursor is None
    await journal.force_cancel(made[2], "")
    page = await journal.list_runs("default", limit=7, cursor=None, descending=False, statuses=["cancelled"])
    assert [run.id for run in page.rows] == [made[2]]
    with pytest.raises(InvalidCursor):
        await journal.list_runs("default", limit=3, cursor="run_never", descending=False)
    with pytest.raises(InvalidCursor):
        await journal.list_runs("other", limit=3, cursor=made[0], descending=False)


async def test_a_patch_replaces_what_it_names_and_is_found_by_its_labels(journal: Journal) -> None:
    run = await new_run(journal, labels={"a": "1"}, metadata={"k": 1})
    patched = await journal.update_run(run.id, labels={"b": "2"}, metadata=None)
    assert (patched.labels, patched.metadata) == ({"b": "2"}, {"k": 1})
    found = [
        len((await journal.list_runs("default", limit=9, cursor=None, descending=True, labels=labels)).rows)
        for labels in ({"a": "1"}, {"b": "2"})
    ]
    assert found == [0, 1]
    assert (await types(journal, run.id))[-1] == "run.updated"


async def test_a_run_whose_workflow_nobody_confirmed_is_found(journal: Journal) -> None:
    lost, started = await new_run(journal), await new_run(journal)
    await journal.mark_workflow_started(started.id)
    assert [run.id for run in await journal.unstarted_runs(older_than_ms=0, limit=9)] == [lost.id]
    assert await journal.unstarted_runs(older_than_ms=60_000, limit=9) == []
    assert (await journal.get_run(started.id)).workflow_started


async def test_an_agents_versions_never_change(journal: Journal) -> None:
    first = await journal.put_agent("default", AGENT)
    assert await journal.put_agent("default", dict(reversed(AGENT.items()))) == first  # type: ignore[arg-type]
    second = await journal.put_agent("default", {**AGENT, "instructions": "Be rude."})
    assert (first.version, second.version, second.id) == (1, 2, first.id)
    assert await journal.get_agent("default", "clerk") == second
    assert await journal.get_agent("default", first.id, 1) == first
    assert await journal.list_agent_versions("default", "clerk") == [first, second]
    other = await journal.put_agent("default", {**AGENT, "name": "cook"})
    with pytest.raises(NameTaken):
        await journal.put_agent("default", {**AGENT, "name": "clerk", "tools": []}, agent_id=other.id)
    page = await journal.list_agents("default", limit=1, cursor=None, descending=False)
    assert page.rows == [second]
    page = await journal.list_agents("default", limit=1, cursor=page.next_cursor, descending=False)
    assert (page.rows, page.next_cursor) == ([other], None)
    for wanted, version in (("nobody", None), ("clerk", 3)):
        with pytest.raises(NotFound):
            await journal.get_agent("default", wanted, version)


async def test_an_agent_put_by_many_at_once_has_one_version(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    rows = await asyncio.gather(*(j.put_agent("default", AGENT) for j in (journal, other) * 3))
    assert all(row == rows[0] for row in rows)


async def test_a_request_under_a_key_is_answered_once_and_repeated_after(journal: SqlJournal) -> None:
    assert await journal.reserve_key("default", "k", "body-1", "run_1") == ("run_1", None)
    with pytest.raises(KeyInProgress):
        await journal.reserve_key("default", "k", "body-1", "run_2")
    with pytest.raises(KeyReused):
        await journal.reserve_key("default", "k", "body-2", "run_2")
    earlier = update(idempotency_keys).values(reserved_ms=idempotency_keys.c.reserved_ms - 10_000)
    await journal._database.write(lambda connection: connection.execute(earlier))  # its owner has died since
    assert await journal.reserve_key("default", "k", "body-1", "run_2") == ("run_1", None)
    reply = StoredReply(201, {"location": "/v1/runs/run_1"}, b'{"id":"run_1"}\x00\xff')
    await journal.keep_reply("default", "k", reply)
    await journal.release_key("default", "k")  # too late: the reply stands
    assert await journal.reserve_key("default", "k", "body-1", "run_3") == ("run_1", reply)
    assert await journal.reserve_key("other", "k", "body-2", "run_4") == ("run_4", None)
    await journal.release_key("other", "k")
    assert await journal.reserve_key("other", "k", "body-3", "run_5") == ("run_5", None)


async def test_of_many_requests_with_one_key_at_once_one_goes_on(journal: Journal, open_another: Open) -> None:
    other = await open_another()
    answers = await asyncio.gather(
        *(j.reserve_key("default", "k", "body", f"run_{n}") for n, j in enumerate((journal, other) * 4)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, KeyInProgress) for answer in answers) == 1


async def test_blobs_are_found_by_their_content_and_read_in_parts(journal: SqlJournal, open_another: Open) -> None:
    body = bytes(range(256)) * 5_000
    id_ = await journal.put_blob(body, "application/octet-stream")
    assert await journal.put_blob(body, "text/plain") == id_
    other = await open_another()
    assert await other.get_blob(id_) == body
    assert await other.get_blob(id_, offset=250, length=10) == body[250:260]
    assert await other.get_blob(id_, offset=len(body)) == b""
    for wrong in ("blob_" + "0" * 64, "blob_../../etc/passwd", "nonsense"):
        with pytest.raises(NotFound):
            await journal.get_blob(wrong)


async def test_a_deadline_far_away_is_kept_exactly(journal: Journal) -> None:
    assert (await new_run(journal)).deadline_ms == FAR


def test_a_blob_is_on_disk_whole_or_not_at_all(tmp_path: Path) -> None:
    write_blob(tmp_path, b"whole")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [b"whole"]


async def test_force_cancel_closes_what_is_in_flight_and_says_what_is_not_known(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1"))
    await journal.begin_tool(run.id, "call_1", worker="w1", may_repeat=False)
    await journal.force_cancel(run.id, "now")
    assert [call.status for call in await journal.list_calls(run.id)] == ["completed", "unknown"]
    types = [event.type for event in await all_events(journal, run.id)]
    assert types[-3:] == ["message.added", "tool.unknown", "run.cancelled"]
    talking = await new_run(journal)
    await begin(journal, talking.id)
    await journal.force_cancel(talking.id, "now")
    assert [call.status for call in await journal.list_calls(talking.id)] == ["failed"]
    assert [event.type for event in await all_events(journal, talking.id)][-2:] == ["model.aborted", "run.cancelled"]


async def test_only_runs_that_should_be_at_work_and_are_silent_are_looked_for(journal: Journal) -> None:
    quiet, over, queued = await new_run(journal), await new_run(journal), await new_run(journal)
    for run in (quiet, over):
        await journal.mark_workflow_started(run.id)
        await begin(journal, run.id, outbox=[OutboxEvent("outbox-1", "run.started", {})])
    await journal.record(over.id, "finish", (), Outcome("completed", "end"))
    assert await journal.silent_runs(silent_ms=-60_000, limit=10) == [quiet.id]
    assert await journal.silent_runs(silent_ms=60_000, limit=10) == []
    await journal.end_orphan(quiet.id, Failure("internal", "gone"))
    assert (await journal.get_run(quiet.id)).status == "failed"
    assert (await journal.get_run(queued.id)).status == "queued"


async def test_idempotency_keys_are_forgotten_when_they_are_old_and_not_before(journal: Journal) -> None:
    await journal.reserve_key("default", "k", "f", "run_1")
    assert await journal.forget_keys(older_than_ms=60_000) == 0
    with pytest.raises(KeyInProgress):
        await journal.reserve_key("default", "k", "f", "run_2")
    assert await journal.forget_keys(older_than_ms=-60_000) == 1
    assert await journal.reserve_key("default", "k", "another", "run_2") == ("run_2", None)

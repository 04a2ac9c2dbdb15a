"""Forks, imports, erasure and retention, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from ulid import ULID

from perdure.content import Message
from perdure.core.state import Outcome
from perdure.core.transcript import NOT_EXECUTED, flaws
from perdure.store.journal import Journal
from perdure.store.rows import Delta, ImportedMessage, NewMessage, NewRun, NewSignal, Origin, RunRow, ToolCommit
from perdure.store.sql import SqlJournal
from perdure.store.trouble import (
    EventsExpired,
    NoSuchNumber,
    NotFound,
    SessionBusy,
    SessionDeleted,
    SessionMovedOn,
)
from tests.store.runs import AGENT, FAR, all_events, asks, begin, new_run, said, text, types

LATER = 9_999_999_999_999
DONE = Outcome("completed", "end")


async def talk(journal: Journal, words: str, session_id: str | None = None) -> RunRow:
    """A run of two messages that has ended."""
    run = await new_run(journal, words, session_id=session_id)
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), said(f"re: {words}"))
    await journal.record(run.id, "finish", [], DONE)
    return run


async def fork(journal: Journal, session_id: str, at: int | None = None) -> str:
    row = await journal.fork_session("default", f"ses_{ULID()}", session_id, at, labels={}, metadata={})
    return row.id


def words(messages: list[Message]) -> list[str]:
    return [block.get("text", "") for message in messages for block in message["content"]]  # type: ignore[misc]


async def go_on(journal: Journal, source: RunRow, number: int, seq: int | None, said: str = "", **more: Any) -> RunRow:
    origin = Origin(source.id, number, seq)
    session = source.session_id if seq is None else None
    content = text(said) if said else []
    return await journal.create_run(
        NewRun(f"run_{ULID()}", AGENT, content, FAR, {}, session_id=session, goes_on_from=origin, **more)
    )


# Forks ------------------------------------------------------------------------------------------------


async def test_a_fork_shares_what_was_said_and_goes_its_own_way(journal: Journal) -> None:
    first = await talk(journal, "one")
    await talk(journal, "two", first.session_id)
    branch = await fork(journal, first.session_id, 2)
    whole = await journal.list_messages(first.session_id)
    shared = await journal.list_messages(branch)
    assert [{**message, "session_id": ""} for message in shared] == [{**m, "session_id": ""} for m in whole[:2]]
    assert {message["session_id"] for message in shared} == {branch}
    head = await journal.get_session("default", branch)
    assert (head.forked_from, head.inherited, head.last_number) == (first.session_id, 2, 2)
    await talk(journal, "three", branch)
    assert words(await journal.list_messages(branch)) == ["one", "re: one", "three", "re: three"]
    assert words(await journal.list_messages(first.session_id)) == ["one", "re: one", "two", "re: two"]


async def test_a_fork_of_a_fork_is_read_in_order_and_page_by_page(journal: Journal) -> None:
    session = (await talk(journal, "0")).session_id
    expected = ["0", "re: 0"]
    for depth in range(1, 5):
        session = await fork(journal, session, len(expected) - (depth % 2))
        expected = expected[: len(expected) - (depth % 2)]
        await talk(journal, str(depth), session)
        expected += [str(depth), f"re: {depth}"]
    assert words(await journal.list_messages(session)) == expected
    paged: list[Message] = []
    while page := await journal.list_messages(session, after=len(paged), limit=2):
        paged += page
    assert words(paged) == expected
    assert [message["number"] for message in paged] == list(range(1, len(expected) + 1))
    early = await fork(journal, session, 1)
    assert words(await journal.list_messages(early)) == ["0"]


async def test_a_fork_at_a_number_that_is_not_there_makes_nothing(journal: Journal) -> None:
    run = await talk(journal, "one")
    for at in (3, -1):
        with pytest.raises(NoSuchNumber):
            await fork(journal, run.session_id, at)
    with pytest.raises(NotFound):
        await fork(journal, "ses_none")
    with pytest.raises(NotFound):
        await journal.fork_session("other", "ses_x", run.session_id, None, labels={}, metadata={})
    assert len((await journal.list_sessions("default", limit=9, cursor=None, descending=True)).rows) == 1


async def test_a_fork_made_twice_under_one_id_is_one(journal: Journal) -> None:
    run = await talk(journal, "one")
    rows = [
        await journal.fork_session("default", "ses_same", run.session_id, at, labels={"a": "b"}, metadata={})
        for at in (1, 2)
    ]
    assert rows[0] == rows[1]
    assert (rows[0].inherited, rows[0].labels) == (1, {"a": "b"})


async def test_a_run_forked_at_an_event_shares_the_messages_up_to_it_and_pays_nothing_again(journal: Journal) -> None:
    run = await new_run(journal, "Book a room")
    await journal.commit_model(run.id, "model-1", await begin(journal, run.id), asks("call_1", "call_2"))
    for call in ("call_1", "call_2"):
        await journal.begin_tool(run.id, call, worker="w", may_repeat=False)
        await journal.commit_tool(run.id, call, ToolCommit("completed", f"done {call}"))
    events = await all_events(journal, run.id)
    seqs = [event.seq for event in events if event.type == "message.added"]
    assert [await journal.number_at("default", run.id, seq) for seq in seqs] == [1, 2, 3, 4]
    at = seqs[2]
    forked = await go_on(journal, run, 3, at)
    assert (forked.forked_from, forked.retry_of, forked.input) == ((run.id, at), None, text("Book a room"))
    assert (forked.usage.cost_micros, forked.turns) == (0, 0)
    transcript = await journal.list_messages(forked.session_id)
    assert words(transcript) == ["Book a room", "", "", "done call_1", NOT_EXECUTED]
    assert flaws(transcript) == {}
    assert transcript[-1]["run_id"] == forked.id
    assert (await all_events(journal, forked.id))[0].data["forked_from"] == {"run_id": run.id, "seq": at}
    assert (forked.exact_tokens, forked.exact_number) == (55, 2)
    with pytest.raises(NoSuchNumber):
        await journal.number_at("default", run.id, events[-1].seq + 1)
    with pytest.raises(NoSuchNumber):
        await journal.number_at("default", run.id, 1)


async def test_a_retry_goes_on_in_its_session_unless_that_has_moved_on(journal: Journal) -> None:
    run = await new_run(journal, "Book a room")
    await journal.record(run.id, "finish", [], Outcome("failed", "model_error"))
    retry = await go_on(journal, run, 1, None)
    assert (retry.retry_of, retry.session_id, retry.input) == (run.id, run.session_id, text("Book a room"))
    assert (await types(journal, retry.id)) == ["run.created", "run.queued"]
    with pytest.raises(SessionBusy):
        await go_on(journal, run, 1, None)
    await journal.commit_model(retry.id, "model-1", await begin(journal, retry.id), said("Done."))
    await journal.record(retry.id, "finish", [], DONE)
    assert words(await journal.list_messages(run.session_id)) == ["Book a room", "Done."]
    with pytest.raises(SessionMovedOn):
        await go_on(journal, run, 1, None)
    again = await go_on(journal, retry, 2, None, "Go on.")
    assert (again.retry_of, again.input) == (retry.id, text("Go on."))


# Imports ----------------------------------------------------------------------------------------------


def imported(count: int) -> Iterator[ImportedMessage]:
    for number in range(1, count + 1):
        role = "user" if number % 2 else "assistant"
        yield ImportedMessage(f"msg_{number}", number, role, text(f"no. {number}"), None, None, 1_000 + number)  # type: ignore[arg-type]


async def test_an_imported_session_is_whole_and_can_be_gone_on_with(journal: Journal) -> None:
    row = await journal.import_session("default", "ses_new", imported(1_201), labels={"a": "b"}, metadata={"c": [1]})
    assert (row.last_number, row.labels, row.metadata) == (1_201, {"a": "b"}, {"c": [1]})
    messages = await journal.list_messages("ses_new")
    assert [(m["number"], m["id"], m["at_ms"], m["run_id"]) for m in messages[::400]] == [
        (n, f"msg_{n}", 1_000 + n, None) for n in (1, 401, 801, 1_201)
    ]
    await talk(journal, "and now", "ses_new")
    assert words(await journal.list_messages("ses_new", after=1_200)) == ["no. 1201", "and now", "re: and now"]


async def test_an_import_that_breaks_off_leaves_nothing(journal: Journal) -> None:
    def broken() -> Iterator[ImportedMessage]:
        yield from imported(700)
        raise ValueError("line 701")

    with pytest.raises(ValueError, match="line 701"):
        await journal.import_session("default", "ses_new", broken(), labels={}, metadata={})
    with pytest.raises(NotFound):
        await journal.get_session("default", "ses_new")


# Erasure ----------------------------------------------------------------------------------------------


async def with_a_large_result(journal: Journal, body: bytes) -> tuple[RunRow, str]:
    run = await new_run(journal, "secret wish", labels={"who": "secret"}, metadata={"secret": 1})
    await journal.accept_message(run.id, NewMessage("msg_s", text("secret hurry"), "enqueue"))
    await journal.send_signal(run.id, NewSignal("sig_s", "news", {"about": "secret"}))
    await journal.commit_model(
        run.id, "model-1", await begin(journal, run.id), asks("call_1", arguments={"room": "secret"})
    )
    await journal.begin_tool(run.id, "call_1", worker="w", may_repeat=False)
    blob = await journal.put_blob(body, "text/plain")
    await journal.commit_tool(run.id, "call_1", ToolCommit("completed", "secret room", blob=blob, bytes=len(body)))
    await journal.record(run.id, "finish", [], Outcome("cancelled", "secret reason"))
    return run, blob


async def dump_of(journal: SqlJournal) -> str:
    """Every row of every table, as text."""
    from perdure.store.schema import metadata

    def whole(connection: Connection) -> str:  # a row shows the beginnings of its values only, a tuple all of them
        rows = [tuple(row) for table in metadata.sorted_tables for row in connection.execute(table.select())]
        return "\n".join(map(repr, rows))

    return await journal._database.read(whole)


async def test_a_deleted_session_leaves_a_tombstone_and_no_word_of_what_was_said(journal: SqlJournal) -> None:
    run, _ = await with_a_large_result(journal, b"secret " * 10_000)
    assert "secret" in await dump_of(journal)
    assert await journal.delete_session("default", run.session_id) == [run.id]
    assert "secret" not in await dump_of(journal)
    tombstone = await journal.get_session("default", run.session_id)
    assert tombstone.deleted_ms is not None
    over = await journal.get_run(run.id)
    assert (over.status, over.stop_reason, over.input, over.output) == ("cancelled", "cancelled", [], None)
    assert (over.usage.cost_micros, over.turns) == (100, 1)
    assert await journal.delete_session("default", run.session_id) == []
    assert (await journal.list_sessions("default", limit=9, cursor=None, descending=True)).rows == []
    with pytest.raises(SessionDeleted):
        await new_run(journal, session_id=run.session_id)
    with pytest.raises(SessionDeleted):
        await fork(journal, run.session_id)
    (last,) = await all_events(journal, run.id)
    assert (last.type, last.data, last.seq) == ("run.cancelled", {}, over.last_seq)
    assert over.pruned_seq == over.last_seq - 1


async def test_a_busy_session_is_not_deleted(journal: Journal) -> None:
    run = await new_run(journal)
    with pytest.raises(SessionBusy):
        await journal.delete_session("default", run.session_id)
    with pytest.raises(NotFound):
        await journal.delete_session("other", run.session_id)
    assert len(await journal.list_messages(run.session_id)) == 1


async def test_a_blob_goes_with_the_last_session_that_refers_to_it(journal: SqlJournal, blob_folder: Path) -> None:
    body = b"x" * 100_000
    (first, blob), (second, same) = [await with_a_large_result(journal, body) for _ in range(2)]
    assert blob == same
    branch = await fork(journal, second.session_id)
    await journal.delete_session("default", first.session_id)
    await journal.delete_session("default", second.session_id)
    journal.blob_rest_ms = -1
    assert (await journal.prune(limit=10))[0].blobs == 0
    assert await journal.get_blob(blob) == body
    await journal.delete_session("default", branch)
    with pytest.raises(NotFound):
        await journal.get_blob(blob)
    assert not [path for path in blob_folder.rglob("*") if path.is_file()]


async def test_a_blob_that_was_put_lately_stays_until_it_has_rested(journal: SqlJournal) -> None:
    run, blob = await with_a_large_result(journal, b"y" * 100_000)
    await journal.delete_session("default", run.session_id)
    assert await journal.get_blob(blob, length=1) == b"y"
    journal.blob_rest_ms = -1
    assert (await journal.prune(limit=10))[0].blobs == 1
    with pytest.raises(NotFound):
        await journal.get_blob(blob)
    assert await journal.put_blob(b"y" * 100_000, "text/plain") == blob
    assert await journal.get_blob(blob, length=1) == b"y"


async def test_what_a_fork_inherits_outlives_its_origin_and_goes_with_the_last_fork(journal: SqlJournal) -> None:
    origin = (await talk(journal, "shared")).session_id
    await talk(journal, "unshared", origin)
    forks = [await fork(journal, origin, at) for at in (1, 2)]
    grandchild = await fork(journal, forks[1], 2)
    await journal.delete_session("default", origin)
    assert "unshared" not in await dump_of(journal)
    assert words(await journal.list_messages(forks[1])) == ["shared", "re: shared"]
    await journal.delete_session("default", forks[1])
    assert words(await journal.list_messages(grandchild)) == ["shared", "re: shared"]
    await journal.delete_session("default", grandchild)
    assert words(await journal.list_messages(forks[0])) == ["shared"]
    assert "re: shared" not in await dump_of(journal)
    await journal.delete_session("default", forks[0])
    assert "shared" not in await dump_of(journal)


# Retention --------------------------------------------------------------------------------------------


async def with_live_text(journal: Journal) -> RunRow:
    run = await new_run(journal, "speak")
    attempt = await begin(journal, run.id)
    for word in ("Good", " morning"):
        journal.live(Delta(run.id, "model-1", attempt, "text.delta", word))
        await journal.flush_live(run.id, "model-1")
    await journal.commit_model(run.id, "model-1", attempt, said("Good morning"))
    return run


async def test_live_text_of_ended_runs_is_pruned_and_its_place_says_so(journal: Journal) -> None:
    ended, running = await with_live_text(journal), await with_live_text(journal)
    await journal.record(ended.id, "finish", [], DONE)
    before = await all_events(journal, ended.id)
    deltas = [event.seq for event in before if event.type == "text.delta"]
    for _ in range(2):
        await journal.prune(deltas_before_ms=LATER, limit=10)
    after = await all_events(journal, ended.id)
    place = next(event for event in after if event.type == "events.pruned")
    assert (place.seq, place.data) == (deltas[0], {"from": deltas[0], "to": deltas[-1], "count": len(deltas)})
    assert [event for event in after if event.type != "events.pruned"] == [
        event for event in before if event.type != "text.delta"
    ]
    assert [event.type for event in await all_events(journal, running.id)].count("text.delta") == 2
    pruned, _ = await journal.prune(deltas_before_ms=LATER, limit=10)
    assert (pruned.deltas, pruned.more) == (0, False)


async def test_events_of_ended_runs_are_pruned_up_to_the_last(journal: Journal) -> None:
    ended, running = await with_live_text(journal), await with_live_text(journal)
    await journal.record(ended.id, "finish", [], DONE)
    old, _ = await journal.prune(events_before_ms=1_000, limit=10)
    assert old.events == 0
    pruned, _ = await journal.prune(deltas_before_ms=LATER, events_before_ms=LATER, limit=10)
    assert (pruned.events, pruned.deltas) == (1, 0)
    (last,) = await all_events(journal, ended.id)
    row = await journal.get_run(ended.id)
    assert (last.type, last.seq, row.pruned_seq) == ("run.completed", row.last_seq, row.last_seq - 1)
    assert words(await journal.list_messages(ended.session_id)) == ["speak", "Good morning"]
    with pytest.raises(EventsExpired):
        await journal.number_at("default", ended.id, 2)
    assert (await journal.get_run(running.id)).pruned_seq == 0


async def test_sessions_that_rest_are_deleted_and_busy_ones_are_not(journal: Journal) -> None:
    rested, busy = await talk(journal, "old"), await new_run(journal, "new")
    pruned, run_ids = await journal.prune(sessions_before_ms=LATER, limit=1)
    assert (pruned.sessions, pruned.more, run_ids) == (1, True, [rested.id])
    pruned, run_ids = await journal.prune(sessions_before_ms=LATER, limit=10)
    assert (pruned.sessions, run_ids) == (0, [])
    assert words(await journal.list_messages(busy.session_id)) == ["new"]
    await talk(journal, "young")
    pruned, _ = await journal.prune(sessions_before_ms=1_000, limit=10)
    assert pruned.sessions == 0


async def test_a_message_said_to_a_busy_session_is_found_again_by_its_id(journal: Journal) -> None:
    run = await new_run(journal)
    await journal.accept_message(run.id, NewMessage("msg_1", text("and"), "enqueue"))
    await journal.record(run.id, "finish", [], DONE)
    found = await journal.find_said(run.session_id, "msg_1")
    assert found is not None
    assert (found[0].id, found[0].status, found[1].status) == (run.id, "completed", "returned")
    assert await journal.find_said(run.session_id, "msg_2") is None

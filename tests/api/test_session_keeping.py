"""Sessions that are forked, exported, imported, erased and pruned."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from api.schedule_keeping import ScheduleKeeper
from api.times import milliseconds, time
from perdure.content import Block
from perdure.store.rows import Delta, ImportedMessage
from perdure.store.schedule_rows import NewSchedule
from tests.api.service import Service, serve
from tests.api.test_family import child, leader
from tests.scheduling.definitions import defined
from tests.store.test_sessions import dump_of

JSONL = {"content-type": "application/jsonl"}


async def with_a_large_result(service: Service) -> dict[str, Any]:
    """An ended run whose transcript has every kind of block, a blob, and text that is hard to carry."""
    run = await service.new_run(labels={"who": "me"})
    await service.started(run["id"])
    (call,) = await service.answered(run["id"], "NUL \0, half \ud800, break \u2028.", calls=1)
    await service.used_tool(run["id"], call, "preview", whole=b"0123456789" * 70_000)
    await service.answered(run["id"], turn=2)
    await service.finished(run["id"])
    return run


async def export(service: Service, session_id: str) -> list[dict[str, Any]]:
    reply = await service.get(f"/v1/sessions/{session_id}/export")
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.split("\n") if line]


async def take_in(service: Service, lines: list[Any] | bytes, **headers: str) -> Any:
    body = lines if isinstance(lines, bytes) else b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return await service.http.post("/v1/sessions:import", content=body, headers={**JSONL, **headers})


# Forks ------------------------------------------------------------------------------------------------


async def test_a_forked_session_begins_as_the_other_did(service: Service) -> None:
    run = await service.completed_run()
    made = await service.post(f"/v1/sessions/{run['session_id']}/fork", {"at_number": 1, "labels": {"a": "b"}})
    fork = made.json()
    assert (made.status_code, made.headers["location"]) == (201, f"/v1/sessions/{fork['id']}")
    assert fork["forked_from"] == {"session_id": run["session_id"], "number": 1}
    assert (fork["last_number"], fork["labels"]) == (1, {"a": "b"})
    transcript = (await service.get(f"/v1/sessions/{fork['id']}/messages")).json()["data"]
    assert [(message["number"], message["run_id"]) for message in transcript] == [(1, run["id"])]
    whole = (await service.http.post(f"/v1/sessions/{run['session_id']}/fork")).json()
    assert whole["last_number"] == 2
    run = await service.new_run(session_id=fork["id"])
    assert (await service.get(f"/v1/sessions/{fork['id']}")).json()["last_number"] == 2


@pytest.mark.parametrize("at", [3, -1, True, "1", 2**40])
async def test_a_session_is_not_forked_at_a_number_that_it_does_not_have(service: Service, at: Any) -> None:
    run = await service.completed_run()
    refused = await service.post(f"/v1/sessions/{run['session_id']}/fork", {"at_number": at})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/at_number")
    assert await service.count("/v1/sessions") == 1


# Export and import --------------------------------------------------------------------------------------


async def test_an_exported_session_comes_back_exactly_as_it_was(service: Service, tmp_path: Path) -> None:
    run = await with_a_large_result(service)
    lines = await export(service, run["session_id"])
    assert [line["type"] for line in lines] == ["session", *["message"] * 4, *["blob"] * 3, "end"]
    assert b"".join(base64.b64decode(line["base64"]) for line in lines[5:8]) == b"0123456789" * 70_000
    async with serve(tmp_path / "elsewhere") as other:
        made = await take_in(other, lines)
        session = made.json()
        assert (made.status_code, session["last_number"]) == (201, 4)
        again = await export(other, session["id"])
        assert again[1:] == lines[1:]
        assert {**again[0], "id": "", "created_at": ""} == {**lines[0], "id": "", "created_at": ""}
        before = await service.journal.list_messages(run["session_id"])
        after = await other.journal.list_messages(session["id"])
        kept = ("id", "number", "role", "content", "producer", "stop_reason", "at_ms")
        assert [[m[name] for name in kept] for m in after] == [[m[name] for name in kept] for m in before]  # type: ignore[literal-required]
        shown = (await other.get(f"/v1/sessions/{session['id']}/messages")).json()["data"]
        assert {message["run_id"] for message in shown} == {None}
        goes_on = await other.new_run(session_id=session["id"])
        assert (await other.get(f"/v1/runs/{goes_on['id']}/messages")).json()["data"][0]["number"] == 5


async def test_an_import_under_one_key_is_one_session(service: Service) -> None:
    run = await service.completed_run()
    lines = await export(service, run["session_id"])
    first, second = [await take_in(service, lines, **{"idempotency-key": "once"}) for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    lines[1]["content"][0]["text"] = "else"
    other = await take_in(service, lines, **{"idempotency-key": "once"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await service.count("/v1/sessions") == 2


def without(lines: list[Any], *places: int) -> list[Any]:
    return [line for at, line in enumerate(lines) if at not in places]


def changed(lines: list[Any], place: int, **changes: Any) -> list[Any]:
    return [{**line, **changes} if at == place else line for at, line in enumerate(lines)]


async def test_a_broken_export_is_refused_with_the_line_and_leaves_nothing(service: Service) -> None:
    run = await with_a_large_result(service)
    lines = await export(service, run["session_id"])
    raw = [json.dumps(line).encode() + b"\n" for line in lines]
    wrong_block = [{"type": "tool_result", "call_id": "c", "name": "n", "text": 7, "is_error": False}]
    broken: list[tuple[list[Any] | bytes, int, str]] = [
        (b"", 1, ""),
        (b"\n", 1, ""),
        (b"hello\n", 1, ""),
        (b"[1]\n", 1, ""),
        (b'{"messages": [{"role": "user", "content": "hi"}]}\n', 1, "/format"),  # another product's
        (changed(lines, 0, version=2), 1, "/version"),
        (changed(lines, 0, more=1), 1, "/more"),
        (without(lines, 0), 1, "/format"),
        (without(lines, 2), 3, "/number"),
        (changed(lines, 3, number=7), 4, "/number"),
        (changed(lines, 2, role="system"), 3, "/role"),
        (changed(lines, 3, content=wrong_block), 4, "/content/0/text"),
        (changed(lines, 3, content=[{"type": "song"}]), 4, "/content/0"),
        (changed(lines, 2, created_at="yesterday"), 3, "/created_at"),
        (without(lines, 6), 7, "/offset"),
        (without(lines, 7), 8, ""),
        (without(lines, 5, 6, 7), 6, ""),
        (changed(lines, 7, base64=base64.b64encode(b"x" * 175_712).decode()), 8, "/base64"),
        (changed(lines, 5, base64="%%"), 6, "/base64"),
        (without(lines, 8), 9, ""),
        ([*lines, lines[1]], 10, "/type"),
        (changed(lines, 8, messages=3), 9, ""),
        (b"".join([*raw[:2], raw[2][:-9] + b"\n", *raw[3:]]), 3, ""),
        (b"".join(raw)[:-20], 9, ""),
        (b"".join([*raw[:2], b'{"type":"message","a":' + b"[" * 100 + b"]" * 100 + b"}\n"]), 3, ""),
        (b"".join([*raw[:2], b'{"type":"message","a":NaN}\n']), 3, ""),
        (b"\xff\xfe\n", 1, ""),
    ]
    for body, line, pointer in broken:
        refused = await take_in(service, body)
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (422, "export_invalid"), problem
        assert (problem["errors"][0]["line"], problem["errors"][0]["pointer"]) == (line, pointer), problem["detail"]
        assert problem["detail"].startswith(f"Line {line}: ")
    assert await service.count("/v1/sessions") == 1


async def test_what_an_import_could_not_keep_as_it_is_is_refused_and_leaves_nothing(
    service: Service, tmp_path: Path
) -> None:
    run = await with_a_large_result(service)
    lines = await export(service, run["session_id"])
    raw = [json.dumps(line).encode() + b"\n" for line in lines]

    def with_value(place: int, old: bytes, new: bytes) -> bytes:
        assert old in raw[place]
        return b"".join([*raw[:place], raw[place].replace(old, new, 1), *raw[place + 1 :]])

    call = lines[2]["content"][-1]
    assert call["type"] == "tool_call"
    thought = [{"type": "reasoning", "text": "", "producer": "p", "opaque": [7]}, call]
    with_opaque = changed(lines, 2, content=thought)
    infinite = b"".join(json.dumps(line).encode().replace(b"[7]", b"[[1e400]]") + b"\n" for line in with_opaque)
    other = {"type": "blob", "id": f"blob_{'0' * 64}", "missing": True}
    without_bytes = {name: part for name, part in lines[3]["content"][0].items() if name != "bytes"}
    refused: list[tuple[list[Any] | bytes, int, str, str]] = [
        (b"\n", 1, "", "an empty line"),
        (b"".join([*raw[:3], b"  \n", *raw[3:]]), 4, "", "an empty line"),
        (changed(lines, 0, version=True), 1, "/version", "1"),
        (changed(lines, 0, version=1.0), 1, "/version", "1"),
        (changed(lines, 0, created_at="0001-01-01T00:00:00+14:00"), 1, "/created_at", "9999"),
        (changed(lines, 1, created_at="0001-01-01T00:00:00+14:00"), 2, "/created_at", "9999"),
        (changed(lines, 1, created_at="0999-01-01T00:00:00Z"), 2, "/created_at", "1970"),
        (changed(lines, 1, created_at="1969-12-31T23:59:59.999Z"), 2, "/created_at", "1970"),
        (changed(lines, 1, created_at="9999-12-31T23:59:59-14:00"), 2, "/created_at", "9999"),
        (with_value(0, b'"metadata": {}', b'"metadata": {"a": [1e400]}'), 1, "/metadata/a/0", "out of range"),
        (with_value(0, b'"metadata": {}', b'"metadata": {"a": "\\u0000"}'), 1, "/metadata/a", "NUL"),
        (with_value(0, b'"metadata": {}', b'"metadata": {"a": "\\ud800"}'), 1, "/metadata/a", "surrogate"),
        (with_value(0, b'"metadata": {}', b'"metadata": {"a": %d}' % 2**64), 1, "/metadata/a", "64 bits"),
        (with_value(0, b'"labels": {}', b'"labels": {"a": "\\u0000"}'), 1, "/labels/a", "NUL"),
        (with_value(2, b'"arguments": {', b'"arguments": {"a/b": -1e400, '), 3, "/content/2/arguments/a~1b", "range"),
        (infinite, 3, "/content/0/opaque/0/0", "out of range"),
        (changed(lines, 2, producer="a\0"), 3, "/producer", "NUL"),
        (changed(lines, 2, stop_reason="\ud800"), 3, "/stop_reason", "unicode"),
        (changed(lines, 2, id=lines[1]["id"]), 3, "/id", "has this id"),
        ([*lines[:-1], other, {**lines[-1], "blobs": 2}], 9, "/id", "no message refers"),
        (changed(lines, 3, content=[{**lines[3]["content"][0], "bytes": 10**15}]), 4, "/content", "has 700000 bytes"),
        (changed(lines, 3, content=[without_bytes]), 4, "/content", "has 700000 bytes"),
        (changed(lines, 3, content=[{**lines[3]["content"][0], "blob": None}]), 4, "/content/0/blob", "string"),
        (changed(lines, 2, content=[{**call, "arguments": None}]), 3, "/content/0/arguments", "dictionary"),
        (changed(lines, 5, missing=True), 6, "/missing", "missing"),
        ([*lines[:5], {**other, "id": lines[5]["id"], "bytes": 3}, lines[-1]], 6, "/missing", "missing"),
        ([*lines[:8], {**other, "id": lines[5]["id"]}, {**lines[-1], "blobs": 2}], 9, "/id", "before"),
    ]  # fmt: skip
    files = sorted((tmp_path / "blobs").rglob("*"))
    for body, line, pointer, words in refused:
        answer = await take_in(service, body)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "export_invalid"), (words, problem)
        assert (problem["errors"][0]["line"], problem["errors"][0]["pointer"]) == (line, pointer), problem["detail"]
        assert problem["detail"].startswith(f"Line {line}: ")
        assert words in problem["detail"]
    assert await service.count("/v1/sessions") == 1
    assert sorted((tmp_path / "blobs").rglob("*")) == files


async def test_the_first_and_the_last_moment_that_are_taken_come_back_as_they_were(service: Service) -> None:
    run = await service.completed_run()
    lines = await export(service, run["session_id"])
    for at in ("1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"):
        made = await take_in(service, changed(lines, 1, created_at=at))
        assert (await export(service, made.json()["id"]))[1]["created_at"] == at
    assert time(milliseconds(datetime(999, 1, 2, tzinfo=UTC))) == "0999-01-02T00:00:00.000Z"


async def test_an_imported_session_was_not_changed_before_it_was_made(service: Service) -> None:
    run = await service.completed_run()
    lines = changed(await export(service, run["session_id"]), 1, created_at="2001-01-01T00:00:00.000Z")
    session = (await take_in(service, changed(lines, 2, created_at="2001-01-01T00:00:00.000Z"))).json()
    assert session["updated_at"] == session["created_at"]


async def test_an_import_says_what_it_is_and_may_be_larger_than_a_request(tmp_path: Path) -> None:
    limits = {"request_bytes_max": 2_000, "import_bytes_max": 50_000}
    async with serve(tmp_path, limits=limits) as service:
        run = await service.completed_run()
        text: list[Block] = [{"type": "text", "text": "x" * 10_000}]
        long = [ImportedMessage("m", 1, "user", text, None, None, 1)]
        await service.journal.import_session("default", "ses_long", long, labels={}, metadata={})
        lines = await export(service, "ses_long")
        assert (await take_in(service, lines)).status_code == 201
        form = await service.http.post("/v1/sessions:import", content=b"{}", headers={"content-type": "text/plain"})
        assert (form.status_code, form.json()["code"]) == (415, "invalid_request")
        large = await take_in(service, b"x" * 50_001)
        assert (large.status_code, large.json()["code"]) == (413, "payload_too_large")
        assert (await service.get(f"/v1/sessions/{run['session_id']}/export")).status_code == 200


async def test_a_blob_that_is_gone_is_named_in_the_export(service: Service, tmp_path: Path) -> None:
    run = await with_a_large_result(service)
    lines = await export(service, run["session_id"])
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    again = await export(service, run["session_id"])
    assert again[5] == {"type": "blob", "id": lines[5]["id"], "missing": True}
    assert (await take_in(service, again)).status_code == 201


# Erasure ----------------------------------------------------------------------------------------------


async def test_a_deleted_session_says_nothing_any_more(service: Service, tmp_path: Path) -> None:
    run = await with_a_large_result(service)
    files = tmp_path / "workspaces" / run["id"]
    files.mkdir(parents=True)
    (files / "secret.txt").write_text("secret")
    session = f"/v1/sessions/{run['session_id']}"
    for _ in range(2):
        assert (await service.http.delete(session)).status_code == 204
    assert not files.exists()
    tombstone = (await service.get(session)).json()
    assert tombstone["deleted_at"] is not None
    assert (tombstone["last_number"], tombstone["labels"], tombstone["active_run_id"]) == (0, {}, None)
    assert await service.count("/v1/sessions") == 0
    for path in (f"{session}/messages", f"{session}/export"):
        gone = await service.get(path)
        assert (gone.status_code, gone.json()["code"]) == (410, "session_deleted")
    for path, body in (
        ("/v1/runs", {"agent_inline": {"model": "openai/priced"}, "input": "x", "session_id": run["session_id"]}),
        (f"{session}/fork", {}),
        (f"/v1/runs/{run['id']}/fork", {"from_seq": 2}),
        (f"/v1/runs/{run['id']}/retry", {}),
    ):
        gone = await service.post(path, body)
        assert (gone.status_code, gone.json()["code"]) == (410, "session_deleted"), path
    shown = (await service.get(f"/v1/runs/{run['id']}")).json()
    assert (shown["status"], shown["input"], shown["output_text"], shown["labels"]) == ("completed", [], None, {})
    assert shown["usage"]["input_tokens"] == 20
    assert (await service.get(f"/v1/runs/{run['id']}/messages")).json()["data"] == []
    steps = (await service.get(f"/v1/runs/{run['id']}/steps")).json()["data"]
    assert [(step["name"], step["arguments"]) for step in steps] == [
        ("openai/priced", None), ("calculator", None), ("openai/priced", None),
    ]  # fmt: skip
    assert (await service.get("/v1/sessions/ses_none")).status_code == 404


async def test_a_deleted_session_takes_along_what_its_sub_agents_said(service: Service, tmp_path: Path) -> None:
    policy = {"rules": [{"tool": "calculator", "action": "ask"}]}
    run_id, (call,) = await leader(service, policy=policy)
    one = await child(service, run_id, call)
    session = f"/v1/sessions/{(await service.get(f'/v1/runs/{run_id}')).json()['session_id']}"
    asked, _ = await service.asked(
        one.id,
        ("calculator", {"expression": "secret"}),
        ("ask_user", {"questions": [{"id": "q", "question": "secret?"}]}),
        text="the secret is out",
    )
    approval, question = await service.pending(one.id)
    decisions = {"decisions": [{"id": approval["id"], "decision": "approve"}]}
    assert (await service.post("/v1/approvals:decide", decisions, **{"idempotency-key": "d"})).status_code == 200
    answers = {"answers": {"q": "secret!"}}
    path = f"/v1/questions/{question['id']}/answer"
    assert (await service.post(path, answers, **{"idempotency-key": "q"})).status_code == 200
    path = f"/v1/runs/{one.id}/messages"
    assert (await service.post(path, {"content": "secret"}, **{"idempotency-key": "m"})).status_code == 202
    path = f"/v1/runs/{one.id}/calls/{asked}/result"
    assert (await service.post(path, {"output": "secret"}, **{"idempotency-key": "c"})).status_code == 200
    (again,) = await service.asked(one.id, ("calculator", {"expression": "more secret"}), turn=2)
    await service.used_tool(one.id, again, "secret result", whole=b"secret " * 20_000)
    await service.journal.post_entry(one.id, "p1", "secret entry", "secret topic")
    await service.journal.post_entry(run_id, "p2", "the secret is known", None)
    await service.finished(run_id)  # and so its child ends
    files = tmp_path / "workspaces" / one.id
    files.mkdir(parents=True)
    (files / "secret.txt").write_text("secret")
    assert (await service.get(f"/v1/runs/{run_id}/board")).json()["data"][0]["text"] == "secret entry"
    assert "secret" in await dump_of(service.journal)
    service.journal.blob_rest_ms = -1
    assert (await service.http.delete(session)).status_code == 204
    assert "secret" not in await dump_of(service.journal)
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert not files.exists()
    for id_ in (run_id, one.id):
        assert (await service.get(f"/v1/runs/{id_}/board")).json()["data"] == []
        assert (await service.get(f"/v1/runs/{id_}/messages")).json()["data"] == []
    tree = (await service.get(f"/v1/runs/{run_id}/tree")).json()
    assert (tree["goal"], [node["goal"] for node in tree["children"]]) == ("", [""])
    assert (tree["total"]["runs"], tree["total"]["usage"]["cost_usd"]) == (2, "0.0075")
    gone = await service.get(f"/v1/sessions/{one.session_id}/messages")
    assert (gone.status_code, gone.json()["code"]) == (410, "session_deleted")


async def test_a_deleted_session_takes_along_the_schedules_that_its_agent_has_made(service: Service) -> None:
    run = await service.completed_run()
    definition = defined({"every_seconds": 3_600}, session={"mode": "continue", "on_conflict": "enqueue"})
    new = NewSchedule("sch_own", "wake", definition, "me", session_id=run["session_id"], made_by_run_id=run["id"])
    await service.journal.create_schedule(new, most=9, most_of_owner=9)
    keeper = ScheduleKeeper(service.app.state.parts.assembly, older_than_ms=0)
    await keeper.keep()
    assert service.schedules.told == {"sch_own": 1}
    assert (await service.http.delete(f"/v1/sessions/{run['session_id']}")).status_code == 204
    assert (await service.get("/v1/schedules/wake")).status_code == 404
    assert (await service.get("/v1/schedules")).json()["data"] == []
    await keeper.keep()
    assert service.schedules.told == {"sch_own": None}, "Temporal hears of it as of any other that is deleted"
    session = {"mode": "continue", "session_id": run["session_id"]}
    agent = {"agent_inline": {"model": "openai/priced"}, "input": "x", "spec": {"every_seconds": 60}}
    refused = await service.post("/v1/schedules", {"name": "late", **agent, "session": session})
    assert (refused.status_code, refused.json()["code"]) == (410, "session_deleted")


async def test_a_session_is_not_deleted_while_a_detached_child_is_at_work(service: Service) -> None:
    run_id, (call,) = await leader(service)
    one = await child(service, run_id, call, detached=True)
    await service.finished(run_id)
    session_id = (await service.get(f"/v1/runs/{run_id}")).json()["session_id"]
    refused = await service.http.delete(f"/v1/sessions/{session_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert one.id in refused.json()["detail"]
    assert len((await service.get(f"/v1/sessions/{session_id}/messages")).json()["data"]) > 0
    assert (await service.post("/v1/prune", {"sessions_days": 0})).json()["sessions"] == 0
    await service.finished(one.id)
    assert (await service.http.delete(f"/v1/sessions/{session_id}")).status_code == 204


async def test_a_session_at_work_is_not_deleted(service: Service) -> None:
    run = await service.new_run()
    refused = await service.http.delete(f"/v1/sessions/{run['session_id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "session_busy")
    assert (await service.http.delete("/v1/sessions/ses_none")).status_code == 404


# Retention --------------------------------------------------------------------------------------------


async def with_live_text(service: Service) -> dict[str, Any]:
    run = await service.new_run()
    await service.started(run["id"])
    begun = await service.begun(run["id"])
    service.journal.live(Delta(run["id"], "model-1", begun.attempt, "text.delta", "Hel"))
    await service.journal.flush_live(run["id"], "model-1")
    await service.answered(run["id"], "Hello")
    await service.finished(run["id"])
    return run


async def test_live_text_is_pruned_on_request_and_readers_are_told(service: Service) -> None:
    run = await with_live_text(service)
    kept = await service.post("/v1/prune", {})
    assert kept.json() == {"object": "pruned", "deltas": 0, "events": 0, "sessions": 0, "blobs": 0, "more": False}
    pruned = await service.post("/v1/prune", {"deltas_days": 0})
    assert pruned.json()["deltas"] == 1
    events = await service.events(run["id"])
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    place = next(event for event in events if event["type"] == "events.pruned")
    assert place["data"] == {"from": place["seq"], "to": place["seq"], "count": 1}


async def test_readers_of_events_that_are_gone_are_sent_to_the_run(service: Service) -> None:
    run = await with_live_text(service)
    last = (await service.get(f"/v1/runs/{run['id']}")).json()["last_seq"]
    assert (await service.post("/v1/prune", {"events_days": 0})).json()["events"] == 1
    for accept in ("application/json", "application/jsonl", "text/event-stream"):
        gone = await service.get(f"/v1/runs/{run['id']}/events", accept=accept)
        assert (gone.status_code, gone.json()["code"]) == (410, "events_expired")
        assert gone.headers["link"] == f'</v1/runs/{run["id"]}>; rel="alternate"'
    kept = (await service.get(f"/v1/runs/{run['id']}/events?after={last - 1}")).json()["data"]
    assert [event["type"] for event in kept] == ["run.completed"]
    assert (await service.get(f"/v1/runs/{run['id']}")).json()["output_text"] == "Hello"
    forked = await service.post(f"/v1/runs/{run['id']}/fork", {"from_seq": 2, "input": "x"})
    assert (forked.status_code, forked.json()["code"]) == (410, "events_expired")


async def test_the_settings_prune_by_themselves(tmp_path: Path) -> None:
    async with serve(tmp_path, retention={"sessions_days": 0}) as service:
        run = await service.completed_run()
        await asyncio.sleep(0.01)
        assert (await service.post("/v1/prune", {"sessions_days": None})).json()["sessions"] == 0
        assert (await service.post("/v1/prune", {})).json()["sessions"] == 1
        assert (await service.get(f"/v1/sessions/{run['session_id']}/messages")).status_code == 410


@pytest.mark.parametrize("body", [{"deltas_days": -1}, {"deltas_days": "1"}, {"days": 1}, {"events_days": 1e9}])
async def test_nonsense_prunes_nothing(service: Service, body: dict[str, Any]) -> None:
    await service.completed_run()
    refused = await service.post("/v1/prune", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")

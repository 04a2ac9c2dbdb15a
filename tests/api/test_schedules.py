"""Schedules over HTTP: what is taken, refused, changed, and told to Temporal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.schedule_keeping import ScheduleKeeper
from perdure.core.state import Outcome
from perdure.store.rows import NewRun
from perdure.store.schedule_rows import NewInvocation
from tests.api.service import AGENT, Service, serve
from tests.store.runs import AGENT as CLERK
from tests.store.runs import FAR, text

NIGHTLY = {
    "name": "nightly",
    "agent_inline": AGENT,
    "input": "Sum up the day.",
    "spec": {"cron": ["0 2 * * *"]},
    "timezone": "Europe/Berlin",
}


BEYOND = {
    "0001-01-01T00:00:00+14:00": "value_error",
    "0001-01-01T00:00:00Z": "out_of_range",
    "1999-12-31T23:59:59Z": "out_of_range",
    "9999-12-31T23:59:59Z": "out_of_range",
    "9999-12-31T23:59:59-14:00": "value_error",
}


async def fired(service: Service, schedule: dict[str, Any]) -> None:
    """It has started ``run_1``, which is under way."""
    run = NewRun("run_1", CLERK, text("x"), FAR, {}, schedule_id=schedule["id"])
    await service.journal.open_invocation(NewInvocation(schedule["id"], 1, "k", 1_000, run))


async def made(service: Service, **more: Any) -> dict[str, Any]:
    reply = await service.post("/v1/schedules", {**NIGHTLY, **more})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


async def patched(service: Service, schedule: dict[str, Any], body: Any, match: str | None = None) -> Any:
    headers = {"if-match": match or f'"{schedule["version"]}"'}
    return await service.http.patch(f"/v1/schedules/{schedule['id']}", json=body, headers=headers)


def refusal(reply: Any) -> tuple[int, str, str | None, str]:
    error = reply.json()["errors"][0]
    return reply.status_code, reply.json()["code"], error["pointer"], error["code"]


# Create and read ----------------------------------------------------------------------------------


async def test_a_schedule_is_stored_told_to_temporal_and_read_by_id_and_by_name(service: Service) -> None:
    reply = await service.post("/v1/schedules", NIGHTLY, **{"x-actor": "ana"})
    schedule = reply.json()
    assert reply.headers["location"] == f"/v1/schedules/{schedule['id']}"
    assert reply.headers["etag"] == '"1"'
    assert (schedule["status"], schedule["applied"], schedule["requested_by"]) == ("active", True, "ana")
    assert service.schedules.told == {schedule["id"]: 1}
    for name in (schedule["id"], "nightly"):
        assert (await service.get(f"/v1/schedules/{name}")).json() == schedule
    assert (await service.get("/v1/schedules")).json()["data"] == [schedule]
    assert datetime.fromisoformat(schedule["next_at"]).hour in (0, 1)


async def test_every_kind_of_spec_and_every_member_is_taken_and_shown(service: Service) -> None:
    soon = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    specs: list[Any] = [
        {"cron": "@daily"},
        {"every_seconds": 3_600, "offset_seconds": 60},
        {"calendar": [{"hour": [9, 17], "minute": 30, "day_of_week": "mon-fri"}]},
        {"at": [soon.isoformat(), "2031-01-01T00:00:00+01:00"]},
    ]
    for number, spec in enumerate(specs):
        schedule = await made(
            service, name=f"s{number}", spec=spec, jitter_seconds=30, overlap="buffer_one",
            catchup_window_seconds=600, pause_on_failure=True, starts_at=soon.isoformat(),
            ends_at="2032-01-01T00:00:00Z", quiet_hours={"from": "22:00", "to": "23:00"},
            session={"mode": "continue", "on_conflict": "steer"}, budget={"max_cost_usd": "1.50"},
            limits={"max_turns": 5}, policy={"default": "ask"}, labels={"a": "b"}, metadata={"c": 1},
        )  # fmt: skip
        assert schedule["quiet_hours"] == {"from": "22:00", "to": "23:00", "timezone": "Europe/Berlin"}
        assert schedule["session"]["session_id"].startswith("ses_")
        assert schedule["budget"]["max_cost_usd"] == "1.50"
        assert schedule["policy"]["default"] == "ask"
        assert schedule["limits"] == {"max_turns": 5}
    shown = [(await service.get(f"/v1/schedules/s{number}")).json()["spec"] for number in range(4)]
    assert shown[0]["cron"] == ["@daily"]
    assert shown[1]["offset_seconds"] == 60
    assert shown[2]["calendar"] == [{"hour": "9,17", "minute": "30", "day_of_week": "mon-fri"}]
    assert shown[3]["at"][1] == "2030-12-31T23:00:00.000Z"


async def test_the_next_times_are_told_without_temporal(service: Service) -> None:
    await made(service)
    service.runs.away = True
    rows = (await service.get("/v1/schedules/nightly/next?count=3")).json()["data"]
    times = [datetime.fromisoformat(row["at"]) for row in rows]
    assert len(times) == 3
    assert times == sorted(times)
    assert (await service.get("/v1/schedules/nightly/next?count=0")).status_code == 400


@pytest.mark.parametrize(
    ("change", "code", "pointer", "kind"),
    [
        ({"spec": {"cron": ["0 0 31 2 *"]}}, "validation_failed", "/spec/cron", "never_fires"),
        ({"spec": {"cron": ["hello"]}}, "validation_failed", "/spec/cron/0", "invalid_cron"),
        ({"spec": {}}, "validation_failed", "/spec", "missing"),
        ({"spec": {"every_seconds": 0}}, "validation_failed", "/spec/every_seconds", "out_of_range"),
        ({"spec": {"every_seconds": "5"}}, "validation_failed", "/spec/every_seconds", "int_type"),
        ({"spec": {"at": ["2001-01-01T00:00:00Z"]}}, "validation_failed", "/spec/at", "in_the_past"),
        ({"spec": {"at": [1_800_000_000]}}, "validation_failed", "/spec/at/0", "value_error"),
        *[({member: at}, "validation_failed", f"/{member}", kind)
          for member in ("starts_at", "ends_at") for at, kind in BEYOND.items()],
        *[({"spec": {"at": ["2065-01-01T00:00:00Z", at]}}, "validation_failed", f"/spec/at/{'1' if bad else '0'}", kind)
          for at, kind in BEYOND.items() if (bad := kind == "value_error") or at < "2000"],
        ({"spec": {"calendar": [{"hour": True}]}}, "validation_failed", "/spec/calendar/0/hour", "value_error"),
        ({"timezone": "Europe/Atlantis"}, "validation_failed", "/timezone", "unknown_timezone"),
        ({"jitter_seconds": -1}, "validation_failed", "/jitter_seconds", "greater_than_equal"),
        ({"overlap": "queue"}, "validation_failed", "/overlap", "literal_error"),
        ({"name": "sch_mine"}, "validation_failed", "/name", "value_error"),
        ({"name": "two words"}, "validation_failed", "/name", "string_pattern_mismatch"),
        ({"every": 5}, "validation_failed", "/every", "extra_forbidden"),
        ({"quiet_hours": {"from": "25:00", "to": "07:00"}}, "validation_failed", "/quiet_hours/from", "invalid_time"),
        ({"agent_inline": None, "agent": "nobody"}, "agent_not_found", "/agent", "agent_not_found"),
        ({"agent_inline": None}, "validation_failed", "/agent", "missing"),
        ({"agent": "x"}, "validation_failed", "/agent_inline", "conflict"),
        ({"agent_inline": {"model": "x/y"}}, "unknown_model", "/agent_inline/model", "unknown_model"),
        ({"input": " "}, "validation_failed", "/input", "empty"),
        ({"budget": {"max_tokens": 1}}, "budget_too_small", "/budget/max_tokens", "budget_too_small"),
        ({"session": {"mode": "continue", "session_id": "ses_x"}}, "session_not_found", "/session/session_id",
         "session_not_found"),
        ({"session": {"mode": "new", "session_id": "ses_x"}}, "validation_failed", "/session/session_id", "conflict"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_refused_and_nothing_is_made(
    service: Service, change: dict[str, Any], code: str, pointer: str, kind: str
) -> None:
    reply = await service.post("/v1/schedules", {**NIGHTLY, **change})
    assert refusal(reply)[1:] == (code, pointer, kind)
    assert await service.count("/v1/schedules") == 0
    assert await service.count("/v1/sessions") == 0
    assert service.schedules.told == {}


async def test_a_name_is_taken_once_and_a_key_makes_one(service: Service) -> None:
    await made(service)
    assert refusal(await service.post("/v1/schedules", NIGHTLY)) == (409, "name_taken", "/name", "name_taken")
    body = {**NIGHTLY, "name": "other"}
    replies = [await service.post("/v1/schedules", body, **{"idempotency-key": "k"}) for _ in range(2)]
    assert replies[0].json() == replies[1].json()
    assert replies[1].headers["idempotent-replayed"] == "true"
    assert await service.count("/v1/schedules") == 2


async def test_there_are_only_so_many(tmp_path: Path) -> None:
    async with serve(tmp_path, limits={"max_schedules": 1}) as service:
        await made(service)
        reply = await service.post("/v1/schedules", {**NIGHTLY, "name": "other"})
        assert (reply.status_code, reply.json()["code"]) == (409, "too_many_schedules")


# Change -------------------------------------------------------------------------------------------


async def test_a_change_needs_the_etag_that_was_read(service: Service) -> None:
    schedule = await made(service)
    path = f"/v1/schedules/{schedule['id']}"
    bare = await service.http.patch(path, json={"overlap": "allow_all"})
    assert (bare.status_code, bare.json()["code"]) == (428, "precondition_required")
    changed = await patched(service, schedule, {"overlap": "allow_all"})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    for match in ('"1"', '"garbage"', "W/x"):
        stale = await patched(service, schedule, {"overlap": "skip"}, match)
        assert (stale.status_code, stale.json()["code"]) == (412, "version_mismatch")
    assert (await patched(service, schedule, {"overlap": "skip"}, "*")).json()["version"] == 3
    stale = await service.http.delete(path, headers={"if-match": '"1"'})
    assert stale.status_code == 412
    assert service.schedules.told == {schedule["id"]: 3}


async def test_a_change_replaces_what_is_given_and_keeps_the_rest(service: Service) -> None:
    await service.post("/v1/agents", {**AGENT, "name": "clerk"})
    first = await made(service, budget={"max_cost_usd": "1"}, quiet_hours={"from": "22:00", "to": "01:00"})
    body = {
        "name": "daily", "agent": "clerk", "spec": {"every_seconds": 60}, "timezone": "UTC", "budget": None,
        "quiet_hours": None, "input": "Again.", "labels": {"x": "y"}, "ends_at": "2040-01-01T00:00:00Z",
    }  # fmt: skip
    changed = (await patched(service, first, body)).json()
    kept = {name: first[name] for name in ("overlap", "jitter_seconds", "policy", "metadata", "created_at")}
    assert kept.items() <= changed.items()
    assert (changed["name"], changed["agent"], changed["agent_inline"]) == ("daily", "clerk", None)
    assert (changed["budget"], changed["quiet_hours"]) == (None, None)
    assert changed["input"][0]["text"] == "Again."
    open_end = await patched(service, changed, {"ends_at": None})
    assert open_end.json()["ends_at"] is None


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({}, "validation_failed", ""),
        ({"spec": None}, "validation_failed", "/spec"),
        ({"spec": {"cron": ["0 0 30 2 *"]}}, "validation_failed", "/spec/cron"),
        ({"timezone": "x"}, "validation_failed", "/timezone"),
        *[({member: at}, "validation_failed", f"/{member}") for member in ("starts_at", "ends_at") for at in BEYOND],
        ({"agent": "nobody"}, "agent_not_found", "/agent"),
        ({"limits": {"max_turns": 0}}, "validation_failed", "/limits/max_turns"),
        ({"policy": {"rules": [{"tool": "", "action": "allow"}]}}, "validation_failed", "/policy/rules/0/tool"),
    ],
)
async def test_a_change_that_makes_no_sense_changes_nothing(
    service: Service, body: dict[str, Any], code: str, pointer: str
) -> None:
    schedule = await made(service)
    assert refusal(await patched(service, schedule, body))[1:3] == (code, pointer)
    assert (await service.get("/v1/schedules/nightly")).json() == schedule


async def test_a_schedule_is_paused_resumed_and_removed(service: Service) -> None:
    schedule = await made(service)
    paused = (await service.post("/v1/schedules/nightly/pause", {"reason": "holidays"})).json()
    assert (paused["status"], paused["paused_reason"], paused["next_at"]) == ("paused", "holidays", None)
    again = (await service.post("/v1/schedules/nightly/pause", {})).json()
    assert (again["version"], again["paused_reason"]) == (2, "holidays")
    assert (await service.post("/v1/schedules/nightly/resume", {})).json()["status"] == "active"
    gone = await service.http.delete("/v1/schedules/nightly")
    assert (gone.status_code, gone.content) == (204, b"")
    assert service.schedules.told == {schedule["id"]: None}
    assert (await service.http.delete("/v1/schedules/nightly")).status_code == 404


# Orders -------------------------------------------------------------------------------------------


async def test_a_trigger_is_one_order_for_one_key(service: Service) -> None:
    await made(service)
    for _ in range(2):
        reply = await service.post(
            "/v1/schedules/nightly/trigger", {"overlap": "allow_all"}, **{"idempotency-key": "k"}
        )
        assert reply.status_code == 202
    (order,) = service.schedules.orders
    assert (order[0], order[4]) == ("trigger", "allow_all")


async def test_a_trigger_that_would_be_skipped_is_refused_and_names_the_run(service: Service) -> None:
    schedule = await made(service)
    await fired(service, schedule)
    refused = await service.post("/v1/schedules/nightly/trigger", {})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")
    assert "run_1" in refused.json()["detail"]
    assert (await service.post("/v1/schedules/nightly/trigger", {"overlap": "buffer_one"})).status_code == 202
    await service.journal.record("run_1", "finish", [], Outcome("completed", "end"))
    assert (await service.post("/v1/schedules/nightly/trigger", {})).status_code == 202
    (row,) = (await service.get("/v1/schedules/nightly/invocations")).json()["data"]
    assert (row["cause"], row["status"], row["run_status"]) == ("manual", "started", "completed")
    assert (await service.get("/v1/runs/run_1")).json()["schedule_id"] == schedule["id"]
    listed = (await service.get(f"/v1/runs?schedule_id={schedule['id']}")).json()["data"]
    assert [found["id"] for found in listed] == ["run_1"]


async def test_a_trigger_is_refused_while_the_conversation_is_busy_or_when_it_is_deleted(service: Service) -> None:
    schedule = await made(service, session="continue")
    path, session_id = "/v1/schedules/nightly/trigger", schedule["session"]["session_id"]
    run = await service.new_run(session_id=session_id)
    refused = await service.post(path, {"overlap": "buffer_all"})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_transition")
    assert run["id"] in refused.json()["detail"]
    await service.journal.force_cancel(run["id"], "enough")
    await fired(service, schedule)
    for overlap, status in (("allow_all", 409), ("buffer_one", 202)):
        assert (await service.post(path, {"overlap": overlap})).status_code == status
    await service.journal.force_cancel("run_1", "enough")
    await service.http.delete(f"/v1/sessions/{session_id}")
    gone = await service.post(path, {})
    assert (gone.status_code, gone.json()["code"]) == (410, "session_deleted")
    assert len(service.schedules.orders) == 1


async def test_a_backfill_is_of_the_past_and_has_an_end(service: Service) -> None:
    await made(service)
    good = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T12:00:00Z"}
    assert (await service.post("/v1/schedules/nightly/backfill", good)).status_code == 202
    assert service.schedules.orders[0][0] == "backfill"
    for change, pointer, kind in (
        ({"to": "2199-01-01T00:00:00Z"}, "/to", "out_of_range"),
        ({"to": "2025-01-01T00:00:00Z"}, "/from", "empty"),
        ({"from": "2001-01-01T00:00:00Z"}, "/from", "too_many"),
        ({"from": "2026-01-01"}, "/from", "value_error"),
        ({"from": "1999-12-31T23:59:59Z"}, "/from", "out_of_range"),
        ({"from": "0001-01-01T00:00:00Z"}, "/from", "out_of_range"),
        ({"to": "0001-01-01T00:00:00Z"}, "/to", "out_of_range"),
        ({"to": "9999-12-31T23:59:59-14:00"}, "/to", "value_error"),
    ):
        reply = await service.post("/v1/schedules/nightly/backfill", {**good, **change})
        assert refusal(reply) == (422, "validation_failed", pointer, kind)
    assert len(service.schedules.orders) == 1


async def test_orders_that_nobody_could_tell_are_told_by_the_keeper_in_their_order(service: Service) -> None:
    schedule = await made(service)
    planned = [await service.journal.accept_trigger(schedule["id"], f"ord_{n}", "allow_all") for n in range(3)]
    await service.journal.accept_backfill(schedule["id"], "ord_9", 1_000, 2_000, "buffer_all")
    service.schedules.told.clear()  # and Temporal has lost it
    keeper = ScheduleKeeper(service.app.state.parts.assembly)
    await keeper.keep()
    assert [order[3] for order in service.schedules.orders] == [*planned, 1_000]
    await keeper.keep()
    assert len(service.schedules.orders) == 4, "each once"


async def test_what_null_cannot_remove_is_named(service: Service) -> None:
    schedule = await made(service)
    for name in ("spec", "agent_inline", "overlap"):
        reply = await patched(service, schedule, {name: None})
        assert refusal(reply) == (422, "validation_failed", f"/{name}", "null")
    assert refusal(await patched(service, schedule, {}))[2:] == ("", "empty")


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "Factory", "posix/Europe/Berlin", "right/UTC"])
async def test_what_a_zone_database_holds_beside_the_zones_is_no_zone(service: Service, zone: str) -> None:
    reply = await service.post("/v1/schedules", {**NIGHTLY, "timezone": zone})
    assert refusal(reply) == (422, "validation_failed", "/timezone", "unknown_timezone")


# Temporal away ------------------------------------------------------------------------------------


async def test_what_is_changed_while_temporal_is_away_is_durable_and_told_later(service: Service) -> None:
    schedule = await made(service)
    service.runs.away = True
    late = await made(service, name="late")
    assert not late["applied"]
    assert (await patched(service, schedule, {"overlap": "allow_all"})).status_code == 200
    assert (await service.http.delete("/v1/schedules/late")).status_code == 204
    for verb, body in (("trigger", {}), ("backfill", {"from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z"})):
        refused = await service.post(f"/v1/schedules/nightly/{verb}", body)
        assert (refused.status_code, refused.json()["code"]) == (503, "temporal_unavailable")
    service.runs.away = False
    reply = await service.post("/v1/schedules/nightly/trigger", {})
    assert reply.json()["applied"], "told before it is triggered"
    assert service.schedules.told[schedule["id"]] == 2
    assert len(service.schedules.orders) == 1


async def test_the_keeper_tells_temporal_what_nobody_has_told_it(service: Service) -> None:
    service.runs.away = True
    kept, removed = await made(service), await made(service, name="other")
    await service.http.delete("/v1/schedules/other")
    service.runs.away = False
    keeper = ScheduleKeeper(service.app.state.parts.assembly, older_than_ms=0, lost_every_seconds=-1)
    await keeper.keep()
    assert service.schedules.told == {kept["id"]: 1, removed["id"]: None}
    service.schedules.told.clear()  # Temporal's database was lost
    await keeper.keep()
    assert service.schedules.told == {kept["id"]: 1}
    assert (await service.get("/v1/schedules/nightly")).json()["applied"]


async def test_a_schedule_that_temporal_has_lost_is_made_again_before_it_is_triggered(service: Service) -> None:
    schedule = await made(service)
    service.schedules.told.clear()
    assert (await service.post("/v1/schedules/nightly/trigger", {})).status_code == 202
    assert service.schedules.told == {schedule["id"]: 1}
    assert len(service.schedules.orders) == 1

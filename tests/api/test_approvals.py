"""Approvals over HTTP: people answer what policy asks, about the arguments they have seen, and once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ulid import ULID

from perdure.store.rows import NewAsk, NewRun
from perdure.tools.arguments import args_sha256
from tests.api.service import HELLO, Service

SHOP = {"model": "openai/priced", "tools": ["charge", "ship", "calculator"]}
CHARGE = {"amount": 40, "customer": "ann"}


def asking(rule: dict[str, Any] | None = None, *more: dict[str, Any]) -> dict[str, Any]:
    """An agent whose charges a person has to allow."""
    return {**SHOP, "policy": {"rules": [*more, {"tool": "charge", "action": "ask", **(rule or {})}]}}


async def asked(
    service: Service, agent: dict[str, Any] | None = None, *, by: str = "ann", **more: Any
) -> tuple[str, dict[str, Any]]:
    """A run that waits for an approval, and the approval."""
    reply = await service.post("/v1/runs", {"agent_inline": agent or asking(), "input": "x"}, **{"x-actor": by})
    assert reply.status_code == 201, reply.text
    run_id = reply.json()["id"]
    await service.started(run_id)
    await service.asked(run_id, ("charge", CHARGE), **more)
    [approval] = await service.pending(run_id)
    return run_id, approval


async def decide(service: Service, approval: dict[str, Any], *, by: str = "bob", **body: Any) -> Any:
    return await service.post(f"/v1/approvals/{approval['id']}/decide", body, **{"x-actor": by})


async def test_a_call_that_policy_asks_about_waits_as_a_pending_action(service: Service) -> None:
    run_id, approval = await asked(service, asking({"reason": "money", "approval": {"quorum": 2, "four_eyes": True}}))
    assert (approval["type"], approval["about"], approval["status"]) == ("approval", "call", "open")
    assert (approval["tool"], approval["arguments"]) == ("charge", CHARGE)
    assert approval["args_sha256"] == args_sha256(CHARGE)
    assert (approval["rule"], approval["reason"]) == ("rules[0]", "money")
    assert (approval["quorum"], approval["four_eyes"], approval["requested_by"]) == (2, True, "ann")
    await service.status(run_id, "requires_action", reason="approval", actions=[])
    run = (await service.get(f"/v1/runs/{run_id}")).json()
    assert (run["status"], run["status_reason"], run["requested_by"]) == ("requires_action", "approval", "ann")
    assert run["waiting_for"] == [{"type": "approval", "until": approval["expires_at"], "ref": approval["id"]}]
    assert (await service.get(f"/v1/approvals/{approval['id']}")).json() == approval
    listed = (await service.get("/v1/runs")).json()["data"]
    assert [action["id"] for action in listed[0]["pending_actions"]] == [approval["id"]]


async def test_an_approval_lets_the_call_go_on_and_says_who_gave_it(service: Service) -> None:
    run_id, approval = await asked(service)
    reply = await decide(service, approval, decision="approve", args_sha256=approval["args_sha256"], message="fine")
    decided = reply.json()
    assert (reply.status_code, decided["status"], decided["decision"]) == (200, "approved", "approve")
    assert (decided["decided_by"], decided["message"]) == ("bob", "fine")
    assert [(vote["by"], vote["decision"]) for vote in decided["votes"]] == [("bob", "approve")]
    assert await service.told(run_id) == ["approve"]
    assert await service.pending(run_id) == []
    [event] = await service.events(run_id, "approval.decided")
    assert (event["data"]["by"], event["data"]["decision"], event["call_id"]) == ("bob", "approve", approval["call_id"])


async def test_the_same_decision_again_acts_once_and_another_is_told_it_is_late(service: Service) -> None:
    run_id, approval = await asked(service)
    for _ in range(2):
        assert (await decide(service, approval, decision="approve")).status_code == 200
    for by, decision in (("bob", "deny"), ("cat", "approve"), ("cat", "deny")):
        reply = await decide(service, approval, by=by, decision=decision)
        assert (reply.status_code, reply.json()["code"]) == (409, "approval_already_resolved")
        assert reply.headers["x-should-retry"] == "false"
    assert reply.json()["detail"] == f"{approval['id']} is approved already, by bob."
    assert len(await service.events(run_id, "approval.decided")) == 1
    assert await service.told(run_id) == ["approve"]


async def test_of_two_people_who_decide_at_once_one_wins_and_the_other_is_told(service: Service) -> None:
    for _ in range(5):
        run_id, approval = await asked(service)
        replies = await asyncio.gather(
            decide(service, approval, by="bob", decision="approve"),
            decide(service, approval, by="cat", decision="deny", message="no"),
        )
        assert sorted(reply.status_code for reply in replies) == [200, 409]
        [won] = [reply.json() for reply in replies if reply.status_code == 200]
        [event] = await service.events(run_id, "approval.decided")
        assert (event["data"]["by"], event["data"]["decision"]) == (won["decided_by"], won["decision"])
        steps = (await service.get(f"/v1/runs/{run_id}/steps")).json()["data"]
        assert steps[1]["status"] == ("failed" if won["decision"] == "deny" else "requested")


async def test_a_denial_is_the_calls_result_with_its_reason(service: Service) -> None:
    run_id, approval = await asked(service)
    reply = await decide(service, approval, decision="deny", message="too much")
    assert (reply.status_code, reply.json()["status"]) == (200, "denied")
    [result] = (await service.get(f"/v1/runs/{run_id}/messages")).json()["data"][-1]["content"]
    assert (result["is_error"], result["text"]) == (True, "too much")
    assert await service.told(run_id) == ["answer"]


async def test_a_response_is_the_calls_result_in_the_persons_words(service: Service) -> None:
    run_id, approval = await asked(service)
    refused = await decide(service, approval, decision="respond", message="  ")
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/message")
    reply = await decide(service, approval, decision="respond", message="done by hand")
    assert (reply.status_code, reply.json()["status"]) == (200, "responded")
    [result] = (await service.get(f"/v1/runs/{run_id}/messages")).json()["data"][-1]["content"]
    assert (result["is_error"], result["text"]) == (False, "done by hand")


async def test_edited_arguments_take_the_place_of_those_that_were_asked(service: Service) -> None:
    run_id, approval = await asked(service)
    edited = {"amount": 20, "customer": "ann"}
    reply = await decide(service, approval, decision="edit", edited_arguments=edited)
    shown = reply.json()
    assert (reply.status_code, shown["status"], shown["edited"]) == (200, "approved", True)
    assert (shown["arguments"], shown["args_sha256"]) == (edited, args_sha256(edited))
    steps = (await service.get(f"/v1/runs/{run_id}/steps")).json()["data"]
    assert steps[1]["arguments"] == edited
    assert await service.told(run_id) == ["approve"]
    assert (await decide(service, approval, decision="edit", edited_arguments=edited)).status_code == 200


@pytest.mark.parametrize(
    "arguments", [{}, {"amount": 0, "customer": "ann"}, {"amount": "many", "customer": "ann"}, {**CHARGE, "more": 1}]
)
async def test_edited_arguments_that_do_not_fit_the_tool_are_refused_and_nothing_is_decided(
    service: Service, arguments: dict[str, Any]
) -> None:
    _, approval = await asked(service)
    reply = await decide(service, approval, decision="edit", edited_arguments=arguments)
    assert (reply.status_code, reply.json()["code"]) == (422, "validation_failed")
    assert reply.json()["errors"][0]["pointer"] == "/edited_arguments"
    assert (await service.get(f"/v1/approvals/{approval['id']}")).json() == approval


async def test_nobody_overrules_what_policy_denies_by_editing(service: Service) -> None:
    large = {"tool": "charge", "action": "deny", "when": {"properties": {"amount": {"minimum": 100}}}, "reason": "big"}
    _, approval = await asked(service, asking(None, large))
    reply = await decide(service, approval, decision="edit", edited_arguments={"amount": 100, "customer": "ann"})
    assert (reply.status_code, reply.json()["code"]) == (403, "tool_denied")
    assert "big" in reply.json()["detail"]
    assert (await service.get(f"/v1/approvals/{approval['id']}")).json()["status"] == "open"


async def test_the_policy_of_a_run_holds_for_edited_arguments_too(service: Service) -> None:
    deny = {"tool": "charge", "action": "deny", "when": {"properties": {"customer": {"const": "eve"}}}}
    reply = await service.post(
        "/v1/runs", {"agent_inline": asking(), "input": "x", "policy": {"rules": [deny]}}, **{"x-actor": "ann"}
    )
    await service.asked(reply.json()["id"], ("charge", CHARGE))
    [approval] = await service.pending(reply.json()["id"])
    refused = await decide(service, approval, decision="edit", edited_arguments={"amount": 1, "customer": "eve"})
    assert (refused.status_code, refused.json()["code"]) == (403, "tool_denied")


async def test_a_decision_about_other_arguments_than_the_call_has_is_stale(service: Service) -> None:
    _, approval = await asked(service, asking({"approval": {"quorum": 2}}))
    edit = await decide(service, approval, decision="edit", edited_arguments={"amount": 1, "customer": "ann"})
    assert edit.json()["status"] == "open", "one of two votes"
    stale = await decide(service, approval, by="cat", decision="approve", args_sha256=approval["args_sha256"])
    assert (stale.status_code, stale.json()["code"]) == (409, "approval_stale")
    assert edit.json()["args_sha256"] in stale.json()["detail"]
    now = await decide(service, approval, by="cat", decision="approve", args_sha256=edit.json()["args_sha256"])
    assert (now.status_code, now.json()["status"]) == (200, "approved")


async def test_a_quorum_counts_different_people(service: Service) -> None:
    run_id, approval = await asked(service, asking({"approval": {"quorum": 2}}))
    first = await decide(service, approval, by="bob", decision="approve")
    assert (first.json()["status"], len(first.json()["votes"])) == ("open", 1)
    again = await decide(service, approval, by="bob", decision="approve")
    assert (again.status_code, len(again.json()["votes"])) == (200, 1)
    second = await decide(service, approval, by="cat", decision="approve")
    assert (second.json()["status"], second.json()["decided_by"]) == ("approved", "cat")
    assert [event["type"] for event in await service.events(run_id, "approval.voted", "approval.decided")] == [
        "approval.voted", "approval.decided",
    ]  # fmt: skip


async def test_four_eyes_are_not_two(service: Service) -> None:
    _, approval = await asked(service, asking({"approval": {"four_eyes": True}}), by="ann")
    mine = await decide(service, approval, by="ann", decision="approve")
    assert (mine.status_code, mine.json()["code"]) == (403, "insufficient_scope")
    assert mine.json()["detail"].startswith("ann asked for this run"), "a name is written as it is"
    assert (await decide(service, approval, by="bob", decision="approve")).status_code == 200


async def test_whoever_does_not_say_who_they_are_is_one_person(service: Service) -> None:
    run = await service.new_run(agent_inline=asking({"approval": {"four_eyes": True}}))
    assert run["requested_by"] == "anonymous"
    await service.asked(run["id"], ("charge", CHARGE))
    [approval] = await service.pending(run["id"])
    reply = await service.post(f"/v1/approvals/{approval['id']}/decide", {"decision": "approve"})
    assert (reply.status_code, reply.json()["code"]) == (403, "insufficient_scope")


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "é"])
async def test_a_name_that_cannot_be_shown_is_refused(service: Service, name: str) -> None:
    _, approval = await asked(service)
    reply = await service.http.post(
        f"/v1/approvals/{approval['id']}/decide", json={"decision": "approve"}, headers=[(b"x-actor", name.encode())]
    )
    assert (reply.status_code, reply.json()["errors"][0]["parameter"].lower()) == (400, "x-actor")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/decision"),
        ({"decision": "maybe"}, "/decision"),
        ({"decision": "edit"}, "/edited_arguments"),
        ({"decision": "approve", "edited_arguments": {}}, "/edited_arguments"),
        ({"decision": "edit", "edited_arguments": []}, "/edited_arguments"),
        ({"decision": "respond"}, "/message"),
        ({"decision": "respond", "message": "x", "scope": "run"}, "/scope"),
        ({"decision": "approve", "scope": "always"}, "/scope"),
        ({"decision": "approve", "args_sha256": "abc"}, "/args_sha256"),
        ({"decision": "approve", "by": "root"}, "/by"),
    ],
)
async def test_a_decision_without_sense_is_refused_where_it_stands(
    service: Service, body: dict[str, Any], pointer: str
) -> None:
    _, approval = await asked(service)
    reply = await service.post(f"/v1/approvals/{approval['id']}/decide", body)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_an_approval_whose_time_is_over_cannot_be_given(service: Service) -> None:
    run_id, approval = await asked(service, asking({"approval": {"expires_seconds": 60}}), ago_seconds=61)
    for _ in range(2):
        reply = await decide(service, approval, decision="approve")
        assert (reply.status_code, reply.json()["code"]) == (409, "approval_expired")
        await service.journal.settle_ask(run_id, "settle-1", approval["call_id"], [])
    assert (await service.get(f"/v1/approvals/{approval['id']}")).json()["status"] == "expired"


async def test_an_escalated_approval_is_found_by_whoever_looks_for_such(service: Service) -> None:
    terms = {"expires_seconds": 60, "on_expiry": "escalate"}
    run_id, approval = await asked(service, asking({"approval": terms}), ago_seconds=61)
    await asked(service)
    await service.journal.settle_ask(run_id, "settle-1", approval["call_id"], [])
    found = (await service.get("/v1/approvals?escalated=true")).json()["data"]
    assert [(row["id"], row["status"], row["escalated"]) for row in found] == [(approval["id"], "open", True)]
    assert (await decide(service, approval, decision="approve")).json()["status"] == "approved"


async def test_an_approval_of_a_run_that_has_ended_is_closed(service: Service) -> None:
    run_id, approval = await asked(service)
    await service.post(f"/v1/runs/{run_id}/cancel", {"mode": "force"})
    reply = await decide(service, approval, decision="approve")
    assert (reply.status_code, reply.json()["code"]) == (409, "run_terminal")
    assert (await service.get(f"/v1/approvals/{approval['id']}")).json()["status"] == "cancelled"


async def test_what_belongs_to_another_project_is_not_there(service: Service) -> None:
    run = await service.new_run(agent_inline=asking())
    row = await service.journal.get_run(run["id"])
    theirs = f"run_{ULID()}"
    await service.journal.create_run(
        NewRun(theirs, row.definition, row.input, row.deadline_ms, row.limits, project_id="theirs")
    )
    await service.asked(theirs, ("charge", CHARGE))
    [ask] = (await service.journal.open_asks([theirs]))[theirs]
    for path in (f"/v1/approvals/{ask.id}", f"/v1/runs/{theirs}", f"/v1/runs/{theirs}/ledger"):
        assert (await service.get(path)).status_code == 404
    reply = await service.post(f"/v1/approvals/{ask.id}/decide", {"decision": "approve"})
    assert (reply.status_code, reply.json()["code"]) == (404, "approval_not_found")
    results = {"results": [{"call_id": ask.call_id, "output": 1}]}
    assert (await service.post(f"/v1/runs/{theirs}/tool_results", results)).json()["code"] == "run_not_found"
    assert (await service.get("/v1/approvals")).json()["data"] == []
    assert (await service.journal.get_ask("theirs", ask.id)).status == "open"


async def test_the_inbox_of_approvals_goes_over_all_runs(service: Service) -> None:
    asks = [await asked(service) for _ in range(3)]
    await decide(service, asks[0][1], decision="approve")
    ids = [approval["id"] for _, approval in asks]

    async def found(query: str) -> list[str]:
        return [row["id"] for row in (await service.get(f"/v1/approvals?{query}")).json()["data"]]

    assert await found("") == ids[::-1]
    assert await found("status=open&order=asc") == ids[1:]
    assert await found("status=open&status=approved&order=asc") == ids
    assert await found(f"run_id={asks[1][0]}") == [ids[1]]
    first = (await service.get("/v1/approvals?limit=2")).json()
    assert await found(f"limit=2&after={first['next_cursor']}") == [ids[0]]


async def test_many_are_decided_at_once_each_by_itself(service: Service) -> None:
    asks = [(await asked(service))[1] for _ in range(3)]
    await decide(service, asks[1], by="cat", decision="deny")
    body = {
        "decisions": [
            {"id": asks[0]["id"], "decision": "approve"},
            {"id": asks[1]["id"], "decision": "approve"},
            {"id": "apv_none", "decision": "approve"},
            {"id": asks[2]["id"], "decision": "edit", "edited_arguments": {"amount": -1, "customer": "x"}},
            {"id": asks[2]["id"], "decision": "deny"},
        ]
    }
    reply = await service.post("/v1/approvals:decide", body, **{"x-actor": "bob", "idempotency-key": "k"})
    rows = reply.json()["data"]
    assert [row["ok"] for row in rows] == [True, False, False, False, True]
    assert [row["problem"]["code"] for row in rows if not row["ok"]] == [
        "approval_already_resolved", "approval_not_found", "validation_failed",
    ]  # fmt: skip
    assert rows[3]["problem"]["errors"][0]["pointer"] == "/decisions/3/edited_arguments"
    assert (rows[0]["approval"]["status"], rows[4]["approval"]["status"]) == ("approved", "denied")
    again = await service.post("/v1/approvals:decide", body, **{"x-actor": "bob", "idempotency-key": "k"})
    assert (again.content, again.headers["idempotent-replayed"]) == (reply.content, "true")
    for bad in ({"decisions": []}, {"decisions": [{"id": "x", "decision": "approve"}] * 101}):
        assert (await service.post("/v1/approvals:decide", bad)).json()["errors"][0]["pointer"] == "/decisions"


async def test_a_key_replays_a_decision_to_its_own_person_only(service: Service) -> None:
    _, approval = await asked(service)
    path, body = f"/v1/approvals/{approval['id']}/decide", {"decision": "approve"}
    first = await service.post(path, body, **{"x-actor": "bob", "idempotency-key": "k"})
    again = await service.post(path, body, **{"x-actor": "bob", "idempotency-key": "k"})
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    other = await service.post(path, body, **{"x-actor": "eve", "idempotency-key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_tool_that_was_declared_to_need_approval_asks_without_any_rule(service: Service) -> None:
    run = await service.new_run(agent_inline=SHOP)
    await service.asked(run["id"], ("ship", {"parcel": "p"}), ("charge", CHARGE))
    [approval] = await service.pending(run["id"])
    assert (approval["tool"], approval["rule"]) == ("ship", "tool")


async def test_a_decision_for_the_run_holds_for_the_same_arguments_again(service: Service) -> None:
    run_id, approval = await asked(service)
    await decide(service, approval, decision="approve", scope="run")
    await service.used_tool(run_id, approval["call_id"], "charged")
    await service.asked(run_id, ("charge", CHARGE), ("charge", {"amount": 41, "customer": "ann"}), turn=2)
    [other] = await service.pending(run_id)
    assert other["arguments"]["amount"] == 41


async def test_a_call_whose_outcome_nobody_knows_is_decided_like_an_approval(service: Service) -> None:
    run = await service.new_run(agent_inline={**SHOP, "policy": {"unknown_outcome": "ask"}})
    [call_id] = await service.asked(run["id"], ("charge", CHARGE))
    begun = await service.journal.begin_tool(run["id"], call_id, worker="w", may_repeat=False)
    hash_, far = args_sha256(CHARGE), 4_000_000_000_000
    ask = NewAsk("unknown_outcome", call_id, "charge", hash_, far, rule="policy.unknown_outcome")
    await service.journal.park_tool(run["id"], call_id, begun.attempt, ask)
    [approval] = await service.pending(run["id"])
    assert (approval["type"], approval["about"], approval["tool"]) == ("approval", "unknown_outcome", "charge")
    shown = (await service.get(f"/v1/runs/{run['id']}")).json()["waiting_for"]
    assert [(wait["type"], wait["ref"]) for wait in shown] == [("approval", approval["id"])]
    listed = (await service.get("/v1/approvals?status=open")).json()["data"]
    assert [row["id"] for row in listed] == [approval["id"]]
    assert (await decide(service, approval, decision="approve")).json()["status"] == "approved"
    assert await service.told(run["id"]) == ["approve"]


async def test_waiting_for_a_run_ends_when_it_asks_and_goes_on_once_it_is_answered(service: Service) -> None:
    run_id, approval = await asked(service)
    await service.status(run_id, "requires_action", reason="approval", actions=[])
    asking_now = await service.get(f"/v1/runs/{run_id}", prefer="wait=20")
    assert asking_now.json()["pending_actions"][0]["id"] == approval["id"]
    await decide(service, approval, decision="approve")

    async def go_on() -> None:
        await asyncio.sleep(0.3)
        await service.status(run_id, "resumed")
        await service.journal.force_cancel(run_id, "enough")

    going = asyncio.create_task(go_on())
    reply = await service.get(f"/v1/runs/{run_id}", prefer="wait=20")
    await going
    assert reply.json()["status"] == "cancelled", "the answered approval no longer ends the wait"


async def test_runs_that_need_somebody_are_found(service: Service) -> None:
    run_id, _ = await asked(service)
    await service.status(run_id, "requires_action", reason="approval", actions=[])
    other = (await service.post("/v1/runs", HELLO)).json()["id"]

    async def found(query: str) -> list[str]:
        return [run["id"] for run in (await service.get(f"/v1/runs?{query}")).json()["data"]]

    assert await found("needs_action=true") == [run_id]
    assert await found("needs_action=false") == [other]
    assert await found("needs_action=true&status=queued") == []
    assert await found("needs_action=true&status=requires_action&status=queued") == [run_id]


async def test_a_stream_may_end_where_the_run_asks_somebody(service: Service) -> None:
    run_id, _ = await asked(service)
    await service.status(run_id, "requires_action", reason="approval", actions=[{"type": "approval"}])
    async with service.stream(f"/v1/runs/{run_id}/events?until=requires_action") as reader:
        events = await reader.rest()
    assert events[-1]["event"] == "run.requires_action"

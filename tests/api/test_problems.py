"""Errors are problem documents with codes that never change."""

from __future__ import annotations

import httpx2
import openai
import pytest

from api.problems import CODES
from tests.api.service import Service

FROZEN = {
    400: "invalid_request invalid_json invalid_cursor invalid_last_event_id not_cancellable",
    401: "missing_api_key invalid_api_key expired_api_key",
    402: "budget_exhausted budget_too_small",
    403: "insufficient_scope tool_denied",
    404: "not_found run_not_found session_not_found agent_not_found result_not_found approval_not_found "
    "question_not_found message_not_found call_not_found schedule_not_found",
    405: "method_not_allowed",
    409: "run_terminal invalid_transition session_busy stale_view approval_already_resolved approval_expired "
    "approval_stale tool_result_conflict name_taken too_many_schedules idempotency_in_progress",
    410: "events_expired run_expired",
    412: "version_mismatch",
    413: "payload_too_large",
    422: "validation_failed idempotency_key_reused output_schema_invalid model_not_priced unknown_tool unknown_model",
    428: "precondition_required",
    429: "rate_limited queue_full",
    500: "internal",
    503: "temporal_unavailable journal_unavailable no_workers draining",
}


def test_error_codes_are_frozen() -> None:
    """Clients switch on codes: one may be added here, none may go or change its status."""
    frozen = {code: status for status, codes in FROZEN.items() for code in codes.split()}
    assert {name: code.status for name, code in CODES.items()} == frozen


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/runs/", 404, "not_found"),
        ("PUT", "/v1/runs", 405, "method_not_allowed"),
        ("GET", "/v1/runs/run_none", 404, "run_not_found"),
        ("GET", "/v1/runs/run_none/events", 404, "run_not_found"),
        ("GET", "/v1/runs/run_none/messages", 404, "run_not_found"),
        ("GET", "/v1/runs/run_none/steps", 404, "run_not_found"),
        ("POST", "/v1/runs/run_none/cancel", 404, "run_not_found"),
        ("GET", "/v1/sessions/ses_none", 404, "session_not_found"),
        ("GET", "/v1/sessions/ses_none/messages", 404, "session_not_found"),
        ("GET", "/v1/agents/nobody", 404, "agent_not_found"),
        ("GET", "/v1/approvals/apv_none", 404, "approval_not_found"),
        ("GET", "/v1/approvals/qst_none", 404, "approval_not_found"),
        ("GET", "/v1/questions/qst_none", 404, "question_not_found"),
        ("GET", "/v1/questions/apv_none", 404, "question_not_found"),
        ("GET", "/v1/runs/run_none/inbox", 404, "run_not_found"),
        ("GET", "/v1/runs/run_none/ledger", 404, "run_not_found"),
        ("DELETE", "/v1/runs/run_none/messages/msg_none", 404, "run_not_found"),
        ("POST", "/v1/runs/run_none/pause", 404, "run_not_found"),
        ("POST", "/v1/runs/run_none/resume", 404, "run_not_found"),
        ("POST", "/v1/runs/run_none/calls/call_none/retry", 404, "run_not_found"),
        ("GET", "/v1/agents/nobody/versions", 404, "agent_not_found"),
        ("GET", "/v1/schedules/sch_none", 404, "schedule_not_found"),
        ("GET", "/v1/schedules/sch_none/next", 404, "schedule_not_found"),
        ("GET", "/v1/schedules/sch_none/invocations", 404, "schedule_not_found"),
        ("DELETE", "/v1/schedules/sch_none", 404, "schedule_not_found"),
        ("POST", "/v1/schedules/sch_none/pause", 404, "schedule_not_found"),
        ("POST", "/v1/schedules/sch_none/resume", 404, "schedule_not_found"),
        ("POST", "/v1/schedules/sch_none/trigger", 404, "schedule_not_found"),
    ],
)
async def test_what_is_not_there_is_told_apart(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    reply = await service.http.request(method, path)
    document = reply.json()
    assert (reply.status_code, document["code"], document["status"]) == (status, code, status)
    assert reply.headers["content-type"] == "application/problem+json"


async def test_an_openai_client_reads_the_same_document(service: Service) -> None:
    reply = await service.post("/v1/runs", {"agent_inline": {"model": "nobody/x"}, "input": "x"})
    assert reply.json()["error"] == {
        "message": reply.json()["detail"],
        "type": "invalid_request_error",
        "code": "unknown_model",
        "param": "agent_inline.model",
    }


async def test_the_stock_openai_client_raises_our_code(service: Service) -> None:
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none") as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("x/nothing-here")
    assert caught.value.code == "not_found"


async def test_a_request_id_is_echoed_or_made_and_stands_in_the_problem(service: Service) -> None:
    mine = await service.get("/v1/runs/run_none", **{"x-request-id": "abc-123"})
    assert mine.headers["x-request-id"] == mine.json()["request_id"] == "abc-123"
    made = await service.get("/v1/runs/run_none", **{"x-request-id": "two words"})
    assert made.headers["x-request-id"].startswith("req_")
    assert (await service.get("/healthz")).headers["x-request-id"].startswith("req_")


async def test_a_bug_is_an_internal_problem_that_names_the_request(service: Service) -> None:
    @service.app.get("/v1/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    async with httpx2.AsyncClient(base_url=service.url) as http:
        reply = await http.get("/v1/broken")
    assert (reply.status_code, reply.json()["code"]) == (500, "internal")
    assert reply.headers["x-request-id"] in reply.json()["detail"]


async def test_a_journal_that_is_away_is_a_503_that_may_be_retried(service: Service) -> None:
    service.line.cut = True
    for reply in (await service.get("/v1/runs"), await service.post("/v1/sessions", {})):
        assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (
            503,
            "journal_unavailable",
            True,
        )
        assert int(reply.headers["retry-after"]) > 0
    service.line.cut = False
    assert await service.count("/v1/runs") == 0


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8600", "10.0.0.7", ""])
async def test_a_web_page_that_rebinds_its_name_to_loopback_cannot_speak_to_a_keyless_api(
    service: Service, host: str
) -> None:
    answer = await service.http.get("/v1/runs", headers={"host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("host", ["localhost:1234", "127.0.0.1", "[::1]:8600"])
async def test_loopback_by_any_name_is_answered(service: Service, host: str) -> None:
    assert (await service.http.get("/v1/runs", headers={"host": host})).status_code == 200

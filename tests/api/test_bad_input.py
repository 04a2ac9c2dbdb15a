"""Bad input is refused with a code and a pointer, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.api.service import AGENT, HELLO, Service, serve

pytestmark = pytest.mark.asyncio(loop_scope="module")

INLINE = {"agent_inline": AGENT}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for this file: what is refused leaves nothing behind for the next."""
    async with serve(tmp_path_factory.mktemp("home")) as running:
        yield running


async def _all(service: Service) -> list[Any]:
    """Everything a client can see or have caused."""
    lists = [(await service.get(f"/v1/{kind}?limit=100")).json()["data"] for kind in ("runs", "sessions", "agents")]
    return [*lists, list(service.runs.orders)]


@pytest.mark.parametrize(
    ("body", "status", "code", "pointer"),
    [
        ({}, 422, "validation_failed", "/input"),
        ([], 422, "validation_failed", ""),
        ("text", 422, "validation_failed", ""),
        ({"input": "x"}, 422, "validation_failed", "/agent"),
        ({**HELLO, "agent": "scout"}, 422, "validation_failed", "/agent_inline"),
        ({"agent": "nobody", "input": "x"}, 404, "agent_not_found", "/agent"),
        ({"agent": "nobody@7", "input": "x"}, 404, "agent_not_found", "/agent"),
        ({"agent": "nobody@x", "input": "x"}, 422, "validation_failed", "/agent"),
        ({"agent_inline": {**AGENT, "model": "nobody/x"}, "input": "x"}, 422, "unknown_model", "/agent_inline/model"),
        ({"agent_inline": {**AGENT, "tools": ["calculator", "no"]}, "input": "x"}, 422, "unknown_tool",
         "/agent_inline/tools/1"),
        ({"agent_inline": {**AGENT, "tools": ["calculator", "calculator"]}, "input": "x"}, 422, "validation_failed",
         "/agent_inline/tools/1"),
        ({"agent_inline": {**AGENT, "tools": "calculator"}, "input": "x"}, 422, "validation_failed",
         "/agent_inline/tools"),
        ({"agent_inline": {**AGENT, "model_settings": {"temperature": 9}}, "input": "x"}, 422, "validation_failed",
         "/agent_inline/model_settings/temperature"),
        ({**INLINE, "input": ""}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": " \n"}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": []}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": 7}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": None}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": [{"type": "image"}]}, 422, "validation_failed", "/input/0/type"),
        ({**INLINE, "input": [{"type": "text", "text": "a"}, {"type": "text"}]}, 422, "validation_failed",
         "/input/1/text"),
        ({**INLINE, "input": [{"role": "system", "content": "x"}]}, 422, "validation_failed", "/input/0/role"),
        ({**INLINE, "input": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, 422, "validation_failed",
         "/input/0/content/0/text"),
        ({**INLINE, "input": "a\0b"}, 422, "validation_failed", "/input"),
        ({**INLINE, "input": "x", "metadata": {"a~/b": ["\0"]}}, 422, "validation_failed", "/metadata/a~0~1b/0"),
        ({**HELLO, "session_id": "ses_none"}, 404, "session_not_found", "/session_id"),
        ({**HELLO, "temperature": 1}, 422, "validation_failed", "/temperature"),
        ({**HELLO, "start_at": "2020-01-01T00:00:00Z"}, 422, "validation_failed", "/start_at"),
        ({**HELLO, "deadline": "2020-01-01T00:00:00Z"}, 422, "validation_failed", "/deadline"),
        ({**HELLO, "deadline": "2099-01-01T00:00:00Z"}, 422, "validation_failed", "/deadline"),
        ({**HELLO, "deadline": "2027-01-01T00:00:00"}, 422, "validation_failed", "/deadline"),
        ({**HELLO, "deadline": "tomorrow"}, 422, "validation_failed", "/deadline"),
        ({**HELLO, "deadline": "2027-01-01"}, 422, "validation_failed", "/deadline"),
        *[({**HELLO, member: at}, 422, "validation_failed", f"/{member}") for member in ("deadline", "start_at")
          for at in ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00")],
        ({**HELLO, "deadline": 1798761600}, 422, "validation_failed", "/deadline"),
        ({**HELLO, "limits": {"max_turns": 0}}, 422, "validation_failed", "/limits/max_turns"),
        ({**HELLO, "limits": {"max_turns": True}}, 422, "validation_failed", "/limits/max_turns"),
        ({**HELLO, "limits": {"max_tool_calls": "5"}}, 422, "validation_failed", "/limits/max_tool_calls"),
        ({"agent_inline": {**AGENT, "model_settings": {"temperature": "1"}}, "input": "x"}, 422, "validation_failed",
         "/agent_inline/model_settings/temperature"),
        ({**HELLO, "limits": {"max_turn": 5}}, 422, "validation_failed", "/limits/max_turn"),
        ({**HELLO, "labels": {"a": 1}}, 422, "validation_failed", "/labels/a"),
        ({**HELLO, "labels": {"a": "x" * 257}}, 422, "validation_failed", "/labels/a"),
        ({**HELLO, "labels": {str(n): "" for n in range(65)}}, 422, "validation_failed", "/labels"),
        ({**HELLO, "metadata": {"a": "x" * 17_000}}, 422, "validation_failed", "/metadata"),
        ({**HELLO, "metadata": []}, 422, "validation_failed", "/metadata"),
        ({**HELLO, "metadata": {"n": 2**80}}, 422, "validation_failed", "/metadata/n"),
        ({"agent_inline": {"model": "openai/unpriced-7"}, "input": "x", "budget": {"max_cost_usd": "1"}}, 422,
         "model_not_priced", "/budget/max_cost_usd"),
        ({"agent_inline": {"model": "openai/unpriced-7", "budget": {"max_cost_usd": 1}}, "input": "x"}, 422,
         "model_not_priced", "/agent_inline/budget/max_cost_usd"),
        *[({**HELLO, "budget": {"max_cost_usd": bad}}, 422, "validation_failed", "/budget/max_cost_usd")
          for bad in (-1, 0, "0", "0.000000", "-1", "NaN", "nan", "Infinity", "1e3", "1_000", " 1", "1.", ".5", "", "x",
                      1e-7, "0.0000001", 0.1234567, 1_000_001, "1000000.000001", 1e300, True, [], {})],
        *[({**HELLO, "budget": {name: bad}}, 422, "validation_failed", f"/budget/{name}")
          for name in ("max_tokens", "max_output_tokens") for bad in (-1, 0, 1.5, "5", True, 10**12 + 1)],
        ({**HELLO, "budget": {"on_limit": "ignore"}}, 422, "validation_failed", "/budget/on_limit"),
        ({**HELLO, "budget": {"max_cost": 1}}, 422, "validation_failed", "/budget/max_cost"),
        ({**HELLO, "budget": {"max_tokens": 500, "max_output_tokens": 501}}, 422, "validation_failed",
         "/budget/max_output_tokens"),
        ({**HELLO, "budget": {"max_tokens": 500}}, 402, "budget_too_small", "/budget/max_tokens"),
        ({**HELLO, "budget": {"max_output_tokens": 100}}, 402, "budget_too_small", "/budget/max_output_tokens"),
        ({**HELLO, "budget": {"max_cost_usd": "0.000001"}}, 402, "budget_too_small", "/budget/max_cost_usd"),
        ({"agent_inline": {**AGENT, "budget": {"max_tokens": 500}}, "input": "x"}, 402, "budget_too_small",
         "/agent_inline/budget/max_tokens"),
        ({**HELLO, "limits": {"max_questions": -1}}, 422, "validation_failed", "/limits/max_questions"),
        ({**HELLO, "limits": {"max_depth": 11}}, 422, "validation_failed", "/limits/max_depth"),
        ({**HELLO, "limits": {"turn_timeout_seconds": 0.5}}, 422, "validation_failed", "/limits/turn_timeout_seconds"),
        ({**HELLO, "limits": {"tool_timeouts": {"charge": 5}}}, 422, "unknown_tool", "/limits/tool_timeouts/charge"),
        ({**HELLO, "limits": {"tool_output_bytes_per_turn": 10}}, 422, "validation_failed",
         "/limits/tool_output_bytes_per_turn"),
        ({**HELLO, "limits": {"tools": {"calculator": {}}}}, 422, "validation_failed",
         "/limits/tools/calculator/max_calls"),
        ({**HELLO, "limits": {"tools": {"calculator": {"max_calls": -1}}}}, 422, "validation_failed",
         "/limits/tools/calculator/max_calls"),
        ({**HELLO, "limits": {"tools": {"charge": {"max_calls": 1}}}}, 422, "unknown_tool", "/limits/tools/charge"),
        ({**HELLO, "limits": {"max_tool_calls": 5, "tools": {"calculator": {"max_calls": 6}}}}, 422,
         "validation_failed", "/limits/tools/calculator/max_calls"),
        ({**HELLO, "policy": []}, 422, "validation_failed", "/policy"),
        ({**HELLO, "policy": {"rules": [{"tool": "calculator"}]}}, 422, "validation_failed", "/policy/rules/0/action"),
        ({**HELLO, "policy": {"rules": [{"tool": "calc[", "action": "deny"}]}}, 422, "validation_failed",
         "/policy/rules/0/tool"),
        ({**HELLO, "policy": {"rules": [{"tool": "ship", "action": "deny"}]}}, 422, "unknown_tool",
         "/policy/rules/0/tool"),
        ({**HELLO, "policy": {"default": "maybe"}}, 422, "validation_failed", "/policy/default"),
        ({**HELLO, "client_tools": [{"name": "a b", "parameters": {"type": "object"}}]}, 422, "validation_failed",
         "/client_tools/0/name"),
        ({**HELLO, "client_tools": [{"name": "ship"}]}, 422, "validation_failed", "/client_tools/0/name"),
        ({**HELLO, "client_tools": [{"name": "x"}, {"name": "x"}]}, 422, "validation_failed", "/client_tools/1/name"),
        ({**HELLO, "client_tools": [{"name": "x", "parameters": {"type": 7}}]}, 422, "validation_failed",
         "/client_tools/0/parameters"),
        ({**HELLO, "client_tools": [{"name": "x", "expires_seconds": 0}]}, 422, "validation_failed",
         "/client_tools/0/expires_seconds"),
        ({**HELLO, "stream": "yes"}, 422, "validation_failed", "/stream"),
        ({**HELLO, "stream": 1}, 422, "validation_failed", "/stream"),
    ],
)  # fmt: skip
async def test_a_bad_run_is_refused_with_a_pointer_and_nothing_is_made(
    service: Service, body: Any, status: int, code: str, pointer: str
) -> None:
    before = await _all(service)
    reply = await service.post("/v1/runs", body)
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (status, code), problem
    assert problem["errors"][0]["pointer"] == pointer, problem
    assert await _all(service) == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b'{"input": NaN}', b'{"input": Infinity}', b"\xff\xfe", b'{"a":' * 100_000, b"[" * 200_000,
        b"[" * 100 + b"]" * 100, b'{"n": ' + b"9" * 5_000 + b"}", b"{} {}",
    ],
)  # fmt: skip
async def test_what_is_not_json_is_said_not_to_be(service: Service, body: bytes) -> None:
    before = await _all(service)
    reply = await service.http.post("/v1/runs", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_json")
    assert await _all(service) == before


@pytest.mark.parametrize("text", [rb"\ud800", rb"x \udfff y", rb"\u0000"])
async def test_text_that_no_store_can_keep_is_refused_where_it_stands(service: Service, text: bytes) -> None:
    before = await _all(service)
    body = b'{"agent_inline": {"model": "openai/priced"}, "input": [{"type": "text", "text": "%b"}]}' % text
    reply = await service.http.post("/v1/runs", content=body, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/input/0/text")
    key = b'{"agent_inline": {"model": "openai/priced"}, "input": "x", "labels": {"%b": "1"}}' % text
    reply = await service.http.post("/v1/runs", content=key, headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/labels")
    assert await _all(service) == before


async def test_other_control_characters_and_every_script_come_back_as_they_went_in(service: Service) -> None:
    text = "\x01\x1b[31m\u2028\x85\u202e \U0001f600 \ufeff\uffff é\n\t"
    run = await service.new_run(input=text)
    assert run["input"] == [{"type": "text", "text": text}]
    assert (await service.get(f"/v1/runs/{run['id']}")).json()["input"][0]["text"] == text


async def test_a_key_that_comes_twice_is_ordinary_json(service: Service) -> None:
    body = b'{"agent_inline": {"model": "openai/priced"}, "input": "first", "input": "last"}'
    reply = await service.http.post("/v1/runs", content=body, headers={"content-type": "application/json"})
    assert reply.json()["input"][0]["text"] == "last"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_read_as_json(service: Service, content_type: str) -> None:
    """A web page somewhere else may send forms to this address without asking; it must not start runs."""
    headers = {"content-type": content_type} if content_type else {}
    reply = await service.http.post("/v1/runs", content=b'{"agent":"a","input":"x"}', headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (415, "invalid_request")


async def test_bodies_are_limited_and_large_ones_below_the_limit_are_ordinary(tmp_path: Path) -> None:
    async with serve(tmp_path, limits={"request_bytes_max": 2_000_000}) as service:  # its own: the limit is small
        announced = await service.post("/v1/runs", {**INLINE, "input": "x" * 2_000_001})
        assert (announced.status_code, announced.json()["code"]) == (413, "payload_too_large")

        async def chunks() -> Any:
            for _ in range(30):
                yield b"x" * 100_000

        chunked = await service.http.post("/v1/runs", content=chunks(), headers={"content-type": "application/json"})
        assert (chunked.status_code, chunked.json()["code"]) == (413, "payload_too_large")
        assert await service.count("/v1/runs") == 0
        run = await service.new_run(input="x" * 1_900_000)
        assert len(run["input"][0]["text"]) == 1_900_000


@pytest.mark.parametrize(
    ("path", "code", "parameter"),
    [
        ("/v1/runs?limit=0", "invalid_request", "limit"),
        ("/v1/runs?limit=101", "invalid_request", "limit"),
        ("/v1/runs?limit=many", "invalid_request", "limit"),
        ("/v1/runs?order=up", "invalid_request", "order"),
        ("/v1/runs?status=asleep", "invalid_request", "status"),
        ("/v1/runs?stauts=queued", "invalid_request", "stauts"),
        ("/v1/runs?labels=x", "invalid_request", "labels"),
        ("/v1/runs?created_at[gte]=yesterday", "invalid_request", "created_at[gte]"),
        ("/v1/runs?created_at[lt]=2026-11-30", "invalid_request", "created_at[lt]"),
        ("/v1/runs?needs_action=maybe", "invalid_request", "needs_action"),
        ("/v1/approvals?status=answered", "invalid_request", "status"),
        ("/v1/approvals?after=garbage", "invalid_cursor", "after"),
        ("/v1/approvals?escalated=7", "invalid_request", "escalated"),
        ("/v1/questions?status=approved", "invalid_request", "status"),
        ("/v1/questions?after=a&before=b", "invalid_cursor", "before"),
        ("/v1/usage?group_by=week", "invalid_request", "group_by"),
        ("/v1/usage?from=yesterday", "invalid_request", "from"),
        ("/v1/usage?from=2026-11-30", "invalid_request", "from"),
        ("/v1/usage?before=1796000000", "invalid_request", "before"),
        ("/v1/usage?before=2026-11-30T00:00:00", "invalid_request", "before"),
        ("/v1/usage?until=2027-01-01T00:00:00Z", "invalid_request", "until"),
        ("/v1/runs/RUN/inbox?status=returned", "invalid_request", "status"),
        ("/v1/runs/RUN/inbox?after=-1", "invalid_cursor", "after"),
        ("/v1/runs/RUN/ledger?after=x", "invalid_cursor", "after"),
        ("/v1/runs?after=garbage", "invalid_cursor", "after"),
        ("/v1/runs?after=%00", "invalid_cursor", "after"),
        ("/v1/runs?after=a&before=b", "invalid_cursor", "before"),
        ("/v1/sessions?after=garbage", "invalid_cursor", "after"),
        ("/v1/runs?before=run_zz", "invalid_cursor", "before"),
        ("/v1/agents?before=garbage", "invalid_cursor", "before"),
        ("/v1/agents/x?version=0", "invalid_request", "version"),
        ("/v1/agents/x?version=99999999999999999999", "invalid_request", "version"),
        ("/v1/runs/RUN/messages?after=-1", "invalid_cursor", "after"),
        ("/v1/runs/RUN/steps?after=x", "invalid_cursor", "after"),
        ("/v1/runs/RUN/events?after=x", "invalid_cursor", "after"),
        ("/v1/runs/RUN/events?after=-1", "invalid_cursor", "after"),
        ("/v1/runs/RUN/events?after=999", "invalid_cursor", "after"),
        ("/v1/runs/RUN/events?until=never", "invalid_request", "until"),
        ("/v1/runs/RUN/events?deltas=some", "invalid_request", "deltas"),
        ("/v1/runs/RUN/events?types[]=run.created&types[]=bogus", "invalid_request", "types[]"),
        ("/v1/runs/RUN/events?types=bogus", "invalid_request", "types"),
        ("/v1/runs/RUN/events?follow=maybe", "invalid_request", "follow"),
    ],
)
async def test_a_bad_parameter_is_named(service: Service, path: str, code: str, parameter: str) -> None:
    run = await service.new_run()
    reply = await service.get(path.replace("RUN", run["id"]))
    problem = reply.json()
    assert (reply.status_code, problem["code"]) == (400, code), problem
    assert problem["errors"][0]["parameter"] == parameter


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "0x1", "999", "1 2", "99999999999999999999", "²"])
async def test_a_garbled_last_event_id_is_refused(service: Service, value: str) -> None:
    run = await service.new_run()
    reply = await service.http.get(f"/v1/runs/{run['id']}/events", headers=[(b"last-event-id", value.encode())])
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_last_event_id")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({**AGENT}, "/name"),
        ({"name": "has space", **AGENT}, "/name"),
        ({"name": "agt_x", **AGENT}, "/name"),
        ({"name": "a@1", **AGENT}, "/name"),
        ({"name": "x"}, "/model"),
        ({"name": "x", **AGENT, "tools": ["no"]}, "/tools/0"),
        ({"name": "x", **AGENT, "model": "nobody/x"}, "/model"),
        ({"name": "x", **AGENT, "limits": {"max_cost_usd": 1}}, "/limits/max_cost_usd"),
    ],
)
async def test_a_bad_agent_is_refused_and_not_stored(service: Service, body: Any, pointer: str) -> None:
    before = await _all(service)
    reply = await service.post("/v1/agents", body)
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)
    assert await _all(service) == before


@pytest.mark.parametrize(
    ("at", "status"),
    [
        ("0001-01-01T00:00:00Z", 200), ("9999-12-31T23:59:59Z", 200), ("0001-01-01T00:00:00%2B14:00", 400),
        ("9999-12-31T23:59:59-14:00", 400), ("0001-01-01T00:00:00", 400),
    ],
)  # fmt: skip
async def test_a_filter_by_a_time_at_the_edge_of_the_calendar_is_answered(
    service: Service, at: str, status: int
) -> None:
    for path in ("/v1/runs?created_at[gt]=", "/v1/runs?created_at[lte]=", "/v1/usage?from=", "/v1/usage?before="):
        assert (await service.get(f"{path}{at}")).status_code == status

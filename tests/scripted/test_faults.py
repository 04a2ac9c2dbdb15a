"""Each thing that goes wrong at a vendor goes wrong here, in the vendor's own shape, as often as the script says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.scripted.conftest import Serve, Served
from tests.scripted.test_answers import every_dialect, streamed_or_not

StatusError = (openai.APIStatusError, anthropic.APIStatusError)
ConnectionLost = (openai.APIConnectionError, anthropic.APIConnectionError, httpx2.RemoteProtocolError)


def faulty(serve: Serve, *faults: dict[str, Any], **turn: Any) -> Served:
    return serve({"s": {"turns": [{"text": "All is well in the end.", "chunk": 4, "faults": list(faults), **turn}]}})


def failure(ask: Callable[[], Any]) -> Any:
    with pytest.raises(StatusError) as caught:
        ask()
    return caught.value


def raw(served: Served, dialect: str) -> list[bytes]:
    """The events of a stream as they come over the wire, without an SDK."""
    path = {"responses": "responses", "chat": "chat/completions", "messages": "messages"}[dialect]
    question = [{"role": "user", "content": "go"}]
    body = {"model": "s", "stream": True, "input" if dialect == "responses" else "messages": question}
    received = b""
    try:
        with httpx2.stream("POST", f"{served.url}/v1/{path}", json=body) as response:
            for part in response.iter_raw():
                received += part
    except httpx2.RemoteProtocolError:
        received += b"CUT"
    return received.split(b"\n\n")


@every_dialect
@streamed_or_not
@pytest.mark.parametrize(
    ("status", "openai_type", "anthropic_type"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "invalid_request_error", "authentication_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "tokens", "rate_limit_error"),
        (500, "server_error", "api_error"),
        (503, "server_error", "api_error"),
        (529, "server_error", "overloaded_error"),
    ],
)
def test_an_error_status_comes_once_in_the_shape_of_the_vendor(
    serve: Serve, dialect: str, stream: bool, status: int, openai_type: str, anthropic_type: str
) -> None:
    talk = faulty(serve, {"status": status}).talk(dialect, "s")
    error = failure(lambda: talk.ask(stream))
    assert error.status_code == status
    if dialect == "messages":
        assert error.body["type"] == "error"
        assert error.body["error"]["type"] == anthropic_type
    else:
        assert error.body["type"] == openai_type
        assert {"message", "param", "code"} < error.body.keys()
    assert talk.ask(stream).text == "All is well in the end."


@every_dialect
def test_a_rate_limit_says_when_to_come_back(serve: Serve, dialect: str) -> None:
    limits: list[dict[str, Any]] = [
        {"status": 429, "retry_after_seconds": 1.5},
        {"status": 429, "retry_after_seconds": 2, "retry_after_header": "seconds"},
        {"status": 429, "retry_after_seconds": 3, "retry_after_header": "milliseconds"},
    ]
    talk = faulty(serve, *limits).talk(dialect, "s")
    headers = [failure(talk.ask).response.headers for _ in range(3)]
    assert [(each.get("retry-after"), each.get("retry-after-ms")) for each in headers] == [
        ("1.5", "1500"), ("2", None), (None, "3000"),
    ]  # fmt: skip


@every_dialect
def test_the_retries_of_the_sdk_get_through_a_script_that_recovers(serve: Serve, dialect: str) -> None:
    served = faulty(
        serve, {"status": 429, "retry_after_seconds": 0.01}, {"status": 529, "retry_after_seconds": 0.01, "times": 2}
    )
    assert served.talk(dialect, "s", max_retries=3).ask().text == "All is well in the end."
    assert served.ends() == ["delivered", "delivered", "delivered", "completed"]


@every_dialect
def test_a_fault_is_counted_per_question_and_never_ends_with_always(serve: Serve, dialect: str) -> None:
    served = serve(
        {
            "once": {"turns": [{"text": "x", "faults": [{"status": 500}]}]},
            "always": {"turns": [{"text": "x", "faults": [{"status": 500, "always": True}]}]},
        }
    )
    for question in ("one", "another"):
        talk = served.talk(dialect, "once", question)
        assert failure(talk.ask).status_code == 500
        assert talk.ask().text == "x"
    talk = served.talk(dialect, "once", "one")
    header = {"X-Client-Request-Id": "somebody else"}
    assert failure(lambda: talk.ask(extra_headers=header)).status_code == 500
    assert [failure(served.talk(dialect, "always").ask).status_code for _ in range(5)] == [500] * 5


@every_dialect
def test_a_prompt_that_is_too_long_and_an_empty_account_are_told_in_the_vendors_words(
    serve: Serve, dialect: str
) -> None:
    talk = faulty(serve, {"context_exceeded": True}, {"insufficient_quota": True}).talk(dialect, "s")
    long, poor = failure(talk.ask), failure(talk.ask)
    assert long.status_code == 400
    if dialect == "messages":
        assert "prompt is too long" in long.message
        assert (poor.status_code, poor.body["error"]["type"]) == (402, "billing_error")
    else:
        assert long.code == "context_length_exceeded"
        assert (poor.status_code, poor.code) == (429, "insufficient_quota")


@every_dialect
def test_an_unknown_model_is_told_as_the_vendor_does(serve: Serve, dialect: str) -> None:
    error = failure(serve({}).talk(dialect, "no-such").ask)
    assert error.status_code == 404
    assert "no-such" in error.message
    if dialect != "messages":
        assert error.code == "model_not_found"


@every_dialect
def test_a_connection_cut_after_an_event_ends_there_and_nowhere_else(serve: Serve, dialect: str) -> None:
    served = faulty(serve, {"cut": 3}, {"cut": 0})
    *events, end = raw(served, dialect)
    assert (len(events), end) == (3, b"CUT")
    assert raw(served, dialect) == [b"CUT"]
    assert raw(served, dialect)[-1] == b""
    assert served.ends() == ["cut", "cut", "completed"]


@every_dialect
@streamed_or_not
def test_a_cut_connection_is_an_error_of_the_sdk_and_the_next_try_goes_right(
    serve: Serve, dialect: str, stream: bool
) -> None:
    talk = faulty(serve, {"cut": 4}).talk(dialect, "s")
    with pytest.raises(ConnectionLost):
        talk.ask(stream)
    assert talk.ask(stream).text == "All is well in the end."


@every_dialect
def test_garbage_in_an_event_is_not_json_and_the_others_are(serve: Serve, dialect: str) -> None:
    served = faulty(serve, {"garbage": 3})
    datas = [event[event.index(b"data: ") + 6 :] for event in raw(served, dialect) if b"data: " in event]
    broken = []
    for number, data in enumerate(datas, 1):
        try:
            json.loads(data) if data != b"[DONE]" else None
        except ValueError:
            broken.append(number)
    assert broken == [3]
    assert served.ends() == ["delivered"]


@every_dialect
def test_garbage_without_streaming_is_a_body_that_is_not_json(serve: Serve, dialect: str) -> None:
    talk = faulty(serve, {"garbage": 1}).talk(dialect, "s")
    with pytest.raises((openai.APIResponseValidationError, anthropic.APIResponseValidationError, json.JSONDecodeError)):
        talk.ask(False)
    assert talk.ask(False).text == "All is well in the end."


@every_dialect
def test_all_calls_may_share_one_id(serve: Serve, dialect: str) -> None:
    calls = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    talk = faulty(serve, {"duplicate_call_ids": True, "always": True}, tool_calls=calls).talk(dialect, "s")
    reply = talk.ask(stream=dialect != "responses")  # OpenAI's stream helper refuses them itself
    assert [name for _, name, _ in reply.calls] == ["a", "b", "c"]
    assert len({call_id for call_id, _, _ in reply.calls}) == 1


@every_dialect
@streamed_or_not
def test_an_answer_may_be_empty(serve: Serve, dialect: str, stream: bool) -> None:
    talk = faulty(serve, {"empty": True}, tool_calls=[{"name": "a"}]).talk(dialect, "s")
    reply = talk.ask(stream)
    assert (reply.text, reply.calls, reply.output_tokens) == ("", [], 0)


@every_dialect
def test_an_error_in_the_stream_is_an_error_of_the_sdk(serve: Serve, dialect: str) -> None:
    served = faulty(serve, {"error_event": 4}, {"error_event": 4, "error_as": "error"})
    if dialect == "responses":
        kinds = []
        for _ in range(2):
            *_, last = served.openai().responses.create(
                model="s", input=[{"role": "user", "content": "go"}], stream=True
            )
            kinds.append(last.type)
        assert kinds == ["response.failed", "error"]
    else:
        with pytest.raises((openai.APIError, anthropic.APIError), match=r"[Oo]verloaded"):
            served.talk(dialect, "s").ask()
    assert set(served.ends()) == {"delivered"}


@every_dialect
def test_a_stream_may_end_without_its_last_event(serve: Serve, dialect: str) -> None:
    served = faulty(serve, {"no_terminal_event": True})
    events, ends = raw(served, dialect), {"responses": b"response.completed", "chat": b"[DONE]", "messages": b"_stop"}
    assert events[-1] == b"", "the body itself ends in order"
    assert not any(ends[dialect] in event and b"content_block" not in event for event in events)
    assert b'finish_reason":"stop' not in b"".join(events)
    assert any(ends[dialect] in event and b"content_block" not in event for event in raw(served, dialect))
    assert served.ends() == ["delivered", "completed"]


@every_dialect
@streamed_or_not
def test_a_hanging_answer_runs_into_the_timeout_of_the_client(serve: Serve, dialect: str, stream: bool) -> None:
    served = faulty(serve, {"hang": "forever"})
    with pytest.raises((openai.APITimeoutError, anthropic.APITimeoutError)):
        served.talk(dialect, "s", timeout=0.3).ask(stream)
    served.wait_until(lambda: served.events() == ["asked", "disconnected"])


@every_dialect
def test_a_stream_may_hang_in_the_middle_and_go_on(serve: Serve, dialect: str) -> None:
    served = faulty(serve, {"hang": 0.4, "after_event": 3})
    began = time.monotonic()
    assert served.talk(dialect, "s").ask().text == "All is well in the end."
    assert time.monotonic() - began > 0.4
    served.wait_until(lambda: served.ends() == ["completed"])


@every_dialect
def test_a_key_is_asked_for_only_when_the_server_was_told_to(serve: Serve, dialect: str) -> None:
    strict = serve({"s": {"turns": [{"text": "x"}]}}, require_key=True)
    assert strict.talk(dialect, "s").ask().text == "x"
    path = {"responses": "responses", "chat": "chat/completions", "messages": "messages"}[dialect]
    answer = httpx2.post(f"{strict.url}/v1/{path}", json={"model": "s"})
    assert answer.status_code == 401


def test_openais_stored_responses_are_refused_because_nothing_is_stored(serve: Serve) -> None:
    with pytest.raises(openai.BadRequestError, match="resp_1' not found"):
        serve({}).openai().responses.create(model="hello", input="go", previous_response_id="resp_1")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"{}", b'{"model": 7}', b'{"model": "hello"}',
     b'{"model": "hello", "input": [7], "messages": [7]}'],
)  # fmt: skip
@pytest.mark.parametrize("path", ["responses", "chat/completions", "messages"])
def test_a_malformed_question_is_a_400_and_in_the_log(serve: Serve, path: str, body: bytes) -> None:
    served = serve({})
    answer = httpx2.post(f"{served.url}/v1/{path}", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert served.events() == ["asked", "delivered"]

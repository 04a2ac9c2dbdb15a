"""What the vendors are sent, field by field: their rules about transcripts, not ours."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.content import Block
from perdure.definitions import ModelSettings
from perdure.providers import anthropic_messages, chat_completions, openai_responses
from perdure.providers.answer import parse_arguments
from perdure.providers.openai_responses import ResponsesFold
from tests.providers.conftest import TOOL, message, request, result, said

OPENAI, CLAUDE, LOCAL = "openai/gpt-5.5", "anthropic/claude-opus-5-5", "local/qwen"


def call_block(call_id: str, **arguments: Any) -> Block:
    return {"type": "tool_call", "call_id": call_id, "name": "read_file", "arguments": arguments}


def thought(producer: str, opaque: Any) -> Block:
    return {"type": "reasoning", "text": "hm", "producer": producer, "opaque": opaque}


TURN = (
    said("Read both."),
    message("assistant", {"type": "text", "text": "Sure."}, call_block("c1", path="a"), call_block("c2", path="b")),
    message("tool", result("c2", "B", is_error=True)),
    message("tool", result("c1", "A")),
    said("And now?"),
)


def test_responses_gets_items_in_the_order_of_the_transcript() -> None:
    assert openai_responses.input_items(TURN, OPENAI) == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Read both."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sure."}]},
        {"type": "function_call", "call_id": "c1", "name": "read_file", "arguments": '{"path":"a"}'},
        {"type": "function_call", "call_id": "c2", "name": "read_file", "arguments": '{"path":"b"}'},
        {"type": "function_call_output", "call_id": "c2", "output": "B"},
        {"type": "function_call_output", "call_id": "c1", "output": "A"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And now?"}]},
    ]


def test_chat_gets_one_assistant_message_with_all_its_calls() -> None:
    def chat_call(call_id: str, arguments: str) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": "read_file", "arguments": arguments}}

    assert chat_completions.chat_messages("Be brief.", TURN, LOCAL) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Read both."},
        {
            "role": "assistant",
            "content": "Sure.",
            "tool_calls": [chat_call("c1", '{"path":"a"}'), chat_call("c2", '{"path":"b"}')],
        },
        {"role": "tool", "tool_call_id": "c2", "content": "B"},
        {"role": "tool", "tool_call_id": "c1", "content": "A"},
        {"role": "user", "content": "And now?"},
    ]


def test_messages_gets_all_results_first_in_one_user_message_in_the_order_of_the_calls() -> None:
    assert anthropic_messages.vendor_messages(TURN, CLAUDE) == [
        {"role": "user", "content": [{"type": "text", "text": "Read both."}]},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Sure."},
                {"type": "tool_use", "id": "c1", "name": "read_file", "input": {"path": "a"}},
                {"type": "tool_use", "id": "c2", "name": "read_file", "input": {"path": "b"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "A"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "B", "is_error": True},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_messages_never_holds_empty_text_or_an_empty_message() -> None:
    transcript = (said(" "), message("assistant", {"type": "text", "text": ""}), message("user"), said("x"))
    assert anthropic_messages.vendor_messages(transcript, CLAUDE) == [
        {"role": "user", "content": [{"type": "text", "text": "(no text)"}, {"type": "text", "text": "x"}]}
    ]


def test_reasoning_goes_back_to_the_model_that_made_it_and_to_no_other() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "…"}
    signed = {"type": "thinking", "signature": "sig"}
    told = (message("assistant", thought(OPENAI, item), thought(CLAUDE, signed), thought(LOCAL, {"field": "reasoning"}),
                    {"type": "text", "text": "ok"}),)  # fmt: skip
    assert openai_responses.input_items(told, OPENAI)[0] == item
    assert len(openai_responses.input_items(told, "openai/gpt-6-sol")) == 1
    assert anthropic_messages.vendor_messages(told, CLAUDE)[0]["content"][0] == {
        "type": "thinking",
        "thinking": "hm",
        "signature": "sig",
    }
    assert len(anthropic_messages.vendor_messages(told, "anthropic/claude-sonnet-5")[0]["content"]) == 1
    assert chat_completions.chat_messages("", told, LOCAL) == [
        {"role": "assistant", "content": "ok", "reasoning": "hm"}
    ]
    assert chat_completions.chat_messages("", told, "local/other") == [{"role": "assistant", "content": "ok"}]


def test_redacted_thinking_goes_back_as_it_came() -> None:
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    told = (message("assistant", thought(CLAUDE, redacted), call_block("c1")),)
    assert anthropic_messages.vendor_messages(told, CLAUDE)[0]["content"][0] == redacted


def test_broken_arguments_go_back_as_an_object_to_servers_that_parse_them() -> None:
    broken: Block = {"type": "tool_call", "call_id": "c", "name": "t", "raw_arguments": '{"a'}
    told = (message("assistant", broken),)
    assert openai_responses.input_items(told, OPENAI)[0]["arguments"] == '{"a'
    arguments = chat_completions.chat_messages("", told, LOCAL)[0]["tool_calls"][0]["function"]["arguments"]
    assert arguments == '{"raw_arguments":"{\\"a"}'
    sent = anthropic_messages.vendor_messages(told, CLAUDE)[0]["content"][0]
    assert sent["input"] == {"raw_arguments": '{"a'}


def test_settings_reach_each_vendor_under_its_own_names() -> None:
    settings: ModelSettings = {"temperature": 0.5, "top_p": 0.9, "max_output_tokens": 4000, "reasoning_effort": "low"}
    responses = openai_responses.request_body(request(OPENAI, settings=settings), vendor=True)
    assert {key: responses[key] for key in ("temperature", "top_p", "max_output_tokens", "reasoning")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 4000,
        "reasoning": {"effort": "low"},
    }
    assert (responses["model"], responses["store"], responses["stream"]) == ("gpt-5.5", False, True)
    assert responses["instructions"] == "Be brief."
    assert responses["tools"] == [
        {
            "type": "function",
            "name": "read_file",
            "description": "Reads a file.",
            "parameters": TOOL["parameters"],
            "strict": False,
        }
    ]
    chat = chat_completions.request_body(request(LOCAL, settings=settings), "max_tokens")
    assert (chat["max_tokens"], chat["reasoning_effort"], chat["stream_options"]) == (
        4000,
        "low",
        {"include_usage": True},
    )
    claude = anthropic_messages.request_body(request(CLAUDE, settings=settings), 8192)
    assert (claude["max_tokens"], claude["temperature"]) == (4000, 0.5)
    assert claude["output_config"] == {"effort": "low"}
    assert claude["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    ("model", "cap", "expected"),
    [
        ("claude-sonnet-4-5", 8192, {"thinking": {"type": "enabled", "budget_tokens": 8191}}),
        ("claude-sonnet-4-20250514", 64_000, {"thinking": {"type": "enabled", "budget_tokens": 16_384}}),
        ("claude-opus-4-1-20250805", 64_000, {"thinking": {"type": "enabled", "budget_tokens": 16_384}}),
        ("claude-3-7-sonnet-latest", 1024, {}),
        ("claude-opus-4-7", 8192, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
        ("claude-sonnet-5", 8192, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    ],
)
def test_reasoning_effort_is_a_budget_for_older_claudes_and_an_effort_for_newer(
    model: str, cap: int, expected: dict[str, Any]
) -> None:
    assert anthropic_messages.thinking({"reasoning_effort": "high"}, model, cap) == expected


@pytest.mark.parametrize(
    ("model", "vendor", "sent"),
    [("openai/gpt-5.5", True, True), ("openai/gpt-4.1", True, False), ("mine/gpt-5.5", False, False)],
)
def test_encrypted_reasoning_is_asked_for_only_where_it_exists(model: str, vendor: bool, sent: bool) -> None:
    assert ("include" in openai_responses.request_body(request(model), vendor=vendor)) is sent


def test_claude_is_sent_four_cache_breakpoints_at_system_tools_and_the_last_two_user_messages() -> None:
    body = anthropic_messages.request_body(request(CLAUDE, *TURN, tools=(TOOL, TOOL)), 8192)
    marked = [tool.get("cache_control") for tool in body["tools"]]
    assert marked == [None, {"type": "ephemeral"}]
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    places = [
        (number, index)
        for number, told in enumerate(body["messages"])
        for index, block in enumerate(told["content"])
        if "cache_control" in block
    ]
    assert places == [(0, 0), (2, 2)]


def test_nothing_is_sent_for_instructions_and_tools_that_are_not_there() -> None:
    bare = request(OPENAI, instructions="", tools=())
    assert {"instructions", "tools"}.isdisjoint(openai_responses.request_body(bare, vendor=True))
    assert {"system", "tools"}.isdisjoint(anthropic_messages.request_body(bare, 1))
    chat = chat_completions.request_body(bare, "max_tokens")
    assert "tools" not in chat
    assert [told["role"] for told in chat["messages"]] == ["user"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("  ", {}),
        ('{"a": 1}', {"a": 1}),
        ("[]", None),
        ("null", None),
        ('{"a": NaN}', None),
        ('{"a', None),
        ("[" * 100_000, None),
    ],
)
def test_arguments_are_a_json_object_or_kept_raw(text: str, arguments: object) -> None:
    assert parse_arguments(text) == arguments


def test_a_server_that_tells_all_in_the_last_event_is_understood() -> None:
    fold = ResponsesFold("mine/m")
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "one"}, {"type": "x", "text": "two"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Hi"}, {"type": "refusal", "refusal": "No"}]},
        {"type": "function_call", "call_id": "c", "name": "t", "arguments": ""},
    ]
    fold.feed({"type": "response.completed", "response": {"id": "r", "output": output}})
    answer = fold.answer()
    assert answer.stop == "refusal"
    assert answer.content == [
        {"type": "reasoning", "text": "one\n\ntwo", "producer": "mine/m"},
        {"type": "text", "text": "Hi"},
        {"type": "text", "text": "No"},
        {"type": "tool_call", "call_id": "c", "name": "t", "arguments": {}},
    ]


def test_parts_of_a_reasoning_summary_are_paragraphs() -> None:
    fold = ResponsesFold("openai/m")
    for part, delta in ((0, "First"), (0, " thought."), (1, "Second.")):
        event = {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": part}
        fold.feed(event | {"delta": delta})
    assert fold.answer().content[0] == {
        "type": "reasoning",
        "text": "First thought.\n\nSecond.",
        "producer": "openai/m",
    }


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}


def test_servers_that_number_all_parallel_calls_zero_or_not_at_all_are_understood() -> None:
    for index in ({"index": 0}, {}):
        fold = chat_completions.ChatFold("local/m")
        for call_id, arguments in (("a", '{"n":1}'), ("b", '{"n":2}')):
            fold.feed(chunk(tool_calls=[{**index, "id": call_id, "function": {"name": "t", "arguments": arguments}}]))
        fold.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        answer = fold.answer()
        calls = [(block["call_id"], block.get("arguments")) for block in answer.content if block["type"] == "tool_call"]
        assert calls == [("a", {"n": 1}), ("b", {"n": 2})]
        assert answer.stop == "tool_calls"


def test_a_chat_server_without_usage_leaves_it_zero() -> None:
    fold = chat_completions.ChatFold("local/m")
    fold.feed(chunk(content="Hi"))
    fold.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    assert fold.complete
    assert not fold.settled  # usage may still come
    assert (fold.answer().usage.input_tokens, fold.answer().usage.output_tokens) == (0, 0)

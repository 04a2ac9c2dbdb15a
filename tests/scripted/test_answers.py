"""What a script says reaches the user of an official SDK, in every dialect, streamed or not, validated strictly."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.scripted.conftest import Serve, Served
from tests.scripted.talk import DIALECTS

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

STOPS = {
    "responses": {"end": "end", "max_output_tokens": "max_output_tokens", "refusal": "refusal", "pause": "end"},
    "chat": {"end": "stop", "max_output_tokens": "length", "refusal": "stop", "pause": "stop"},
    "messages": {
        "end": "end_turn",
        "max_output_tokens": "max_tokens",
        "refusal": "refusal",
        "pause": "pause_turn",
    },
}


@every_dialect
@streamed_or_not
def test_reasoning_text_and_parallel_calls_arrive_as_written(serve: Serve, dialect: str, stream: bool) -> None:
    arguments = {"path": "grüße.md", "lines": [1, 2, {"deep": None}]}
    turn = {
        "reasoning": "First I think about it at some length.",
        "text": 'Then I speak. Ünïcödé and "quotes" and a line\nbreak.',
        "tool_calls": [{"name": "read_file", "arguments": arguments}, {"name": "current_time"}],
        "chunk": 7,
    }
    reply = serve({"s": {"turns": [turn]}}).talk(dialect, "s").ask(stream)
    assert reply.reasoning == turn["reasoning"]
    assert reply.text == turn["text"]
    assert [(name, json.loads(text)) for _, name, text in reply.calls] == [
        ("read_file", arguments),
        ("current_time", {}),
    ]
    assert len({call_id for call_id, _, _ in reply.calls}) == 2
    if stream:
        assert reply.pieces > 15  # about 120 characters in pieces of 7


@every_dialect
@streamed_or_not
@pytest.mark.parametrize("stop", ["end", "max_output_tokens", "refusal", "pause"])
def test_each_way_to_stop_is_told_in_the_word_of_the_vendor(
    serve: Serve, dialect: str, stream: bool, stop: str
) -> None:
    reply = serve({"s": {"turns": [{"text": "So far.", "stop": stop}]}}).talk(dialect, "s").ask(stream)
    assert (reply.text, reply.stop) == ("So far.", STOPS[dialect][stop])


@every_dialect
@streamed_or_not
def test_usage_is_what_the_script_says(serve: Serve, dialect: str, stream: bool) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 50, "cache_read_tokens": 900, "reasoning_tokens": 20}
    reply = serve({"s": {"turns": [{"text": "x", "usage": usage}]}}).talk(dialect, "s").ask(stream)
    assert (reply.input_tokens, reply.cache_read_tokens, reply.output_tokens) == (1000, 900, 50)


@every_dialect
def test_usage_without_a_word_in_the_script_grows_with_the_question_and_the_answer(serve: Serve, dialect: str) -> None:
    served = serve({"s": {"turns": [{"text": {"lorem": 100}}]}, "t": {"turns": [{"text": {"lorem": 200}}]}})
    short, long = served.talk(dialect, "s").ask(), served.talk(dialect, "s", "go " * 1000).ask()
    assert long.input_tokens - short.input_tokens == pytest.approx(3000 / 4, abs=2)
    assert short.output_tokens == long.output_tokens == -(-len(short.text) // 4)
    assert served.talk(dialect, "t").ask().output_tokens > 1.8 * short.output_tokens


@every_dialect
def test_with_cache_what_was_sent_before_counts_as_read_from_the_cache(serve: Serve, dialect: str) -> None:
    turns = [{"text": "a", "tool_calls": [{"name": "f"}]}, {"text": "b"}]
    talk = serve({"s": {"turns": turns, "cache": True}}).talk(dialect, "s", "a long question " * 100)
    first = talk.ask()
    talk.answer_calls("short")
    second = talk.ask()
    assert first.cache_read_tokens == 0
    assert first.input_tokens * 0.8 < second.cache_read_tokens < second.input_tokens


@every_dialect
@streamed_or_not
def test_arguments_that_are_not_json_arrive_as_the_model_wrote_them(serve: Serve, dialect: str, stream: bool) -> None:
    served = serve({"s": {"turns": [{"tool_calls": [{"name": "f", "raw_arguments": '{"path": '}]}]}})
    if dialect == "messages" and stream:  # the helper of the SDK refuses such a stream itself; its events do not
        events = served.anthropic().messages.create(
            model="s", max_tokens=9, messages=[{"role": "user", "content": "go"}], stream=True
        )
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        assert "".join(delta.partial_json for delta in deltas if delta.type == "input_json_delta") == '{"path": '
        return
    [(_, _, arguments)] = served.talk(dialect, "s").ask(stream).calls
    assert '{\\"path\\": ' in arguments if dialect == "messages" else arguments == '{"path": '


@every_dialect
def test_the_model_may_be_named_with_the_prefix_of_the_product(serve: Serve, dialect: str) -> None:
    assert serve({}).talk(dialect, "scripted/hello").ask().text.startswith("Hello")


def test_without_being_asked_for_it_openai_sends_no_encrypted_reasoning_and_no_usage_chunk(serve: Serve) -> None:
    client = serve({"s": {"turns": [{"reasoning": "hm", "text": "x"}]}}).openai()
    item = client.responses.create(model="s", input="go").output[0]
    assert item.type == "reasoning"
    assert item.encrypted_content is None
    chunks = client.chat.completions.create(model="s", messages=[{"role": "user", "content": "go"}], stream=True)
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_the_events_of_a_responses_stream_come_in_the_order_of_the_vendor(serve: Serve) -> None:
    turn = {"reasoning": "hm", "text": "x", "tool_calls": [{"name": "f"}]}
    stream = serve({"s": {"turns": [turn]}}).openai().responses.create(model="s", input="go", stream=True)
    assert [event.type.removeprefix("response.") for event in stream] == [
        "created", "in_progress",
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip


async def test_the_asynchronous_clients_get_the_same(serve: Serve) -> None:
    served = serve({"s": {"turns": [{"text": "Same for all."}]}})
    question: list[Any] = [{"role": "user", "content": "go"}]
    async with served.async_openai() as vendor, served.async_anthropic() as other:
        response = await vendor.responses.create(model="s", input="go")
        deltas = [
            event.delta
            async for event in await vendor.responses.create(model="s", input="go", stream=True)
            if event.type == "response.output_text.delta"
        ]
        completion = await vendor.chat.completions.create(model="s", messages=question)
        message = await other.messages.create(model="s", max_tokens=9, messages=question)
        async with other.messages.stream(model="s", max_tokens=9, messages=question) as stream:
            streamed = await stream.get_final_text()
    texts = [response.output_text, "".join(deltas), completion.choices[0].message.content, streamed]
    assert [*texts, message.content[0].text] == ["Same for all."] * 5


def test_models_are_listed_and_found_by_both_vendors_clients(serve: Serve) -> None:
    served = serve({"mine": {"turns": [{"text": "x"}]}})
    for client in (served.openai(), served.anthropic()):
        assert {"mine", "hello", "tour"} <= {model.id for model in client.models.list().data}
        assert client.models.retrieve("mine").id == "mine"


def test_tokens_are_counted_without_an_answer(serve: Serve) -> None:
    client = serve({}).anthropic()
    short, long = (
        client.messages.count_tokens(model="hello", messages=[{"role": "user", "content": text}]).input_tokens
        for text in ("hi", "hi" * 400)
    )
    assert long - short == pytest.approx(200, abs=2)


def test_a_response_says_what_it_was_asked(serve: Serve) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
    served: Served = serve({})
    answer = served.openai().responses.create(
        model="hello", input="go", instructions="Be brief.", tools=[tool], reasoning={"effort": "low"}, store=False
    )
    assert answer.instructions == "Be brief."
    assert isinstance(answer.tools[0], openai.types.responses.FunctionTool)
    assert answer.reasoning is not None
    assert answer.reasoning.effort == "low"

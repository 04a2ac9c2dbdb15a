"""One conversation in each dialect through the official SDK, so that a promise is tested in all three."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass
class Reply:
    """What the SDK understood. ``calls`` are (id, name, arguments as text); ``usage`` in our words."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    stop: str = ""
    input_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    pieces: int = 0


class Talk(Protocol):
    """``ask`` adds the reply to the transcript; ``answer_calls`` adds a result for each of its calls."""

    def __init__(self, client: Any, model: str, user: str) -> None: ...

    def ask(self, stream: bool = True, **extra: Any) -> Reply: ...

    def answer_calls(self, result: str) -> None: ...

    def say(self, user: str) -> None: ...


class ResponsesTalk:
    def __init__(self, client: Any, model: str, user: str) -> None:
        self.client, self.model = client, model
        self.transcript: list[Any] = []
        self.open: list[str] = []
        self.say(user)

    def say(self, user: str) -> None:
        self.transcript.append({"role": "user", "content": [{"type": "input_text", "text": user}]})

    def answer_calls(self, result: str) -> None:
        for call_id in self.open:
            self.transcript.append({"type": "function_call_output", "call_id": call_id, "output": result})
        self.open = []

    def ask(self, stream: bool = True, **extra: Any) -> Reply:
        request = {"model": self.model, "input": self.transcript, "include": ["reasoning.encrypted_content"], **extra}
        reply = Reply()
        if stream:
            with self.client.responses.stream(**request) as events:
                numbers = []
                for event in events:
                    numbers.append(event.sequence_number)
                    reply.pieces += event.type.endswith(".delta")
                    if event.type in ("response.completed", "response.incomplete"):
                        whole = event.response
            assert numbers == list(range(len(numbers)))
        else:
            whole = self.client.responses.create(**request)
        for item in whole.output:
            match item.type:
                case "reasoning":
                    reply.reasoning += "".join(part.text for part in item.summary)
                    assert item.encrypted_content
                case "message":
                    reply.text += "".join(
                        part.text if part.type == "output_text" else part.refusal for part in item.content
                    )
                case "function_call":
                    reply.calls.append((item.call_id, item.name, item.arguments))
        refused = any(item.type == "message" and item.content[0].type == "refusal" for item in whole.output)
        reply.stop = "refusal" if refused else whole.incomplete_details.reason if whole.incomplete_details else "end"
        reply.input_tokens = whole.usage.input_tokens
        reply.cache_read_tokens = whole.usage.input_tokens_details.cached_tokens
        reply.output_tokens = whole.usage.output_tokens
        self.transcript += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in whole.output]
        self.open = [call_id for call_id, _, _ in reply.calls]
        return reply


class ChatTalk:
    def __init__(self, client: Any, model: str, user: str) -> None:
        self.client, self.model = client, model
        self.transcript: list[Any] = [{"role": "system", "content": "Be scripted."}]
        self.open: list[str] = []
        self.say(user)

    def say(self, user: str) -> None:
        self.transcript.append({"role": "user", "content": user})

    def answer_calls(self, result: str) -> None:
        for call_id in self.open:
            self.transcript.append({"role": "tool", "tool_call_id": call_id, "content": result})
        self.open = []

    def ask(self, stream: bool = True, **extra: Any) -> Reply:
        request = {"model": self.model, "messages": self.transcript, **extra}
        reply = Reply()
        if stream:
            calls: dict[int, list[str]] = {}
            chunks = list(
                self.client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
            )
            for chunk in chunks:
                if not chunk.choices:
                    usage = chunk.usage
                    continue
                delta = chunk.choices[0].delta
                thought = getattr(delta, "reasoning_content", None) or ""
                reply.reasoning += thought
                reply.text += delta.content or delta.refusal or ""
                reply.stop = chunk.choices[0].finish_reason or reply.stop
                for part in delta.tool_calls or []:
                    if part.id:
                        calls[part.index] = [part.id, part.function.name, ""]
                    calls[part.index][2] += part.function.arguments
                reply.pieces += bool(delta.content or thought or delta.tool_calls)
            assert chunks[0].choices[0].delta.role == "assistant"
            reply.calls = [(call[0], call[1], call[2]) for call in calls.values()]
        else:
            whole = self.client.chat.completions.create(**request)
            message, usage = whole.choices[0].message, whole.usage
            reply.text = message.content or message.refusal or ""
            reply.reasoning = getattr(message, "reasoning_content", "")
            reply.calls = [(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []]
            reply.stop = whole.choices[0].finish_reason
        reply.input_tokens, reply.output_tokens = usage.prompt_tokens, usage.completion_tokens
        reply.cache_read_tokens = usage.prompt_tokens_details.cached_tokens
        said: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if reply.calls:
            said["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                for call_id, name, arguments in reply.calls
            ]
        self.transcript.append(said)
        self.open = [call_id for call_id, _, _ in reply.calls]
        return reply


class MessagesTalk:
    def __init__(self, client: Any, model: str, user: str) -> None:
        self.client, self.model = client, model
        self.transcript: list[Any] = []
        self.open: list[str] = []
        self.say(user)

    def say(self, user: str) -> None:
        self.transcript.append({"role": "user", "content": user})

    def answer_calls(self, result: str) -> None:
        results = [{"type": "tool_result", "tool_use_id": call_id, "content": result} for call_id in self.open]
        self.transcript.append({"role": "user", "content": results})
        self.open = []

    def ask(self, stream: bool = True, **extra: Any) -> Reply:
        request = {"model": self.model, "max_tokens": 1000, "messages": self.transcript, **extra}
        reply = Reply()
        if stream:
            with self.client.messages.stream(**request) as events:
                for event in events:
                    reply.pieces += event.type == "content_block_delta"
            whole = events.get_final_message()
        else:
            whole = self.client.messages.create(**request)
        for block in whole.content:
            match block.type:
                case "thinking":
                    reply.reasoning += block.thinking
                    assert block.signature
                case "text":
                    reply.text += block.text
                case "tool_use":
                    reply.calls.append((block.id, block.name, json.dumps(block.input)))
        reply.stop = whole.stop_reason
        reply.cache_read_tokens = whole.usage.cache_read_input_tokens
        reply.input_tokens = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
        reply.output_tokens = whole.usage.output_tokens
        content = [block.model_dump(exclude_none=True, exclude={"parsed_output"}) for block in whole.content]
        self.transcript.append({"role": "assistant", "content": content})
        self.open = [call_id for call_id, _, _ in reply.calls]
        return reply


DIALECTS: dict[str, type[Talk]] = {"responses": ResponsesTalk, "chat": ChatTalk, "messages": MessagesTalk}

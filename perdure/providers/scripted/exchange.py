"""One model call from question to end: choose the turn, do what it says, log what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from perdure.providers.scripted.client import BODY_BYTES_MAX, BodyTooLarge, Client, ClientGone, Headers
from perdure.providers.scripted.faults import FaultCounts, problem_of, retry_after_headers, spoil
from perdure.providers.scripted.gates import Gates
from perdure.providers.scripted.library import Library
from perdure.providers.scripted.log import CallLog, LogEvent
from perdure.providers.scripted.script import FaultSpec, Script, Turn
from perdure.providers.scripted.select import (
    ScriptOver,
    cached_prefix_bytes,
    compose,
    output_cap,
    read_position,
    turn_for,
)
from perdure.providers.scripted.wire import Answer, BadTranscript, Dialect, Problem

PREFIX = "scripted/"
ERROR_EVENT_MESSAGE = "Overloaded"
SSE_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Refused(Exception):
    """The question is answered with an error."""

    def __init__(self, problem: Problem, headers: Headers | None = None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.headers = headers or []


class Broken(Exception):
    """The script breaks the connection off here."""


@dataclass(slots=True)
class Vendors:
    """What all exchanges of a server share."""

    library: Library
    log: CallLog
    require_key: bool = False
    gates: Gates = field(default_factory=Gates)
    counts: FaultCounts = field(default_factory=FaultCounts)


@dataclass(slots=True)
class Question:
    """A request that names a script and can be answered."""

    body: dict[str, Any]
    script: Script
    turn: Turn
    answer: Answer
    fault: FaultSpec


class Exchange:
    """One request in one dialect. ``run`` ends with exactly one closing line in the log."""

    def __init__(self, vendors: Vendors, dialect: Dialect, client: Client) -> None:
        self._vendors = vendors
        self._dialect = dialect
        self._client = client
        self._raw = b""
        self._facts: dict[str, Any] = {
            "dialect": dialect.NAME,
            "script": None,
            "turn": None,
            "stream": False,
            "request_key": client.header(b"x-client-request-id"),
            "body_sha256": "",
            "status": None,
            "input_bytes": 0,
            "usage": None,
        }

    async def run(self) -> None:
        client = self._client
        try:
            self._raw = await client.read_body()
        except ClientGone:
            return  # nothing was asked
        except BodyTooLarge:
            self._log("asked")
            too_large = Problem(413, "too_large", f"The request is over {BODY_BYTES_MAX} bytes.")
            await self._refuse(Refused(too_large))
            return
        client.watch()
        try:
            await self._answer()
        except Refused as refused:
            await self._refuse(refused)
        except Broken:
            self._log("cut")  # returning before the end makes the server close the connection
        except ClientGone:
            self._log("disconnected")
        except asyncio.CancelledError:
            self._log("cut")  # the server is stopping
            raise
        finally:
            client.unwatch()

    async def _answer(self) -> None:
        try:
            question = self._read_question()
        finally:
            self._log("asked")
        turn, fault = question.turn, question.fault
        if fault.hang is not None and fault.after_event is None:
            await self._client.pause(hang_seconds(fault))
        if turn.wait_for is not None and turn.hold_after_chunks is None:
            await self._vendors.gates.wait(turn.wait_for, self._client)
        if turn.delay_seconds:
            await self._client.pause(turn.delay_seconds)
        self._facts["status"] = 200
        if self._facts["stream"]:
            await self._stream(question)
        else:
            await self._whole(question)

    def _read_question(self) -> Question:
        """What is asked, and what the script says to it. Refused."""
        dialect, facts = self._dialect, self._facts
        facts["input_bytes"] = len(self._raw)
        facts["body_sha256"] = sha = hashlib.sha256(self._raw).hexdigest()
        try:
            body = from_json(self._raw)
        except ValueError as error:
            raise Refused(Problem(400, "status", f"The body is not JSON: {error}")) from None
        if not isinstance(body, dict):
            raise Refused(Problem(400, "status", "The body must be a JSON object."))
        facts["stream"] = body.get("stream") is True
        script = self._find_script(body)
        try:
            position = read_position(dialect, body)
            index, turn = turn_for(script, position, body)
        except (BadTranscript, ScriptOver) as error:
            raise Refused(Problem(400, "status", str(error))) from None
        facts["turn"] = index + 1
        cached = cached_prefix_bytes(dialect, body, position, len(self._raw)) if script.cache else 0
        answer = compose(
            script, turn, index, position, body_sha256=sha, body_bytes=len(self._raw), cached_bytes=cached,
            cap=output_cap(body),
        )  # fmt: skip
        fault = self._vendors.counts.next(turn.faults, script.name, str(index), sha, facts["request_key"] or "")
        if problem := problem_of(fault, dialect, answer.tokens.input):
            raise Refused(problem, retry_after_headers(fault))
        answer = spoil(answer, fault)
        facts["usage"] = asdict(answer.tokens)
        return Question(body, script, turn, answer, fault)

    def _find_script(self, body: dict[str, Any]) -> Script:
        if self._vendors.require_key and not has_key(self._client):
            raise Refused(Problem(401, "status", "You didn't provide an API key."))
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Refused(Problem(400, "status", "Missing required parameter: 'model'."))
        self._facts["script"] = name = model.removeprefix(PREFIX)
        library = self._vendors.library
        script = library.find(name)
        if script is None:
            unread = library.unread()
            if self._dialect.NAME == "messages":
                words = f"model: {model}" + (f". {unread}" if unread else "")
            else:
                words = f"The model `{model}` does not exist. {unread}".rstrip()
            raise Refused(Problem(404, "unknown_model", words))
        return script

    async def _whole(self, question: Question) -> None:
        client, fault = self._client, question.fault
        if fault.error_event is not None:
            raise Refused(Problem(500, "status", fault.message or ERROR_EVENT_MESSAGE))
        body = to_json(self._dialect.whole(question.body, question.answer))
        if fault.hang is not None and fault.after_event is not None:
            await client.pause(hang_seconds(fault))
        if fault.garbage is not None or fault.no_terminal_event:
            body = body[: len(body) * 2 // 3]
        sized = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await client.settle()
        await client.start(200, sized + self._id_headers(question.answer.id))
        self._log("first_byte")
        if fault.cut is not None:
            await client.write(body[: len(body) // 2])
            raise Broken
        await client.write(body, more=False)
        self._log("completed" if fault.garbage is None and not fault.no_terminal_event else "delivered")

    async def _stream(self, question: Question) -> None:
        client, turn, fault, answer = self._client, question.turn, question.fault, question.answer
        await client.start(200, SSE_HEADERS + self._id_headers(answer.id))
        self._log("first_byte")
        sent = pieces = 0
        for event in self._dialect.events(question.body, answer):
            if sent == fault.cut:
                raise Broken
            if sent == fault.error_event:
                await self._break_off(question, sent)
                return
            if fault.hang is not None and sent == fault.after_event:
                await client.pause(hang_seconds(fault))
            if event.piece:
                if turn.wait_for is not None and pieces == turn.hold_after_chunks:
                    await self._vendors.gates.wait(turn.wait_for, client)
                if turn.chunk_delay_seconds and pieces:
                    await client.pause(turn.chunk_delay_seconds)
                pieces += 1
            if event.last:
                if fault.no_terminal_event:
                    break
                await client.settle()
            sent += 1
            await client.write(event.encode_garbage() if sent == fault.garbage else event.encode())
        await client.settle()
        if sent == fault.cut:
            raise Broken
        await client.write(b"", more=False)
        broken = fault.no_terminal_event or (fault.garbage is not None and fault.garbage <= sent)
        self._log("delivered" if broken else "completed")

    async def _break_off(self, question: Question, sent: int) -> None:
        """The error in the middle of a stream, which then ends in order."""
        fault = question.fault
        problem = Problem(529, fault.error_as, fault.message or ERROR_EVENT_MESSAGE)
        for event in self._dialect.error_events(question.body, question.answer, problem, sent):
            await self._client.write(event.encode())
        await self._client.write(b"", more=False)
        self._log("delivered")

    async def _refuse(self, refused: Refused) -> None:
        problem = refused.problem
        self._facts["status"] = problem.status
        headers = self._id_headers(secrets.token_hex(12)) + refused.headers
        try:
            await self._client.send_json(problem.status, self._dialect.error(problem), headers)
        except ClientGone:
            self._log("disconnected")
        else:
            self._log("delivered")

    def _id_headers(self, request_id: str) -> Headers:
        name = b"request-id" if self._dialect.NAME == "messages" else b"x-request-id"
        return [(name, f"req_{request_id}".encode())]

    def _log(self, event: LogEvent) -> None:
        self._vendors.log.write(event, self._facts)


def has_key(client: Client) -> bool:
    return bool(client.header(b"authorization") or client.header(b"x-api-key"))


def hang_seconds(fault: FaultSpec) -> float | None:
    return None if fault.hang == "forever" else fault.hang

"""A vendor's official SDK, made at first use: credentials, HTTP, errors and event framing are the SDK's.

Requests go through the SDK's public ``client.post`` with ``cast_to=object``: it gives the events as plain
dictionaries. The generated ``create`` methods walk the whole transcript and build a model of every event;
for 400 messages of 2 KB and 200 events that is 207 ms of CPU instead of 8 (chat completions: 89 instead of 9).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic_core import PydanticSerializationError, to_json

from perdure.providers.errors import trouble_of
from perdure.providers.port import Answer, ModelRequest, ModelTrouble, Piece

CONNECT_SECONDS = 10.0  # a reachable vendor answers a handshake in under one
READ_SECONDS = 120.0  # of silence between two events; reasoning models pause, but send pings or summaries
WRITE_SECONDS = 60.0  # a transcript of some MiB over a slow line
POOL_SECONDS = 30.0  # for a free connection; the SDKs allow 1,000 at once
DRAIN_SECONDS = 0.1  # after the last event, for the end of the body: the connection can then be used again


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """Where an SDK client gets its address and key from.

    ``base_url`` None: all from the SDK's own environment variables. Otherwise the key is ``api_key``, or
    the value of ``api_key_env``, or ``"none"`` when neither is given.
    """

    endpoint: str
    sdk: Literal["openai", "anthropic"]
    base_url: str | None = None
    api_key: str | None = None
    api_key_env: str | None = None


class Fold(Protocol):
    """Folds one dialect's events into an answer."""

    def feed(self, event: Mapping[str, Any]) -> list[Piece]:
        """Take an event. ModelTrouble when the vendor reports an error in it."""
        ...

    @property
    def complete(self) -> bool:
        """An orderly end of the stream would be the end of the answer."""
        ...

    @property
    def settled(self) -> bool:
        """Nothing that matters can follow, not even usage."""
        ...

    def answer(self) -> Answer: ...


class SdkClient:
    """One endpoint's client, shared by all its calls. Bound to the event loop that first uses it."""

    def __init__(self, config: ClientConfig, read_timeout_seconds: float = READ_SECONDS) -> None:
        self._config = config
        self._read_timeout_seconds = read_timeout_seconds
        self._sdk: Any = None
        self._stream_class: Any = None
        self._making = asyncio.Lock()

    async def ready(self) -> None:
        """Import the SDK and make the client, once, in a thread (an import takes about a second, TLS set-up 30 ms).
        ModelTrouble("auth") when the key is missing."""
        async with self._making:
            if self._sdk is None:
                self._sdk, self._stream_class = await asyncio.to_thread(_make, self._config, self._read_timeout_seconds)

    async def close(self) -> None:
        async with self._making:
            if self._sdk is not None:
                await self._sdk.close()
                self._sdk = None

    async def events(
        self, path: str, body: Mapping[str, Any], request: ModelRequest
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Post ``body`` and give the events of the answer. ModelTrouble. Closing it early closes the response."""
        started = False
        stream: Any = None
        try:
            await self.ready()
            stream = await self._sdk.post(
                path,
                content=_encoded(request.model, body),
                cast_to=object,
                stream=True,
                stream_cls=self._stream_class,
                options={"headers": {"X-Client-Request-Id": request.request_key}},
            )
            async for event in stream:
                if isinstance(event, Mapping):
                    started = True
                    yield event
        except ModelTrouble:
            raise
        except Exception as error:
            trouble = trouble_of(error, model=request.model, started=started)
            if trouble is None:
                raise
            raise trouble from error
        finally:
            if stream is not None:
                await stream.close()

    async def stream(
        self, path: str, body: Mapping[str, Any], request: ModelRequest, fold: Fold
    ) -> AsyncGenerator[Piece | Answer, None]:
        """The pieces of one call and then its answer. A stream without its terminal event is trouble."""
        events = self.events(path, body, request)
        try:
            async for event in events:
                for piece in _fed(fold, event, request.model):
                    yield piece
                if fold.settled:
                    with suppress(TimeoutError, ModelTrouble):  # the answer is whole, whatever its tail does
                        async with asyncio.timeout(DRAIN_SECONDS):
                            async for _ in events:
                                pass
                    break
        finally:
            await events.aclose()
        if not fold.complete:
            raise ModelTrouble("truncated_stream", f"{request.model}: the stream ended before the answer did")
        yield fold.answer()


def _fed(fold: Fold, event: Mapping[str, Any], model: str) -> list[Piece]:
    try:
        return fold.feed(event)
    except (KeyError, IndexError, TypeError, AttributeError) as error:  # shapes that no version of the dialect has
        raise ModelTrouble(
            "truncated_stream", f"{model}: the stream holds an event that makes no sense: {error!r}"
        ) from error


def _encoded(model: str, body: Mapping[str, Any]) -> bytes:
    """The body as JSON. Half the CPU of the standard encoder, which takes over for what this one refuses."""
    with suppress(PydanticSerializationError):
        return to_json(body)
    try:
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelTrouble("bad_request", f"{model}: the request is not JSON: {error}") from error
    return text.encode(errors="replace")  # lone surrogates become "?": no vendor takes them


def _make(config: ClientConfig, read_timeout_seconds: float) -> tuple[Any, Any]:
    """The SDK's client and the class of its streams, without retries: Temporal retries."""
    import httpx2

    timeout = httpx2.Timeout(connect=CONNECT_SECONDS, read=read_timeout_seconds, write=WRITE_SECONDS, pool=POOL_SECONDS)
    options = {"max_retries": 0, "timeout": timeout}
    return _make_openai(config, options) if config.sdk == "openai" else _make_anthropic(config, options)


def _make_openai(config: ClientConfig, options: dict[str, Any]) -> tuple[Any, Any]:
    import openai

    if config.base_url is None:
        try:
            return openai.AsyncOpenAI(**options), openai.AsyncStream[object]
        except openai.OpenAIError as error:
            raise ModelTrouble("auth", f"{config.endpoint}: no credentials: set OPENAI_API_KEY ({error})") from error
    if is_loopback(config.base_url):
        options["http_client"] = openai.DefaultAsyncHttpxClient(trust_env=False)  # no proxy can reach loopback
    client = openai.AsyncOpenAI(base_url=config.base_url, api_key=_key(config), **options)
    client.organization = client.project = None  # those of OPENAI_ORG_ID are not this server's business
    return client, openai.AsyncStream[object]


def _make_anthropic(config: ClientConfig, options: dict[str, Any]) -> tuple[Any, Any]:
    import anthropic

    if config.base_url is None:
        return anthropic.AsyncAnthropic(**options), anthropic.AsyncStream[object]
    if is_loopback(config.base_url):
        options["http_client"] = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    client = anthropic.AsyncAnthropic(base_url=config.base_url, api_key=_key(config), **options)
    return client, anthropic.AsyncStream[object]


def _key(config: ClientConfig) -> str:
    if config.api_key is not None:
        return config.api_key
    if config.api_key_env is None:
        return "none"  # the SDKs insist on a key; servers without authentication ignore it
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ModelTrouble("auth", f"{config.endpoint}: no API key: set {config.api_key_env}")
    return key


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

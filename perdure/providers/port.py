"""The model port: one request shape in, one stream shape out, few named troubles.

Adapters (``openai_responses.py``, ``chat_completions.py``, ``anthropic_messages.py``) translate to the
official SDKs; nothing else in Perdure knows a vendor's words. The SDKs are imported when the first
call is made, never before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from perdure.content import Block, Message
from perdure.contract import TRANSIENT_MODEL_TROUBLE, ModelTroubleCode
from perdure.core.state import Usage
from perdure.definitions import ModelSettings, ToolDescription


class ModelTrouble(Exception):
    """A model call that failed at the vendor. ``retryable`` follows from the code."""

    def __init__(
        self,
        code: ModelTroubleCode,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code: ModelTroubleCode = code
        self.message = message
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def retryable(self) -> bool:
        return self.code in TRANSIENT_MODEL_TROUBLE


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """``model`` is the full name (``openai/gpt-5.5``). ``transcript`` is already repaired. ``request_key``
    (``run_id:call key``) goes to the vendor as ``X-Client-Request-Id``."""

    model: str
    instructions: str
    transcript: Sequence[Message]
    tools: Sequence[ToolDescription]
    settings: ModelSettings
    request_key: str
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a block while it streams. ``kind`` is text, reasoning or tool_args; ``index`` counts the
    blocks of the answer from 0."""

    kind: str
    text: str
    index: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The whole answer, always the last item of a stream that did not raise.

    Tool-call blocks carry the vendor's call ids; the caller gives them ours. ``stop`` is one of
    ``end, tool_calls, max_output_tokens, refusal, pause``. ``usage.cost_micros`` is 0 and
    ``unpriced_calls`` 0 here: pricing is the catalogue's.
    """

    content: list[Block]
    stop: str
    usage: Usage
    vendor_id: str | None = None


class ModelPort(Protocol):
    def stream(self, request: ModelRequest) -> AsyncIterator[Piece | Answer]:
        """Stream one answer. Closing the iterator early aborts the call at the vendor. ModelTrouble."""
        ...


class UnknownModel(Exception):
    """No such model: the message names the known prefixes or models."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A row of GET /v1/models. Prices in micro-USD per million tokens, None when unpriced."""

    id: str
    endpoint: str
    dialect: str
    input_price_micros: int | None
    output_price_micros: int | None
    context_tokens: int | None = None


class ModelCatalog(Protocol):
    """Which models there are, who serves them, what they cost."""

    def check(self, model: str) -> None:
        """UnknownModel when no configured endpoint serves it. No network."""
        ...

    def port(self, model: str) -> ModelPort:
        """The adapter that serves it. UnknownModel."""
        ...

    def cost_micros(self, model: str, usage: Usage) -> int | None:
        """Micro-USD, rounded up; None when nobody knows the price."""
        ...

    def list(self) -> list[ModelInfo]: ...

    async def warm(self) -> None:
        """Import what the first call would import, off the event loop."""
        ...

    async def close(self) -> None: ...

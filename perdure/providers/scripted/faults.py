"""What goes wrong, and how often: which fault a request gets, and the error answers of the vendors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from perdure.providers.scripted.script import FaultSpec
from perdure.providers.scripted.wire import Answer, Dialect, Problem

NO_FAULT = FaultSpec.model_construct()  # unvalidated on purpose: the one fault of no kind

_MESSAGES = {
    400: "The request is malformed.",
    401: "The API key is not valid.",
    403: "This key may not use this model.",
    404: "There is no such thing.",
    413: "The request is larger than the server takes.",
    429: "Rate limit reached.",
    500: "The server had an error while processing the request.",
    503: "The service is not available.",
    529: "Overloaded",
}


class FaultCounts:
    """How often each identical request was asked, in the memory of this process."""

    KEYS_MAX = 100_000  # about 20 MB; the oldest question is forgotten first

    def __init__(self) -> None:
        self._asked: dict[tuple[str, ...], int] = {}

    def next(self, faults: Sequence[FaultSpec], *key: str) -> FaultSpec:
        """The fault for this asking of ``key``, or NO_FAULT. Faults follow one another."""
        if not faults:
            return NO_FAULT
        earlier = self._asked.pop(key, 0)
        self._asked[key] = earlier + 1
        if len(self._asked) > self.KEYS_MAX:
            del self._asked[next(iter(self._asked))]
        for fault in faults:
            if fault.always or earlier < fault.times:
                return fault
            earlier -= fault.times
        return NO_FAULT


def problem_of(fault: FaultSpec, dialect: Dialect, input_tokens: int) -> Problem | None:
    """The error answer of a fault that is one, else None."""
    anthropic = dialect.NAME == "messages"
    if fault.status is not None:
        message = fault.message or _MESSAGES.get(fault.status, f"The script answers with status {fault.status}.")
        return Problem(fault.status, "status", message)
    if fault.context_exceeded:
        words = (
            f"prompt is too long: {input_tokens} tokens > {input_tokens - 1} maximum"
            if anthropic
            else "Your input exceeds the context window of this model. Please adjust your input and try again."
        )
        return Problem(400, "context_exceeded", fault.message or words)
    if fault.insufficient_quota:
        words = (
            "Your credit balance is too low to access the API. Please go to Plans & Billing."
            if anthropic
            else "You exceeded your current quota, please check your plan and billing details."
        )
        return Problem(402 if anthropic else 429, "insufficient_quota", fault.message or words)
    return None


def retry_after_headers(fault: FaultSpec) -> list[tuple[bytes, bytes]]:
    """``retry-after`` in seconds and ``retry-after-ms``, as far as the fault asks for them."""
    seconds = fault.retry_after_seconds
    if seconds is None:
        return []
    headers = []
    if fault.retry_after_header != "milliseconds":
        headers.append((b"retry-after", f"{seconds:g}".encode()))
    if fault.retry_after_header != "seconds":
        headers.append((b"retry-after-ms", f"{seconds * 1000:g}".encode()))
    return headers


def spoil(answer: Answer, fault: FaultSpec) -> Answer:
    """The answer with the fault of its content: nothing in it, or one id for all calls."""
    if fault.empty:
        tokens = dataclasses.replace(answer.tokens, output=0, reasoning=0)
        return dataclasses.replace(answer, reasoning="", text="", calls=(), stop="end", tokens=tokens)
    if fault.duplicate_call_ids:
        calls = tuple(dataclasses.replace(call, id=answer.calls[0].id) for call in answer.calls)
        return dataclasses.replace(answer, calls=calls)
    return answer

"""The one place that knows the vendors' words for trouble.

Both SDKs come from the same generator: a failed call has ``status_code``, ``body`` and
``response.headers``; a broken connection has the HTTP library's error as its cause. An exception that
is none of these is our own bug and is not translated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from perdure.contract import ModelTroubleCode
from perdure.providers.port import ModelTrouble

RETRY_AFTER_SECONDS_MAX = 3_600.0  # a vendor's longer wish is taken as "an hour": the run must stay observable
MESSAGE_CHARACTERS_MAX = 1_000  # some servers answer with a whole page; the start says enough

_BY_WORD: dict[str, ModelTroubleCode] = {
    # OpenAI: error.code and error.type
    "context_length_exceeded": "context_exceeded",
    "string_above_max_length": "context_exceeded",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "auth",
    "billing_hard_limit_reached": "auth",
    "billing_not_active": "auth",
    "invalid_api_key": "auth",
    "account_deactivated": "auth",
    "model_not_found": "unknown_model",
    "server_error": "server_error",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "vector_store_timeout": "timeout",
    "content_filter": "refused",
    "content_policy_violation": "refused",
    "bio_policy": "refused",
    "misalignment_policy_violation": "refused",
    "invalid_prompt": "bad_request",
    # Anthropic: error.type
    "overloaded_error": "overloaded",
    "rate_limit_error": "rate_limited",
    "api_error": "server_error",
    "timeout_error": "timeout",
    "authentication_error": "auth",
    "permission_error": "auth",
    "billing_error": "auth",
    "request_too_large": "context_exceeded",
}
_TOO_LONG = (  # nobody has a code that all servers use; these are what OpenAI, Anthropic, vLLM and llama.cpp write
    "prompt is too long",
    "too long",
    "maximum context length",
    "context length",
    "context_length",
    "context window",
    "context size",
    "input length and `max_tokens` exceed",
    "too many tokens",
)
_NO_CREDIT = "credit balance is too low"  # Anthropic sends it as a bad request


def trouble_of(error: Exception, *, model: str, started: bool) -> ModelTrouble | None:
    """Translate what an SDK raised; None when it is not a vendor's trouble. ``started``: an event had arrived."""
    status = getattr(error, "status_code", None)
    body = getattr(error, "body", None)
    if isinstance(status, int):
        headers = getattr(getattr(error, "response", None), "headers", {})
        return trouble_from_words(model, body, str(error), status=status, headers=headers)
    if isinstance(body, Mapping):
        return trouble_from_words(model, body, str(error))
    return _connection_trouble(error, model, started)


def trouble_from_words(
    model: str,
    body: object,
    message: str,
    *,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> ModelTrouble:
    """Classify an error object of either vendor, from an HTTP error or from inside a stream."""
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    words = error if isinstance(error, Mapping) else {"message": error}
    text = str(words.get("message") or message or "no message")[:MESSAGE_CHARACTERS_MAX]
    code_word = str(words.get("code") or "")
    if status in (None, 200) and len(code_word) == 3 and code_word.isdecimal():
        status = int(code_word)  # routers put the HTTP status of their own upstream there
    code = _code(status, code_word, str(words.get("type") or ""), text)
    failed = status is not None and status >= 400  # an error inside a stream came with status 200
    wait = retry_after_seconds(headers or {}) if code in ("rate_limited", "overloaded", "server_error") else None
    said = f"{model}: {text}" + (f" (HTTP {status})" if failed else "")
    return ModelTrouble(code, said, status=status if failed else None, retry_after_seconds=wait)


def _code(status: int | None, code: str, kind: str, text: str) -> ModelTroubleCode:
    """Read top to bottom: the first line that applies wins. Words are more exact than a status."""
    lower = text.lower()
    if _NO_CREDIT in lower or "insufficient_quota" in (code, kind):
        return "auth"  # permanent until a person pays; OpenAI sends it as a rate limit
    if code in _BY_WORD:
        return _BY_WORD[code]
    if status in (None, 200, 400, 404, 413, 422) and any(words in lower for words in _TOO_LONG):
        return "context_exceeded"
    if status is None or status < 400:
        return _BY_WORD.get(kind, "bad_request" if kind == "invalid_request_error" else "server_error")
    match status:
        case 401 | 402 | 403:
            return "auth"
        case 404:
            return "unknown_model" if "model" in lower else "bad_request"
        case 408:
            return "timeout"
        case 409 | 425:
            return "server_error"  # a conflict or "too early" at the vendor: passes by itself
        case 413:
            return "context_exceeded"
        case 429:
            return "rate_limited"
        case 503 | 529:
            return "overloaded"
        case 504:
            return "timeout"
        case _ if status >= 500:
            return "overloaded" if kind == "overloaded_error" else "server_error"
        case _:
            return "bad_request"


def _connection_trouble(error: Exception, model: str, started: bool) -> ModelTrouble | None:
    import httpx2  # here, because importing perdure.providers must stay cheap

    causes = list(_causes(error))
    why = next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)
    if any(isinstance(cause, httpx2.TimeoutException) for cause in causes):
        return ModelTrouble("timeout", f"{model}: no answer in time ({type(causes[-1]).__name__})")
    if any(
        isinstance(cause, httpx2.UnsupportedProtocol | httpx2.InvalidURL | httpx2.LocalProtocolError)
        for cause in causes
    ):
        return ModelTrouble("bad_request", f"{model}: the request cannot be sent, check base URL and key: {why}")
    if any(isinstance(cause, httpx2.RequestError | httpx2.StreamError | OSError) for cause in causes):
        if started:
            return ModelTrouble("truncated_stream", f"{model}: the stream was cut: {why}")
        return ModelTrouble("unreachable", f"{model}: the endpoint cannot be reached: {why}")
    if isinstance(error, ValueError):  # also JSONDecodeError and UnicodeDecodeError
        return ModelTrouble("truncated_stream", f"{model}: the stream holds something that is not JSON: {why}")
    if isinstance(error, TypeError) and "authentication" in str(error):
        return ModelTrouble("auth", f"{model}: no credentials: set ANTHROPIC_API_KEY or ANTHROPIC_AUTH_TOKEN")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def retry_after_seconds(headers: Mapping[str, Any]) -> float | None:
    """When the vendor wants to be asked again: ``retry-after-ms``, or ``Retry-After`` as seconds or as an
    HTTP date. At most an hour; None when nothing readable was sent."""
    seconds: float | None = None
    try:
        if milliseconds := headers.get("retry-after-ms"):
            seconds = float(milliseconds) / 1_000
        elif value := headers.get("retry-after"):
            seconds = _seconds(str(value))
    except (ValueError, TypeError, OverflowError):
        return None
    if seconds is None or seconds != seconds:  # NaN is nobody's wish
        return None
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return parsedate_to_datetime(value).timestamp() - time.time()

"""The error shape that OpenAI's two dialects share."""

from __future__ import annotations

from typing import Any

from perdure.providers.scripted.wire import Problem

_TYPE_AND_CODE: dict[str, tuple[str, str | None]] = {
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "context_exceeded": ("invalid_request_error", "context_length_exceeded"),
    "insufficient_quota": ("insufficient_quota", "insufficient_quota"),
    "too_large": ("invalid_request_error", "request_too_large"),
}
_BY_STATUS: dict[int, tuple[str, str | None]] = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", None),
    429: ("tokens", "rate_limit_exceeded"),
}


def error(problem: Problem) -> dict[str, Any]:
    """``{"error": {message, type, param, code}}`` as OpenAI sends it."""
    fallback = ("server_error" if problem.status >= 500 else "invalid_request_error", None)
    kind, code = _TYPE_AND_CODE.get(problem.kind) or _BY_STATUS.get(problem.status, fallback)
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": code}}

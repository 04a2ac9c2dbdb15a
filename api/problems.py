"""Every error this API answers with: the frozen codes, the RFC 9457 document, the exception handlers.

A code never changes its meaning or its HTTP status; ``tests/api/test_problems.py`` holds the list. Each
document also carries ``error``, so that stock OpenAI clients read the same body.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.encoding import encode
from perdure.runs import TemporalUnavailable
from perdure.store.rows import AskRow
from perdure.store.trouble import (
    AskExpired,
    AskResolved,
    AskStale,
    InboxFull,
    JournalTrouble,
    NotEligible,
    NotFound,
    RunOver,
    ScheduleNameTaken,
    SessionBusy,
    TooManySchedules,
    VersionMismatch,
)

log = logging.getLogger("perdure.api")

MEDIA_TYPE: Final = "application/problem+json"
FIELD_ERRORS_MAX = 20  # a hostile body of a million wrong fields still gets a short answer
RETRY_AFTER_SECONDS = 2  # the reconciler and the supervisor need about as long to bring a store back


@dataclass(frozen=True, slots=True)
class Code:
    """``retryable``: the same request may succeed later without being changed."""

    status: int
    title: str
    retryable: bool = False


CODES: Final[dict[str, Code]] = {
    "invalid_request": Code(400, "The request cannot be understood"),
    "invalid_json": Code(400, "The body is not valid JSON"),
    "invalid_cursor": Code(400, "The cursor was not given out by this API"),
    "invalid_last_event_id": Code(400, "Last-Event-ID is not an event number of this run"),
    "not_cancellable": Code(400, "This cannot be cancelled"),
    "missing_api_key": Code(401, "An API key is required"),
    "invalid_api_key": Code(401, "The API key is not known"),
    "expired_api_key": Code(401, "The API key has expired"),
    "budget_exhausted": Code(402, "The budget is spent"),
    "budget_too_small": Code(402, "The budget is too small for one model call"),
    "insufficient_scope": Code(403, "Whoever asks may not do this"),
    "tool_denied": Code(403, "Policy denies this tool"),
    "not_found": Code(404, "There is nothing at this address"),
    "run_not_found": Code(404, "No such run"),
    "session_not_found": Code(404, "No such session"),
    "agent_not_found": Code(404, "No such agent"),
    "result_not_found": Code(404, "No such tool result in this run"),
    "approval_not_found": Code(404, "No such approval"),
    "question_not_found": Code(404, "No such question"),
    "message_not_found": Code(404, "No such message to this run"),
    "call_not_found": Code(404, "No such call in this run"),
    "schedule_not_found": Code(404, "No such schedule"),
    "method_not_allowed": Code(405, "This address does not take this method"),
    "run_terminal": Code(409, "The run has ended"),
    "invalid_transition": Code(409, "The run's status does not allow this"),
    "session_busy": Code(409, "The session has an active run"),
    "stale_view": Code(409, "The run has moved on since it was read"),
    "approval_already_resolved": Code(409, "The approval or question was decided before"),
    "approval_expired": Code(409, "The time for an answer is over"),
    "approval_stale": Code(409, "The arguments are not the ones that were shown"),
    "tool_result_conflict": Code(409, "The tool call has its result already"),
    "idempotency_in_progress": Code(409, "The first request with this Idempotency-Key is still being answered", True),
    "name_taken": Code(409, "Another object has this name"),
    "too_many_schedules": Code(409, "There are as many schedules as there may be"),
    "events_expired": Code(410, "These events are no longer kept"),
    "run_expired": Code(410, "The run is no longer kept"),
    "version_mismatch": Code(412, "The object has changed since it was read"),
    "payload_too_large": Code(413, "The request body is too large"),
    "validation_failed": Code(422, "The request does not fit the schema"),
    "idempotency_key_reused": Code(422, "The Idempotency-Key came before with another request"),
    "output_schema_invalid": Code(422, "The output schema is not a valid JSON Schema"),
    "model_not_priced": Code(422, "A cost limit needs a model with a known price"),
    "unknown_tool": Code(422, "No such tool"),
    "unknown_model": Code(422, "No such model"),
    "precondition_required": Code(428, "This change needs If-Match"),
    "rate_limited": Code(429, "Too many requests", True),
    "queue_full": Code(429, "Too much is waiting", True),
    "internal": Code(500, "Something went wrong in Perdure", True),
    "temporal_unavailable": Code(503, "Temporal cannot be reached", True),
    "journal_unavailable": Code(503, "The journal cannot be reached", True),
    "no_workers": Code(503, "No worker is running", True),
    "draining": Code(503, "This process is stopping", True),
}

_CODE_OF_STATUS = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong where: ``pointer`` is a JSON Pointer into the body; ``parameter`` names a query
    parameter or header instead."""

    pointer: str | None
    code: str
    message: str
    parameter: str | None = None


class Problem(Exception):
    """An error to answer with. ``status`` replaces the code's own only where HTTP has a finer word."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        status: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.errors = code, detail, list(errors)
        self.status = status or CODES[code].status
        self.headers = headers or {}


def field_problem(code: str, pointer: str, message: str, *, kind: str | None = None) -> Problem:
    """A problem with one field of the body."""
    return Problem(code, message, errors=[FieldError(pointer, kind or code, message)])


def parameter_problem(code: str, parameter: str, message: str) -> Problem:
    """A problem with one query parameter or header."""
    return Problem(code, message, errors=[FieldError(None, code, message, parameter)])


def problem_document(problem: Problem, request_id: str | None) -> dict[str, Any]:
    """As RFC 9457 says, and in the words of OpenAI's clients."""
    code = CODES[problem.code]
    errors = problem.errors[:FIELD_ERRORS_MAX]
    return {
        "type": f"urn:perdure:problem:{problem.code}",
        "title": code.title,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "request_id": request_id,
        "retryable": code.retryable,
        "errors": [
            {"pointer": error.pointer, "parameter": error.parameter, "code": error.code, "message": error.message}
            for error in errors
        ],
        "error": {
            "message": problem.detail,
            "type": _openai_type(problem.status),
            "code": problem.code,
            "param": _openai_param(errors),
        },
    }


def problem_reply(problem: Problem, request_id: str | None) -> Response:
    """The document, with the headers that keep clients from retrying what cannot succeed."""
    code = CODES[problem.code]
    headers = dict(problem.headers)
    if problem.status == 503:
        headers.setdefault("retry-after", str(RETRY_AFTER_SECONDS))
    if problem.status == 409 and not code.retryable:
        headers["x-should-retry"] = "false"  # OpenAI clients retry 409 otherwise
    return Response(encode(problem_document(problem, request_id)), problem.status, headers, MEDIA_TYPE)


def _openai_type(status: int) -> str:
    return _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _openai_param(errors: Sequence[FieldError]) -> str | None:
    if not errors:
        return None
    return errors[0].parameter or (errors[0].pointer or "").strip("/").replace("/", ".") or None


# From exceptions ------------------------------------------------------------------------------------


def problem_of(error: Exception) -> Problem | None:
    """The problem that an exception of the layers below means to a client; None for our own bugs."""
    match error:
        case Problem():
            return error
        case JournalTrouble():
            return Problem("journal_unavailable", "The journal cannot be reached; nothing was changed. Try again.")
        case TemporalUnavailable():
            return Problem("temporal_unavailable", "Temporal cannot be reached. Try again.")
        case NotFound():
            kind = {"blob": "result", "ask": "call"}.get(error.kind, error.kind)
            return Problem(f"{kind}_not_found", f"There is no {kind} {error.id!r}.")
        case SessionBusy():
            return Problem(
                "session_busy",
                f"Session {error.session_id} has an active run, {error.run_id}: wait for it or cancel it.",
            )
        case VersionMismatch():
            return Problem(
                "version_mismatch", f'The schedule has changed since it was read: its ETag is "{error.version}".'
            )
        case ScheduleNameTaken():
            return field_problem("name_taken", "/name", f"Another schedule is named {error.name!r}: {error.id}.")
        case TooManySchedules():
            return Problem("too_many_schedules", f"{_sentence(error)} Delete those that are not needed.")
        case RunOver():
            return Problem("run_terminal", f"Run {error.run_id} has ended: it is {error.status}.")
        case AskResolved():
            return Problem("approval_already_resolved", _resolved(error.row) if error.row else _sentence(error))
        case InboxFull():
            return Problem("queue_full", f"{_sentence(error)} Wait until some are applied, or withdraw some.")
        case AskExpired():
            return Problem("approval_expired", _sentence(error) or "The time for an answer is over.")
        case AskStale():
            detail = f"The call has other arguments than were shown; the hash of those is {error.args_sha256}."
            return Problem("approval_stale", detail)
        case NotEligible():
            return Problem("insufficient_scope", _ended(str(error)) or "This person may not decide this.")
        case RequestValidationError():
            return _validation_problem(error)
        case HTTPException():
            code = _CODE_OF_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "invalid_request")
            return Problem(code, str(error.detail), status=error.status_code, headers=dict(error.headers or {}))
        case _:
            return None


def _sentence(error: Exception) -> str:
    """With a capital, unless it begins with an id: those are written as they are."""
    text = str(error)
    is_id = "_" in text.partition(" ")[0]
    return _ended(text if is_id else f"{text[:1].upper()}{text[1:]}")


def _ended(text: str) -> str:
    return f"{text}." if text and not text.endswith(".") else text


def _resolved(row: AskRow) -> str:
    by = f", by {row.decided_by}" if row.decided_by else ""
    return f"{row.id} is {row.status} already{by}."


def errors_problem(errors: Sequence[FieldError]) -> Problem:
    """Several things wrong with a body, all told at once. An error that has a code of its own gives it to the
    document when it is the first."""
    code = errors[0].code if errors[0].code in CODES else "validation_failed"
    return Problem(code, errors[0].message, errors=errors)


def body_errors(found: Sequence[Any], body: Any) -> list[FieldError]:
    """What pydantic found wrong with a body, with pointers into it."""
    return [
        FieldError(
            _pointer(item["loc"], body, item["type"]),
            item["type"],
            "this version knows no such member" if item["type"] == "extra_forbidden" else item["msg"],
        )
        for item in found
    ]


def _validation_problem(error: RequestValidationError) -> Problem:
    """Wrong bodies are 422 with pointers; wrong parameters are 400 with their names."""
    found = list(error.errors())
    in_body = [{**item, "loc": item["loc"][1:]} for item in found if item["loc"][:1] == ("body",)]
    if in_body:
        errors = body_errors(in_body, error.body)
        where = errors[0].pointer or "the body"
        return Problem("validation_failed", f"{where}: {errors[0].message}", errors=errors)
    errors = [FieldError(None, item["type"], item["msg"], str(item["loc"][1])) for item in found]
    return Problem("invalid_request", f"{errors[0].parameter}: {errors[0].message}", errors=errors)


def _pointer(location: Sequence[int | str], body: Any, kind: str) -> str:
    """A JSON Pointer into the body as it was sent: the names of union branches in pydantic's
    location are left out."""
    parts: list[str] = []
    here = body
    for index, part in enumerate(location):
        in_list = isinstance(part, int) and isinstance(here, list) and part < len(here)
        if in_list or (isinstance(part, str) and isinstance(here, dict) and part in here):
            here = here[part]
        elif not (kind == "missing" and index == len(location) - 1):
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def install(app: FastAPI) -> None:
    """Answer with problem documents whatever a route or the router raises. Bugs go on to the gate."""

    async def handle(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if problem is None:
            raise error
        if problem.status >= 500:
            log.warning("%s %s: %s: %s", request.method, request.url.path, problem.code, error)
        return problem_reply(problem, request.scope.get("state", {}).get("request_id"))

    for kind in (
        Problem, JournalTrouble, TemporalUnavailable, NotFound, SessionBusy, RunOver, AskResolved, AskExpired, AskStale,
        NotEligible, InboxFull, VersionMismatch, ScheduleNameTaken, TooManySchedules, RequestValidationError,
        HTTPException,
    ):  # fmt: skip
        app.add_exception_handler(kind, handle)


def declared(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI ``responses`` of a route that may answer with these codes; every route may also
    answer with the default ones."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, "invalid_request", "internal", "journal_unavailable"):
        by_status.setdefault(CODES[code].status, []).append(code)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": " or ".join(f"`{code}`: {CODES[code].title}" for code in listed), "content": content}
        for status, listed in sorted(by_status.items())
    }
    responses["default"] = {"description": "Any other error", "content": content}
    return responses

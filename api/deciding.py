"""Decisions of people about tool calls. The journal is the arbiter between them; here it is found out whether edited
arguments fit the tool and what the run's policies say to them: people never overrule what policy denies."""

from __future__ import annotations

from dataclasses import dataclass

from api.ask_rendering import APPROVALS
from api.parts import PROJECT, Parts
from api.people_bodies import Decide
from api.policies import problem_of_arguments, ruling_of
from api.problems import FieldError, Problem, errors_problem, field_problem
from perdure.assembly import Assembly
from perdure.core.state import Json
from perdure.store.rows import AskRow, Decision
from perdure.store.trouble import NotFound
from perdure.tools.arguments import args_sha256


@dataclass(frozen=True, slots=True)
class _Edited:
    arguments: dict[str, Json] | None = None
    sha256: str | None = None


async def find_approval(assembly: Assembly, approval_id: str) -> AskRow:
    """``approval_not_found``, also for what is asked but is no approval."""
    try:
        row = await assembly.journal.get_ask(PROJECT, approval_id)
    except NotFound:
        raise NotFound("approval", approval_id) from None
    if row.type not in APPROVALS:
        raise NotFound("approval", approval_id)
    return row


async def decide(parts: Parts, approval_id: str, body: Decide, by: str, pointer: str = "") -> AskRow:
    """One decision, in one transaction; the workflow hears of it afterwards."""
    assembly = parts.assembly
    _check_shape(body, pointer)
    ask = await find_approval(assembly, approval_id)
    edited = _Edited()
    if body.edited_arguments is not None:
        edited = await _edited(assembly, ask, body.edited_arguments, pointer)
    decision = Decision(
        decision=body.decision,
        by=by,
        message=body.message,
        scope=body.scope,
        args_sha256=body.args_sha256,
        edited_arguments=edited.arguments,
        edited_sha256=edited.sha256,
    )
    row = await assembly.journal.decide(PROJECT, approval_id, decision)
    parts.nudge(row.run_id)
    return row


def _check_shape(body: Decide, pointer: str) -> None:
    """What each decision needs, and what would mean nothing to it."""
    errors = []
    if body.decision == "edit" and body.edited_arguments is None:
        errors.append(FieldError(f"{pointer}/edited_arguments", "missing", "edit needs the arguments to run with"))
    if body.decision != "edit" and body.edited_arguments is not None:
        errors.append(FieldError(f"{pointer}/edited_arguments", "conflict", f"{body.decision} does not take arguments"))
    if body.decision == "respond" and not body.message.strip():
        errors.append(FieldError(f"{pointer}/message", "missing", "respond needs the message that is the result"))
    if body.decision == "respond" and body.scope != "once":
        errors.append(FieldError(f"{pointer}/scope", "conflict", "a response is the result of this call only"))
    if errors:
        raise errors_problem(errors)


async def _edited(assembly: Assembly, ask: AskRow, arguments: dict[str, Json], pointer: str) -> _Edited:
    """``validation_failed`` when they do not fit the tool, ``tool_denied`` when policy denies them."""
    definition = (await assembly.journal.get_run(ask.run_id)).definition
    if problem := problem_of_arguments(assembly, definition, ask.tool, arguments):
        raise field_problem("validation_failed", f"{pointer}/edited_arguments", problem, kind="invalid_arguments")
    ruling = ruling_of(assembly, definition, ask.tool, arguments)
    if ruling.action == "deny":
        why = f": {ruling.reason}" if ruling.reason else ""
        raise Problem(
            "tool_denied",
            f"Policy denies {ask.tool} with these arguments by {ruling.rule}{why}.",
            errors=[FieldError(f"{pointer}/edited_arguments", "tool_denied", ruling.reason or ruling.rule)],
        )
    return _Edited(arguments, args_sha256(arguments))

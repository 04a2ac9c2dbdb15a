"""The verdicts on the tool calls a model asks for, in words, where their arguments are at hand. Temporal hears
a verdict's code only: the words may quote the arguments, and content stays out of its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from activities.moments import Moment, moment_of
from perdure.content import Block, ToolCallBlock
from perdure.core.happenings import CallAsked
from perdure.core.judge import judge
from perdure.core.policy import ApprovalTerms, Ruling, stricter, with_decision
from perdure.core.state import Json
from perdure.definitions import ToolDescription
from perdure.store.rows import AskRow, CallRow, NewAsk, RulingShown, RunRow
from perdure.tools.arguments import args_sha256
from perdure.tools.builtin.ask_user import asked_questions, asked_seconds
from perdure.tools.builtin.polling import Poll, plan_of, polled_tool
from perdure.tools.builtin.waiting import Sleep, WaitForEvent
from perdure.tools.client_tools import ClientTool, RunToolBox, run_toolbox
from perdure.tools.policy import RunPolicy, policy_of, ruling
from perdure.tools.port import Tool, ToolBox

_REASON_CHARS_MAX = 1_000  # in the event; the model's own answer has the whole


class Precedents(Protocol):
    """What the journal alone knows of earlier calls; its promises are in ``perdure.store.journal``."""

    async def standing_decision(self, run_id: str, tool: str, args_sha256: str) -> AskRow | None: ...

    async def failures_in_a_row(self, run_id: str, tool: str, args_sha256: str) -> int: ...

    async def get_run(self, run_id: str, project_id: str | None = None) -> RunRow: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``ModelCommit`` wants to know of one call: ``asked`` with its words (``without_words`` for Temporal),
    the ``ruling`` for its event, the hash of its arguments, and what has to be asked of people or of the client."""

    asked: CallAsked
    ruling: RulingShown
    args_sha256: str
    ask: NewAsk | None = None


async def verdicts(
    journal: Precedents, toolbox: ToolBox, run: RunRow, blocks: Sequence[Block], now_ms: int
) -> list[Verdict]:
    """One for each tool_call among ``blocks``, in their order. ``toolbox`` is this worker's, or
    the run's own. The journal is asked for what it alone knows, and only where it
    matters: whether this call keeps failing (tools that a worker runs), and whether people have decided about it
    before (where the policy asks)."""
    court = _Court(journal, run_toolbox(toolbox, run.definition), run, policy_of(run.definition), now_ms)
    return [await court.verdict(block) for block in blocks if block["type"] == "tool_call"]


def unknown_outcome(call: CallRow, now_ms: int) -> NewAsk:
    """What a person is asked when nobody knows whether ``call`` took effect. When nobody says, the model is told."""
    terms = ApprovalTerms()
    return NewAsk(
        "unknown_outcome",
        call.key,
        call.name,
        args_sha256(call.arguments),
        now_ms + int(terms.expires_seconds * 1_000),
        rule="policy.unknown_outcome",
        reason=f"{call.name} was started and its worker was lost: nobody knows whether it took effect",
        terms=terms,
    )


def without_words(asked: CallAsked, *, previews: bool = True) -> CallAsked:
    """What goes through Temporal: codes, and a preview of what is waited for where previews are wanted."""
    if asked.note and not previews:
        asked = replace(asked, note="")
    return asked if asked.refusal is None else replace(asked, refusal=asked.refusal_code)


@dataclass(frozen=True)
class _Court:
    """Where the calls of one answer are judged."""

    journal: Precedents
    toolbox: RunToolBox
    run: RunRow
    policy: RunPolicy
    now_ms: int

    @property
    def known(self) -> list[str]:
        """The run's tools that this worker knows."""
        return [name for name in self.toolbox.names() if self.toolbox.get(name) is not None]

    async def verdict(self, block: ToolCallBlock) -> Verdict:
        name, call_id = block["name"], block["call_id"]
        arguments: Json = block["arguments"] if "arguments" in block else block.get("raw_arguments")
        sha256 = args_sha256(arguments)
        known = self.known
        problem = self.problem(name, arguments) if name in known else None
        moment = await self._moment(name, arguments) if name in known and problem is None else Moment()
        problem = problem or moment.problem
        if name not in known or problem is not None:
            asked = judge(call_id, name, known, problem)
            return Verdict(asked, _shown_refusal(asked), sha256)
        tool = self.toolbox.get(name)
        assert tool is not None
        assert isinstance(arguments, dict)
        failures = await self._failures(tool.description, sha256)
        found = await self.ruling(name, arguments)
        asked = judge(
            call_id,
            name,
            known,
            None,
            failures=failures,
            failures_max=self.policy.repeat_failures_max,
            ruling=found,
            answered_by=tool.description["answered_by"],
            answer_seconds=_answer_seconds(tool, arguments),
            now_ms=self.now_ms,
        )
        if asked.refusal_code == "repeated_failure" and asked.refusal is not None:
            return Verdict(asked, _shown_refusal(asked), sha256)
        if moment.waits and asked.refusal is None and not asked.waits:
            asked = replace(asked, waits=moment.waits, expires_ms=moment.until_ms, note=moment.note)
        return Verdict(asked, _shown(found, asked), sha256, _ask(asked, tool, arguments, sha256, found))

    async def _moment(self, name: str, arguments: Json) -> Moment:
        """Of a call that waits for time: until when. The run's deadline may have been changed since it began."""
        tool = self.toolbox.get(name)
        if not isinstance(tool, Sleep | WaitForEvent | Poll) or not isinstance(arguments, dict):
            return Moment()
        deadline_ms = (await self.journal.get_run(self.run.id)).deadline_ms
        return moment_of(tool, self.toolbox, arguments, self.now_ms, deadline_ms)

    def problem(self, name: str, arguments: Json) -> str | None:
        return _problem(self.toolbox.get(name), arguments)

    async def ruling(self, name: str, arguments: Json) -> Ruling:
        """The policy's word, and where it asks, what people have said before about this very call."""
        tool = self.toolbox.get(name)
        if tool is None or not isinstance(arguments, dict):
            return Ruling("allow", "default")
        found = ruling(self.policy, tool.description, arguments)
        if isinstance(tool, Poll):  # what it runs is judged, too
            plan = plan_of(arguments)
            polled = polled_tool(self.toolbox, plan)
            if not isinstance(polled, str):
                found = stricter(found, ruling(self.policy, polled.description, plan.arguments))
        if found.action != "ask" or tool.description["answered_by"] in ("people", "time"):
            return found
        row = await self.journal.standing_decision(self.run.id, name, args_sha256(arguments))
        if row is None or row.status not in ("approved", "denied"):
            return found
        return with_decision(found, f"approval {row.id}", approved=row.status == "approved", reason=_said(row))

    async def _failures(self, tool: ToolDescription, sha256: str) -> int:
        if tool["answered_by"] != "worker" or not self.policy.repeat_failures_max:
            return 0
        return await self.journal.failures_in_a_row(self.run.id, tool["name"], sha256)


def _problem(tool: Tool | None, arguments: Json) -> str | None:
    if tool is None:
        return None
    if not isinstance(arguments, dict):
        return f"the arguments are not a JSON object: {str(arguments or '')[:200]}"
    return tool.problem(arguments)


def _answer_seconds(tool: Tool, arguments: dict[str, Json]) -> float:
    """How long people, or the client, have for the answer."""
    if isinstance(tool, ClientTool):
        return tool.expires_seconds
    return asked_seconds(arguments) if tool.description["answered_by"] == "people" else 0.0


def _ask(asked: CallAsked, tool: Tool, arguments: dict[str, Json], sha256: str, found: Ruling) -> NewAsk | None:
    match asked.waits:
        case "approval":
            return NewAsk(
                "approval",
                asked.call_id,
                asked.tool,
                sha256,
                asked.expires_ms,
                rule=found.rule,
                reason=found.reason,
                terms=found.terms,
                client_seconds=tool.expires_seconds if isinstance(tool, ClientTool) else None,
            )
        case "question":
            questions = asked_questions(arguments)
            return NewAsk("question", asked.call_id, asked.tool, sha256, asked.expires_ms, questions=questions)
        case "client_tool":
            return NewAsk("client_tool", asked.call_id, asked.tool, sha256, asked.expires_ms)
        case "timer":
            reason = str(arguments.get("reason") or "")
            return NewAsk("timer", asked.call_id, asked.tool, sha256, asked.expires_ms, reason=reason)
        case "event":
            name = str(arguments["name"])
            return NewAsk("event", asked.call_id, asked.tool, sha256, asked.expires_ms, name=name)
        case _:
            return None


def _shown(found: Ruling, asked: CallAsked) -> RulingShown:
    """What the event says. A question and a sleep need no leave, whatever the policy asks before calls."""
    needs_none = asked.waits in ("question", "timer", "event")
    verdict = "allow" if found.action == "ask" and needs_none else found.action
    return RulingShown(verdict, found.rule, found.reason[:_REASON_CHARS_MAX])


def _shown_refusal(asked: CallAsked) -> RulingShown:
    """What the judge refuses before any policy is asked goes by its code."""
    return RulingShown("deny", asked.refusal_code, (asked.refusal or "")[:_REASON_CHARS_MAX])


def _said(row: AskRow) -> str:
    who = row.decided_by or "somebody"
    words = f": {row.message}" if row.message else ""
    return f"{'approved' if row.status == 'approved' else 'denied'} by {who}{words}"

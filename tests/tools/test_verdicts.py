"""The verdicts on a model's calls: all that has to be filed with its answer, and what the model is told again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from activities.verdicts import unknown_outcome, verdicts, without_words
from perdure.content import Block, ToolCallBlock
from perdure.core.budget import Account
from perdure.core.policy import ApprovalTerms
from perdure.core.state import Usage
from perdure.definitions import AgentDefinition, ClientToolDefinition
from perdure.store.rows import AskRow, CallRow, RulingShown, RunRow
from perdure.tools import ToolLimits, tool
from perdure.tools.arguments import args_sha256
from perdure.tools.builtin.ask_user import question_tools
from perdure.tools.builtin.calculator import calculator_tools
from perdure.tools.builtin.files import file_tools
from perdure.tools.registry import ToolRegistry
from perdure.tools.threads import ToolThreads

NOW_MS = 1_700_000_000_000


@tool
def pay(to: str, amount: int = 1) -> None:
    """Pay somebody."""


@tool(approval=True)
def fire(rocket: str) -> None:
    """Fire it."""


BOX = ToolRegistry([pay, fire, *calculator_tools(), *file_tools(ToolLimits()), *question_tools()], ToolThreads(1))
PICK = ClientToolDefinition(
    name="pick_file", description="", parameters={"type": "object", "required": ["kind"]}, expires_seconds=60
)


@dataclass
class History:
    """What happened before, as the journal would tell it, and what was asked of it."""

    decision: AskRow | None = None
    failures: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def standing_decision(self, run_id: str, tool: str, args_sha256: str) -> AskRow | None:
        self.asked.append(("decision", run_id, tool, args_sha256))
        return self.decision

    async def failures_in_a_row(self, run_id: str, tool: str, args_sha256: str) -> int:
        self.asked.append(("failures", run_id, tool, args_sha256))
        return self.failures


def a_run(policy: Any = None, run_policy: Any = None) -> RunRow:
    definition = AgentDefinition(
        name="a",
        model="m",
        instructions="",
        tools=["pay", "fire", "ask_user", "read_file"],
        model_settings={},
        limits={},
        client_tools=[PICK],
    )
    if policy is not None:
        definition["policy"] = policy
    if run_policy is not None:
        definition["run_policy"] = run_policy
    return RunRow(
        id="run_1", project_id="default", session_id="ses_1", agent_id=None, agent_version=None, definition=definition,
        status="running", status_reason=None, stop_reason=None, limits={}, budget=None, account=Account(),
        overrun=False, exact_tokens=None, exact_number=0, requested_by=None, input=[], output=None, error=None,
        usage=Usage(), turns=0, last_seq=0, last_progress_ms=0, recovering=False, workflow_started=True, deadline_ms=0,
        created_ms=0, started_ms=None, completed_ms=None, parent_run_id=None, root_run_id="run_1", depth=0, labels={},
        metadata={}, last_number=0, retry_of=None, forked_from=None, pruned_seq=0, schedule_id=None,
    )  # fmt: skip


def a_call(name: str, arguments: dict[str, Any] | str, call_id: str = "call_1") -> ToolCallBlock:
    if isinstance(arguments, str):
        return ToolCallBlock(type="tool_call", call_id=call_id, name=name, raw_arguments=arguments)
    return ToolCallBlock(type="tool_call", call_id=call_id, name=name, arguments=arguments)


def a_row(name: str, arguments: Any) -> CallRow:
    return CallRow(
        run_id="run_1", key="call_1", kind="tool", name=name, turn=1, status="requested", attempts=0, open_attempt=None,
        arguments=arguments, usage=None, message_number=None, error=None, requested_ms=0, started_ms=None,
        ended_ms=None, outcome=None,
    )  # fmt: skip


def a_decision(status: Any = "approved", message: str | None = None) -> AskRow:
    return AskRow(
        id="apv_1", type="approval", status=status, project_id="default", run_id="run_1", session_id="ses_1",
        call_id="call_0", tool="fire", arguments={}, args_sha256="", rule="tool", reason="", terms=ApprovalTerms(),
        requested_by=None, questions=None, answers=None, votes=[], decision=None, decided_by="ann", message=message,
        edited=False, scope="run", escalated=False, asked_ms=0, expires_ms=0, ended_ms=0,
        client_seconds=None,
    )  # fmt: skip


async def one(name: str, arguments: Any, run: RunRow | None = None, history: History | None = None) -> Any:
    blocks: list[Block] = [{"type": "text", "text": "hm"}, a_call(name, arguments)]
    found = await verdicts(history or History(), BOX, run or a_run(), blocks, NOW_MS)
    assert len(found) == 1
    return found[0]


async def test_an_allowed_call_is_filed_with_its_ruling_and_the_hash_of_its_arguments() -> None:
    verdict = await one("pay", {"to": "ann"})
    assert verdict.asked.refusal is None
    assert verdict.asked.waits == ""
    assert verdict.ruling == RulingShown("allow", "default")
    assert verdict.args_sha256 == args_sha256({"to": "ann"})
    assert verdict.ask is None


async def test_the_calls_of_an_answer_are_judged_in_their_order() -> None:
    blocks = [
        a_call("pay", {"to": "a"}, "call_1"),
        a_call("gone", {}, "call_2"),
        a_call("pick_file", {"kind": 1}, "call_3"),
    ]
    found = await verdicts(History(), BOX, a_run(), blocks, NOW_MS)
    assert [(one.asked.call_id, one.asked.refusal_code if one.asked.refusal else "") for one in found] == [
        ("call_1", ""), ("call_2", "unknown_tool"), ("call_3", ""),
    ]  # fmt: skip


async def test_an_asked_call_comes_with_an_approval_under_the_terms_of_its_rule() -> None:
    rule = {
        "tool": "pay",
        "action": "ask",
        "reason": "money",
        "approval": {"expires_seconds": 60, "quorum": 2, "four_eyes": True},
    }
    verdict = await one("pay", {"to": "ann"}, a_run({"rules": [rule]}))
    assert (verdict.asked.waits, verdict.asked.expires_ms) == ("approval", NOW_MS + 60_000)
    assert verdict.ruling == RulingShown("ask", "rules[0]", "money")
    ask = verdict.ask
    assert (ask.type, ask.call_id, ask.tool, ask.rule, ask.reason) == ("approval", "call_1", "pay", "rules[0]", "money")
    assert (ask.args_sha256, ask.expires_ms) == (verdict.args_sha256, NOW_MS + 60_000)
    assert ask.terms == ApprovalTerms(expires_seconds=60, quorum=2, four_eyes=True)
    assert ask.client_seconds is None


async def test_a_question_is_asked_as_the_model_put_it_and_needs_no_approval() -> None:
    arguments = {"questions": [{"id": "a", "question": "Which?", "options": ["x"]}], "expires_seconds": 5}
    for policy in (None, {"default": "ask"}):
        verdict = await one("ask_user", arguments, a_run(policy))
        assert (verdict.asked.waits, verdict.asked.expires_ms) == ("question", NOW_MS + 5_000)
        assert verdict.ask.type == "question"
        assert verdict.ask.questions == [
            {"id": "a", "question": "Which?", "options": [{"value": "x"}], "multiple": False, "free_form": False}
        ]
        assert verdict.ruling.verdict == "allow"
    denied = await one("ask_user", arguments, a_run({"rules": [{"tool": "ask_user", "action": "deny"}]}))
    assert denied.asked.refusal_code == "tool_denied"
    assert denied.ask is None


async def test_a_client_tool_goes_to_the_client_after_an_approval_if_one_is_asked() -> None:
    verdict = await one("pick_file", {"kind": "x"})
    assert (verdict.ask.type, verdict.asked.waits, verdict.ask.expires_ms) == (
        "client_tool",
        "client_tool",
        NOW_MS + 60_000,
    )
    asked = await one("pick_file", {"kind": "x"}, a_run({"default": "ask"}))
    assert (asked.ask.type, asked.asked.waits, asked.ask.client_seconds) == ("approval", "approval", 60.0)
    wrong = await one("pick_file", {})
    assert wrong.asked.refusal_code == "invalid_arguments"


async def test_a_denied_call_is_refused_with_the_rule_and_the_reason() -> None:
    verdict = await one("pay", {"to": "sudo rm -rf /"})
    assert verdict.asked.refusal_code == "tool_denied"
    assert "guardrails.destructive_commands" in verdict.asked.refusal
    assert verdict.ruling.verdict == "deny"
    assert verdict.ruling.rule == "guardrails.destructive_commands"
    assert verdict.ask is None


async def test_a_runs_own_policy_narrows_its_agents() -> None:
    verdict = await one(
        "pay", {"to": "ann"}, a_run({"default": "allow"}, {"rules": [{"tool": "pay", "action": "deny"}]})
    )
    assert verdict.ruling.rule == "run.rules[0]"


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("gone", {}, "unknown_tool"),
        ("calculator", {"expression": "1"}, "unknown_tool"),
        ("pay", {}, "invalid_arguments"),
        ("pay", "{", "invalid_arguments"),
    ],
)
async def test_what_cannot_run_is_refused_before_the_policy_is_asked(name: str, arguments: Any, code: str) -> None:
    """A tool of the worker that the agent does not have is no tool of the run."""
    history = History(failures=9)
    verdict = await one(name, arguments, a_run({"default": "deny"}), history)
    assert verdict.asked.refusal_code == code
    assert (verdict.ruling.verdict, verdict.ruling.rule) == ("deny", code)
    assert verdict.args_sha256 == args_sha256(arguments)
    assert history.asked == []


async def test_a_call_that_keeps_failing_is_refused_and_the_policy_says_after_how_many_times() -> None:
    assert (await one("pay", {"to": "x"}, history=History(failures=2))).asked.refusal is None
    refused = await one("pay", {"to": "x"}, history=History(failures=3))
    assert (refused.asked.refusal_code, refused.ruling.rule) == ("repeated_failure", "repeated_failure")
    assert refused.ask is None
    off = History(failures=100)
    assert (await one("pay", {"to": "x"}, a_run({"repeat_failures_max": 0}), off)).asked.refusal is None
    assert off.asked == []
    assert (await one("pay", {"to": "x"}, a_run({}, {"repeat_failures_max": 1}), History(failures=1))).asked.refusal


async def test_a_decision_that_stands_answers_for_the_very_same_call() -> None:
    approved = await one("fire", {"rocket": "a"}, history=History(decision=a_decision()))
    assert approved.asked.refusal is None
    assert approved.asked.waits == ""
    assert approved.ruling == RulingShown("allow", "approval apv_1", "approved by ann")
    denied = await one("fire", {"rocket": "a"}, history=History(decision=a_decision("denied", "not today")))
    assert denied.asked.refusal == "not allowed by approval apv_1: denied by ann: not today"
    assert denied.asked.refusal_code == "tool_denied"


async def test_an_approved_client_tool_still_waits_for_the_client() -> None:
    verdict = await one("pick_file", {"kind": "x"}, a_run({"default": "ask"}), History(decision=a_decision()))
    assert (verdict.asked.waits, verdict.ask.type) == ("client_tool", "client_tool")


async def test_an_answer_given_in_place_of_a_call_stands_for_that_call_only() -> None:
    verdict = await one("fire", {"rocket": "a"}, history=History(decision=a_decision("responded")))
    assert verdict.asked.waits == "approval"


async def test_no_decision_of_people_overrules_a_denial() -> None:
    history = History(decision=a_decision())
    verdict = await one("fire", {"rocket": "a"}, a_run({"rules": [{"tool": "fire", "action": "deny"}]}), history)
    assert verdict.asked.refusal_code == "tool_denied"
    assert [kind for kind, *_ in history.asked] == ["failures"]


async def test_the_journal_is_asked_only_what_it_alone_knows_and_where_it_matters() -> None:
    history = History()
    sha256 = args_sha256({"rocket": "a"})
    await one("fire", {"rocket": "a"}, history=history)
    assert history.asked == [("failures", "run_1", "fire", sha256), ("decision", "run_1", "fire", sha256)]
    history = History()
    await one("ask_user", {"questions": [{"id": "a", "question": "?"}]}, a_run({"default": "ask"}), history)
    await one("pick_file", {"kind": "x"}, history=history)
    assert history.asked == []


async def test_the_words_of_a_refusal_never_enter_temporal() -> None:
    for arguments, code in (({"to": 7}, "invalid_arguments"), ({"to": "sudo rm -rf /"}, "tool_denied")):
        verdict = await one("pay", arguments)
        assert len(verdict.asked.refusal) > len(code)
        for_temporal = without_words(verdict.asked)
        assert for_temporal.refusal == for_temporal.refusal_code == code
    allowed = (await one("pay", {"to": "x"})).asked
    assert without_words(allowed) == allowed


async def test_an_event_stays_small_whatever_the_model_sends() -> None:
    verdict = await one("pay", {"to": 7, **{f"x{n}": "y" * 1_000 for n in range(1_000)}})
    assert len(verdict.ruling.reason) <= 1_000
    assert len(json.dumps(without_words(verdict.asked).refusal)) < 100


def test_a_person_who_shall_say_what_became_of_a_call_is_shown_the_call() -> None:
    ask = unknown_outcome(replace(a_row("pay", {"to": "ann"}), status="started"), NOW_MS)
    assert (ask.type, ask.call_id, ask.tool) == ("unknown_outcome", "call_1", "pay")
    assert ask.args_sha256 == args_sha256({"to": "ann"})
    assert ask.expires_ms == NOW_MS + int(ask.terms.expires_seconds * 1_000)
    assert "nobody knows" in ask.reason

"""The verdict on each tool call, and the ids we give to calls."""

from __future__ import annotations

import re

import pytest

from perdure.core.happenings import CallAsked
from perdure.core.judge import judge, our_call_ids
from perdure.core.policy import ApprovalTerms, Ruling

ASK = Ruling("ask", "rules[0]", "money", ApprovalTerms(expires_seconds=60))
DENY = Ruling("deny", "rules[0]", "no money at night")
NOW_MS = 1_000_000


def test_a_known_tool_with_fitting_arguments_is_allowed() -> None:
    assert judge("call_1", "read_file", ["read_file"], None) == CallAsked("call_1", "read_file")


def test_the_model_hears_which_tools_there_are_when_it_asks_for_one_that_is_not() -> None:
    verdict = judge("call_1", "red_file", {"write_file", "read_file"}, None)
    assert verdict.refusal_code == "unknown_tool"
    assert verdict.refusal == "there is no tool 'red_file'; available tools: read_file, write_file"


def test_a_run_without_tools_says_so() -> None:
    assert judge("call_1", "anything", [], None).refusal == "there is no tool 'anything'; available tools: none"


def test_the_model_hears_what_is_wrong_with_its_arguments() -> None:
    verdict = judge("call_1", "read_file", ["read_file"], "path: a string is required, got 7")
    assert (verdict.refusal_code, verdict.refusal) == ("invalid_arguments", "path: a string is required, got 7")


@pytest.mark.parametrize(
    ("failures", "failures_max", "refused"), [(2, 3, False), (3, 3, True), (9, 3, True), (9, 0, False)]
)
def test_a_call_that_keeps_failing_is_refused_after_so_many_times(
    failures: int, failures_max: int, refused: bool
) -> None:
    verdict = judge("call_1", "pay", ["pay"], None, failures=failures, failures_max=failures_max)
    assert (verdict.refusal is not None) is refused
    if refused:
        assert verdict.refusal_code == "repeated_failure"
        assert f"failed {failures} times in a row" in (verdict.refusal or "")


def test_the_model_hears_which_rule_denied_its_call_and_why() -> None:
    verdict = judge("call_1", "pay", ["pay"], None, ruling=DENY)
    assert (verdict.refusal_code, verdict.refusal) == ("tool_denied", "not allowed by rules[0]: no money at night")
    assert verdict.waits == ""


def test_a_call_that_needs_an_approval_waits_as_long_as_its_rule_says() -> None:
    verdict = judge("call_1", "pay", ["pay"], None, ruling=ASK, now_ms=NOW_MS)
    assert verdict == CallAsked("call_1", "pay", waits="approval", expires_ms=NOW_MS + 60_000)


def test_a_question_waits_for_people_and_needs_no_approval() -> None:
    for ruling in (Ruling("allow", "default"), ASK):
        verdict = judge(
            "call_1",
            "ask_user",
            ["ask_user"],
            None,
            ruling=ruling,
            answered_by="people",
            answer_seconds=9,
            now_ms=NOW_MS,
        )
        assert (verdict.waits, verdict.expires_ms) == ("question", NOW_MS + 9_000)
    denied = judge("call_1", "ask_user", ["ask_user"], None, ruling=DENY, answered_by="people")
    assert denied.refusal_code == "tool_denied"


def test_a_client_tool_waits_for_the_client_but_for_the_approval_first() -> None:
    given = judge("call_1", "t", ["t"], None, answered_by="client", answer_seconds=9, now_ms=NOW_MS)
    assert (given.waits, given.expires_ms) == ("client_tool", NOW_MS + 9_000)
    asked = judge("call_1", "t", ["t"], None, ruling=ASK, answered_by="client", answer_seconds=9, now_ms=NOW_MS)
    assert (asked.waits, asked.expires_ms) == ("approval", NOW_MS + 60_000)


def test_what_is_wrong_with_a_call_comes_before_what_policy_says_of_it() -> None:
    """Nobody is asked to approve what cannot run, and a denial comes before anybody is asked."""
    everything = {"failures": 3, "failures_max": 3}
    assert judge("c", "t", [], "bad", ruling=DENY, **everything).refusal_code == "unknown_tool"
    assert judge("c", "t", ["t"], "bad", ruling=DENY, **everything).refusal_code == "invalid_arguments"
    assert judge("c", "t", ["t"], None, ruling=DENY, **everything).refusal_code == "repeated_failure"
    assert judge("c", "t", ["t"], None, ruling=ASK, **everything).waits == ""
    assert judge("c", "t", ["t"], None, ruling=DENY).refusal_code == "tool_denied"


def test_a_verdict_stays_small_whatever_the_model_sends_and_however_many_tools_there_are() -> None:
    unknown = judge("call_1", "x" * 1_000_000, [f"tool_{n:050}" for n in range(5_000)], None)
    assert len(unknown.tool) <= 64
    assert len(unknown.refusal or "") < 2_500
    assert (unknown.refusal or "").endswith("and 4970 more")
    assert len(judge("call_1", "t", ["t"], "y" * 1_000_000).refusal or "") == 2_000
    assert len(judge("call_1", "t", ["t"], None, ruling=Ruling("deny", "r", "y" * 1_000_000)).refusal or "") == 2_000


def test_call_ids_are_the_same_when_asked_again_unique_in_a_session_and_fit_every_vendor() -> None:
    runs = ["run_01JD0000000000000000000001", "run_01JD0000000000000000000002"]
    keys = ("model-1", "model-11", "model-1-1", "model-9999999-12")
    ids = [id_ for run in runs for key in keys for id_ in our_call_ids(run, key, 200)]
    assert ids == [id_ for run in runs for key in keys for id_ in our_call_ids(run, key, 200)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", id_) for id_ in ids)

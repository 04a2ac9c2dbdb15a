"""The verdict on each tool call, and the ids we give to calls."""

from __future__ import annotations

import re

from perdure.core.happenings import CallAsked
from perdure.core.judge import judge, our_call_ids


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


def test_a_verdict_stays_small_whatever_the_model_sends_and_however_many_tools_there_are() -> None:
    unknown = judge("call_1", "x" * 1_000_000, [f"tool_{n:050}" for n in range(5_000)], None)
    assert len(unknown.tool) <= 64
    assert len(unknown.refusal or "") < 2_500
    assert (unknown.refusal or "").endswith("and 4970 more")
    assert len(judge("call_1", "t", ["t"], "y" * 1_000_000).refusal or "") == 2_000


def test_call_ids_are_the_same_when_asked_again_unique_in_a_session_and_fit_every_vendor() -> None:
    runs = ["run_01JD0000000000000000000001", "run_01JD0000000000000000000002"]
    ids = [id_ for run in runs for turn in (1, 11, 9_999_999) for id_ in our_call_ids(run, turn, 200)]
    assert ids == [id_ for run in runs for turn in (1, 11, 9_999_999) for id_ in our_call_ids(run, turn, 200)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", id_) for id_ in ids)

"""What the terminal shows of approvals, questions, messages and money, and what is typed in answer. Needs nothing."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from perdure.cli.asked import answer_command, circumstances, commands, recovery_commands, subject
from perdure.cli.asks import answers_from, arguments_from, value_from
from perdure.cli.client import Api, Refused, Where, find_actor
from perdure.cli.money import budget_from, budget_lines, limits_line
from perdure.cli.render import LineView, LiveView
from perdure.cli.run import read_policy
from perdure.cli.show import stands
from perdure.cli.terminal import answer_from, refused_answers
from perdure.cli.text import clean, shown_json
from perdure.cli.trouble import Failed

Object = dict[str, Any]

RUN = "run_0123456789ABCDEFGHJKMNPQRS"
APPROVAL = "apv_0123456789ABCDEFGHJKMNPQRS"
QUESTION = "qst_0123456789ABCDEFGHJKMNPQRS"


def command(*words: str) -> str:
    return Api("http://127.0.0.1:9", options=["--home", "my home"]).command(*words)


def event(type_: str, call: str | None = None, /, **data: Any) -> Object:
    return {"type": type_, "run_id": RUN, "call_id": call, "data": data}


def shown(events: list[Object], *, live: bool = False, asks_here: bool = False) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=300, color_system=None)
    resolve = None if asks_here else command
    view = LiveView(console, resolve) if live else LineView(console, resolve)
    for one in events:
        view.show(one)
    return out.getvalue().splitlines()


def requested(**more: Any) -> Object:
    known = {"approval_id": APPROVAL, "tool": "send_letter", "arguments_preview": '{"to":"Ada"}', "about": "call"}
    return event("approval.requested", "call_1", **{**known, "rule": "rules[0]", "reason": "letters cost", **more})


def approval(**more: Any) -> Object:
    known: Object = {"id": APPROVAL, "type": "approval", "about": "call", "status": "open", "run_id": RUN}
    known |= {"call_id": "call_1", "tool": "send_letter", "arguments": {"to": "Ada"}, "args_sha256": "0" * 64}
    known |= {"rule": "rules[0]", "reason": "letters cost", "quorum": 1, "votes": [], "four_eyes": False}
    known |= {"requested_by": "eve", "escalated": False, "created_at": "2026-01-01T00:00:00Z", "expires_at": None}
    return {**known, **more}


def question(*questions: Object) -> Object:
    return {"id": QUESTION, "type": "question", "run_id": RUN, "call_id": "call_2", "questions": list(questions)}


COLOUR = {"id": "colour", "question": "Which colour?", "options": ["red", {"value": "blue", "description": "as sea"}]}
SIZES = {"id": "sizes", "question": "Which sizes?", "options": ["S", "M", "L"], "multiple": True, "default": ["M"]}
COUNT = {"id": "count", "question": "How many?", "answer_schema": {"type": "integer"}}
NAME = {"id": "name", "question": "Your name?"}


# Events as lines ------------------------------------------------------------------------------------


def test_an_approval_is_shown_with_its_rule_and_the_exact_commands_that_resolve_it() -> None:
    lines = shown([requested()])
    assert lines[0] == '? send_letter {"to":"Ada"} needs an approval (rules[0]: letters cost)'
    assert shlex.split(lines[1])[1:] == ["perdure", "approve", APPROVAL, "--home", "my home"]
    assert shlex.split(lines[2])[1:] == ["perdure", "deny", APPROVAL, "--message", "WHY", "--home", "my home"]


def test_an_approval_without_a_reason_names_its_rule_once() -> None:
    [line, *_] = shown([requested(reason="")])
    assert line.endswith("needs an approval (asked by rules[0])")
    assert circumstances(approval(reason="")).count("rule") == 1
    assert circumstances(approval(reason="", rule="default")).endswith("rule default")


def test_who_is_asked_in_the_terminal_is_not_told_the_commands_too() -> None:
    lines = shown([requested()], live=True, asks_here=True)
    assert lines == ['? send_letter {"to":"Ada"} needs an approval'], "and the rule stands in the question itself"
    asked = event("question.asked", "call_2", question_id=QUESTION, questions=[COLOUR], expires_at_ms=1)
    assert shown([asked], live=True, asks_here=True) == []


def test_a_decision_says_what_who_and_why() -> None:
    def decided(decision: str, **more: Any) -> str:
        data = {"approval_id": APPROVAL, "decision": decision, "by": "ada", "scope": "once", **more}
        return shown([requested(), event("approval.decided", "call_1", **data)])[-1]

    assert decided("approve") == "✓ send_letter is approved by ada"
    assert decided("approve", scope="session") == "✓ send_letter is approved by ada, for the whole session"
    assert decided("edit", edited=True) == "✓ send_letter is approved with other arguments by ada"
    assert decided("deny", message="too\nmany") == "✗ send_letter is denied by ada: too many"
    assert decided("respond") == "✓ send_letter is answered in its place by ada"


def test_an_approval_that_runs_out_of_time_says_what_follows() -> None:
    for reason, words in (("deny", "denied"), ("fail", "the run ends"), ("escalate", "escalated")):
        last = shown([requested(), event("approval.expired", "call_1", approval_id=APPROVAL, reason=reason)])[-1]
        assert last.startswith("✗ send_letter: nobody has decided in time")
        assert words in last


def test_an_unknown_outcome_is_not_called_an_approval_and_offers_three_ways() -> None:
    lines = shown([requested(about="unknown_outcome")])
    assert "nobody knows what became of it" in lines[0]
    assert [shlex.split(line.partition(":")[2])[1] for line in lines[1:]] == ["approve", "deny", "respond"]


def test_questions_are_shown_with_their_options_and_the_command_that_answers() -> None:
    asked = event("question.asked", "call_2", question_id=QUESTION, questions=[COLOUR, COUNT], expires_at_ms=1)
    lines = shown([asked, event("question.answered", "call_2", question_id=QUESTION, by="ada", answers={})])
    assert lines[:2] == ["? Which colour? [red | blue]", "? How many?"]
    words = ["perdure", "answer", QUESTION, "colour=VALUE", "count=VALUE", "--home", "my home"]
    assert shlex.split(lines[2])[1:] == words
    assert lines[3] == "✓ answered by ada"


def test_a_client_tool_that_is_waited_for_is_named_with_the_command_that_gives_its_result() -> None:
    actions = [{"type": "client_tool", "call_id": "call_3", "tool": "look"}]
    lines = shown([event("run.requires_action", reason="client_tool", actions=actions)])
    assert shlex.split(lines[1])[1:6] == ["perdure", "respond", RUN, "--call", "call_3"]


def test_a_message_sent_to_the_running_run_is_shown_and_the_first_input_is_not() -> None:
    def user(text: str) -> Object:
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        return event("message.added", message=message)

    lines = shown([user("Begin"), event("turn.started"), event("inbox.accepted", delivery="steer"), user("Stop that")])
    assert lines == ["… a message has arrived (steer)", "» Stop that"]
    assert "withdrawn" in shown([event("inbox.returned", reason="withdrawn")])[0]


def test_what_an_interrupted_answer_had_said_is_not_called_void() -> None:
    for live in (True, False):
        lines = shown(
            [
                {**event("model.started", "model-1", turn=1, attempt=1), "attempt": 1},
                {**event("text.delta", "model-1", text="Half an ans", index=0), "attempt": 1},
                {**event("model.aborted", "model-1", attempt=1, reason="interrupted"), "attempt": 1},
            ],
            live=live,
        )
        assert "a message interrupted it" in lines[-1]
        assert "void" not in "\n".join(lines)


def test_money_is_warned_of_and_a_paused_run_says_how_to_give_more() -> None:
    lines = shown(
        [
            event("budget.warning", limit="max_cost_usd", percent=80),
            event("budget.reached", limit="max_tokens"),
            event("budget.overrun", key="model-2"),
            event("run.paused", reason="budget_reached: max_tokens"),
            event("run.paused", reason="user"),
        ]
    )
    assert lines[0] == "! 80 % of the budget is spent (cost)"
    assert lines[1].startswith("! the budget is reached (tokens)")
    assert "vendor used more" in lines[2]
    assert f"perdure budget {RUN} --max-tokens" in lines[4]
    assert f"perdure resume {RUN}" in lines[6]


def test_a_session_that_another_agent_takes_over_is_shown_with_both_names() -> None:
    who = {"from": {"name": "reception", "version": 1}, "to": {"name": "billing", "version": 3}}
    assert shown([event("agent.transferred", "call_1", **who)]) == ["⇒ reception hands over to billing"]


def test_an_event_of_a_later_version_is_no_trouble() -> None:
    assert shown([event("approval.moved", approval_id=APPROVAL), event("budget.frozen"), event("never.heard")]) == []


# What is asked, in words ----------------------------------------------------------------------------


def test_nothing_hides_in_the_arguments_that_a_person_approves() -> None:
    assert shown_json({"to": "Ad\u202ea\u200b\x1b[2J"}) == '{"to": "Ad\\u202ea\\u200b\\u001b[2J"}'
    assert shown_json("Zoë ü 日本") == '"Zoë ü 日本"'
    assert shown_json("\ud800") == '"\\ud800"'
    assert "\u202e" not in clean("\u202etxt")


def test_what_is_listed_says_how_many_have_approved_and_who_may_not() -> None:
    said = circumstances(approval(quorum=2, votes=[{"by": "ada"}], four_eyes=True, escalated=True))
    for part in (RUN, "rules[0]: letters cost", "1 of 2 have approved", "not by eve", "escalated", "does not expire"):
        assert part in said
    assert subject(approval()) == 'send_letter {"to": "Ada"}'


def test_each_kind_of_ask_has_a_command() -> None:
    client = {"id": "ctc_1", "type": "client_tool", "run_id": RUN, "call_id": "call_3"}
    verbs = [
        [shlex.split(line)[1] for _, line in commands(ask, command)]
        for ask in (approval(), approval(about="unknown_outcome"), question(NAME), client)
    ]
    assert verbs == [["approve", "deny"], ["approve", "deny", "respond"], ["answer"], ["respond"]]


def test_a_command_with_a_models_words_in_it_is_safe_to_paste() -> None:
    line = answer_command(QUESTION, [{"id": "a; rm -rf $HOME\n\x1b[2J", "question": "?"}], command)
    assert "\x1b" not in line
    assert shlex.split(line)[3].startswith("a; rm -rf $HOME")


# What people type -----------------------------------------------------------------------------------


def test_answers_are_read_from_pairs() -> None:
    asked = question(COLOUR, SIZES, COUNT, NAME)
    pairs = ["colour=blue", "sizes=S, L", "count=3", "name=42"]
    assert answers_from(asked, pairs) == {"colour": "blue", "sizes": ["S", "L"], "count": 3, "name": "42"}
    assert answers_from(asked, ["sizes=S", "sizes=L"]) == {"sizes": ["S", "L"]}
    assert answers_from(asked, ['sizes=["S"]']) == {"sizes": ["S"]}
    assert answers_from(asked, ["name=a=b"]) == {"name": "a=b"}


def test_a_single_question_needs_no_id() -> None:
    assert answers_from(question(COLOUR), ["blue"]) == {"colour": "blue"}
    assert answers_from(question(NAME), ["x=y"]) == {"name": "x=y"}


@pytest.mark.parametrize("pairs", [["shade=blue"], ["blue"], ["colour=red", "colour=blue"]])
def test_an_unknown_id_and_a_second_answer_are_refused(pairs: list[str]) -> None:
    with pytest.raises(Failed):
        answers_from(question(COLOUR, COUNT), pairs)


def test_an_option_that_is_no_text_is_found_by_its_json() -> None:
    asked = {"id": "n", "question": "?", "options": [1, 2.5, True, {"value": None, "description": "none"}]}
    assert [value_from(text, asked) for text in ("1", "2.5", "true", "null")] == [1, 2.5, True, None]


def test_in_the_terminal_options_are_numbers_words_or_the_default() -> None:
    assert answer_from("2", COLOUR) == "blue"
    assert answer_from("RED", COLOUR) == "red"
    assert answer_from("1,3", SIZES) == ["S", "L"]
    assert answer_from("", SIZES) == ["M"]
    assert answer_from("12", COUNT) == 12
    assert answer_from("12", NAME) == "12"
    assert answer_from("green", {**COLOUR, "free_form": True}) == "green"
    for wrong in ("green", "3", "0", ""):
        with pytest.raises(ValueError, match=r"options|no default"):
            answer_from(wrong, COLOUR)


def test_edited_arguments_are_a_json_object() -> None:
    assert arguments_from('{"to": "Eve"}', "--edit") == {"to": "Eve"}
    for wrong in ("{", "[]", '"x"', '{"n": NaN}'):
        with pytest.raises(Failed) as refused:
            arguments_from(wrong, "--edit")
        assert refused.value.status == 2


def test_a_budget_says_only_what_was_given_and_none_is_no_limit() -> None:
    assert budget_from(None, None, None, None) == {}
    assert budget_from("$2.50", "1,000", None, "pause") == {
        "max_cost_usd": "2.50",
        "max_tokens": 1_000,
        "on_limit": "pause",
    }
    assert budget_from("none", None, "none", None) == {"max_cost_usd": None, "max_output_tokens": None}
    with pytest.raises(Failed):
        budget_from(None, "many", None, None)


def test_a_budget_is_shown_with_what_is_left() -> None:
    budget = {
        "limit": {"max_cost_usd": "2.5", "max_tokens": None, "max_output_tokens": 5_000},
        "spent": {"cost_usd": "0.25", "tokens": 4_000, "output_tokens": 1_000},
        "reserved": {"cost_usd": "0.5", "tokens": 9_000, "output_tokens": 900},
        "left": {"max_cost_usd": "1.75", "max_tokens": None, "max_output_tokens": 3_100},
        "on_limit": "wrap_up",
        "overrun": True,
    }
    lines = budget_lines(budget)
    assert lines[0].endswith("on limit: wrap_up")
    assert "on limit" not in budget_lines({**budget, "on_limit": None})[0], "of a run without a budget"
    assert re.split(r"  +", lines[1]) == ["cost USD", "2.5", "0.25", "0.5", "1.75"]
    assert re.split(r"  +", lines[2]) == ["tokens", "none", "4,000", "9,000", "none"]
    assert "used more than a call was allowed" in lines[4]


def test_the_ledger_says_which_limits_hold_from_a_line_on() -> None:
    none = {"max_cost_usd": None, "max_tokens": None, "max_output_tokens": None}
    assert limits_line({**none, "max_cost_usd": "2.50", "max_tokens": 9_000, "on_limit": "stop"}) == (
        "USD 2.50, tokens 9,000; stop"
    )
    assert limits_line({**none, "on_limit": "pause"}) == "no limit; pause"


def test_a_refusal_says_each_thing_once() -> None:
    def refused(detail: str, *errors: tuple[str, str]) -> str:
        listed = [{"pointer": pointer, "code": "x", "message": message} for pointer, message in errors]
        return str(Refused(422, {"detail": detail, "code": "validation_failed", "errors": listed}))

    assert refused("give text", ("/answers/a", "give text")) == "/answers/a: give text (validation_failed)"
    assert refused("/a: give text", ("/a", "give text")) == "/a: give text (validation_failed)"
    assert refused("give text", ("/a", "give text"), ("/b", "give more")).splitlines() == [
        "/a: give text (validation_failed)", "  /b: give more",
    ]  # fmt: skip
    assert refused("no such run") == "no such run (validation_failed)"


def test_only_the_questions_whose_answers_are_refused_are_asked_again() -> None:
    def problem(*pointers: str) -> Object:
        return {"errors": [{"pointer": pointer, "message": "?"} for pointer in pointers]}

    ids = ["colour", "sizes", "a/b"]
    assert refused_answers(problem("/answers/sizes"), ids) == ["sizes"]
    assert refused_answers(problem("/answers/sizes/0", "/answers/a~1b"), ids) == ["sizes", "a/b"]
    assert refused_answers(problem("/answers"), ids) == ids
    assert refused_answers({}, ids) == ids


def test_a_call_in_flight_has_commands_that_recover_it() -> None:
    lines = [shlex.split(line) for _, line in recovery_commands(RUN, "call_1", command)]
    assert [line[1] for line in lines] == ["retry", "abort", "respond"]
    assert lines[1][2:6] == [RUN, "call_1", "--reason", "WHY"]
    step = {"kind": "tool", "status": "started", "running": True, "ended_at": None}
    assert stands(step)
    assert not any(
        stands({**step, **other}) for other in ({"kind": "model"}, {"status": "requested", "running": False})
    )
    assert not stands({**step, "status": "unknown", "ended_at": "2026-01-01T00:00:00Z"})


def test_a_policy_is_read_from_json_and_from_toml(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"rules": [{"tool": "*", "action": "ask"}]}')
    (tmp_path / "p.toml").write_text('[[rules]]\ntool = "*"\naction = "ask"\n')
    assert read_policy(tmp_path / "p.json") == read_policy(tmp_path / "p.toml")
    (tmp_path / "bad.json").write_text("[]")
    for name in ("none.json", "bad.json"):
        with pytest.raises(Failed, match=name):
            read_policy(tmp_path / name)


def test_who_decides_is_who_says_so_else_the_login_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert find_actor(None) == "ada"
    assert find_actor("eve@example.com") == "eve@example.com"
    monkeypatch.setenv("LOGNAME", "Ada L.")  # no header can say that: the API calls her anonymous
    assert find_actor(None) is None
    for wrong in ("", "a b", "ü", "x" * 129, "a\n"):
        with pytest.raises(Failed):
            find_actor(wrong)


def test_commands_reach_the_api_that_this_command_has_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Where("http://127.0.0.1:8601").connect()
    assert api.command("resume", RUN) == f"perdure resume {RUN} --api-url http://127.0.0.1:8601"
    monkeypatch.setenv("PERDURE_API_URL", "http://127.0.0.1:8601")
    assert Where().connect().command("resume", RUN) == f"perdure resume {RUN}"

"""``sleep``, ``wait_for_event`` and ``poll``: which moments can be meant, what a model is told of those that cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from activities.poll_tool import NotYet, poll_once
from activities.verdicts import Verdict, verdicts, without_words
from perdure.content import ToolCallBlock
from perdure.core.budget import Account
from perdure.core.matching import fits
from perdure.core.state import Json, Usage
from perdure.definitions import AgentDefinition
from perdure.store.rows import CallRow, RunRow, ToolCommit
from perdure.tools import ToolTrouble
from perdure.tools.builtin.polling import TRIES_MAX
from perdure.tools.client_tools import run_toolbox
from perdure.tools.port import Tool
from perdure.tools.registry import build_toolbox
from tests.tools.test_verdicts import History

NOW_MS = 1_780_000_000_000  # 2026-05-28T20:26:40Z
DAY_MS = 86_400_000
TOOLS = ["sleep", "wait_for_event", "poll", "current_time", "ask_user", "write_file"]
BOX = build_toolbox()


class Past(History):
    """The run's deadline as it is now, which may not be the one it began with."""

    deadline_ms = NOW_MS + 500 * DAY_MS

    async def get_run(self, run_id: str, project_id: str | None = None) -> RunRow:
        return a_run(self.deadline_ms)


def a_run(deadline_ms: int = 0, rules: list[Any] | None = None) -> RunRow:
    definition = AgentDefinition(name="a", model="m", instructions="", tools=TOOLS, model_settings={}, limits={})
    if rules is not None:
        definition["policy"] = {
            "rules": rules, "rate_limits": [], "default": "allow", "guardrails": [], "unknown_outcome": "tell",
            "repeat_failures_max": 3,
        }  # fmt: skip
    return RunRow(
        id="run_1", project_id="default", session_id="ses_1", agent_id=None, agent_version=None, definition=definition,
        status="running", status_reason=None, stop_reason=None, limits={}, budget=None, account=Account(),
        exact_tokens=None, exact_number=0, requested_by=None, input=[], output=None, error=None, usage=Usage(), turns=0,
        last_seq=0, last_progress_ms=0, recovering=False, workflow_started=True, deadline_ms=deadline_ms, created_ms=0,
        started_ms=None, completed_ms=None, parent_run_id=None, root_run_id="run_1", depth=0, labels={}, metadata={},
        overrun=False, last_number=0, retry_of=None, forked_from=None, pruned_seq=0, schedule_id=None,
    )  # fmt: skip


async def judged(
    name: str, arguments: dict[str, Any], rules: list[Any] | None = None, past: Past | None = None
) -> Verdict:
    block = ToolCallBlock(type="tool_call", call_id="call_1", name=name, arguments=arguments)
    [verdict] = await verdicts(past or Past(), BOX, a_run(rules=rules), [block], NOW_MS)
    return verdict


async def refusal(name: str, arguments: dict[str, Any], past: Past | None = None) -> str:
    verdict = await judged(name, arguments, past=past)
    assert verdict.asked.refusal_code == "invalid_arguments"
    assert verdict.ask is None
    return verdict.asked.refusal or ""


# Sleep ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ({"for_seconds": 1}, 1),
        ({"for_seconds": 90.5}, 90.5),
        ({"for_seconds": 31_622_400}, 31_622_400),
        ({"until": "2026-05-28T20:27:40Z"}, 60),
        ({"until": "2026-05-28T22:27:40+02:00"}, 60),
        ({"until": "2026-05-28T22:27:40", "timezone": "Europe/Berlin"}, 60),
        ({"until": "2026-05-28t20:27:40.25z"}, 60.25),
        ({"until": "2026-05-28T16:27:40", "timezone": "America/New_York"}, 60),
        ({"until": "2026-05-28T16:28", "timezone": "America/New_York"}, 80),
    ],
)
async def test_a_sleep_ends_at_the_moment_that_is_meant(arguments: dict[str, Any], seconds: float) -> None:
    verdict = await judged("sleep", {**arguments, "reason": "the  market\nopens"})
    assert (verdict.asked.waits, verdict.asked.expires_ms) == ("timer", NOW_MS + int(seconds * 1_000))
    assert verdict.ask is not None
    assert (verdict.ask.type, verdict.ask.expires_ms) == ("timer", verdict.asked.expires_ms)
    assert verdict.asked.note.endswith("Z: the market opens")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give either for_seconds or until"),
        ({"for_seconds": 5, "until": "2026-06-01T00:00:00Z"}, "not both"),
        ({"for_seconds": 0.5}, "for_seconds"),
        ({"for_seconds": -3}, "for_seconds"),
        ({"for_seconds": 31_622_401}, "for_seconds"),
        ({"for_seconds": 5, "timezone": "UTC"}, "timezone: only a local until has one"),
        ({"until": "tomorrow"}, "is no time; write 2026-12-01T09:00:00+01:00"),
        ({"until": "2026-06-01T09:00"}, "needs timezone"),
        ({"until": "2026-06-01T09:00", "timezone": "Mars/Olympus"}, "IANA name"),
        ({"until": "2026-06-01T09:00", "timezone": "../../etc/passwd"}, "IANA name"),
        ({"until": "2026-W23-2T09:00:00Z"}, "is no time"),
        ({"until": "20260601T090000Z"}, "is no time"),
        ({"until": "2026-06-01 09:00:00Z"}, "is no time"),
        ({"until": "2026-06-01T09:00Z"}, "is no time"),
        ({"until": "2026-06-01T09:00:00+0100"}, "is no time"),
        ({"until": "2026-06-01T24:00:00Z"}, "is no time"),
        ({"until": "2026-02-30T09:00:00Z"}, "is no time"),
        ({"until": "２０２６-06-01T09:00:00Z"}, "is no time"),
        ({"until": "2026-06-01", "timezone": "Europe/Berlin"}, "is no time"),
        ({"until": "2026-06-01T09:00:00Z", "timezone": "Europe/Berlin"}, "leave out either the offset or timezone"),
        ({"until": "2027-03-28T02:30", "timezone": "Europe/Berlin"}, "does not exist in Europe/Berlin"),
        ({"until": "2026-05-28T20:26:39Z"}, "1 s in the past; it is 2026-05-28T20:26:40Z now"),
        ({"until": "2026-05-28T20:26:40Z"}, "at least 1 s"),
        ({"until": "2027-06-28T20:26:40Z"}, "at most a year"),
        ({"until": "9999-12-31T23:59:59", "timezone": "America/New_York"}, "out of range"),
        ({"for_seconds": 5, "why": "x"}, "why"),
    ],
)
async def test_a_moment_that_cannot_be_meant_is_refused_in_words_that_mend_it(
    arguments: dict[str, Any], words: str
) -> None:
    assert words in await refusal("sleep", arguments)


async def test_of_a_local_time_that_comes_twice_the_first_is_meant() -> None:
    past = Past()
    verdict = await judged("sleep", {"until": "2026-10-25T02:30", "timezone": "Europe/Berlin"}, past=past)
    assert verdict.asked.expires_ms == int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp() * 1_000)


async def test_nobody_sleeps_beyond_the_deadline_that_holds_now() -> None:
    past = Past()
    past.deadline_ms = NOW_MS + 100_000
    assert "wait at most 99 s" in await refusal("sleep", {"for_seconds": 100}, past)
    assert "wait at most 99 s" in await refusal("wait_for_event", {"name": "a", "timeout_seconds": 100}, past)
    assert (await judged("sleep", {"for_seconds": 99}, past=past)).asked.refusal is None
    past.deadline_ms = NOW_MS + 1_500
    assert "it has no time left to wait" in await refusal("sleep", {"for_seconds": 1}, past)


async def test_a_rule_that_asks_lets_sleepers_pass_and_one_that_denies_does_not() -> None:
    asks = await judged("sleep", {"for_seconds": 5}, [{"tool": "*", "action": "ask"}])
    assert (asks.asked.waits, asks.ruling.verdict) == ("timer", "allow")
    denies = await judged("sleep", {"for_seconds": 5}, [{"tool": "sleep", "action": "deny"}])
    assert (denies.asked.refusal_code, denies.ask) == ("tool_denied", None)


async def test_a_reason_enters_temporal_as_a_preview_only_and_not_where_previews_are_off() -> None:
    asked = (await judged("sleep", {"for_seconds": 5, "reason": "s" * 200})).asked
    assert asked.note.count("s") < 90
    assert without_words(asked).note == asked.note
    assert without_words(asked, previews=False).note == ""


# Events -----------------------------------------------------------------------------------------


async def test_a_wait_names_its_event_and_ends_in_time() -> None:
    verdict = await judged("wait_for_event", {"name": "order.paid", "match": {"id": 7}, "timeout_seconds": 60})
    assert verdict.ask is not None
    assert (verdict.ask.type, verdict.ask.name) == ("event", "order.paid")
    assert verdict.ask.expires_ms == verdict.asked.expires_ms == NOW_MS + 60_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "order.paid"}, "timeout_seconds"),
        ({"name": "", "timeout_seconds": 5}, "name"),
        ({"name": "a b", "timeout_seconds": 5}, "name"),
        ({"name": "a", "timeout_seconds": 5, "match": [1]}, "match"),
        ({"name": "a", "timeout_seconds": 5, "match": {"a": "x" * 5_000}}, "at most 4096 characters"),
        ({"name": "a", "timeout_seconds": 32_000_000}, "timeout_seconds"),
    ],
)
async def test_a_wait_that_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    assert words in await refusal("wait_for_event", arguments)


@pytest.mark.parametrize(
    ("match", "payload", "fit"),
    [
        (None, {"a": 1}, True),
        ({}, "anything", True),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1}}, {"a": 1}, False),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "c": 3}]}, True),
        ({"a": [1]}, {"a": [1, 2]}, False),
        ({"a": "x"}, ["a", "x"], False),
        ({"a": "1"}, {"a": 1}, False),
    ],
)
def test_an_event_fits_when_all_that_was_asked_for_is_in_it(match: Json, payload: Json, fit: bool) -> None:
    assert fits(match, payload) is fit


# Polls ------------------------------------------------------------------------------------------


def a_poll(**more: Any) -> dict[str, Any]:
    return {"tool": "current_time", "every_seconds": 10, "until": {}, "timeout_seconds": 100, **more}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (a_poll(tool="write_file"), "tools of yours that only read: current_time"),
        (a_poll(tool="ask_user"), "cannot be polled"),
        (a_poll(tool="poll"), "cannot be polled"),
        (a_poll(tool="http_get"), "cannot be polled"),
        (a_poll(arguments={"place": "Rome"}), "place"),
        (a_poll(until={"type": "nothing"}), "until: the schema"),
        (a_poll(until={"$ref": "https://example.com"}), "until: the schema"),
        (a_poll(every_seconds=0.1), "every_seconds"),
        (a_poll(every_seconds=1, timeout_seconds=TRIES_MAX + 1), "at most 10000 tries"),
        (a_poll(every_seconds=80_000, timeout_seconds=31_622_401), "timeout_seconds"),
    ],
)
async def test_a_poll_that_cannot_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    assert words in await refusal("poll", arguments)


async def test_a_poll_runs_on_a_worker_under_the_stricter_word_on_itself_and_on_what_it_polls() -> None:
    assert (await judged("poll", a_poll())).asked.waits == ""
    asks = await judged("poll", a_poll(), [{"tool": "current_time", "action": "ask"}])
    assert (asks.asked.waits, asks.ask is not None and asks.ask.type) == ("approval", "approval")
    denies = await judged("poll", a_poll(), [{"tool": "current_time", "action": "deny"}])
    assert denies.asked.refusal_code == "tool_denied"


class Tries:
    """What a polled tool says, try after try."""

    def __init__(self, *said: str | Exception) -> None:
        self.said = list(said)

    async def __call__(self, tool: Tool, arguments: dict[str, Json], timeout_seconds: float) -> str:
        one = self.said.pop(0)
        if isinstance(one, Exception):
            raise one
        return one


async def tried(said: str | Exception, now_ms: int = NOW_MS, ends_ms: int | None = None, **more: Any) -> Any:
    call = CallRow(
        run_id="run_1", key="call_1", kind="tool", name="poll", turn=1, status="started", attempts=3, open_attempt=3,
        arguments=a_poll(until={"const": {"open": True}}, **more), usage=None, message_number=None, error=None,
        requested_ms=0, started_ms=0, ended_ms=None, outcome=None if ends_ms is None else {"ends_ms": ends_ms},
    )  # fmt: skip
    run = a_run(rules=[{"tool": "current_time", "action": "deny", "matches_result": "secret"}])
    return await poll_once(run, call, run_toolbox(BOX, run.definition), Tries(said), lambda: now_ms)


async def test_a_try_ends_a_poll_when_its_result_is_as_wanted_and_not_before() -> None:
    assert await tried('{"open": true}') == '{"open": true}'
    assert await tried('{"open": false}') == NotYet(NOW_MS + 10_000, NOW_MS + 100_000)
    assert await tried("no JSON", ends_ms=NOW_MS + 4_000) == NotYet(NOW_MS + 4_000, NOW_MS + 4_000), (
        "not beyond its end"
    )


async def test_a_try_that_fails_in_passing_was_in_vain_and_any_other_ends_the_poll() -> None:
    passing = await tried(ToolTrouble("away", retryable=True))
    assert (type(passing), passing.message) == (NotYet, "current_time: away")
    late = await tried(TimeoutError())
    assert "gave no result within 5 s" in late.message
    lasting = await tried(ToolTrouble("no such page", code="gone"))
    assert lasting == ToolCommit("failed", "current_time: no such page", "gone")


async def test_a_poll_whose_time_is_over_tells_the_last_result() -> None:
    over = await tried('{"open": false}', ends_ms=NOW_MS)
    assert (over.status, over.code) == ("failed", "tool_timeout")
    assert 'after 3 tries; the last one: {"open": false}' in over.text


async def test_what_policy_withholds_of_a_result_no_poll_tells() -> None:
    found = await tried('{"open": "secret"}')
    assert (found.code, "secret" in found.text) == ("tool_denied", False)


async def test_no_worker_runs_what_time_answers(tmp_path: Path) -> None:
    from tests.tools.calls import a_call

    for name in ("sleep", "wait_for_event", "poll"):
        one = BOX.get(name)
        assert one is not None
        with pytest.raises(ToolTrouble):
            await one.run({}, a_call(tmp_path))

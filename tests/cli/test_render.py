"""What a person sees of a run, from recorded events. Needs nothing."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from perdure.cli.render import LineView, LiveView

Event = dict[str, Any]


def event(type_: str, call: str | None = None, number: int | None = None, /, **data: Any) -> Event:
    extra = {name: value for name, value in (("call_id", call), ("attempt", number)) if value is not None}
    return {"type": type_, "run_id": "run_01", "data": data, **extra}


def delta(text: str, attempt: int = 1, index: int = 0, kind: str = "text") -> Event:
    return event(f"{kind}.delta", "model-1", attempt, text=text, index=index)


def answer(*blocks: Event) -> Event:
    return event("message.added", message={"role": "assistant", "content": list(blocks)})


def text(value: str) -> Event:
    return {"type": "text", "text": value}


CUT_AND_RETRIED = [
    event("run.created"),
    event("model.started", "model-1", 1, turn=1, attempt=1),
    delta("The first "),
    delta("half"),
    event("model.aborted", "model-1", 1, attempt=1, reason="lost"),
    event("run.recovering", "model-1", key="model-1", lost_attempt=1),
    event("model.started", "model-1", 2, turn=1, attempt=2),
    delta("A whole ", 2),
    delta("answer.", 2),
    answer(text("A whole answer.")),
    event("run.recovered", "model-1", key="model-1", attempt=2, after_ms=2_345),
    event("run.completed", status="completed"),
]


def shown(events: list[Event], *, live: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    view = LiveView(console) if live else LineView(console)
    for one in events:
        view.show(one)
    return out.getvalue()


def test_text_streams_to_a_terminal_as_it_comes_and_is_not_repeated_when_the_message_is_whole() -> None:
    seen = shown([delta("Hel"), delta("lo "), delta("there"), answer(text("Hello there"))], live=True)
    assert seen == "Hello there\n"


def test_a_cut_answer_is_marked_void_and_its_text_never_mixes_with_the_retry() -> None:
    lines = shown(CUT_AND_RETRIED, live=True).splitlines()
    assert lines[1] == "The first half"
    assert "attempt 1 of the answer was cut off (its worker was lost): the text above is void" in lines[2]
    assert "A whole answer." in lines[3:]
    assert not any("half" in line and "whole" in line for line in lines)


def test_a_failed_attempt_is_said_to_be_asked_again_only_when_it_is() -> None:
    failed = [
        event("model.started", "model-1", 1, turn=1, attempt=1),
        delta("A half"),
        event("model.aborted", "model-1", 1, attempt=1, reason="failed"),
    ]
    retrying = event("model.retrying", "model-1", 1, attempt=1, code="overloaded", message="busy", retry_in_seconds=2.0)
    for live in (True, False):
        assert "again" not in shown(failed, live=live)
        assert shown([*failed, retrying], live=live).endswith("! model call failed (overloaded): busy; again in 2 s\n")
        assert "its worker was lost" in shown(CUT_AND_RETRIED, live=live)
        assert shown(CUT_AND_RETRIED, live=live).count("asked again") == 1


def test_a_pipe_gets_no_half_answers_at_all() -> None:
    seen = shown(CUT_AND_RETRIED, live=False)
    assert "half" not in seen
    assert seen.count("A whole answer.") == 1
    assert "recovered after 2.3 s" in seen


def test_an_answer_whose_deltas_were_pruned_is_shown_whole() -> None:
    assert shown([answer(text("All of it"))], live=True) == "All of it\n"


def test_an_answer_that_differs_from_what_streamed_is_shown_whole_and_the_stream_marked_void() -> None:
    lines = shown([delta("one"), answer(text("another"))], live=True).splitlines()
    assert lines == ["one", "! the text above is void; this is the answer:", "another"]


def test_reasoning_and_text_stand_on_lines_of_their_own() -> None:
    seen = shown([delta("hm", kind="reasoning"), delta("Yes", index=1), answer(text("Yes"))], live=True)
    assert seen == "hm\nYes\n"


def test_tool_calls_show_their_arguments_results_and_retries() -> None:
    seen = shown(
        [
            event("tool.requested", "call_1", tool="write_file", arguments_preview='{"path":"a.txt"}', bytes=16),
            event("tool.started", "call_1", 1, tool="write_file", attempt=1),
            event("tool.retrying", "call_1", 1, tool="write_file", attempt=1, code="worker_lost", message="lost"),
            event("tool.started", "call_1", 2, tool="write_file", attempt=2),
            event(
                "message.added",
                message={
                    "role": "tool",
                    "content": [{"type": "tool_result", "call_id": "call_1", "text": "written\nok"}],
                },
            ),
            event("tool.completed", "call_1", 2, tool="write_file", preview="written", bytes=10),
            event("tool.failed", "call_2", 1, tool="http_get", code="tool_error", message="no such host", bytes=0),
        ],
        live=True,
    )
    assert seen.splitlines() == [
        '→ write_file {"path":"a.txt"}',
        "! write_file attempt 1 is over (worker_lost): lost",
        "→ write_file again, attempt 2",
        "← write_file written ok",
        "✗ http_get failed (tool_error): no such host",
    ]


def test_a_models_text_cannot_drive_the_terminal() -> None:
    for live in (True, False):
        seen = shown([delta("\x1b[2Jgone\x07"), answer(text("\x1b[2Jgone\x07"))], live=live)
        assert "\x1b" not in seen
        assert "\x07" not in seen
        assert "gone" in seen


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    assert shown([answer(text("[red]not red[/red] :smile:"))], live=False) == "[red]not red[/red] :smile:\n"


def test_a_failed_run_says_why() -> None:
    seen = shown([event("run.failed", error={"code": "model_error", "message": "401: bad key"})], live=False)
    assert seen == "✗ failed: model_error: 401: bad key\n"

"""Runs that ask people or their client something, and workers that are in the middle of a call."""

from __future__ import annotations

from typing import Any

from perdure.core.happenings import CallAsked
from perdure.core.policy import ApprovalTerms
from perdure.core.state import Json, Usage
from perdure.store.journal import Journal
from perdure.store.rows import AskRow, AskType, Decision, ModelCommit, NewAsk, RunRow
from tests.store.runs import FAR, MODEL, asks, begin, new_run

SHA, OTHER_SHA = "a" * 64, "b" * 64
QUESTIONS: list[dict[str, Json]] = [{"id": "q1", "question": "Which room?", "options": ["7", "8"]}]


def new_ask(type_: AskType = "approval", call_id: str = "call_1", **more: Any) -> NewAsk:
    terms = more.pop("terms", None) or ApprovalTerms(expires_seconds=60.0)
    more = {"expires_ms": FAR, "rule": "rules[0]", "reason": "it costs money", "terms": terms, **more}
    return NewAsk(type_, call_id, "book", more.pop("args_sha256", SHA), more.pop("expires_ms"), **more)


async def asking(journal: Journal, *new: NewAsk, turn: int = 1, run: RunRow | None = None, **more: Any) -> RunRow:
    """A run whose model has asked for calls that wait: one for each of ``new``."""
    run = run or await new_run(journal, **more)
    base = asks(*(one.call_id for one in new))
    commit = ModelCommit(
        base.content, MODEL, "tool_calls", Usage(50, 5, cost_micros=100),
        [CallAsked(one.call_id, "book", waits=one.type, expires_ms=one.expires_ms) for one in new],
        {"stop": "tool_calls"}, hashes=[one.args_sha256 for one in new], asks=new,
    )  # fmt: skip
    await journal.commit_model(run.id, f"model-{turn}", await begin(journal, run.id, turn), commit)
    return await journal.get_run(run.id)


async def the_ask(journal: Journal, run: RunRow, call_id: str = "call_1") -> AskRow:
    return await journal.find_ask(run.id, call_id)


def approve(by: str = "bob", **more: Any) -> Decision:
    return Decision("approve", by, **more)


def deny(by: str = "bob", message: str = "", **more: Any) -> Decision:
    return Decision("deny", by, message, **more)


def edit(by: str, arguments: dict[str, Json], sha256: str = OTHER_SHA, **more: Any) -> Decision:
    return Decision("edit", by, edited_arguments=arguments, edited_sha256=sha256, **more)


async def orders(journal: Journal, run: RunRow) -> list[tuple[str, str]]:
    return [(order.verb, order.call_id) for order in await journal.undelivered_orders(run.id, limit=99)]


async def result_of(journal: Journal, run: RunRow, call_id: str = "call_1") -> tuple[str, bool] | None:
    for message in await journal.list_messages(run.session_id):
        for block in message["content"]:
            if block["type"] == "tool_result" and block["call_id"] == call_id:
                return block["text"], block["is_error"]
    return None

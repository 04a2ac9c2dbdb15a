"""Ask a model, once: found under its key, the answer is returned and nothing is paid.

Content goes from the journal to the vendor and back; Temporal sees numbers, names and verdicts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from pydantic import TypeAdapter
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.lifeline import (
    FaultHook,
    benign,
    filed,
    finished,
    lifeline,
    unharmed,
    was_called_off,
    worker_is_stopping,
)
from activities.neighbours import Neighbours
from activities.partial import Partial
from activities.repairs import Repairs
from activities.transcripts import Transcripts
from activities.verdicts import verdicts, without_words
from activities.view import Exact, Terms, ask_for, last_view, with_note
from perdure.content import Block, Message
from perdure.contract import BUDGET_REACHED, CALL_MODEL, INTERRUPTED, MODEL_TROUBLE, NOTHING_NEW, CallModelInput
from perdure.core.budget import Ask
from perdure.core.happenings import ModelResponded
from perdure.core.judge import our_call_ids
from perdure.core.state import Failure, Usage
from perdure.core.transcript import repaired
from perdure.providers.estimate import price_of
from perdure.providers.port import Answer, ModelCatalog, ModelRequest, ModelTrouble, Piece, UnknownModel
from perdure.store.journal import Follower, Journal
from perdure.store.rows import Begun, CallRow, Delta, ModelCommit, RunRow
from perdure.store.trouble import JournalTrouble
from perdure.tools.port import ToolBox

_DELTA = {"text": "text.delta", "reasoning": "reasoning.delta", "tool_args": "tool_args.delta"}
_BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # by attempt, when the vendor names no time
_RESPONDED = TypeAdapter(ModelResponded)
_RETRY_AFTER_SECONDS_MAX = 3_600.0  # a vendor that says later than this is tried again then
_WRAP_UP_SECONDS_MAX = 30.0  # whoever ends a run does not wait longer for its last words
_WRAP_UP_ATTEMPTS_MAX = 3  # of which none follows one that took its whole time
_NEVER_BILLED = frozenset(
    {"auth", "bad_request", "context_exceeded", "rate_limited", "overloaded", "unknown_model", "transcript_broken"}
)
_RELOOK_SECONDS = 60.0  # a notice of an interrupt that was lost is a delay, never a loss: Temporal says it, too


class _Interrupted(Exception):
    """A message wants the call in flight to end now."""


@dataclass(frozen=True)
class ModelCaller:
    """The activity with its adapters. ``worker`` names this process in the journal. ``output_tokens_default``
    is the output cap of agents that name none, where a budget needs one."""

    journal: Journal
    catalog: ModelCatalog
    toolbox: ToolBox
    worker: str
    beat_every_seconds: float
    timeout_seconds: float
    attempts_max: int
    output_tokens_default: int
    transcripts: Transcripts
    repairs: Repairs
    previews: bool
    neighbours: Neighbours
    reached: FaultHook = unharmed

    @activity.defn(name=CALL_MODEL)
    async def call_model(self, order: CallModelInput) -> ModelResponded:
        async with lifeline(self.beat_every_seconds):
            run = await self.transcripts.run(order.run_id, order.transfers)
            model = run.definition["model"]
            async with self.journal.follow_interrupts(order.run_id) as interrupts:
                view, begun = await self._begin(run, model, order)
                if begun.ended:
                    return self._again(order, begun.ended)
                assert begun.grant is not None, "an attempt that has begun has its money"
                self.reached("model.before_call", order.key)
                partial = Partial()
                if begun.lost_attempt is not None and await self._came_while_lost(order):
                    raise await finished(self._interrupted(order, model, begun.attempt, partial, billed=False))
                try:
                    if begun.attempt > self.attempts_max:
                        raise ModelTrouble(
                            "given_up", f"given up after {self.attempts_max} attempts: workers kept dying"
                        )
                    async with _ended_by(lambda: self._interrupt(order, interrupts)):
                        answer = await self._ask(run, model, order, begun, view, partial)
                except ModelTrouble as trouble:
                    # A cause would enter history whole.
                    raise await self._over(order, begun.attempt, trouble, partial) from None
                except _Interrupted:
                    raise await finished(self._interrupted(order, model, begun.attempt, partial)) from None
                except asyncio.CancelledError:
                    await finished(self._cut_short(order, model, begun.attempt, partial))
                    raise
            self.reached("model.answered", order.key)
            call = await finished(self._commit(run, model, order, begun, answer, partial))
            self.reached("model.committed", order.key)
            happening = self._again(order, call)
            if any(asked.waits == "event" for asked in happening.calls):
                await self.neighbours.tell([order.run_id])  # what they wait for may have come before
            return happening

    async def _begin(self, run: RunRow, model: str, order: CallModelInput) -> tuple[list[Message] | None, Begun]:
        """Reserve what the call may cost at worst, and take the next attempt; the view when it was made before."""
        view, ask = await self._view(run, model, order)
        begun = await self.journal.begin_model(
            order.run_id,
            order.key,
            order.turn,
            model=model,
            worker=self.worker,
            ask=ask,
            apply=order.apply,
            only_for_messages=order.only_for_messages,
            closes=order.closes,
            outbox=order.outbox,
        )
        if begun.reached:
            raise benign(begun.reached, begun.reached, type_=BUDGET_REACHED)
        if begun.nothing_new:
            raise benign("its messages were withdrawn", type_=NOTHING_NEW)
        return view, begun

    async def _view(self, run: RunRow, model: str, order: CallModelInput) -> tuple[list[Message] | None, Ask]:
        definition = run.definition
        cap = definition["model_settings"].get("max_output_tokens", self.output_tokens_default)
        terms = Terms(price_of(self.catalog, model), cap, await self.transcripts.permille(model))
        messages = await self.transcripts.messages(run.session_id)
        if order.wrap_up:
            now = await self.journal.get_run(order.run_id)
            return last_view(messages, definition["instructions"], now.budget, now.account, terms)
        exact = self.transcripts.exact(run)
        tools = self.transcripts.toolbox(run, self.toolbox).describe()
        return None, ask_for(messages, exact, definition["instructions"], tools, order, terms)

    async def _ask(
        self, run: RunRow, model: str, order: CallModelInput, begun: Begun, view: list[Message] | None, partial: Partial
    ) -> Answer:
        assert begun.grant is not None
        most = min(self.timeout_seconds, _WRAP_UP_SECONDS_MAX) if order.wrap_up else self.timeout_seconds
        timeout_seconds = min(run.limits.get("turn_timeout_seconds") or most, most)
        settings = run.definition["model_settings"]
        if begun.grant.binding:
            settings = {**settings, "max_output_tokens": begun.grant.output_tokens}
        request = ModelRequest(
            model=model,
            instructions=run.definition["instructions"],
            transcript=view or await self._shown(run, order, begun.newest),
            tools=[] if order.wrap_up else self.transcripts.toolbox(run, self.toolbox).describe(),
            settings=settings,
            request_key=f"{order.run_id}:{order.key}",
            timeout_seconds=timeout_seconds,
        )
        try:
            port = self.catalog.port(model)
            async with asyncio.timeout(timeout_seconds), aclosing(port.stream(request)) as stream:  # type: ignore[type-var]
                async for item in stream:
                    match item:
                        case Piece(kind, text, index):
                            partial.add(item)
                            self.journal.live(Delta(order.run_id, order.key, begun.attempt, _DELTA[kind], text, index))
                        case Answer():
                            return item
        except UnknownModel as unknown:
            raise ModelTrouble("unknown_model", str(unknown)) from unknown
        except TimeoutError as late:
            raise ModelTrouble("timeout", f"no whole answer within {timeout_seconds:g} s") from late
        raise ModelTrouble("truncated_stream", "the stream ended without an answer")

    async def _shown(self, run: RunRow, order: CallModelInput, newest: int) -> list[Message]:
        messages = await self.transcripts.messages(run.session_id, newest)
        view = repaired(messages)
        await self.repairs.look_at(run.id, messages, view)
        return with_note(view, order)

    async def _commit(
        self, run: RunRow, model: str, order: CallModelInput, begun: Begun, answer: Answer, partial: Partial
    ) -> CallRow:
        grant = begun.grant
        assert grant is not None
        content = _with_our_ids(run.id, order.key, answer.content)
        if order.wrap_up:  # it was offered no tools
            content = [block for block in content if block["type"] != "tool_call"]
        # An answer that was cut off may hold half a call: the core runs none of its calls.
        whole = answer.stop not in ("max_output_tokens", "refusal")
        blocks = [block for block in content if block["type"] == "tool_call"] if whole else []
        judged = await filed(
            lambda: verdicts(self.journal, self.transcripts.toolbox(run, self.toolbox), run, blocks, _now_ms())
        )
        usage = self._priced(model, answer.usage)
        limit = grant.clamped_by if answer.stop == "max_output_tokens" and not order.wrap_up else ""
        calls = tuple(without_words(one.asked, previews=self.previews) for one in judged)
        happening = ModelResponded(order.key, answer.stop, usage, calls, limit)
        commit = ModelCommit(
            content=content,
            producer=model,
            stop=answer.stop,
            usage=usage,
            calls=[one.asked for one in judged],
            outcome=_RESPONDED.dump_python(happening, mode="json"),
            hashes=[one.args_sha256 for one in judged],
            rulings=[one.ruling for one in judged],
            asks=[one.ask for one in judged if one.ask],
            limit=limit,
            vendor_id=answer.vendor_id,
            first_token_ms=partial.first_token_ms,
        )
        await self.journal.flush_live(run.id, order.key)
        call = await filed(lambda: self.journal.commit_model(run.id, order.key, begun.attempt, commit))
        if call.usage and call.message_number and call.usage.input_tokens:
            tokens = call.usage.input_tokens + call.usage.output_tokens
            if not order.wrap_up:
                self.transcripts.count(run, Exact(tokens, call.message_number))
        return call

    def _priced(self, model: str, usage: Usage) -> Usage:
        cost = self.catalog.cost_micros(model, usage)
        return replace(usage, cost_micros=0, unpriced_calls=1) if cost is None else replace(usage, cost_micros=cost)

    # When it does not come to an answer -----------------------------------------------------------------

    async def _interrupt(self, order: CallModelInput, interrupts: Follower) -> None:
        """Return when a message that wants to interrupt waits for the run."""
        while True:
            if await interrupts.wait(_RELOOK_SECONDS):
                with suppress(JournalTrouble):  # Temporal will say it, a little later
                    if await self._is_interrupted(order):
                        return

    async def _is_interrupted(self, order: CallModelInput) -> bool:
        if order.wrap_up:
            return False
        return bool(await self._interrupting(order))

    async def _interrupting(self, order: CallModelInput) -> list[int]:
        """The numbers of the waiting messages that want to interrupt."""
        waiting = await self.journal.list_inbox(order.run_id, waiting=True)
        return [message.number for message in waiting if message.delivery == "interrupt"]

    async def _came_while_lost(self, order: CallModelInput) -> bool:
        """Whether an interrupt waits that came while the call had no worker: nothing need be asked then."""
        with suppress(JournalTrouble):
            return await self._is_interrupted(order)
        return False

    async def _interrupted(
        self, order: CallModelInput, model: str, attempt: int, partial: Partial, *, billed: bool = True
    ) -> ApplicationError:
        """Keep what was said so far, marked, and tell the run that the call is over."""
        await self.journal.flush_live(order.run_id, order.key)
        content = partial.content()
        await filed(
            lambda: self.journal.interrupt_model(order.run_id, order.key, attempt, content, model, billed=billed)
        )
        numbers = await self._interrupting(order)
        return benign("a message interrupted the call", numbers, type_=INTERRUPTED)

    async def _over(
        self, order: CallModelInput, attempt: int, trouble: ModelTrouble, partial: Partial
    ) -> ApplicationError:
        """File the failed attempt, and say to Temporal whether and when there shall be another."""
        wait_seconds = min(
            trouble.retry_after_seconds
            if trouble.retry_after_seconds is not None
            else _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS)) - 1],
            _RETRY_AFTER_SECONDS_MAX,
        )
        again = trouble.retryable and attempt < self.attempts_max
        if order.wrap_up and again:
            again = attempt < _WRAP_UP_ATTEMPTS_MAX and wait_seconds <= _WRAP_UP_SECONDS_MAX
            again = again and trouble.code != "timeout"
        await self.journal.flush_live(order.run_id, order.key)
        await self.journal.fail_model_attempt(
            order.run_id,
            order.key,
            attempt,
            Failure(trouble.code, trouble.message, trouble.retryable, attempts=attempt),
            retry_in_seconds=wait_seconds if again else None,
            billed=bool(partial.pieces) or not (trouble.code in _NEVER_BILLED or _was_refused(trouble)),
        )
        return self._application_error(trouble.code, trouble.message, attempt, wait_seconds if again else None)

    async def _cut_short(self, order: CallModelInput, model: str, attempt: int, partial: Partial) -> None:
        """Called off, or this worker is stopping. A superseded attempt writes nothing: the journal
        already knows a newer one. Temporal's word may come before the journal's: then it was an interrupt all
        the same."""
        if not (was_called_off() or worker_is_stopping()):
            return
        if was_called_off() and await self._is_interrupted(order):
            raise await self._interrupted(order, model, attempt, partial)
        await self.journal.flush_live(order.run_id, order.key)
        await self.journal.fail_model_attempt(
            order.run_id,
            order.key,
            attempt,
            Failure("cancelled" if was_called_off() else "worker_stopping", "the call was cut short", True),
            retry_in_seconds=None if was_called_off() else 0.0,
            billed=True,
        )

    def _again(self, order: CallModelInput, call: CallRow) -> ModelResponded:
        """Report what the journal holds, whoever put it there."""
        if call.error is not None:
            raise self._application_error(call.error.code, call.error.message, call.error.attempts, None)
        assert call.outcome is not None, f"call {call.key} of {order.run_id} ended without an outcome"
        return _RESPONDED.validate_python(call.outcome)

    def _application_error(
        self, code: str, message: str, attempts: int, retry_in_seconds: float | None
    ) -> ApplicationError:
        # Vendors quote what they were sent: without previews their words stay in the journal, with the call.
        shown = message[:1_000] if self.previews else f"{code}: the step of this call says more"  # Temporal keeps 4 KiB
        return ApplicationError(
            shown,
            code,
            shown,
            attempts,
            type=MODEL_TROUBLE,
            non_retryable=retry_in_seconds is None,
            next_retry_delay=None if retry_in_seconds is None else timedelta(seconds=retry_in_seconds),
        )


@asynccontextmanager
async def _ended_by(watch: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run the body; when ``watch`` returns first, the body is cancelled and _Interrupted raised."""
    body = asyncio.current_task()
    assert body is not None
    struck = False

    async def strike() -> None:
        nonlocal struck
        await watch()
        struck = True
        body.cancel()

    watching = asyncio.create_task(strike())
    try:
        yield
    except asyncio.CancelledError:
        if struck and body.uncancel() == 0:
            raise _Interrupted from None
        raise
    finally:
        watching.cancel()


def _was_refused(trouble: ModelTrouble) -> bool:
    """An error status before any piece of an answer: the vendor did no work that it could bill."""
    return trouble.status is not None and trouble.code in ("server_error", "refused", "timeout")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _with_our_ids(run_id: str, key: str, content: list[Block]) -> list[Block]:
    """Vendors' call ids may be missing or repeat: in our transcript every call has an id of ours."""
    ids = iter(our_call_ids(run_id, key, sum(block["type"] == "tool_call" for block in content)))
    return [{**block, "call_id": next(ids)} if block["type"] == "tool_call" else block for block in content]

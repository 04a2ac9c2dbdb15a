"""Ask a model, once: found under its key, the answer is returned and nothing is paid.

Content goes from the journal to the vendor and back; Temporal sees numbers, names and verdicts.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta

from pydantic import TypeAdapter
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.lifeline import FaultHook, filed, finished, lifeline, unharmed, was_called_off, worker_is_stopping
from activities.transcripts import Transcripts
from activities.verdicts import verdict, without_words
from perdure.contract import CALL_MODEL, MODEL_TROUBLE, Block, CallModelInput
from perdure.core.happenings import ModelResponded
from perdure.core.judge import our_call_ids
from perdure.core.state import Failure, Usage
from perdure.core.transcript import repaired
from perdure.providers.port import Answer, ModelCatalog, ModelRequest, ModelTrouble, Piece, UnknownModel
from perdure.store.journal import Journal
from perdure.store.rows import CallRow, Delta, ModelCommit, RunRow
from perdure.tools.port import ToolBox

_DELTA = {"text": "text.delta", "reasoning": "reasoning.delta", "tool_args": "tool_args.delta"}
_BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # by attempt, when the vendor names no time
_RESPONDED = TypeAdapter(ModelResponded)
_RETRY_AFTER_SECONDS_MAX = 3_600.0  # a vendor that says later than this is tried again then


@dataclass(frozen=True)
class ModelCaller:
    """The activity with its adapters. ``worker`` names this process in the journal."""

    journal: Journal
    catalog: ModelCatalog
    toolbox: ToolBox
    worker: str
    beat_every_seconds: float
    timeout_seconds: float
    attempts_max: int
    transcripts: Transcripts
    previews: bool
    reached: FaultHook = unharmed

    @activity.defn(name=CALL_MODEL)
    async def call_model(self, order: CallModelInput) -> ModelResponded:
        async with lifeline(self.beat_every_seconds):
            run = await self.transcripts.run(order.run_id)
            model = run.definition["model"]
            begun = await self.journal.begin_model(
                order.run_id,
                order.key,
                order.turn,
                model=model,
                worker=self.worker,
                apply=order.apply,
                outbox=order.outbox,
            )
            if begun.ended:
                return self._again(order, begun.ended)
            self.reached("model.before_call", order.key)
            try:
                if begun.attempt > self.attempts_max:
                    raise ModelTrouble("given_up", f"given up after {self.attempts_max} attempts: workers kept dying")
                answer, first_token_ms = await self._ask(run, model, order, begun.attempt)
            except ModelTrouble as trouble:
                raise await self._over(order, begun.attempt, trouble) from None  # a cause would enter history whole
            except asyncio.CancelledError:
                await finished(self._cut_short(order, begun.attempt))
                raise
            self.reached("model.answered", order.key)
            call = await finished(self._commit(run, model, order, begun.attempt, answer, first_token_ms))
            self.reached("model.committed", order.key)
            return self._again(order, call)

    async def _ask(self, run: RunRow, model: str, order: CallModelInput, attempt: int) -> tuple[Answer, int | None]:
        request = ModelRequest(
            model=model,
            instructions=run.definition["instructions"],
            transcript=repaired(await self.transcripts.messages(run.session_id)),
            tools=self.toolbox.describe(run.definition["tools"]),
            settings=run.definition["model_settings"],
            request_key=f"{order.run_id}:{order.key}",
            timeout_seconds=self.timeout_seconds,
        )
        started, first_token_ms = time.monotonic(), None
        try:
            port = self.catalog.port(model)
            async with asyncio.timeout(self.timeout_seconds), aclosing(port.stream(request)) as stream:  # type: ignore[type-var]
                async for item in stream:
                    match item:
                        case Piece(kind, text, index):
                            if first_token_ms is None:
                                first_token_ms = int((time.monotonic() - started) * 1000)
                            self.journal.live(Delta(order.run_id, order.key, attempt, _DELTA[kind], text, index))
                        case Answer():
                            return item, first_token_ms
        except UnknownModel as unknown:
            raise ModelTrouble("unknown_model", str(unknown)) from unknown
        except TimeoutError as late:
            raise ModelTrouble("timeout", f"no whole answer within {self.timeout_seconds:g} s") from late
        raise ModelTrouble("truncated_stream", "the stream ended without an answer")

    async def _commit(
        self, run: RunRow, model: str, order: CallModelInput, attempt: int, answer: Answer, first_token_ms: int | None
    ) -> CallRow:
        content = _with_our_ids(run.id, order.turn, answer.content)
        calls = tuple(
            verdict(
                self.toolbox,
                run.definition["tools"],
                block["call_id"],
                block["name"],
                block["arguments"] if "arguments" in block else block.get("raw_arguments"),
            )
            for block in content
            # An answer that was cut off may hold half a call: the core runs none of its calls.
            if block["type"] == "tool_call" and answer.stop not in ("max_output_tokens", "refusal")
        )
        usage = self._priced(model, answer.usage)
        happening = ModelResponded(order.key, answer.stop, usage, tuple(map(without_words, calls)), order.apply)
        commit = ModelCommit(
            content=content,
            producer=model,
            stop=answer.stop,
            usage=usage,
            calls=calls,
            outcome=_RESPONDED.dump_python(happening, mode="json"),
            vendor_id=answer.vendor_id,
            first_token_ms=first_token_ms,
        )
        await self.journal.flush_live(run.id, order.key)
        return await filed(lambda: self.journal.commit_model(run.id, order.key, attempt, commit))

    def _priced(self, model: str, usage: Usage) -> Usage:
        cost = self.catalog.cost_micros(model, usage)
        return replace(usage, cost_micros=0, unpriced_calls=1) if cost is None else replace(usage, cost_micros=cost)

    async def _over(self, order: CallModelInput, attempt: int, trouble: ModelTrouble) -> ApplicationError:
        """File the failed attempt, and say to Temporal whether and when there shall be another."""
        again = trouble.retryable and attempt < self.attempts_max
        wait_seconds = min(
            trouble.retry_after_seconds
            if trouble.retry_after_seconds is not None
            else _BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS)) - 1],
            _RETRY_AFTER_SECONDS_MAX,
        )
        await self.journal.flush_live(order.run_id, order.key)
        await self.journal.fail_model_attempt(
            order.run_id,
            order.key,
            attempt,
            Failure(trouble.code, trouble.message, trouble.retryable, attempts=attempt),
            retry_in_seconds=wait_seconds if again else None,
        )
        return self._application_error(trouble.code, trouble.message, attempt, wait_seconds if again else None)

    async def _cut_short(self, order: CallModelInput, attempt: int) -> None:
        """Called off, or this worker is stopping. A superseded attempt writes nothing: the journal
        already knows a newer one."""
        if not (was_called_off() or worker_is_stopping()):
            return
        await self.journal.flush_live(order.run_id, order.key)
        await self.journal.fail_model_attempt(
            order.run_id,
            order.key,
            attempt,
            Failure("cancelled" if was_called_off() else "worker_stopping", "the call was cut short", True),
            retry_in_seconds=None if was_called_off() else 0.0,
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


def _with_our_ids(run_id: str, turn: int, content: list[Block]) -> list[Block]:
    """Vendors' call ids may be missing or repeat: in our transcript every call has an id of ours."""
    ids = iter(our_call_ids(run_id, turn, sum(block["type"] == "tool_call" for block in content)))
    return [{**block, "call_id": next(ids)} if block["type"] == "tool_call" else block for block in content]

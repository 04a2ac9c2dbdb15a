"""Triggers and backfills on their way to Temporal. They are in the journal when they are accepted, and are told one at
a time: Temporal's scheduler keeps the last of several patches that reach it within one workflow task. What Temporal
does not show to have taken is told again; a trigger that it dropped gets its row in the book.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from ulid import ULID

from perdure.runs import TemporalUnavailable
from perdure.schedules import Schedules, Standing, apply_newest, firing_id
from perdure.scheduling.definition import REPLACING, ScheduleDefinition
from perdure.scheduling.timetable import Timetable
from perdure.store.journal import Journal
from perdure.store.schedule_rows import ScheduleOrder, ScheduleRow
from perdure.store.trouble import JournalTrouble, NotFound

log = logging.getLogger("perdure.api")

HOLD_MS = 20_000  # nobody else tells an order that somebody tells; who does it has died after this
LOOK_MS = 5_000  # a trigger that was taken reaches the book within this, or somebody asks for it
TRIES_MAX = 5  # of a trigger that Temporal takes and does not fire
_SHOWN_SECONDS = 2.0  # Temporal shows that it took an order within this
_SHOWN_EVERY_SECONDS = 0.1


async def deliver_orders(
    journal: Journal, schedules: Schedules, row: ScheduleRow, *, for_seconds: float | None = None
) -> None:
    """All that wait, in their order, or as many as begin within this time. TemporalUnavailable."""
    loop = asyncio.get_running_loop()
    ends = None if for_seconds is None else loop.time() + for_seconds
    while ends is None or loop.time() < ends:
        order = await journal.take_schedule_order(row.id, hold_ms=HOLD_MS)
        if order is None:
            return
        try:
            dropped = await _told(journal, schedules, row, order)
        except BaseException:
            with suppress(Exception):
                await asyncio.shield(journal.hold_schedule_order(order.id, hold_ms=0))
            raise
        if dropped is None:
            await journal.hold_schedule_order(order.id, hold_ms=0)
            return  # the keeper comes again
        await journal.schedule_order_sent(order, dropped=dropped, look_ms=LOOK_MS)


async def _told(journal: Journal, schedules: Schedules, row: ScheduleRow, order: ScheduleOrder) -> int | None:
    """How many firings Temporal had dropped before it took the order; None: it does not show that it took it."""
    before = await schedules.standing(row.id)
    if before is None:  # Temporal has lost it
        await apply_newest(journal, schedules, row)
        before = await schedules.standing(row.id)
    if before is None:
        return None
    if order.kind == "trigger" and await schedules.firing(row.id, order.from_ms) is not None:
        return before.dropped  # who told it has died before it could say so
    request_id = f"{order.id}-{ULID()}"  # the same twice is not heard again
    if order.to_ms is None:
        heard = await schedules.trigger(row.id, request_id, order.from_ms, order.overlap)
    else:
        overlap = order.overlap or row.definition["overlap"]
        to_ms = _last_ms(row.definition, order.to_ms)
        heard = await schedules.backfill(row.id, request_id, order.from_ms, to_ms, overlap)
    loop = asyncio.get_running_loop()
    ends = loop.time() + _SHOWN_SECONDS
    while heard and loop.time() < ends:
        after = await schedules.standing(row.id)
        if after is not None and _shows(before, after, order):
            return before.dropped
        await asyncio.sleep(_SHOWN_EVERY_SECONDS)
    # A backfill of firings that were there already changes no count; the query above came after it all the same.
    return before.dropped if heard and order.kind == "backfill" else None


def _last_ms(definition: ScheduleDefinition, to_ms: int) -> int:
    """The end of a backfill in Temporal's words: it compares when jitter lets a firing begin, not its planned time."""
    late_ms = to_ms + definition["jitter_seconds"] * 1_000
    following_ms = Timetable(definition).next(to_ms, quiet=True)
    return late_ms if following_ms is None else min(late_ms, following_ms - 1)


def _shows(before: Standing, after: Standing, order: ScheduleOrder) -> bool:
    own = order.kind == "trigger" and firing_id(order.schedule_id, order.from_ms) in after.firings
    return own or after.counted > before.counted


async def keep_orders(journal: Journal, schedules: Schedules, limit: int) -> None:
    """Tell what was not told, and ask for triggers that did not reach the book. TemporalUnavailable, JournalTrouble."""
    for order in await journal.due_schedule_orders(limit=limit):
        try:
            await _keep(journal, schedules, order)
        except (TemporalUnavailable, JournalTrouble):
            raise
        except Exception:
            log.exception("an order to schedule %s cannot be told to Temporal", order.schedule_id)  # the others can


async def _keep(journal: Journal, schedules: Schedules, order: ScheduleOrder) -> None:
    try:
        row = await journal.find_schedule(order.schedule_id)
    except NotFound:
        return
    if row.deleted:
        await journal.end_schedule_order(order, "skipped", "changed")
    elif order.sent:
        await _ask_for(journal, schedules, row, order)
    else:
        await deliver_orders(journal, schedules, row)


async def _ask_for(journal: Journal, schedules: Schedules, row: ScheduleRow, order: ScheduleOrder) -> None:
    over = await schedules.firing(row.id, order.from_ms)
    standing = await schedules.standing(row.id)
    if over is False or standing is None or (over is None and standing.buffered):
        return await journal.hold_schedule_order(order.id, hold_ms=2 * LOOK_MS)
    own = firing_id(row.id, order.from_ms)
    overlap = order.overlap or row.definition["overlap"]
    # Of these the newest fires, and Temporal does not count the others.
    replaced = overlap in REPLACING and any(other > own for other in standing.firings)
    dropped = overlap != "allow_all" and (standing.dropped > order.dropped or replaced)
    if over or dropped:  # it was ended by force before it had opened its row, or it never began
        return await journal.end_schedule_order(order, "skipped", "overlap")
    if order.tries >= TRIES_MAX:
        return await journal.end_schedule_order(order, "failed", "Temporal did not fire it")
    return await journal.hold_schedule_order(order.id, hold_ms=0, again=True)

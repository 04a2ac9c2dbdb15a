"""The courier: what was committed reaches the workflow, whatever dies or is away, without a storm of signals."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

from api.starting import deliver_late, end_orphans
from perdure.contract import ORDERS_A_SIGNAL
from perdure.core.happenings import Order
from perdure.courier import PACE_SECONDS, Courier
from perdure.store.rows import NewMessage
from tests.api.service import Service, serve


async def order(service: Service, run_id: str, count: int = 1) -> None:
    for _ in range(count):
        await service.journal.give_order(run_id, Order(0, "pause", reason="x"))


async def test_an_order_that_no_process_delivered_is_delivered_by_the_reconciler(service: Service) -> None:
    run = await service.new_run()
    await service.journal.mark_workflow_started(run["id"])
    await order(service, run["id"])  # its process died right after the commit
    for _ in range(100):
        if service.runs.heard:
            break
        await asyncio.sleep(0.1)
    assert service.runs.heard == [("pause", run["id"])]
    await asyncio.sleep(2.5)
    assert len(service.runs.signals) == 1, "what was confirmed is not delivered again"


async def test_an_order_given_while_temporal_is_away_is_heard_when_it_is_back(service: Service) -> None:
    run = await service.new_run()
    await service.journal.mark_workflow_started(run["id"])
    service.runs.away = True
    began = time.monotonic()
    reply = await service.post(f"/v1/runs/{run['id']}/messages", {"content": "x"})
    assert reply.status_code == 202
    assert time.monotonic() - began < 1, "the reply does not wait for Temporal"
    service.runs.away = False
    for _ in range(150):
        if service.runs.heard:
            break
        await asyncio.sleep(0.1)
    assert service.runs.heard == [("message", run["id"])]


async def test_orders_outlive_the_process_that_took_them(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        run = await service.new_run()
        await service.journal.mark_workflow_started(run["id"])
        service.runs.away = True
        await service.post(f"/v1/runs/{run['id']}/messages", {"content": "x"})
    async with serve(tmp_path) as service:
        service.runs.open.add(run["id"])
        for _ in range(100):
            if service.runs.heard:
                break
            await asyncio.sleep(0.1)
        assert service.runs.heard == [("message", run["id"])]


async def test_what_a_run_was_told_before_it_could_start_is_brought_to_it_when_it_does(service: Service) -> None:
    service.runs.away = True
    run = await service.new_run()
    await service.post(f"/v1/runs/{run['id']}/messages", {"content": "x"})
    service.runs.away = False
    for _ in range(150):
        if service.runs.heard:
            break
        await asyncio.sleep(0.1)
    assert service.runs.orders == [("start", run["id"])]
    assert service.runs.heard == [("message", run["id"])]


async def test_many_orders_are_few_signals_each_with_all_that_waits_and_at_a_measured_pace(service: Service) -> None:
    run = await service.new_run()
    courier = service.app.state.parts.courier
    await order(service, run["id"])
    began = time.monotonic()
    service.app.state.parts.nudge(run["id"])
    await service.told(run["id"])
    assert service.runs.times[0] - began < PACE_SECONDS, "the first at once"
    for _ in range(299):
        await order(service, run["id"])
        service.app.state.parts.nudge(run["id"])
        await asyncio.sleep(0)
    assert await courier.carry(run["id"])
    numbers = [number for _, carried in service.runs.signals for number in carried]
    assert numbers == list(range(1, 301)), "each once, in order"
    times = service.runs.times
    assert all(later - earlier > PACE_SECONDS * 0.9 for earlier, later in itertools.pairwise(times))
    assert len(times) < 100


async def test_a_signal_carries_a_bounded_number_of_orders(service: Service) -> None:
    run = await service.new_run()
    many = [NewMessage(f"msg_{n}", [{"type": "text", "text": "x"}], "enqueue") for n in range(ORDERS_A_SIGNAL * 2 + 1)]
    await service.journal.replace_inbox(run["id"], many)
    assert await service.app.state.parts.courier.carry(run["id"])
    assert [len(numbers) for _, numbers in service.runs.signals] == [ORDERS_A_SIGNAL, ORDERS_A_SIGNAL, 1]
    assert await service.journal.undelivered_orders(run["id"], limit=10) == []


async def test_one_signal_at_a_time_and_whoever_waits_hears_of_their_own_order(service: Service) -> None:
    run = await service.new_run()
    courier = service.app.state.parts.courier
    service.runs.held = asyncio.Event()
    await order(service, run["id"])
    first = asyncio.create_task(courier.carry(run["id"]))
    await asyncio.sleep(0.1)
    await order(service, run["id"])
    others = [asyncio.create_task(courier.carry(run["id"])) for _ in range(20)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (first, *others))
    service.runs.held.set()
    assert all(await asyncio.gather(first, *others))
    assert [numbers for _, numbers in service.runs.signals] == [[1], [2]]


async def test_a_run_that_is_slow_to_reach_holds_up_no_other(service: Service) -> None:
    slow, fast = await service.new_run(), await service.new_run()
    service.runs.held = asyncio.Event()
    await order(service, slow["id"])
    service.app.state.parts.nudge(slow["id"])
    await asyncio.sleep(0.05)
    service.runs.held, gate = None, service.runs.held
    await service.post(f"/v1/runs/{fast['id']}/pause", {})
    assert await service.told(fast["id"]) == ["pause"]
    gate.set()
    assert await service.told(slow["id"]) == ["pause"]


async def test_a_courier_forgets_the_runs_it_has_served(service: Service) -> None:
    courier: Courier = service.app.state.parts.courier
    for _ in range(5):
        run = await service.new_run()
        await service.post(f"/v1/runs/{run['id']}/pause", {})
        await service.told(run["id"])
    await asyncio.sleep(PACE_SECONDS * 3)
    assert not courier.has_open_lanes


async def test_a_run_that_waits_and_whose_workflow_is_gone_fails_instead_of_waiting_for_ever(service: Service) -> None:
    run = await service.new_run()
    await service.journal.mark_workflow_started(run["id"])
    await service.status(run["id"], "paused", reason="user")
    service.runs.open.clear()  # somebody terminated it in Temporal
    assert (await service.post(f"/v1/runs/{run['id']}/resume", {})).status_code == 202
    assembly = service.app.state.parts.assembly
    await deliver_late(service.app.state.parts, older_than_ms=-1_000)
    assert (await service.get(f"/v1/runs/{run['id']}")).json()["status"] == "paused", "left for the look for orphans"
    await end_orphans(assembly, silent_ms=-1_000)
    ended = (await service.get(f"/v1/runs/{run['id']}")).json()
    assert (ended["status"], ended["error"]["code"], ended["error"]["retryable"]) == ("failed", "internal", True)

"""What `perdure doctor` asks of the running parts: Temporal, the journal, the API."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.cli.doctor import Finding

if TYPE_CHECKING:
    from temporalio.client import Client

DISPATCHES = 7  # the median of so few is steady enough for a limit of 20 ms
DISPATCH_WARN_MS = 20.0  # measured: 7 ms; 50 ms when the dev server was started without our knobs
TEMPORAL_SECONDS = 8.0  # for the connection, and for everything that is asked over it
API_SECONDS = 6.0  # /readyz gives up on its own questions after 4


def temporal() -> Iterator[Finding]:
    """Reachable, the namespace, our search attributes, and how fast a task is dispatched."""
    yield from asyncio.run(_temporal())


async def _temporal() -> list[Finding]:
    from perdure.runs import TemporalUnavailable, connect

    try:
        client = await asyncio.wait_for(connect(lazy=False), TEMPORAL_SECONDS)
    except (TemporalUnavailable, TimeoutError) as trouble:
        todo = "check TEMPORAL_ADDRESS and its profile, or unset it: `perdure up` starts a server of its own"
        return [Finding("fail", "Temporal", str(trouble) or "no answer", todo)]
    where = f"{client.service_client.config.target_host}, namespace {client.namespace}"
    findings: list[Finding] = []
    for name, question in (
        ("Temporal", _namespace),
        ("search attributes", _search_attributes),
        ("dispatch", _dispatch),
    ):
        found = await _asked(name, question(client, where))
        findings.append(found)
        if found.level == "fail":
            break
    return findings


async def _asked(name: str, question: Coroutine[Any, Any, Finding]) -> Finding:
    from temporalio.service import RPCError

    try:
        return await asyncio.wait_for(question, TEMPORAL_SECONDS)
    except RPCError as trouble:
        return Finding("fail", name, trouble.message, "see the server's log")
    except TimeoutError:
        return Finding("fail", name, f"no answer within {TEMPORAL_SECONDS:.0f} s", "see the server's log")


async def _namespace(client: Client, where: str) -> Finding:
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.service import RPCError, RPCStatusCode

    try:
        await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as trouble:
        if trouble.status is not RPCStatusCode.NOT_FOUND:
            raise
        todo = f"create it (temporal operator namespace create {client.namespace}) or set TEMPORAL_NAMESPACE"
        return Finding("fail", "Temporal", f"{where}: there is no such namespace", todo)
    return Finding("ok", "Temporal", where)


async def _search_attributes(client: Client, _: str) -> Finding:
    from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

    from perdure.contract import SEARCH_ATTRIBUTES
    from perdure.settings import Settings

    if not Settings().search_attributes:
        return Finding("note", "search attributes", "switched off by the setting search_attributes")
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    if missing := set(SEARCH_ATTRIBUTES) - set(answer.custom_attributes):
        todo = "a worker creates them when it may; else create them, or set PERDURE_SEARCH_ATTRIBUTES=false"
        return Finding("warn", "search attributes", f"missing: {', '.join(sorted(missing))}", todo)
    return Finding("ok", "search attributes", ", ".join(SEARCH_ATTRIBUTES))


async def _dispatch(client: Client, _: str) -> Finding:
    """Time standalone activities on a task queue of our own: that is what every step of a run waits for."""
    from datetime import timedelta

    from temporalio import activity
    from temporalio.service import RPCError
    from temporalio.worker import Worker

    @activity.defn(name="perdure_doctor_ping")
    async def ping() -> None: ...

    queue = f"perdure-doctor-{os.getpid()}"
    took: list[float] = []
    async with Worker(client, task_queue=queue, activities=[ping]):
        for number in range(DISPATCHES):
            began = time.perf_counter()
            try:
                await client.execute_activity(
                    ping, id=f"{queue}-{number}", task_queue=queue, start_to_close_timeout=timedelta(seconds=5)
                )
            except RPCError as trouble:
                return Finding("note", "dispatch", f"not measured: {trouble.message}")
            took.append((time.perf_counter() - began) * 1000)
    median = statistics.median(took)
    found = f"a task reaches a worker and is back in {median:.0f} ms (median of {DISPATCHES})"
    if median > DISPATCH_WARN_MS:
        todo = (
            "each step of a run waits this long: a dev server must be started by `perdure up`, which sets the poll "
            "rates; else the server is busy or far away"
        )
        return Finding("warn", "dispatch", found, todo)
    return Finding("ok", "dispatch", found)


def journal() -> Iterator[Finding]:
    """The journal answers, with its schema. A SQLite file that is not there yet is not made here."""
    from perdure.settings import Settings

    settings = Settings()
    kind, _, path = settings.sql_url.partition(":///")
    if kind.startswith("sqlite") and not Path(path).exists():
        yield Finding("note", "journal", f"{path} is not there yet; the first worker or API makes it")
        return
    try:
        yield asyncio.run(_journal(settings.sql_url, settings.blob_folder))
    except ValueError as trouble:
        yield Finding("fail", "journal", str(trouble), "mend PERDURE_BLOBS_URL or PERDURE_DATABASE_URL")


async def _journal(sql_url: str, blob_folder: Path) -> Finding:
    from perdure.store.migrate import SchemaMismatch
    from perdure.store.sql import open_journal
    from perdure.store.trouble import JournalTrouble

    shown = sql_url.partition("://")[2].rpartition("@")[2].replace("//", "/")  # without a password
    try:
        opened = await open_journal(sql_url, blob_folder, migrate=False)
    except SchemaMismatch as trouble:
        if trouble.migrates:
            return Finding("warn", "journal", str(trouble), "the next start of a worker or the API migrates it")
        return Finding("fail", "journal", str(trouble), "install the Perdure that made it, or name another home")
    except JournalTrouble as trouble:
        return Finding("fail", "journal", str(trouble), "check PERDURE_DATABASE_URL, and that the server runs")
    try:
        return Finding("ok", "journal", f"{shown}, schema {await opened.ready()}")
    except JournalTrouble as trouble:
        return Finding("fail", "journal", str(trouble), "check PERDURE_DATABASE_URL, and that the server runs")
    finally:
        await opened.close()


def api(url: str | None) -> Iterator[Finding]:
    """It answers, and what it says about its own parts."""
    import httpx2

    if url is None:
        return
    try:
        reply = httpx2.get(f"{url}/readyz", timeout=API_SECONDS, trust_env=False)
        checks = reply.json()["checks"]
    except (httpx2.HTTPError, httpx2.InvalidURL) as trouble:
        yield Finding("fail", "API", f"{url} does not answer: {trouble}", "read logs/api.log in the home")
        return
    except (ValueError, KeyError):
        yield Finding("fail", "API", f"{url} is not the Perdure API", "check --api-url and the port")
        return
    yield Finding("ok", "API", url)
    for name, check in checks.items():
        if check["ok"]:
            yield Finding("ok", f"API: {name}", check["detail"])
        else:
            todo = "start one: `perdure up --workers 1`, or python -m worker" if name == "workers" else "see above"
            yield Finding("fail", f"API: {name}", check["detail"], todo)

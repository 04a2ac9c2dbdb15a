"""The typed client of our workflows: start a run, bring it orders, end it. Everything else about runs is
read from the journal, never from a workflow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from pydantic import TypeAdapter
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.envconfig import ClientConfig
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from perdure.contract import (
    SEARCH_AGENT,
    SEARCH_ATTRIBUTES,
    SEARCH_COST,
    SEARCH_MODEL,
    SEARCH_NEEDS_ACTION,
    SEARCH_STATUS,
    SEARCH_TENANT,
    SIGNAL_ORDERS,
    SUMMARY_CHARACTERS,
    TASK_TIMEOUT_SECONDS,
    WORKFLOW,
    AgentRunInput,
    ChildStart,
    Orders,
)
from perdure.core.happenings import Order
from perdure.core.spec import RunSpec
from perdure.store.rows import RunRow

DEFAULT_ADDRESS = "localhost:7233"  # where Temporal's own tools look when nobody says otherwise
RPC = timedelta(seconds=3)  # a client of the HTTP surface should not wait longer to hear that Temporal is away
_PASSING = {
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,
    RPCStatusCode.RESOURCE_EXHAUSTED,
    RPCStatusCode.UNKNOWN,  # a connection that breaks in the middle of a call
}
_SEARCH_TYPES = {
    name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{type_.upper()}") for name, type_ in SEARCH_ATTRIBUTES.items()
}
GOAL_CHARACTERS = 160  # of the input, as a preview for people


class TemporalUnavailable(Exception):
    """Temporal did not take the order in time; nothing is known to have happened. Try again."""


class TemporalBusy(TemporalUnavailable):
    """Temporal is there, and has too much to do with what was asked about to take this as well."""


class _CompactJson(PydanticJSONPlainPayloadConverter):
    """Leaves out what equals its default: history is kept for as long as Temporal retains a run."""

    def to_payload(self, value: object) -> Payload | None:
        if not hasattr(type(value), "__dataclass_fields__"):
            return super().to_payload(value)
        data = self._adapter(type(value)).dump_json(value, exclude_defaults=True)
        return Payload(metadata={"encoding": self.encoding.encode()}, data=data)

    def _adapter(self, type_: type) -> TypeAdapter[object]:
        adapter = _ADAPTERS.get(type_)
        if adapter is None:
            adapter = _ADAPTERS[type_] = TypeAdapter(type_)
        return adapter


_ADAPTERS: dict[type, TypeAdapter[object]] = {}


_CONVERTERS = tuple(
    _CompactJson() if isinstance(converter, JSONPlainPayloadConverter) else converter
    for converter in DefaultPayloadConverter.default_encoding_payload_converters
)


class PayloadConverter(CompositePayloadConverter):
    """Temporal's own converters, with ours for JSON. The SDK makes one of these for each workflow in the cache; what a
    type of ours is read with takes milliseconds to build and hundreds of KB, so all of them share it."""

    def __init__(self) -> None:
        super().__init__(*_CONVERTERS)


DATA_CONVERTER = DataConverter(payload_converter_class=PayloadConverter)


async def connect(*, lazy: bool) -> Client:
    """A client configured the way Temporal's own tools are: ``TEMPORAL_*`` and its TOML profiles.

    ``lazy`` clients connect at the first call and outlive an absent server. TemporalUnavailable.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", DEFAULT_ADDRESS)
    try:
        return await Client.connect(**config, data_converter=DATA_CONVERTER, lazy=lazy)
    except RuntimeError as error:
        raise TemporalUnavailable(f"no Temporal at {config.get('target_host')}: {error}") from error


class Runs:
    """Orders to runs. Every method raises ``TemporalUnavailable`` within about three seconds."""

    def __init__(
        self, client: Client, *, task_queue: str, spec_of: Callable[[RunRow], RunSpec], search_attributes: bool
    ) -> None:
        self.client = client
        self.task_queue = task_queue
        self._spec_of = spec_of
        self._search_attributes = search_attributes

    def start_of(self, run: RunRow) -> AgentRunInput:
        """What its workflow is started with."""
        spec = self._spec_of(run)
        return AgentRunInput(spec, _goal(run) if spec.previews else "")

    async def start(self, run: RunRow) -> None:
        """Start the run's workflow. Starting it again is nothing: the workflow id is the run id."""
        start = self.start_of(run)
        with suppress(WorkflowAlreadyStartedError):
            async with temporal_trouble():
                await self.client.start_workflow(
                    WORKFLOW,
                    start,
                    id=run.id,
                    task_queue=self.task_queue,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    task_timeout=timedelta(seconds=TASK_TIMEOUT_SECONDS),
                    static_summary=start.goal[:SUMMARY_CHARACTERS] or None,
                    search_attributes=_searchable(run) if self._search_attributes else None,
                    rpc_timeout=RPC,
                )

    def child_start_of(self, run: RunRow) -> ChildStart:
        """What its parent's workflow has to know to start it."""
        start = self.start_of(run)
        return ChildStart(start.spec, start.goal, run.project_id)

    async def deliver(self, run_id: str, orders: Sequence[Order]) -> bool:
        """Bring orders of the journal to the run, in one signal; durable when this returns, with no worker alive
        too. Delivered twice they say nothing new. False: there is no such open workflow."""
        handle = self.client.get_workflow_handle(run_id)
        return await _to_open(handle.signal(SIGNAL_ORDERS, Orders(tuple(orders)), rpc_timeout=RPC))

    async def terminate(self, run_id: str, reason: str) -> bool:
        """End the workflow without asking it. False: there is no such open workflow."""
        handle = self.client.get_workflow_handle(run_id)
        return await _to_open(handle.terminate(reason=reason, rpc_timeout=RPC))

    async def is_open(self, run_id: str) -> bool:
        """Whether the run's workflow exists and has not ended."""
        async with temporal_trouble():
            try:
                found = await self.client.get_workflow_handle(run_id).describe(rpc_timeout=RPC)
            except RPCError as error:
                if error.status == RPCStatusCode.NOT_FOUND:
                    return False
                raise
        return found.status == WorkflowExecutionStatus.RUNNING

    async def pollers(self) -> int:
        """How many workers have polled the task queue for workflow tasks lately."""
        async with temporal_trouble():
            answer = await self.client.workflow_service.describe_task_queue(
                DescribeTaskQueueRequest(
                    namespace=self.client.namespace,
                    task_queue=TaskQueue(name=self.task_queue),
                    task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
                ),
                timeout=RPC,
            )
        return len(answer.pollers)

    async def namespace_ready(self) -> None:
        """Return when the namespace answers."""
        async with temporal_trouble():
            await self.client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=self.client.namespace), timeout=RPC
            )


async def _to_open(order: Coroutine[object, object, object]) -> bool:
    """Give an order to an open workflow; False when there is none."""
    async with temporal_trouble():
        try:
            await order
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND:
                return False
            raise
    return True


@asynccontextmanager
async def temporal_trouble() -> AsyncIterator[None]:
    """Translate Temporal's trouble, in one place."""
    try:
        # The SDK's own timeout is of one try, and it tries for ten seconds to find a server that is away.
        async with asyncio.timeout(RPC.total_seconds()):
            yield
    except RPCError as error:
        if error.status == RPCStatusCode.RESOURCE_EXHAUSTED:
            raise TemporalBusy(f"Temporal is busy: {error.message}") from error
        if error.status in _PASSING:
            raise TemporalUnavailable(f"Temporal did not answer: {error.message}") from error
        raise
    except (RuntimeError, TimeoutError) as error:  # a lazy client's first connection failed
        raise TemporalUnavailable(f"Temporal cannot be reached: {str(error) or 'no answer in time'}") from error


def _goal(run: RunRow) -> str:
    """The first line of the run's input, as a preview for people."""
    text = " ".join(block["text"] for block in run.input if block["type"] == "text").strip()
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= GOAL_CHARACTERS else line[: GOAL_CHARACTERS - 1] + "…"


def _searchable(run: RunRow) -> TypedSearchAttributes:
    return TypedSearchAttributes(
        [
            SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_AGENT), run.definition["name"]),
            SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_MODEL), run.definition["model"]),
            SearchAttributePair(
                SearchAttributeKey.for_keyword(SEARCH_STATUS), "running" if run.start_ms is None else "scheduled"
            ),
            SearchAttributePair(SearchAttributeKey.for_keyword(SEARCH_TENANT), run.project_id),
            SearchAttributePair(SearchAttributeKey.for_int(SEARCH_COST), 0),
            SearchAttributePair(SearchAttributeKey.for_bool(SEARCH_NEEDS_ACTION), False),
        ]
    )


async def register_search_attributes(client: Client, *, wanted: bool) -> None:
    """Make our typed search attributes known to the namespace. They may exist, or belong to somebody
    else to create (Temporal Cloud): then a run's start says so clearly, and the setting
    ``search_attributes`` switches them off."""
    if not wanted:
        return
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=client.namespace, search_attributes=_SEARCH_TYPES), timeout=RPC
        )
    except RPCError as error:
        if error.status not in (RPCStatusCode.ALREADY_EXISTS, RPCStatusCode.PERMISSION_DENIED, *_PASSING):
            raise

"""Rows of the journal as the JSON of this API: times, money and blocks in their public form."""

from __future__ import annotations

from typing import Any, cast

from api import money_rendering
from api.times import Object, time, time_or_none
from perdure.content import Message
from perdure.core.state import Failure, Usage
from perdure.definitions import AgentDefinition, AgentToolDefinition, LimitsDefinition, ToolDescription
from perdure.providers.port import ModelInfo
from perdure.store.events import usd
from perdure.store.rows import AgentRow, Calibration, CallRow, EventRow, RunRow, SessionRow


def usage(total: Usage) -> Object:
    return {
        "input_tokens": total.input_tokens,
        "output_tokens": total.output_tokens,
        "cache_read_tokens": total.cache_read_tokens,
        "cache_write_tokens": total.cache_write_tokens,
        "reasoning_tokens": total.reasoning_tokens,
        "cost_usd": None if total.unpriced_calls else usd(total.cost_micros),
    }


def failure(error: Failure | None) -> Object | None:
    if error is None:
        return None
    return {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "call_id": error.call_id,
        "attempts": error.attempts,
    }


def blocks(content: list[Any]) -> list[Object]:
    """Blocks as people may see them: a vendor's opaque reasoning items stay inside."""
    return [{name: value for name, value in block.items() if name != "opaque"} for block in content]


def text_of(content: list[Any] | None) -> str | None:
    """The text blocks joined; None when there is no content at all."""
    if content is None:
        return None
    return "".join(block["text"] for block in content if block["type"] == "text")


def run(row: RunRow, *, pending_actions: list[Object], waiting_for: list[Object], budget: Object) -> Object:
    """What is asked and what is waited for is known to ``showing.py``."""
    return {
        "id": row.id,
        "object": "run",
        "status": row.status,
        "status_reason": row.status_reason,
        "stop_reason": row.stop_reason,
        "agent": agent_of(row),
        "session_id": row.session_id,
        "parent_run_id": row.parent_run_id,
        "root_run_id": row.root_run_id,
        "depth": row.depth,
        "schedule_id": row.schedule_id,
        "retry_of": row.retry_of,
        "forked_from": None if row.forked_from is None else dict(zip(("run_id", "seq"), row.forked_from, strict=True)),
        "input": blocks(row.input),
        "output": None if row.output is None else blocks(row.output),
        "output_text": text_of(row.output),
        "error": failure(row.error),
        "pending_actions": pending_actions,
        "waiting_for": waiting_for,
        "turns": row.turns,
        "last_seq": row.last_seq,
        "last_progress_at": time(row.last_progress_ms),
        "worker": {"recovering": row.recovering},
        "usage": usage(row.usage),
        "budget": budget,
        "limits": limits(row.limits),
        "requested_by": row.requested_by,
        "deadline": time(row.deadline_ms),
        "created_at": time(row.created_ms),
        "start_at": time_or_none(row.start_ms),
        "started_at": time_or_none(row.started_ms),
        "completed_at": time_or_none(row.completed_ms),
        "labels": row.labels,
        "metadata": row.metadata,
        "version": row.last_seq,
    }


def agent_of(row: RunRow) -> Object:
    return {
        "id": row.agent_id,
        "version": row.agent_version,
        "name": row.definition["name"],
        "model": row.definition["model"],
    }


def limits(counts: LimitsDefinition) -> Object:
    """All of them: a run's limits are resolved when it is made."""
    return {
        "max_turns": counts.get("max_turns"),
        "max_tool_calls": counts.get("max_tool_calls"),
        "max_questions": counts.get("max_questions"),
        "max_children": counts.get("max_children"),
        "max_depth": counts.get("max_depth"),
        "max_running_children": counts.get("max_running_children"),
        "tool_output_bytes_per_turn": counts.get("tool_output_bytes_per_turn"),
        "tools": counts.get("tools", {}),
        "turn_timeout_seconds": counts.get("turn_timeout_seconds"),
        "tool_timeouts": counts.get("tool_timeouts", {}),
    }


def message(entry: Message) -> Object:
    return {
        "id": entry["id"],
        "object": "message",
        "session_id": entry["session_id"],
        "run_id": entry["run_id"],
        "number": entry["number"],
        "role": entry["role"],
        "content": blocks(entry["content"]),
        "producer": entry["producer"],
        "stop_reason": entry["stop_reason"],
        "created_at": time(entry["at_ms"]),
    }


def event(row: EventRow) -> Object:
    envelope: Object = {
        "id": f"{row.run_id}:{row.seq}",
        "seq": row.seq,
        "run_id": row.run_id,
        "root_run_id": row.root_run_id,
        "depth": row.depth,
        "type": row.type,
        "at": time(row.at_ms),
    }
    if row.call_id is not None:
        envelope["call_id"] = row.call_id
    if row.message_id is not None:
        envelope["message_id"] = row.message_id
    if row.attempt is not None:
        envelope["attempt"] = row.attempt
    data: Object = row.data
    if row.type == "message.added":
        data = {**data, "message": message(cast("Message", data["message"]))}
    envelope["data"] = data
    return envelope


def step(row: CallRow) -> Object:
    latency = row.ended_ms - row.started_ms if row.ended_ms is not None and row.started_ms is not None else None
    return {
        "id": f"{row.run_id}:{row.key}",
        "object": "step",
        "run_id": row.run_id,
        "key": row.key,
        "call_id": row.key if row.kind == "tool" else None,
        "kind": row.kind,
        "name": row.name,
        "turn": row.turn,
        "status": row.status,
        "attempts": row.attempts,
        "running": row.open_attempt is not None,
        "arguments": row.arguments,
        "usage": None if row.usage is None else usage(row.usage),
        "message_number": row.message_number,
        "error": failure(row.error),
        "requested_at": time(row.requested_ms),
        "started_at": time_or_none(row.started_ms),
        "ended_at": time_or_none(row.ended_ms),
        "latency_ms": latency,
    }


def session(row: SessionRow) -> Object:
    return {
        "id": row.id,
        "object": "session",
        "last_number": 0 if row.deleted_ms is not None else row.last_number,
        "active_run_id": row.active_run_id,
        "forked_from": None if row.forked_from is None else {"session_id": row.forked_from, "number": row.inherited},
        "deleted_at": time_or_none(row.deleted_ms),
        "created_at": time(row.created_ms),
        "updated_at": time(row.updated_ms),
        "labels": row.labels,
        "metadata": row.metadata,
    }


def agent(row: AgentRow) -> Object:
    definition: AgentDefinition = row.definition
    return {
        "id": row.id,
        "object": "agent",
        "name": row.name,
        "version": row.version,
        "model": definition["model"],
        "instructions": definition["instructions"],
        "tools": definition["tools"],
        "model_settings": definition["model_settings"],
        "limits": definition["limits"],
        "budget": money_rendering.definition(definition["budget"]) if "budget" in definition else None,
        "policy": definition.get("policy"),
        "agents": definition.get("agents", []),
        "agent_tools": [agent_tool(tool) for tool in definition.get("agent_tools", [])],
        "created_at": time(row.created_ms),
    }


def agent_tool(tool: AgentToolDefinition) -> Object:
    return {
        "agent": tool["agent"],
        "name": tool["name"],
        "description": tool["description"],
        "input_schema": tool["input_schema"],
        "output_schema": tool.get("output_schema"),
        "budget": money_rendering.definition(tool["budget"]) if "budget" in tool else None,
        "timeout_seconds": tool.get("timeout_seconds"),
    }


def model(info: ModelInfo, calibration: Calibration | None) -> Object:
    return {
        "id": info.id,
        "object": "model",
        "endpoint": info.endpoint,
        "dialect": info.dialect,
        "input_price_usd": None if info.input_price_micros is None else usd(info.input_price_micros),
        "output_price_usd": None if info.output_price_micros is None else usd(info.output_price_micros),
        "context_tokens": info.context_tokens,
        "calibration": None
        if calibration is None
        else {
            "calls": calibration.calls,
            "misses": calibration.misses,
            "worst_permille": calibration.worst_permille,
        },
    }


def tool(description: ToolDescription) -> Object:
    return {"id": description["name"], "object": "tool", **description}

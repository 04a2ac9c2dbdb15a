"""`perdure say`, `pause`, `resume`: orders to a run. They are accepted durably, and reach it with no one's help."""

from __future__ import annotations

from perdure.cli.client import Object, Where

_REACHES = {
    "steer": "the agent reads it before its next answer; calls of this turn that have not begun are skipped",
    "enqueue": "the agent reads it when it has finished what it is doing",
    "interrupt": "the answer that is being written is cut short, and the agent reads it",
}


def say(run: str, text: str, *, delivery: str, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    message = api.post(f"/v1/runs/{run_id}/messages", {"content": text, "delivery": delivery})
    print(f"{message['id']} is accepted: {_REACHES[delivery]}")
    return 0


def pause(run: str, *, reason: str, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    after = api.post(f"/v1/runs/{run_id}/pause", {"reason": reason} if reason else {})
    state = "is paused" if after["status"] == "paused" else "pauses when its call in flight has ended"
    print(f"{run_id} {state}; `{api.command('resume', run_id)}` lets it go on")
    return 0


def resume(run: str, *, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    after: Object = api.post(f"/v1/runs/{run_id}/resume", {})
    print(f"{after['id']} goes on; `{api.command('watch', run_id)}` shows how")
    return 0

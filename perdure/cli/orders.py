"""`perdure say`, `pause`, `resume`, `retry`, `abort`: orders to a run. They are accepted durably, and reach it with no
one's help."""

from __future__ import annotations

from perdure.cli.client import Object, Refused, Where
from perdure.cli.people import budget_option
from perdure.cli.trouble import Failed

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
    try:
        after: Object = api.post(f"/v1/runs/{run_id}/resume", {})
    except Refused as refused:
        limit = str(api.get(f"/v1/runs/{run_id}")["status_reason"] or "").removeprefix("budget_reached: ")
        if refused.code != "invalid_transition":
            raise
        more = api.command("budget", run_id, budget_option(limit), "MORE")
        raise Failed(f"{run_id} is held by its budget ({limit}): `{more}` lets it go on") from None
    print(f"{after['id']} goes on; `{api.command('watch', run_id)}` shows how")
    return 0


def retry(run: str, call: str, *, reason: str, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    step = api.post(f"/v1/runs/{run_id}/calls/{call}/retry", {"reason": reason} if reason else {})
    print(f"{step['name']} runs again; `{api.command('watch', run_id)}` shows how it goes on")
    return 0


def abort(run: str, call: str, *, reason: str, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    step = api.post(f"/v1/runs/{run_id}/calls/{call}/abort", {"reason": reason})
    print(f"{step['name']} is given up, and the model is told; `{api.command('watch', run_id)}` shows how it goes on")
    return 0

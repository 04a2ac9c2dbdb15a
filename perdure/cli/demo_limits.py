"""The second half of `perdure demo`: an effect that waits for a person's word, and a budget that is reached."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from perdure.cli.client import TERMINAL_EVENTS, Api, Object, Refused
from perdure.cli.evidence_limits import ApprovalEvidence, BudgetEvidence
from perdure.cli.money import read_ledger
from perdure.cli.text import one_line, shown_json
from perdure.cli.trouble import Failed

ASKS_FIRST, SPENDER = "scripted/ask-first", "scripted/spender"
BUDGET_USD = "0.02"  # some nine calls
LOOK_SECONDS = 1.0  # at the file of effects, while the run waits: an effect takes 1.5 s, and would have begun
WHO_ASKS, WHO_DECIDES = "night-shift", "ada"

Say = Callable[..., None]


def hold_for_approval(api_url: str, effects: Callable[[], list[str]], say: Say) -> ApprovalEvidence:
    """A run whose policy asks before its effect: it waits, is approved by somebody else, and goes on. ``effects``
    reads the keys from the file of effects."""
    asker, decider = Api(api_url, actor=WHO_ASKS), Api(api_url, actor=WHO_DECIDES)
    terms = {"four_eyes": True, "expires_seconds": 60}
    rule = {"tool": "demo_effect", "action": "ask", "reason": "an effect wants a person's word", "approval": terms}
    agent = {"model": ASKS_FIRST, "tools": ["demo_effect"], "policy": {"rules": [rule]}}
    run_id = asker.post("/v1/runs", {"agent_inline": agent, "input": "Do the effect of step 1."})["id"]
    say(f"POST /v1/runs → 201 {run_id}: its policy asks a person before the effect")

    def of_this_run() -> list[str]:
        return [key for key in effects() if key.startswith(run_id)]

    events: list[Object] = []
    found = None
    for event in asker.events(run_id):
        events.append(event)
        match event["type"]:
            case "approval.requested":
                found = _decide(decider, event, of_this_run, say)
            case "tool.started":
                say(f"  → {event['data']['tool']} starts")
            case "tool.completed":
                say(f"  {event['data']['tool']}: {one_line(event['data'].get('preview', ''), 90)}")
    if found is None:
        raise Failed(f"the run {run_id} has asked nobody; it ended {events[-1]['type'].removeprefix('run.')}")
    say(f"run {events[-1]['type'].removeprefix('run.')}", "bold")
    approval, before, looked_seconds, again, other_code = found
    return ApprovalEvidence(
        run=asker.get(f"/v1/runs/{run_id}"),
        events=events,
        approval=approval,
        before=before,
        after=of_this_run(),
        looked_seconds=looked_seconds,
        again=again,
        other_code=other_code,
    )


def _decide(
    api: Api, event: Object, effects: Callable[[], list[str]], say: Say
) -> tuple[Object, list[str], float, Object, str]:
    """Look for the effect while it must not be there, then approve, approve again, and try to deny."""
    path = f"/v1/approvals/{event['data']['approval_id']}"
    asked = api.get(path)
    say(f"  ? {asked['tool']} {one_line(shown_json(asked['arguments']), 60)} waits for an approval ({asked['rule']})")
    began = time.monotonic()
    while time.monotonic() - began < LOOK_SECONDS and not effects():
        time.sleep(0.02)
    before, looked_seconds = effects(), time.monotonic() - began
    body = {"decision": "approve", "args_sha256": asked["args_sha256"]}
    approval = api.post(f"{path}/decide", body)
    say(f"  ✓ POST …/decide: approved by {approval['decided_by']}, bound to the arguments' hash", "green")
    again = api.post(f"{path}/decide", body)
    try:
        api.post(f"{path}/decide", {"decision": "deny"})
    except Refused as refused:
        return approval, before, looked_seconds, again, refused.code
    return approval, before, looked_seconds, again, ""


def run_into_the_budget(api_url: str, vendors_url: str, say: Say) -> BudgetEvidence:
    """A run that would never end, with two cents to spend."""
    api = Api(api_url, actor=WHO_ASKS)
    agent = {"model": SPENDER, "tools": ["calculator"]}
    budget = {"max_cost_usd": BUDGET_USD, "on_limit": "wrap_up"}
    body = {"agent_inline": agent, "input": "Square the numbers, one after another.", "budget": budget}
    run_id = api.post("/v1/runs", body)["id"]
    say(f"POST /v1/runs → 201 {run_id}: it would go on for ever, and may spend ${BUDGET_USD}")
    calls = 0
    for event in api.events(run_id):
        match event["type"]:
            case "model.completed":
                calls += 1
            case "budget.warning":
                say(f"  ! {event['data']['percent']} % is spent, after {calls} model calls", "yellow")
            case "budget.reached":
                say(
                    f"  ! {event['data']['limit']} is reached after {calls} model calls: the next one does not fit",
                    "yellow",
                )
            case type_ if type_ in TERMINAL_EVENTS:
                say(f"run {type_.removeprefix('run.')}", "bold")
    run = api.get(f"/v1/runs/{run_id}")
    say(f"  last words: {one_line(run['output_text'] or '', 100)}")
    log = json.loads(Api(vendors_url).get_text("/_scripted/log", "application/json"))
    billed = [
        line["usage"] for line in log if line["event"] == "completed" and str(line["request_key"]).startswith(run_id)
    ]
    return BudgetEvidence(run, read_ledger(api, run_id), billed)

"""The second half of `perdure demo`: an effect that waits for a person's word, and a budget that is reached. In both
the worker is killed when it is most in the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from perdure.cli.client import TERMINAL_EVENTS, Api, Object, Refused
from perdure.cli.evidence_limits import ApprovalEvidence, BudgetEvidence, Decided
from perdure.cli.money import read_ledger
from perdure.cli.text import one_line, shown_json
from perdure.cli.trouble import Failed

ASKS_FIRST, SPENDER = "scripted/ask-first", "scripted/spender"
BUDGET_USD = "0.03"  # some dozen calls
OUTPUT_TOKENS_MAX = 400  # of one call: what a lost one is assumed to have cost stays small
PIECES_BEFORE_KILL = 2  # of streamed text
SLOW_CALL = "model-3"  # which the script answers slowly
LOOK_SECONDS = 1.0  # at the file of effects, while the run waits: an effect takes 1.5 s, and would have begun
WHO_ASKS, WHO_DECIDES = "night-shift", "ada"

Say = Callable[..., None]
Strike = Callable[[str], object]
"""Kill the worker; the words say when that is."""


def hold_for_approval(api_url: str, effects: Callable[[], list[str]], strike: Strike, say: Say) -> ApprovalEvidence:
    """A run whose policy asks before its effect: it waits, outlives its worker, is approved by somebody else, and
    goes on. ``effects`` reads the keys from the file of effects."""
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
                strike("while the run waits for a person")
                found = _decide(asker, decider, event, of_this_run, say)
            case "tool.started":
                say(f"  → {event['data']['tool']} starts")
            case "tool.completed":
                say(f"  {event['data']['tool']}: {one_line(event['data'].get('preview', ''), 90)}")
    if found is None:
        raise Failed(f"the run {run_id} has asked nobody; it ended {events[-1]['type'].removeprefix('run.')}")
    say(f"run {events[-1]['type'].removeprefix('run.')}", "bold")
    return ApprovalEvidence(asker.get(f"/v1/runs/{run_id}"), events, found, of_this_run())


def _decide(asker: Api, decider: Api, event: Object, effects: Callable[[], list[str]], say: Say) -> Decided:
    """Look for the effect while it must not be there; let who asked for the run try; approve, approve again, and
    try to deny."""
    path = f"/v1/approvals/{event['data']['approval_id']}"
    asked = decider.get(path)
    say(f"  ? {asked['tool']} {one_line(shown_json(asked['arguments']), 60)} waits for an approval ({asked['rule']})")
    began = time.monotonic()
    while time.monotonic() - began < LOOK_SECONDS and not effects():
        time.sleep(0.02)
    before, looked_seconds = effects(), time.monotonic() - began
    body = {"decision": "approve", "args_sha256": asked["args_sha256"]}
    own_code = _refusal(asker, path, body)
    say(f"  ✗ POST …/decide by {WHO_ASKS}, who asked for the run: {own_code or 'ACCEPTED'}")
    approval = decider.post(f"{path}/decide", body)
    say(f"  ✓ POST …/decide by {approval['decided_by']}: approved, bound to the arguments' hash", "green")
    again = decider.post(f"{path}/decide", body)
    other_code = _refusal(decider, path, {"decision": "deny"})
    return Decided(approval, before, looked_seconds, again, own_code, other_code)


def _refusal(api: Api, path: str, body: Object) -> str:
    """The code with which a decision is refused; empty when it is not."""
    try:
        api.post(f"{path}/decide", body)
    except Refused as refused:
        return refused.code
    return ""


def run_into_the_budget(api_url: str, vendors_url: str, strike: Strike, say: Say) -> BudgetEvidence:
    """A run that would never end, with three cents to spend, and with its worker killed in the middle of an answer."""
    api = Api(api_url, actor=WHO_ASKS)
    settings = {"max_output_tokens": OUTPUT_TOKENS_MAX}
    agent = {"model": SPENDER, "tools": ["calculator"], "model_settings": settings}
    budget = {"max_cost_usd": BUDGET_USD, "on_limit": "wrap_up"}
    body = {"agent_inline": agent, "input": "Square the numbers, one after another.", "budget": budget}
    run_id = api.post("/v1/runs", body)["id"]
    say(f"POST /v1/runs → 201 {run_id}: it would go on for ever, and may spend ${BUDGET_USD}")
    calls = pieces = 0
    for event in api.events(run_id):
        match event["type"]:
            case "text.delta" if event["call_id"] == SLOW_CALL:
                pieces += 1
                if pieces == PIECES_BEFORE_KILL:
                    strike("in the middle of a model's answer, which the vendor may charge for")
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
    spent = run["budget"]["spent"]["cost_usd"]
    say(f"  spent ${spent} of ${BUDGET_USD}; last words: {one_line(run['output_text'] or '', 60)}")
    log = json.loads(Api(vendors_url).get_text("/_scripted/log", "application/json"))
    calls_of: dict[str, list[Object]] = {"completed": [], "disconnected": []}
    for line in log:
        if str(line["request_key"]).startswith(run_id) and line["event"] in calls_of:
            calls_of[line["event"]].append(line["usage"])
    return BudgetEvidence(run, read_ledger(api, run_id), calls_of["completed"], calls_of["disconnected"])

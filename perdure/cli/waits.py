"""What a run waits for, in words, each with the command that ends the wait. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.cli.client import Command, Object
from perdure.cli.text import clean, one_line

REASON_CHARACTERS = 100
AGENTS_SHOWN = 10
_ON_ITS_OWN = "; it goes on by itself"
_OPTIONS = {
    "max_cost_usd": ("--max-cost", "USD"),
    "max_tokens": ("--max-tokens", "N"),
    "max_output_tokens": ("--max-output-tokens", "N"),
    "max_turns": ("--max-turns", "N"),
}


def wait_lines(run: Object, timers: Sequence[Object], steps: Sequence[Object], command: Command) -> Iterator[str]:
    """Not what people and clients are asked: that is in ``pending_actions``."""
    asked = {ask["id"] for ask in run["pending_actions"]}
    waits = [wait for wait in run["waiting_for"] if wait["ref"] not in asked]
    for wait in waits:
        if wait["type"] != "children":
            yield _line(run["id"], wait, timers, steps, command)
    if agents := [clean(wait["ref"]) for wait in waits if wait["type"] == "children"]:
        more = f" and {len(agents) - AGENTS_SHOWN} more" if len(agents) > AGENTS_SHOWN else ""
        yield f"waits for the agents {', '.join(agents[:AGENTS_SHOWN])}{more}: {command('tree', run['id'])}"


def _line(
    run_id: str, wait: Object, timers: Sequence[Object], steps: Sequence[Object], command: Command
) -> str:  # fmt: skip
    ref = "" if wait["ref"] is None else str(wait["ref"])
    until = f" until {clean(wait['until'])}" if wait["until"] else ""
    match wait["type"]:
        case "timer":
            reason = next((timer["reason"] for timer in timers if timer["id"] == ref), None)
            why = f' ("{one_line(reason, REASON_CHARACTERS)}")' if reason else ""
            return f"sleeps{until}{why}: {command('fire', run_id, *([ref] if len(timers) > 1 else []))}"
        case "event":
            return f"waits for event {clean(ref)}{until}: {command('signal', run_id, ref, '{…}')}"
        case "poll":
            return f"polls{_polled(steps)}: a message ends it, {command('say', run_id, '…')}"
        case "pause":
            return f"is paused: {command('resume', run_id)}"
        case "budget":
            option, value = _OPTIONS.get(ref, _OPTIONS["max_cost_usd"])
            return f"has reached {clean(ref) or 'its budget'}: {command('budget', run_id, option, value)}"
        case "rate_limit":
            return f"waits for the rate limit{' of ' + clean(ref) if ref else ''}{_ON_ITS_OWN}"
        case "start":
            return f"waits for its start{until}{_ON_ITS_OWN}, or {command('cancel', run_id)}"
        case other:
            return f"waits for {clean(str(other))} {clean(ref)}{until}".rstrip()


def _polled(steps: Sequence[Object]) -> str:
    """The tool of each poll that has not ended, and how often it is tried."""
    plans = [step["arguments"] for step in steps if step["name"] == "poll" and step["ended_at"] is None]
    shown = [
        f"{clean(str(plan.get('tool')))} every {plan.get('every_seconds')} s"
        for plan in plans
        if isinstance(plan, dict)
    ]
    return f" {', '.join(shown)}" if shown else ""

"""`perdure signal`, `timers`, `fire`: what wakes a run that waits for the world."""

from __future__ import annotations

from perdure.cli.client import Object, Where
from perdure.cli.given import json_given
from perdure.cli.text import clean, one_line, pretty
from perdure.cli.trouble import Failed

REASON_CHARACTERS = 100
LISTED_MAX = 100

_BECAME = {
    "delivered": "a call waited for it, and the run goes on",
    "interrupting": "nobody waited for it: the run is interrupted and reads it as a message",
    "buffered": "nobody waits for it yet: it is kept for a day",
    "duplicate": "it came before, with this dedupe key: nothing is done",
}


def signal(
    run: str, name: str, payload: str | None, *, urgency: str, dedupe_key: str | None, as_json: bool, where: Where
) -> int:
    body: Object = {"urgency": urgency}
    if payload is not None:
        body["payload"] = json_given(payload, "the payload")
    if dedupe_key is not None:
        body["dedupe_key"] = dedupe_key
    api = where.connect()
    run_id = api.resolve(run)
    sent = api.post(f"/v1/runs/{run_id}/signals/{name}", body)
    if as_json:
        print(pretty(sent))
    else:
        print(f"{sent['name']}: {_BECAME.get(sent['disposition'], sent['disposition'])}")
    return 0


def list_timers(run: str, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    run_id = api.resolve(run)
    page = api.get(f"/v1/runs/{run_id}/timers", limit=LISTED_MAX)
    if as_json:
        print(pretty(page["data"]))
        return 0
    for timer in page["data"]:
        reason = f"  {one_line(timer['reason'], REASON_CHARACTERS)}" if timer["reason"] else ""
        print(f"{timer['id']}  until {clean(timer['until'])}{reason}")
        print(f"    now:         {api.command('fire', run_id, timer['id'])}")
    if not page["data"]:
        print(f"{run_id} has no timer")
    if page["has_more"]:
        print(f"… the first {LISTED_MAX}; the API has the rest")
    return 0


def fire(run: str, timer: str | None, *, cancel: bool, where: Where) -> int:
    """Without ``timer`` the one that is open."""
    api = where.connect()
    run_id = api.resolve(run)
    if timer is None:
        open_ = api.get(f"/v1/runs/{run_id}/timers", limit=2)["data"]
        if len(open_) != 1:
            words = "has no timer" if not open_ else f"has several timers: `{api.command('timers', run_id)}` lists them"
            raise Failed(f"{run_id} {words}")
        timer = str(open_[0]["id"])
    ended = api.post(f"/v1/runs/{run_id}/timers/{timer}/{'cancel' if cancel else 'fire'}", {})
    print(f"{ended['id']} is {ended['status']}; {run_id} goes on")
    return 0

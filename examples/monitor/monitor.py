"""Starts the monitor and tells what happens to it, until it ends.

python examples/monitor/monitor.py      # with `perdure up` running as the README says
"""

from __future__ import annotations

import json
import os
from typing import Any

import httpx2

API = os.environ.get("PERDURE_API_URL", "http://127.0.0.1:8600")
AGENT = {
    "name": "monitor",
    "model": os.environ.get("MODEL", "scripted/monitor"),
    "instructions": "You watch a shop. Poll until at most ten orders wait, sleep, look once more, and report.",
    "tools": ["poll", "sleep", "queue_length", "wait_for_event"],
    "policy": {"rules": [{"tool": "*", "effect": "once", "action": "deny", "reason": "a monitor changes nothing"}]},
}
SHOWN = ("run.waiting", "timer.started", "timer.fired", "tool.progress", "tool.completed", "run.completed")


def main() -> int:
    with httpx2.Client(base_url=API, timeout=None, trust_env=False) as http:
        body = {"agent_inline": AGENT, "input": "Watch the queue.", "stream": True}
        with http.stream("POST", "/v1/runs", json=body) as events:
            run_id = events.headers.get("x-run-id", "")
            print("started", run_id, flush=True)
            for line in events.iter_lines():
                if line.startswith("data:"):
                    tell(json.loads(line[5:]))
        run = http.get(f"/v1/runs/{run_id}").raise_for_status().json()
    print(run["output_text"])
    return 0 if run["status"] == "completed" else 1


def tell(event: dict[str, Any]) -> None:
    if event["type"] in SHOWN:
        data = event["data"]
        what = data.get("reason") or data.get("preview") or data.get("tool") or ""
        print(event["at"], event["type"], what, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

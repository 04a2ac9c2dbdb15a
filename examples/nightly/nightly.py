"""A nightly report: an agent that writes one every night at two, in one conversation, within a budget.

Makes (or finds) the agent and its schedule, shows when it fires next, fires it once now and waits for the report.

    perdure up --scripts examples/nightly/scripts      # in another terminal; with a key, any real model does
    python examples/nightly/nightly.py
"""

from __future__ import annotations

import os
import time
from typing import Any

import httpx2

API = os.environ.get("PERDURE_API_URL", "http://127.0.0.1:8600")
MODEL = os.environ.get("MODEL", "scripted/nightly")
AGENT = {
    "name": "night-clerk",
    "model": MODEL,
    "instructions": "You sum up the day in report.md. Be brief. Compare with the reports before.",
    "tools": ["current_time", "write_file", "read_file"],
    "budget": {"max_cost_usd": "0.50", "on_limit": "wrap_up"},
}
SCHEDULE = {
    "name": "nightly-report",
    "agent": "night-clerk",
    "input": "Write the report of the day.",
    "spec": {"cron": ["0 2 * * *"]},
    "timezone": "Europe/Berlin",
    "jitter_seconds": 120,  # not all of the world's reports at once
    "overlap": "skip",
    "catchup_window_seconds": 6 * 3_600,  # a report at breakfast is better than none
    "pause_on_failure": True,
    "session": "continue",  # it remembers the nights before
}


def main() -> None:
    with httpx2.Client(base_url=API, timeout=30, trust_env=False) as http:
        http.post("/v1/agents", json=AGENT).raise_for_status()
        made = http.post("/v1/schedules", json=SCHEDULE)
        if made.status_code == 409:  # it is there from the last time
            made = http.get(f"/v1/schedules/{SCHEDULE['name']}")
        schedule = made.raise_for_status().json()
        path = f"/v1/schedules/{schedule['id']}"
        for row in http.get(f"{path}/next", params={"count": 3}).json()["data"]:
            print("fires at", row["at"])
        before = len(book(http, path))
        http.post(f"{path}/trigger").raise_for_status()
        while len(rows := book(http, path)) == before:
            time.sleep(0.2)
        run = http.get(f"/v1/runs/{rows[0]['run_id']}", headers={"prefer": "wait=60"}).json()
        print(f"{run['id']} is {run['status']}: {run['output_text']}")
        print(f"it cost {run['usage']['cost_usd']} USD; the conversation is {run['session_id']}")


def book(http: httpx2.Client, path: str) -> list[dict[str, Any]]:
    """What became of its firings, the newest first."""
    rows: list[dict[str, Any]] = http.get(f"{path}/invocations").raise_for_status().json()["data"]
    return rows


if __name__ == "__main__":
    main()

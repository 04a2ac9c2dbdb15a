"""A conversation over months: one session, many runs, a fork, a retry, a backup.

perdure up --scripts examples/months-long-conversation/scripts      # in another terminal; or any real model
python examples/months-long-conversation/conversation.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx2

API = os.environ.get("PERDURE_API_URL", "http://127.0.0.1:8600")
MODEL = os.environ.get("MODEL", "scripted/companion")
WEEKS = int(os.environ.get("WEEKS", "12"))
AGENT = {
    "name": "companion",
    "model": MODEL,
    "instructions": "You remember what you are told, and say so briefly.",
}

Object = dict[str, Any]


def main() -> None:
    with httpx2.Client(base_url=API, timeout=70, trust_env=False) as http:
        post(http, "/v1/agents", AGENT)
        session = post(http, "/v1/sessions", {"labels": {"who": "ada"}, "metadata": {"since": "January"}})["id"]
        for week in range(1, WEEKS + 1):
            run = say(http, session, f"This is week {week}.")
        print(f"{WEEKS} runs in {session}; the last one said: {run['output_text']}")
        busy(http, session)
        again(http, session)
        what_if(http, session, run)
        backup(http, session)


def say(http: httpx2.Client, session: str, text: str, **more: Any) -> Object:
    """One run, to its end."""
    body = {"agent": "companion", "input": text, "session_id": session, **more}
    return ended(http, post(http, "/v1/runs", body)["id"])


def busy(http: httpx2.Client, session: str) -> None:
    """Whoever says something while the agent still works is heard, too: by the run at work, or by a new one."""
    body = {"agent": "companion", "session_id": session, "on_conflict": "enqueue"}
    first = post(http, "/v1/runs", {**body, "input": "One thing."})
    second = post(http, "/v1/runs", {**body, "input": "And another."})
    for run in {first["id"], second["id"]}:
        ended(http, run)
    how = "the run at work" if first["id"] == second["id"] else "a run of its own"
    print(f"said twice at once: the second was heard by {how}")


def again(http: httpx2.Client, session: str) -> None:
    """A run that was ended too early is taken up where it stopped."""
    body = {"agent": "companion", "input": "Take your time.", "session_id": session}
    run = post(http, "/v1/runs", body)["id"]
    reply = http.post(f"/v1/runs/{run}/cancel", json={"mode": "force", "reason": "a mistake"})
    if reply.status_code == 409:  # it was quicker
        print("nothing to retry: the run was done already")
        return
    retried = ended(http, post(http, f"/v1/runs/{run}/retry", {})["id"])
    print(f"{retried['id']} goes on from {retried['retry_of']}: {retried['output_text']}")


def what_if(http: httpx2.Client, session: str, run: Object) -> None:
    """Another question at the same place. Nothing before it is copied, paid or done again."""
    fork = post(http, f"/v1/runs/{run['id']}/fork", {"from_seq": 2, "input": "What if this were the last week?"})
    forked = ended(http, fork["id"])
    origin = http.get(f"/v1/sessions/{forked['session_id']}").raise_for_status().json()["forked_from"]
    assert origin["session_id"] == session
    print(f"a fork at message {origin['number']}: {forked['output_text']}")


def backup(http: httpx2.Client, session: str) -> None:
    """Out to a file and back again."""
    written = http.get(f"/v1/sessions/{session}/export").raise_for_status().content
    file = Path(f"{session}.jsonl")
    file.write_bytes(written)
    headers = {"content-type": "application/jsonl"}
    copy = http.post("/v1/sessions:import", content=file.read_bytes(), headers=headers).raise_for_status().json()["id"]
    back = http.get(f"/v1/sessions/{copy}/export").raise_for_status().content
    same = back.splitlines()[1:] == written.splitlines()[1:]
    count = json.loads(written.splitlines()[-1])["messages"]
    print(f"{file}: {count} messages; the copy is {'the same' if same else 'another'}")
    http.delete(f"/v1/sessions/{copy}").raise_for_status()
    file.unlink()


def post(http: httpx2.Client, path: str, body: Object) -> Object:
    return dict(http.post(path, json=body).raise_for_status().json())


def ended(http: httpx2.Client, run: str) -> Object:
    while True:
        now = http.get(f"/v1/runs/{run}", headers={"prefer": "wait=60"}).raise_for_status().json()
        if now["completed_at"]:
            assert now["status"] == "completed", now
            return dict(now)


if __name__ == "__main__":
    main()

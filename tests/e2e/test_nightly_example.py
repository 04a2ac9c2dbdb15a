"""``examples/nightly`` as its README says, on the scripted vendors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests.e2e.stack import ROOT, Stack

EXAMPLE = ROOT / "examples" / "nightly"


def ran(stack: Stack) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "nightly.py")],
        env={**stack.env, "PERDURE_API_URL": stack.api_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr + stack.logs()
    return done.stdout.splitlines()


def test_the_nightly_report_is_written_and_the_next_night_goes_on_in_the_same_conversation(
    build: Callable[..., Stack],
) -> None:
    stack = build()
    stack.scripts = EXAMPLE / "scripts"
    stack.start()
    first, second = ran(stack), ran(stack)
    assert [line.split()[0:2] for line in first[:3]] == [["fires", "at"]] * 3
    assert "is completed: The report is written: nothing is on fire." in first[3]
    assert first[4].rpartition(" ")[2] == second[4].rpartition(" ")[2]
    run_id = second[3].split()[0]
    report = stack.home / "workspaces" / run_id / "report.md"
    assert report.read_text().startswith("# The day")
    schedule = stack.http.get("/v1/schedules/nightly-report").json()
    assert (schedule["status"], schedule["timezone"], schedule["version"]) == ("active", "Europe/Berlin", 1)
    rows = stack.http.get("/v1/schedules/nightly-report/invocations").json()["data"]
    assert [(row["cause"], row["run_status"]) for row in rows] == [("manual", "completed")] * 2

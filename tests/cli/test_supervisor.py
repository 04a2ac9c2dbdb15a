"""Children that are kept alive. Needs nothing but real processes: small ones of our own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from perdure.cli import supervisor

# A supervisor in a process of its own (it owns signals); arguments: folder, then NAME=CODE for each child.
PROGRAM = """
import sys
from pathlib import Path
from perdure.cli.supervisor import ChildSpec, Supervisor
folder = Path(sys.argv[1])
specs = []
for argument in sys.argv[2:]:
    name, code = argument.split("=", 1)
    specs.append(ChildSpec(name, [sys.executable, "-u", "-c", code], lambda log: "ready" in log, stop_seconds=1.5))
def pids():
    text = "".join(f"{c.spec.name} {c.pid}\\n" for c in watch.children)
    (folder / "pids.new").write_text(text)
    (folder / "pids.new").replace(folder / "pids")
with Supervisor(logs=folder, say=lambda line: print(line, flush=True), changed=pids) as watch:
    print("all ready:", watch.start(specs, ready_timeout_seconds=20), flush=True)
    pids()
    watch.watch()
    watch.stop([[spec.name] for spec in specs])
    print("stopped", flush=True)
"""
SLEEPER = "print('ready'); import time; time.sleep(600)"


class Watched:
    def __init__(self, folder: Path, **children: str) -> None:
        self.folder = folder
        self.output = folder / "output"
        arguments = [f"{name}={code}" for name, code in children.items()]
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(folder), *arguments], stdout=out, stderr=subprocess.STDOUT
            )

    def said(self) -> str:
        return self.output.read_text()

    def pids(self) -> dict[str, int]:
        try:
            lines = (self.folder / "pids").read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {name: int(pid) for name, pid in (line.split() for line in lines)}


@pytest.fixture
def watch(tmp_path: Path):
    started: list[Watched] = []

    def start(**children: str) -> Watched:
        started.append(Watched(tmp_path, **children))
        return started[-1]

    yield start
    for watched in started:
        watched.process.kill()
        watched.process.wait()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_killed_child_is_replaced_at_once_and_its_new_pid_is_published(watch) -> None:
    watched = watch(a=SLEEPER, b=SLEEPER)
    until(watched.pids)
    before = watched.pids()
    os.kill(before["b"], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: watched.pids()["b"] != before["b"])
    assert time.monotonic() - began < 1
    assert watched.pids()["a"] == before["a"]
    assert not gone(watched.pids()["b"])
    assert f"b (pid {before['b']}) was killed by SIGKILL" in watched.said()


def test_what_a_killed_child_had_started_dies_with_it(watch) -> None:
    start = f"p = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}])"
    watched = watch(a=f"import subprocess, sys\n{start}\nprint('ready', p.pid); p.wait()")
    until(watched.pids)
    grandchild = int((watched.folder / "a.log").read_text().split()[1])
    assert not gone(grandchild)
    os.kill(watched.pids()["a"], signal.SIGKILL)
    until(lambda: gone(grandchild))


def test_a_child_that_fails_again_and_again_is_explained_once_with_its_last_words_and_spares_the_machine(watch) -> None:
    watched = watch(a=SLEEPER, bad="import sys; print('no such table: runs'); sys.exit(3)")
    until(lambda: "all ready: False" in watched.said())
    said = watched.said()
    assert "bad exited with status 3 5 times in a row" in said
    assert "| no such table: runs" in said
    starts = (watched.folder / "bad.log").read_text().count("no such table")
    time.sleep(1)
    assert (watched.folder / "bad.log").read_text().count("no such table") == starts == 5
    assert not gone(watched.pids()["a"])


def noting(name: str, path: Path) -> str:
    return (
        "import signal, sys\n"
        f"def end(*_): open({str(path)!r}, 'a').write({name!r}); sys.exit(0)\n"
        f"signal.signal(signal.SIGTERM, end)\n{SLEEPER}"
    )


def test_an_orderly_stop_goes_in_order_and_leaves_no_process(watch, tmp_path: Path) -> None:
    watched = watch(**{name: noting(f"{name} ", tmp_path / "order") for name in ("first", "second", "third")})
    until(watched.pids)
    pids = watched.pids()
    watched.process.send_signal(signal.SIGTERM)
    assert watched.process.wait(timeout=10) == 0
    assert (tmp_path / "order").read_text() == "first second third "
    assert all(gone(pid) for pid in pids.values())


DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER


def test_a_child_that_does_not_end_in_order_is_killed_after_its_grace(watch) -> None:
    watched = watch(deaf=DEAF)
    until(watched.pids)
    watched.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert watched.process.wait(timeout=10) == 0
    assert 1.4 < time.monotonic() - began < 4  # its grace is 1.5 s
    assert gone(watched.pids()["deaf"])
    assert "waiting for deaf" in watched.said()


def test_a_second_ctrl_c_does_not_wait(watch) -> None:
    watched = watch(deaf=DEAF)
    until(watched.pids)
    watched.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    watched.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert watched.process.wait(timeout=10) == 0
    assert time.monotonic() - began < 0.8
    assert gone(watched.pids()["deaf"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next `perdure up` clears away")
def test_a_supervisor_that_is_killed_leaves_no_child(watch) -> None:
    watched = watch(a=SLEEPER, deaf=DEAF)
    until(watched.pids)
    watched.process.kill()
    watched.process.wait()
    until(lambda: all(gone(pid) for pid in watched.pids().values()), seconds=2)


def test_a_child_that_cannot_be_told_ready_is_named_and_kept_under_watch(tmp_path: Path) -> None:
    program = PROGRAM.replace("ready_timeout_seconds=20", "ready_timeout_seconds=0.5")
    with (tmp_path / "output").open("wb") as out:
        command = [sys.executable, "-c", program, str(tmp_path), "slow=" + SLEEPER.replace("ready", "loading")]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    until((tmp_path / "pids").exists)
    assert "slow is not ready after 0.5 s" in (tmp_path / "output").read_text()
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_a_log_is_cut_at_its_limit_and_its_newest_part_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab") as out:  # as a child holds it
        out.write(b"old\n" * 10 + b"x" * supervisor.LOG_BYTES_MAX)
        out.flush()
        supervisor.bound_log(log)
        assert log.stat().st_size == 0
        out.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "a.log.1").stat().st_size == supervisor.LOG_BYTES_MAX

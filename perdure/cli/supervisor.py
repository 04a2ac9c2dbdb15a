"""Child processes that are kept alive: started in order, replaced when they end, stopped in order.

One thread, no event loop, standard library only: the process that keeps the others alive has little
that can break. What the children are is in ``up.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOG_BYTES_MAX = 16 * 1024 * 1024  # of one child's log; one older file of that size is kept beside it
LOG_CHECK_SECONDS = 10.0  # a log cannot grow by much more than its limit in that time
RAPID_SECONDS = 3.0  # a child that ends sooner than this has failed at its start; one killed later comes back at once
RAPID_FAILURES_MAX = 5  # then we say what is wrong, and try slowly
BACKOFF_SECONDS = (0.0, 0.0, 0.25, 1.0, 3.0)  # before the n-th restart in a row of a child that fails rapidly
SLOW_RESTART_SECONDS = 10.0  # somebody is mending it: soon enough to be seen, rare enough to be read
TICK_SECONDS = 0.5  # an ended child wakes us by SIGCHLD; this bounds only what has no signal
PROBE_SECONDS = 0.05  # between two questions whether a child is ready

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ChildSpec:
    """What a child is. ``ready`` is asked until it says yes; it gets what the child has logged since its
    start. ``stop_seconds`` is how long the child may take to end in order."""

    name: str
    command: list[str]
    ready: Callable[[str], bool]
    stop_seconds: float
    env: Mapping[str, str] = field(default_factory=dict)


class Child:
    """One child through all its incarnations; the same command and ports each time."""

    def __init__(self, spec: ChildSpec, logs: Path) -> None:
        self.spec = spec
        self.log = logs / f"{spec.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.restart_at: float | None = None
        self.rapid_failures = 0
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        bound_log(self.log)
        with self.log.open("ab") as out:
            self._log_start = out.tell()
            self.process = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.spec.env},
                start_new_session=True,  # Ctrl-C reaches us alone: we stop the children in order
                preexec_fn=die_with_parent(os.getpid(), signal.SIGKILL),
            )
        self.started = time.monotonic()
        self.restart_at = None

    def logged(self) -> str:
        """What this incarnation has logged, at most the last 64 KB of it."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._log_start, size), size - 65_536))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def ended(self) -> int | None:
        """Its exit status (negative: the signal) once it has ended, and its whole process group with it."""
        if self.process is None:
            return None
        if self.process.returncode is None:
            if not hasattr(os, "waitid"):  # macOS before Python 3.13
                return self.process.poll()
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.signal_group(signal.SIGKILL)  # before we reap it: until then its group id cannot be another's
            self.process.wait()
        return self.process.returncode

    def signal_group(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


class Supervisor:
    """Keeps children alive until SIGINT or SIGTERM. ``say`` prints a line; ``changed`` is called after a
    child was replaced."""

    def __init__(self, *, logs: Path, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._logs, self._say, self._changed = logs, say, changed
        self.children: list[Child] = []
        self.stop_signals = 0
        self._logs_checked = time.monotonic()
        self._wake_read, self._wake_write = socket.socketpair()

    def __enter__(self) -> Supervisor:
        self._logs.mkdir(parents=True, exist_ok=True)
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with no handler it would not wake us
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
                signal.signal(number, self._on_stop_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:  # nothing is left behind, whatever went wrong above
            child.signal_group(signal.SIGKILL)
            if child.process is not None:
                child.process.wait()
        signal.set_wakeup_fd(-1)

    def start(self, specs: list[ChildSpec], *, ready_timeout_seconds: float) -> bool:
        """Start these side by side and watch over everything until they are ready. False when one is not
        ready in time, keeps failing, or a stop was asked for: it is kept under watch all the same."""
        waiting = [Child(spec, self._logs) for spec in specs]
        for child in waiting:
            self.children.append(child)
            child.start()
        deadline = time.monotonic() + ready_timeout_seconds
        all_ready = True
        while waiting and not self.stop_signals:
            self._tick(PROBE_SECONDS)
            for child in list(waiting):
                if child.restart_at is None and child.ended() is None and child.spec.ready(child.logged()):
                    self._say(f"  {child.spec.name:<10} ready after {time.monotonic() - child.started:.1f} s")
                elif child.rapid_failures >= RAPID_FAILURES_MAX:
                    all_ready = False
                elif time.monotonic() > deadline:
                    self._say(
                        f"  {child.spec.name} is not ready after {ready_timeout_seconds:g} s; {self._tail(child)}"
                    )
                    all_ready = False
                else:
                    continue
                waiting.remove(child)
        return all_ready and not self.stop_signals

    def watch(self) -> None:
        """Replace what ends, until a stop is asked for."""
        while not self.stop_signals:
            self._tick(TICK_SECONDS)

    def stop(self, order: list[list[str]]) -> None:
        """Stop the children group by group. A second signal kills what is left at once."""
        asked = max(self.stop_signals, 1)
        for group in order:
            leaving = [child for child in self.children if child.spec.name in group and child.ended() is None]
            for child in leaving:
                child.signal(signal.SIGTERM)
            began = time.monotonic()
            told = False
            while leaving := [child for child in leaving if child.process and child.ended() is None]:
                waited = time.monotonic() - began
                for child in leaving:
                    if self.stop_signals > asked or waited > child.spec.stop_seconds:
                        child.signal_group(signal.SIGKILL)
                if waited > 1 and not told:  # an idle child ends sooner
                    names, told = ", ".join(child.spec.name for child in leaving), True
                    self._say(f"  waiting for {names} to finish what is in flight (Ctrl-C again: do not wait)")
                self._sleep(PROBE_SECONDS)

    def _on_stop_signal(self, *_: object) -> None:
        self.stop_signals += 1

    def _tick(self, seconds: float) -> None:
        self._sleep(seconds)
        now = time.monotonic()
        for child in self.children:
            if child.restart_at is None and (status := child.ended()) is not None:
                self._failed(child, status, now)
            if child.restart_at is not None and now >= child.restart_at and not self.stop_signals:
                child.start()
                self._changed()
        if now - self._logs_checked > LOG_CHECK_SECONDS:
            self._logs_checked = now
            for child in self.children:
                bound_log(child.log)

    def _failed(self, child: Child, status: int, now: float) -> None:
        lived = now - child.started
        child.rapid_failures = child.rapid_failures + 1 if lived < RAPID_SECONDS else 0
        how = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"
        if child.rapid_failures < RAPID_FAILURES_MAX:
            wait = BACKOFF_SECONDS[child.rapid_failures]
            self._say(f"  {child.spec.name} (pid {child.pid}) {how} after {lived:.1f} s: starting it again")
        else:
            wait = SLOW_RESTART_SECONDS
            if child.rapid_failures == RAPID_FAILURES_MAX:
                self._say(
                    f"  {child.spec.name} {how} {RAPID_FAILURES_MAX} times in a row, each time within "
                    f"{RAPID_SECONDS:.0f} s; trying again every {wait:.0f} s; {self._tail(child)}"
                )
        child.restart_at = now + wait

    def _tail(self, child: Child) -> str:
        lines = child.logged().splitlines()[-12:]
        shown = "".join(f"\n    | {line[:300]}" for line in lines) or " (it has logged nothing)"
        return f"the end of {child.log}:{shown}"

    def _sleep(self, seconds: float) -> None:
        """Until a signal arrives or the time is over."""
        if select.select([self._wake_read], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                self._wake_read.recv(4_096)


def bound_log(log: Path) -> None:
    """Keep a log within its limit. The child writes on through its own descriptor, in append mode: so the file is
    copied and cut, never moved."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            older = log.with_suffix(".log.1")
            with log.open("rb") as source, older.open("wb") as target:
                source.seek(-LOG_BYTES_MAX, os.SEEK_END)
                target.write(source.read(LOG_BYTES_MAX))
            os.truncate(log, 0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def die_with_parent(parent: int, number: int) -> Callable[[], None] | None:
    """Run in the child before exec: the kernel signals it when we end, however we end. Linux only; elsewhere
    the next `perdure up` in the home clears away what is left."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it ended before we armed
            os._exit(1)

    return arm

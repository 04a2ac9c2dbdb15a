"""A person at a terminal: a pseudo terminal with a command in it, what it shows and what is typed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.cli.stack import environment

PATIENCE_SECONDS = 30.0  # two cores, and others at work
_STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Typist:
    """``shown`` is everything on the screen so far, without colours. Use as a context manager."""

    def __init__(self, *arguments: str, home: Path, cwd: Path, **env: str) -> None:
        master, slave = pty.openpty()
        self._master = master
        self._raw = b""
        self._seen = 0
        command = [sys.executable, "-P", "-m", "perdure.cli", *arguments, "--home", str(home)]
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(TERM="xterm", COLUMNS="250", LOGNAME="ada", **env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: _own(0),
        )
        os.close(slave)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def shown(self) -> str:
        return _STYLES.sub("", self._raw.decode(errors="replace")).replace("\r\n", "\n")

    def sees(self, text: str) -> None:
        """Wait until ``text`` is shown, after what was seen before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, (
                f"{text!r} is not shown after {self.shown[: self._seen]!r} in:\n{self.shown}"
            )
            assert self.process.poll() is None or text in self.shown[self._seen :], self.shown
            time.sleep(0.02)
        self._seen = found + len(text)

    def types(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")

    def presses(self, key: bytes) -> None:
        os.write(self._master, key)

    def ends(self) -> int:
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def _read(self) -> None:
        try:
            while piece := os.read(self._master, 65_536):
                self._raw += piece
        except OSError:
            pass  # the other side has closed


def _own(terminal: int) -> None:
    """Make it the terminal of this session: Ctrl-C typed there is a signal here."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

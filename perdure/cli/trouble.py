"""The one exception that every command may end with."""

from __future__ import annotations


class Failed(Exception):
    """A command that cannot do its work; each line of the message says why and what to do. Ends with ``status``:
    1, or 2 for settings and options that must be mended first."""

    def __init__(self, message: str, *, status: int = 1) -> None:
        super().__init__(message)
        self.status = status

"""The one exception that every command may end with."""

from __future__ import annotations


class Failed(Exception):
    """A command that cannot do its work; the message says why and what to do. Ends with status 1."""

"""The limits of the built-in tools and of the threads they run in; filled from the settings by the assembly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Sizes in bytes, times in seconds. ``http_get_allow_addresses`` are networks in CIDR form that
    ``http_get`` may reach although they are private."""

    http_get_bytes_max: int = 2 * 1024 * 1024
    http_get_timeout_seconds: float = 20.0
    http_get_redirects_max: int = 5
    http_get_allow_addresses: tuple[str, ...] = ()
    file_bytes_max: int = 8 * 1024 * 1024
    read_result_bytes_max: int = 40_000  # stays below the spool size, or reading on would be spooled again

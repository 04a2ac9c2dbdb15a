"""Whether the payload of a signal is the one that somebody waits for."""

from __future__ import annotations

from perdure.core.state import Json


def fits(match: Json, payload: Json) -> bool:
    """Every member of ``match`` is in ``payload`` with an equal value; objects in it are compared likewise, lists
    whole. None, or an empty object, fits everything. Unlike in Python, true is not 1."""
    return not match or _equal(match, payload)


def _equal(wanted: Json, given: Json) -> bool:
    match wanted:
        case dict():
            return isinstance(given, dict) and all(
                name in given and _equal(value, given[name]) for name, value in wanted.items()
            )
        case list():
            return (
                isinstance(given, list)
                and len(wanted) == len(given)
                and all(_equal(one, other) for one, other in zip(wanted, given, strict=True))
            )
        case bool() | None:
            return wanted is given
        case _:
            return not isinstance(given, bool) and wanted == given

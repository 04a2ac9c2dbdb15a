"""Another agent takes over: same run, same session, same limits, other tools and rules."""

from __future__ import annotations

from dataclasses import replace

from perdure.core.spec import RateLimit
from perdure.core.state import RunState


def taken_over(state: RunState) -> RunState:
    """The next agent's rules hold from the next model call: calls of this turn are the one's who asked for them.
    What people have set for the run stays, and so do counts: a rate limit that both have goes on counting."""
    new, old = state.next_spec, state.spec
    if new is None or state.open_calls:
        return state
    spec = replace(
        new, limits=old.limits, on_limit=old.on_limit, deadline_ms=old.deadline_ms, start_ms=old.start_ms
    )  # fmt: skip
    starts = tuple(_starts(state, limit) for limit in new.rate_limits) if state.rate_starts else ()
    return replace(state, spec=spec, next_spec=None, rate_starts=starts)


def _starts(state: RunState, limit: RateLimit) -> tuple[int, ...]:
    if limit not in state.spec.rate_limits:
        return ()
    return state.rate_starts[state.spec.rate_limits.index(limit)]

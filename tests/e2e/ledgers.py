"""A run's ledger over HTTP, and the promise about it: what is spent and reserved never exceeds the limit."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.e2e.stack import Stack

Line = dict[str, Any]
_LIMITS = (("max_cost_usd", "cost_usd"), ("max_tokens", "tokens"), ("max_output_tokens", "output_tokens"))


def ledger(stack: Stack, run_id: str) -> list[Line]:
    return list(stack.http.get(f"/v1/runs/{run_id}/ledger?limit=100").raise_for_status().json()["data"]) + (
        _rest(stack, run_id, 100)
    )


def _rest(stack: Stack, run_id: str, after: int) -> list[Line]:
    page = stack.http.get(f"/v1/runs/{run_id}/ledger?limit=100&after={after}").raise_for_status().json()["data"]
    return [*page, *_rest(stack, run_id, after + 100)] if page else []


def held(stack: Stack, run_id: str) -> list[Line]:
    """The lines of a ledger that was kept: in every prefix spent and reserved are within the limits that hold
    there, entries count from 1, the balance is the sum of the lines, and nothing stays reserved at the end."""
    lines = ledger(stack, run_id)
    assert [line["entry"] for line in lines] == list(range(1, len(lines) + 1))
    limits: dict[str, Any] = {}
    for line in lines:
        limits = line["limits"] or limits
        for limit, unit in _LIMITS:
            if limits.get(limit) is not None and line["kind"] == "reserved":
                used = Decimal(str(line["balance"]["spent"][unit])) + Decimal(str(line["balance"]["reserved"][unit]))
                assert used <= Decimal(str(limits[limit])), (limit, line)
    spent = sum(Decimal(line["amount"]["cost_usd"]) for line in lines if line["kind"] in ("settled", "corrected"))
    assert spent == Decimal(lines[-1]["balance"]["spent"]["cost_usd"])
    assert Decimal(lines[-1]["balance"]["reserved"]["cost_usd"]) == 0
    reserved = [(line["key"], line["attempt"]) for line in lines if line["kind"] == "reserved"]
    closed = [(line["key"], line["attempt"]) for line in lines if line["kind"] in ("settled", "released")]
    assert len(set(reserved)) == len(reserved)
    assert sorted(map(str, closed)) == sorted(map(str, reserved)), "each reservation is closed once"
    return lines

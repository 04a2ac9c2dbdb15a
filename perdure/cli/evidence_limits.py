"""What the second half of `perdure demo` claims, an approval and a budget that hold, computed from what others
wrote down: events, the ledger, the file of effects, the vendors' log. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from perdure.cli.evidence import Check

Object = dict[str, Any]

MICRO = Decimal(1_000_000)
LAST_WORDS = "I was stopped by the budget."  # of the script, when it is offered no tools
SCRIPTED_USD_PER_MILLION = (1, 4)  # the price list of the scripted vendors: input, output


@dataclass(frozen=True)
class Decided:
    """``before`` are the keys in the file of effects while the run waited and was looked at for
    ``looked_seconds``. ``own_code`` is what the approval of who asked for the run was refused with, ``other_code``
    another decision afterwards; ``again`` is the approval as a repeated decision got it."""

    approval: Object
    before: list[str]
    looked_seconds: float
    again: Object
    own_code: str
    other_code: str


@dataclass(frozen=True)
class ApprovalEvidence:
    """``after`` are the keys in the file of effects at the end."""

    run: Object
    events: list[Object]
    decided: Decided
    after: list[str]

    def checks(self) -> list[Check]:
        it, approval = self.decided, self.decided.approval
        key = f"{self.run['id']}:{approval['call_id']}"
        decided, started = self._seq("approval.decided"), self._seq("tool.started")
        twice = approval["status"] == "approved" and it.again == approval
        resolved = it.other_code == "approval_already_resolved"
        return [
            Check("run that asks first", self.run["status"], self.run["status"] == "completed"),
            Check("effects while it waited", f"{len(it.before)}, looked for {it.looked_seconds:.1f} s", not it.before),
            Check("approval by who asked for the run", it.own_code or "ACCEPTED", it.own_code == "insufficient_scope"),
            Check("approved by", f"{approval['decided_by']}, twice the same", twice),
            Check("another decision after that", it.other_code or "ACCEPTED", resolved),
            Check("tool started", "after the decision" if decided < started else "TOO EARLY", decided < started),
            Check("effects in the end", str(len(self.after)), Counter(self.after) == {key: 1}),
        ]

    def started_after_ms(self) -> float | None:
        """From the decision to the start of the tool, as the journal dates them."""
        at = {event["type"]: datetime.fromisoformat(event["at"]) for event in reversed(self.events)}
        if not {"approval.decided", "tool.started"} <= at.keys():
            return None
        return (at["tool.started"] - at["approval.decided"]).total_seconds() * 1_000

    def document(self) -> Object:
        return {
            "run_id": self.run["id"],
            "approval_id": self.decided.approval["id"],
            "args_sha256": self.decided.approval["args_sha256"],
            "decided_by": self.decided.approval["decided_by"],
            "effects_before": len(self.decided.before),
            "effects_after": len(self.after),
            "own_decision": self.decided.own_code,
            "other_decision": self.decided.other_code,
            "tool_started_after_ms": self.started_after_ms(),
        }

    def _seq(self, type_: str) -> float:
        """Of the first event of this type; never when there is none."""
        return next((float(event["seq"]) for event in self.events if event["type"] == type_), float("inf"))


@dataclass(frozen=True)
class BudgetEvidence:
    """``ledger`` is the whole of it, in order. ``billed`` and ``lost`` are the vendors' own counts for each call that
    they completed, and for each whose client was gone: nobody knows whether a vendor charges for those."""

    run: Object
    ledger: list[Object]
    billed: list[Object]
    lost: list[Object]

    def checks(self) -> list[Check]:
        limit, entries, spent = self.limit, len(self.ledger), self.spent
        over = [row["entry"] for row in self.ledger if self._promised(row) > limit]
        numbered = [row["entry"] for row in self.ledger] == list(range(1, entries + 1))
        highest = f"OVER at {over}" if over else f"at most ${self.highest():f} of ${limit:f}, {entries} entries"
        known, assumed = self._settled(assumed=False), self._settled(assumed=True)
        bill, lost = usd_of(self.billed), usd_of(self.lost)
        status = f"{self.run['status']}, {self.run['stop_reason']}"
        nothing_open = not Decimal(self.run["budget"]["reserved"]["cost_usd"])
        said = self.run["output_text"] or "nothing"
        return [
            Check("run with a budget", status, status == "incomplete, budget_reached"),
            Check("spent and reserved, at each entry", highest, numbered and entries > 0 and not over),
            Check("the vendor's bill", f"${bill:f}; the ledger has ${sum(known):f}", bill == sum(known) > 0),
            Check(
                "a call lost with its worker",
                f"the vendor may charge ${lost:f}; ${sum(assumed):f} is assumed",
                len(assumed) == len(self.lost) > 0 and lost <= sum(assumed),
            ),
            Check("spent in the end", f"${spent:f}", spent == sum(known) + sum(assumed) <= limit and nothing_open),
            Check("last words, from what was kept aside", f"{said[:40]}…", said.startswith(LAST_WORDS)),
        ]

    @property
    def limit(self) -> Decimal:
        return Decimal(self.run["budget"]["limit"]["max_cost_usd"])

    def highest(self) -> Decimal:
        return max((self._promised(row) for row in self.ledger), default=Decimal(0))

    @property
    def spent(self) -> Decimal:
        return Decimal(self.run["budget"]["spent"]["cost_usd"])

    def document(self) -> Object:
        return {
            "run_id": self.run["id"],
            "limit_usd": str(self.limit),
            "spent_usd": str(self.spent),
            "vendor_bill_usd": f"{usd_of(self.billed):f}",
            "assumed_usd": f"{sum(self._settled(assumed=True)):f}",
            "highest_usd": f"{self.highest():f}",
            "ledger_entries": len(self.ledger),
            "last_words": self.run["output_text"],
        }

    def _promised(self, row: Object) -> Decimal:
        balance = row["balance"]
        return Decimal(balance["spent"]["cost_usd"]) + Decimal(balance["reserved"]["cost_usd"])

    def _settled(self, *, assumed: bool) -> list[Decimal]:
        """What was booked as spent, for known or for assumed."""
        rows = [row for row in self.ledger if row["kind"] == "settled" and row["assumed"] is assumed]
        return [Decimal(row["amount"]["cost_usd"]) for row in rows]


def usd_of(calls: list[Object]) -> Decimal:
    """What the vendors would charge for what they have counted themselves."""
    input_price, output_price = SCRIPTED_USD_PER_MILLION
    return (
        sum((Decimal(each["input"] * input_price + each["output"] * output_price) for each in calls), Decimal(0))
        / MICRO
    )

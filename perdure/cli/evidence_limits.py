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
SCRIPTED_USD_PER_MILLION = (1, 4)  # the price list of the scripted vendors: input, output


@dataclass(frozen=True)
class ApprovalEvidence:
    """``before`` are the keys in the file of effects while the run waited and was looked at for
    ``looked_seconds``; ``after`` those at the end. ``again`` is the approval as a repeated decision got it,
    ``other_code`` what another decision was refused with."""

    run: Object
    events: list[Object]
    approval: Object
    before: list[str]
    after: list[str]
    looked_seconds: float
    again: Object
    other_code: str

    def checks(self) -> list[Check]:
        counts = Counter(self.after)
        key = f"{self.run['id']}:{self.approval['call_id']}"
        decided, started = self._seq("approval.decided"), self._seq("tool.started")
        approved = self.approval["status"] == "approved" and self.again == self.approval
        refused = self.other_code == "approval_already_resolved"
        return [
            Check("run that asks first", self.run["status"], self.run["status"] == "completed"),
            Check(
                "effects while it waited",
                f"{len(self.before)}, looked for {self.looked_seconds:.1f} s",
                not self.before,
            ),
            Check("approved by", f"{self.approval['decided_by']}, twice the same", approved),
            Check("a different decision after that", self.other_code or "accepted", refused),
            Check("tool started", "after the decision" if decided < started else "TOO EARLY", decided < started),
            Check("effects in the end", str(len(self.after)), counts == {key: 1}),
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
            "approval_id": self.approval["id"],
            "args_sha256": self.approval["args_sha256"],
            "decided_by": self.approval["decided_by"],
            "effects_before": len(self.before),
            "effects_after": len(self.after),
            "other_decision": self.other_code,
            "tool_started_after_ms": self.started_after_ms(),
        }

    def _seq(self, type_: str) -> float:
        """Of the first event of this type; never when there is none."""
        return next((float(event["seq"]) for event in self.events if event["type"] == type_), float("inf"))


@dataclass(frozen=True)
class BudgetEvidence:
    """``ledger`` is the whole of it, in order. ``billed`` are the vendors' own counts for each completed call."""

    run: Object
    ledger: list[Object]
    billed: list[Object]

    def checks(self) -> list[Check]:
        limit, entries = self.limit, len(self.ledger)
        over = [row["entry"] for row in self.ledger if self._promised(row) > limit]
        numbered = [row["entry"] for row in self.ledger] == list(range(1, entries + 1))
        bill, spent = self.bill(), Decimal(self.run["budget"]["spent"]["cost_usd"])
        open_ = Decimal(self.run["budget"]["reserved"]["cost_usd"])
        status = f"{self.run['status']}, {self.run['stop_reason']}"
        last_words = self.run["output_text"] or ""
        return [
            Check("run with a budget", status, status == "incomplete, budget_reached"),
            Check(
                "spent and reserved, at each entry",
                f"at most ${self.highest():f} of ${limit:f}, {entries} entries" if not over else f"OVER at {over}",
                numbered and entries > 0 and not over,
            ),
            Check("the vendor's bill", f"${bill:f}; the ledger has ${spent:f}", bill == spent <= limit and open_ == 0),
            Check("more than half of it was of use", f"{100 * spent / limit:.0f} %", spent * 2 > limit),
            Check("last words, from what was kept aside", f"{len(last_words)} characters", bool(last_words.strip())),
        ]

    @property
    def limit(self) -> Decimal:
        return Decimal(self.run["budget"]["limit"]["max_cost_usd"])

    def highest(self) -> Decimal:
        return max((self._promised(row) for row in self.ledger), default=Decimal(0))

    def bill(self) -> Decimal:
        """What the vendors would charge for what they have counted themselves."""
        input_price, output_price = SCRIPTED_USD_PER_MILLION
        return (
            sum((each["input"] * input_price + each["output"] * output_price for each in self.billed), Decimal(0))
            / MICRO
        )

    def document(self) -> Object:
        return {
            "run_id": self.run["id"],
            "limit_usd": str(self.limit),
            "spent_usd": self.run["budget"]["spent"]["cost_usd"],
            "vendor_bill_usd": f"{self.bill():f}",
            "highest_usd": f"{self.highest():f}",
            "ledger_entries": len(self.ledger),
            "last_words": self.run["output_text"],
        }

    def _promised(self, row: Object) -> Decimal:
        balance = row["balance"]
        return Decimal(balance["spent"]["cost_usd"]) + Decimal(balance["reserved"]["cost_usd"])

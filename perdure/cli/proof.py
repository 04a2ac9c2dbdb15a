"""The evidence of all parts of `perdure demo` together: the table at its end, and the JSON for machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from perdure.cli.evidence import Check, Evidence
from perdure.cli.evidence_limits import ApprovalEvidence, BudgetEvidence

HELD = (
    "Nothing was lost, nothing was paid for or done twice, nothing was done unasked, no cent was spent over the limit."
)
HELD_BY_A_REAL_MODEL = (
    "Nothing was lost, nothing was done twice. What the vendor bills for the call that was cut, it knows alone."
)


@dataclass
class Proof:
    """``approval`` and ``budget`` are None with a real model, which need not do what they are about."""

    evidence: Evidence
    approval: ApprovalEvidence | None = None
    budget: BudgetEvidence | None = None
    total_seconds: float = 0.0
    _checks: list[Check] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        if not self._checks:
            self.evidence.judge()
            limits = [part.checks() for part in (self.approval, self.budget) if part is not None]
            self._checks = [*self.evidence.checks, *(check for part in limits for check in part)]
        return self._checks

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def document(self, *, home: str | None) -> dict[str, Any]:
        """Everything as JSON. ``ok`` is what the exit status says."""
        return {
            "ok": self.ok,
            **self.evidence.document(),
            "approval": None if self.approval is None else self.approval.document(),
            "budget": None if self.budget is None else self.budget.document(),
            "total_seconds": round(self.total_seconds, 2),
            "checks": [{"name": check.name, "found": check.found, "ok": check.ok} for check in self.checks],
            "home": home,
        }


def print_proof(proof: Proof, console: Console) -> None:
    table = Table(title="What it came to", title_justify="left", header_style="bold")
    for heading in ("what", "found", ""):
        table.add_column(heading)
    for check in proof.checks:
        table.add_row(check.name, check.found, "[green]ok[/]" if check.ok else "[red bold]WRONG[/]")
    for kill in proof.evidence.kills:
        seconds = kill.recovered_seconds
        found = "never" if seconds is None else f"{seconds:.1f} s"
        table.add_row(f"next step after kill -9 of {kill.what} {kill.when}", found, "" if seconds else "[red]WRONG[/]")
    if proof.approval is not None and (after_ms := proof.approval.started_after_ms()) is not None:
        table.add_row("tool started after the approval, its worker killed", f"{after_ms / 1_000:.1f} s", "")
    table.add_row("total time", f"{proof.total_seconds:.1f} s", "")
    console.print()
    console.print(table)
    held = HELD_BY_A_REAL_MODEL if proof.evidence.vendor is None else HELD
    verdict = held if proof.ok else "Not everything holds: see above."
    console.print(verdict, style="bold green" if proof.ok else "bold red")

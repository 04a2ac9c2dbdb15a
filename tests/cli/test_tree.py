"""What the terminal shows of a family. Needs nothing."""

from __future__ import annotations

from typing import Any

from perdure.cli.tree import tree_lines


def node(name: str, *children: Any, **more: Any) -> dict[str, Any]:
    known = {
        "id": f"run_{name}", "agent": {"name": name}, "status": "completed", "status_reason": None,
        "stop_reason": "end", "usage": {"cost_usd": "0.01"}, "assumed_cost_usd": "0.00",
        "background": False, "detached": False,
        "goal": f"do {name}", "children": list(children), "total": None,
    }  # fmt: skip
    return {**known, **more}


def test_a_family_is_drawn_as_a_tree_with_its_sum() -> None:
    total = {"runs": 4, "usage": {"cost_usd": None}, "assumed_cost_usd": "0.00"}
    lines = [
        line
        for line, _ in tree_lines(
            node(
                "lead",
                node("one", node("deep", usage={"cost_usd": None})),
                node("two", status="cancelled", stop_reason="parent_ended", background=True, goal="x\nevil\x1b[2J"),
                total=total,
            )
        )
    ]
    assert lines == [
        "run_lead  lead  completed  $0.01  do lead",
        "├─ run_one  one  completed  $0.01  do one",
        "│  └─ run_deep  deep  completed  ?  do deep",
        lines[3],
        "4 runs, ? together",
    ]
    assert lines[3].startswith("└─ run_two  two  cancelled (parent_ended)  $0.01  background  x")
    assert "\x1b" not in lines[3]


def test_what_lost_attempts_are_taken_to_have_cost_is_shown_beside_what_was_reported() -> None:
    total = {"runs": 1, "usage": {"cost_usd": "0.01"}, "assumed_cost_usd": "0.033397"}
    lines = [line for line, _ in tree_lines(node("lead", assumed_cost_usd="0.033397", total=total))]
    assert lines == [
        "run_lead  lead  completed  $0.01 (+ $0.033397 assumed)  do lead",
        "1 runs, $0.01 (+ $0.033397 assumed) together",
    ]

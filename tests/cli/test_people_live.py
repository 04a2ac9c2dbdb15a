"""People in the loop on the command line, with everything real. Needs a real Temporal dev server."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.stack import UpProcess, environment, until
from tests.cli.typist import Typist

TOOLS = '''
import time
from pathlib import Path

from perdure.tools import tool


@tool
def send_letter(to: str) -> str:
    """Post a letter."""
    with Path("letters.txt").open("a") as out:
        out.write(f"{to}\\n")
    if to == "slow":
        time.sleep(60)
    return f"posted to {to}"
'''
SCRIPTS = """
scripts:
  letter:
    turns:
      - tool_calls: [{name: send_letter, arguments: {to: "{user}"}}]
      - {text: "So: {last_tool_result}"}
  letters:
    turns:
      - tool_calls:
          - {name: send_letter, arguments: {to: "{user}, first"}}
          - {name: send_letter, arguments: {to: "{user}, second"}}
      - {text: "So: {last_tool_result}"}
  asker:
    turns:
      - tool_calls:
          - name: ask_user
            arguments:
              questions:
                - {id: colour, question: "Which colour?", options: [red, {value: blue, description: as the sea}]}
                - {id: sizes, question: "Which sizes?", options: [S, M, L], multiple: true}
                - {id: count, question: "How many?", answer_schema: {type: integer, minimum: 1}}
      - {text: "So: {last_tool_result}"}
  client:
    turns:
      - tool_calls: [{name: look_up, arguments: {what: weather}}]
      - {text: "So: {last_tool_result}"}
  worker:
    generate: {turns: 500, tool: {name: current_time}, text: "Step {turn}", delay_seconds: 0.2}
"""
POLICY = {"rules": [{"tool": "send_letter", "action": "ask", "reason": "letters cost"}]}


class People:
    """The stack, and the commands of people."""

    def __init__(self, up: UpProcess, folder: Path) -> None:
        self.up, self.folder = up, folder

    def __call__(self, *arguments: str, status: int | None = 0) -> str:
        done = self.up.perdure(*arguments)
        assert status in (None, done.returncode), done.stdout + done.stderr
        return done.stdout + done.stderr

    def starts(self, text: str, model: str, *options: str, policy: str | None = "policy.json") -> str:
        tool = {"asker": "ask_user", "worker": "current_time"}.get(model, "send_letter")
        if policy and tool == "send_letter":
            options = ("--policy", str(self.folder / policy), *options)
        command = ["run", text, "--model", f"scripted/{model}", "--tool", tool, *options]
        return str(json.loads(self(*command, "--no-follow", "--json"))["id"])

    def waits(self, run: str, status: str = "requires_action") -> dict[str, Any]:
        until(lambda: self.run(run)["status"] == status)
        return self.run(run)

    def ended(self, run: str) -> dict[str, Any]:
        until(lambda: self.run(run)["completed_at"])
        return self.run(run)

    def run(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.up.get(f"/v1/runs/{run}")
        return found

    def started(self, run: str) -> str:
        """The tool call that a worker has begun."""
        steps = self.up.get(f"/v1/runs/{run}/steps")["data"]
        return next((step["key"] for step in steps if step["kind"] == "tool" and step["status"] == "started"), "")

    def letters(self, to: str) -> list[str]:
        file = self.folder / "letters.txt"
        return [line for line in file.read_text().splitlines() if to in line] if file.exists() else []

    def sits_at(self, *arguments: str, **env: str) -> Typist:
        return Typist(*arguments, home=self.up.home, cwd=self.folder, **env)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    folder = tmp_path_factory.mktemp("people")
    (folder / "letter_tools.py").write_text(TOOLS)
    (folder / "scripts.yaml").write_text(SCRIPTS)
    (folder / "policy.json").write_text(json.dumps(POLICY))
    options = ["--scripts", str(folder / "scripts.yaml")]
    running = UpProcess(folder / "home", *options, cwd=folder, PERDURE_TOOLS="letter_tools").ready()
    yield People(running, folder)
    running.end()


# Approvals -------------------------------------------------------------------------------------------


def test_in_a_pipe_the_run_says_what_it_waits_for_and_the_command_it_prints_resolves_it(people: People) -> None:
    policy = str(people.folder / "policy.json")
    command = ["run", "Ada", "--model", "scripted/letter", "--tool", "send_letter", "--policy", policy]
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "perdure.cli", *command, "--home", str(people.up.home)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    lines: list[str] = []
    for line in running.stdout:
        lines.append(line.strip())
        if line.strip().startswith("deny:"):
            break
    assert 'send_letter {"to":"Ada"} needs an approval (rules[0]: letters cost)' in "\n".join(lines)
    assert people.letters("Ada") == []
    exact = shlex.split(next(line for line in lines if line.startswith("approve:")).partition(":")[2])
    assert exact[0] == "perdure"
    subprocess.run([sys.executable, "-P", "-m", "perdure.cli", *exact[1:]], env=environment(), check=True, timeout=60)
    rest = running.stdout.read()
    assert running.wait(timeout=30) == 0
    assert "So: posted to Ada" in rest
    assert people.letters("Ada") == ["Ada"]


def test_what_waits_is_listed_over_all_runs_and_the_run_is_enough_to_name_it(people: People) -> None:
    one, two = people.starts("Bea", "letter"), people.starts("Cleo", "letter")
    for run in (one, two):
        people.waits(run)
    listed = people("approvals")
    for part in ("Bea", "Cleo", one, two, "letters cost", "expires in 3 d", "perdure approve apv_"):
        assert part in listed
    assert "Cleo" not in people("approvals", one)
    shown = people("show", one)
    assert "requires_action" in shown
    assert "perdure approve apv_" in shown
    assert "approved: send_letter" in people("approve", one, "--as", "ada")
    assert people.ended(one)["output_text"] == "So: posted to Bea"
    denied = people("deny", two, "--message", "not to her")
    assert "denied: send_letter" in denied
    assert "not to her" in people.ended(two)["output_text"]
    assert (people.letters("Bea"), people.letters("Cleo")) == (["Bea"], [])
    assert people.up.get(f"/v1/approvals?run_id={one}")["data"][0]["decided_by"] == "ada"
    assert "waits for nobody" in people("approvals", one)


def test_several_that_wait_are_listed_and_one_of_them_is_named_by_its_call(people: People) -> None:
    run = people.starts("Dora", "letters")
    calls = [ask["call_id"] for ask in people.waits(run)["pending_actions"]]
    refused = people("approve", run, status=1)
    assert "waits for 2 of them" in refused
    assert all(call in refused for call in calls)
    people("deny", run, "--call", calls[0])
    people("approve", run)  # one is left
    people.ended(run)
    assert people.letters("Dora") == ["Dora, second"]
    assert "does not wait for an approval; it is completed" in people("approve", run, status=1)


def test_edited_arguments_are_what_is_done_and_those_that_do_not_fit_change_nothing(people: People) -> None:
    run = people.starts("Eve", "letters")
    id_, other = (ask["id"] for ask in people.waits(run)["pending_actions"])
    assert "(validation_failed)" in people("approve", id_, "--edit", '{"towards": "Eve"}', status=1)
    assert "with other arguments" in people("approve", id_, "--edit", '{"to": "Fay"}')
    assert "(approval_already_resolved)" in people("deny", id_, status=1)
    assert "(approval_not_found)" in people("approve", f"{id_[:-4]}0000", status=1)
    people("deny", other[:-1])  # the beginning of an id is enough
    people.ended(run)
    assert (people.letters("Eve"), people.letters("Fay")) == ([], ["Fay"])


def test_a_result_given_by_hand_is_what_the_model_sees(people: People) -> None:
    run = people.starts("Gina", "letter")
    people.waits(run)
    people("respond", run, "it was brought by hand")
    assert people.ended(run)["output_text"] == "So: it was brought by hand"
    assert people.letters("Gina") == []


def test_a_client_tools_result_can_be_given_by_hand_and_so_can_that_of_a_call_that_is_stuck(people: People) -> None:
    tool = {"name": "look_up", "description": "Look something up.", "parameters": {"type": "object"}}
    body = {"agent_inline": {"model": "scripted/client"}, "client_tools": [tool], "input": "x"}
    run = httpx2.post(people.up.up()["api_url"] + "/v1/runs", json=body, timeout=10, trust_env=False).json()["id"]
    call = people.waits(run)["pending_actions"][0]
    assert f"perdure respond {run} --call {call['call_id']} RESULT" in people("approvals", run)
    assert "name its run" in people("respond", call["id"], "sunny", status=1)
    people("respond", run, '{"sun": true}')
    assert people.ended(run)["output_text"] == 'So: {"sun": true}'

    run = people.starts("slow", "letter", policy=None)
    until(lambda: people.letters("slow"))
    stuck = people.up.get(f"/v1/runs/{run}/steps")["data"][1]["call_id"]
    shown = people("show", run)
    for verb in (f"retry {run} {stuck}", f"abort {run} {stuck} --reason WHY", f"respond {run} --call {stuck}"):
        assert f"perdure {verb}" in shown
    assert "the result of send_letter" in people("respond", run, "it is lost", "--call", stuck)
    assert people.ended(run)["output_text"] == "So: it is lost"


def test_a_call_that_is_stuck_is_run_again_or_given_up_from_the_command_line(people: People) -> None:
    run = people.starts("slow", "letter", policy=None)
    until(lambda: people.started(run))
    call = people.started(run)
    assert "runs again" in people("retry", run, call, "--reason", "the post was closed")
    until(lambda: people.up.get(f"/v1/runs/{run}/steps")["data"][1]["attempts"] == 2)
    assert "is given up" in people("abort", run, call, "--reason", "no more letters")
    assert people.ended(run)["output_text"] == "So: no more letters"
    assert "(run_terminal)" in people("retry", run, call, status=1)


# In the terminal ---------------------------------------------------------------------------------------


def test_an_approval_is_asked_right_in_the_terminal(people: People) -> None:
    policy = str(people.folder / "policy.json")
    with people.sits_at(
        "run", "Hana", "--model", "scripted/letter", "--tool", "send_letter", "--policy", policy
    ) as person:
        person.types("a")  # typed before anything was asked: it answers nothing
        person.sees("send_letter")
        person.sees('"to": "Hana"')
        person.sees("letters cost")
        person.sees("[a]pprove, [d]eny, [e]dit, [l]ater:")
        person.types("")
        person.sees("[a]pprove")
        assert people.letters("Hana") == []
        person.types("a")
        person.sees("approved: send_letter")
        person.sees("So: posted to Hana")
        person.sees("completed ·")
        assert person.ends() == 0
    assert people.letters("Hana") == ["Hana"]


def test_in_the_terminal_a_denial_has_a_reason_and_an_edit_goes_through_the_editor(people: People) -> None:
    run = people.starts("Ida", "letters")
    people.waits(run)
    editor = people.folder / "editor.sh"
    editor.write_text(f"""#!{sys.executable}
import sys
from pathlib import Path

file = Path(sys.argv[1])
file.write_text(file.read_text().replace("Ida, second", "Jane"))
""")
    editor.chmod(0o755)
    with people.sits_at("watch", run, EDITOR=str(editor)) as person:
        person.sees("Ida, first")
        person.sees("[l]ater:")
        person.types("d")
        person.sees("why (the model is told; may be empty):")
        person.types("once is enough")
        person.sees("denied: send_letter")
        person.sees("[l]ater:")
        person.types("e")
        person.sees("approved with other arguments")
        assert person.ends() == 0
    assert people.letters("Ida") == []
    assert people.letters("Jane") == ["Jane"]
    results = people.up.get(f"/v1/runs/{run}/messages?limit=100")["data"]
    assert "once is enough" in json.dumps(results)


def test_what_is_left_for_later_can_be_approved_elsewhere_while_the_reader_goes_on(people: People) -> None:
    run = people.starts("Kim", "letter")
    people.waits(run)
    with people.sits_at("watch", run) as person:
        person.sees("[l]ater:")
        person.types("l")
        person.sees("left open; approve: perdure approve apv_")
        people("approve", run, "--as", "eve")
        person.sees("approved by eve")
        assert person.ends() == 0


def test_a_question_that_is_settled_elsewhere_is_not_asked_any_more(people: People) -> None:
    run = people.starts("Lea", "letter")
    people.waits(run)
    with people.sits_at("watch", run) as person:
        person.sees("[l]ater:")
        people("approve", run, "--as", "eve")
        person.sees("approved by eve")
        person.sees("this is settled already")
        assert person.ends() == 0


def test_ctrl_c_while_asked_leaves_the_run_waiting_and_prints_what_resolves_it(people: People) -> None:
    run = people.starts("Mia", "letter")
    people.waits(run)
    with people.sits_at("watch", run) as person:
        person.sees("[l]ater:")
        person.presses(b"\x03")
        person.sees("it waits for: perdure approve apv_")
        assert person.ends() == 130
    assert people.run(run)["status"] == "requires_action"
    people("approve", run)
    assert people.ended(run)["status"] == "completed"


# Questions ---------------------------------------------------------------------------------------------


def test_questions_are_asked_in_the_terminal_one_after_another(people: People) -> None:
    run = people.starts("x", "asker")
    people.waits(run)
    with people.sits_at("watch", run) as person:
        person.sees("1 of 3: Which colour?")
        person.sees("2  blue – as the sea")
        person.types("3")
        person.sees("none of the options")
        person.types("2")
        person.sees("2 of 3: Which sizes?")
        person.types("1, L")
        person.sees("3 of 3: How many?")
        person.types("0")
        person.sees("/answers/count: ")
        person.sees("(validation_failed)")  # less than the schema allows: asked again, and nothing else is
        person.sees("3 of 3: How many?")
        person.types("4")
        person.sees('answered: {"colour": "blue", "sizes": ["S", "L"], "count": 4}')
        assert person.ends() == 0
    assert person.shown.count("? 1 of 3: Which colour?") == 1


def test_questions_are_answered_by_pairs_and_answers_that_do_not_fit_leave_them_open(people: People) -> None:
    run = people.starts("x", "asker")
    question = people.waits(run)["pending_actions"][0]["id"]
    assert "Which colour? [red | blue]" in people("answer", run, status=2)  # nobody to ask here
    wrong = people("answer", question, "colour=green", "sizes=S", "count=1", status=1)
    assert "(validation_failed)" in wrong
    assert "/answers/colour" in wrong
    assert "is not ID=VALUE" in people("answer", question, "shade=red", status=2)
    assert "perdure approve" not in people("approve", question, status=1)
    assert "perdure answer" in people("approve", question, status=1)
    people("answer", question, "colour=red", "sizes=S,L", "count=2")
    assert '"count": 2' in json.dumps(people.up.get(f"/v1/questions/{question}")["answers"])
    assert people.ended(run)["status"] == "completed"


# Orders, money, policy ---------------------------------------------------------------------------------


def test_a_run_is_told_something_held_and_let_go_on(people: People) -> None:
    run = people.starts("Begin", "worker")
    until(lambda: people.run(run)["turns"] >= 1)
    assert "msg_" in people("say", run, "Now the other way round")
    until(lambda: "Now the other way round" in json.dumps(people.up.get(f"/v1/runs/{run}/messages?limit=100")["data"]))
    assert "perdure resume" in people("pause", run, "--reason", "lunch")
    people.waits(run, "paused")
    assert "lunch" in people("show", run)
    turns = people.run(run)["turns"]
    people("resume", run)
    until(lambda: people.run(run)["turns"] > turns)
    people("cancel", run, "--force")
    assert "(run_terminal)" in people("say", run, "too late", status=1)


def test_a_budget_holds_a_run_and_more_of_it_lets_it_go_on(people: People) -> None:
    run = people.starts("Begin", "worker", "--max-cost", "0.01", "--max-tokens", "none", "--on-limit", "pause")
    held = people.waits(run, "paused")
    assert held["budget"]["on_limit"] == "pause"
    said = people("budget", run)
    assert "budget_reached" in said
    assert f"perdure budget {run} --max-cost MORE" in people("resume", run, status=1)
    assert "reserved" in said
    assert "model-1" in said or "settled" in said
    assert "(validation_failed)" in people("budget", run, "--max-cost", "-1", status=1)
    assert "USD 0.012; stop" in people("budget", run, "--max-cost", "0.012", "--on-limit", "stop")
    ended = people.ended(run)
    assert (ended["status"], ended["stop_reason"]) == ("incomplete", "budget_reached")
    assert float(ended["budget"]["spent"]["cost_usd"]) <= 0.012
    ledger = json.loads(people("budget", run, "--json"))["ledger"]
    assert [row["entry"] for row in ledger] == list(range(1, len(ledger) + 1))
    assert "scripted/worker" in people("usage", "--by", "model")
    assert people("usage", "--by", "model", "--csv").splitlines()[0].startswith("group,model_calls,")
    assert any(row["group"] == run for row in json.loads(people("usage", "--by", "run", "--json")))


def test_a_policy_is_asked_without_calling_anything(people: People) -> None:
    agent = {"name": "clerk", "model": "scripted/letter", "tools": ["send_letter"], "policy": POLICY}
    made = httpx2.post(people.up.up()["api_url"] + "/v1/agents", json=agent, timeout=10, trust_env=False)
    assert made.status_code == 201, made.text
    assert people("policy", "check", "clerk", "send_letter", '{"to": "Nora"}').startswith(
        "ask (rules[0]): letters cost"
    )
    assert "problem" in people("policy", "check", "clerk", "send_letter", "{}")
    stricter = people.folder / "stricter.json"
    stricter.write_text(json.dumps({"rules": [{"tool": "send_*", "action": "deny", "reason": "not today"}]}))
    verdict = people("policy", "check", "clerk", "send_letter", '{"to": "Nora"}', "--policy", str(stricter), "--json")
    assert json.loads(verdict)["verdict"] == "deny"
    assert people.letters("Nora") == []
    assert "(agent_not_found)" in people("policy", "check", "nobody", "send_letter", status=1)

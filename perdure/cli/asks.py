"""`perdure approvals`, `approve`, `deny`, `respond`, `answer`: what runs ask of people, and the people's word."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from perdure.cli.asked import WORDS, circumstances, commands, options_of, question_line, subject
from perdure.cli.client import Api, Object, Where
from perdure.cli.given import json_given, json_of
from perdure.cli.text import one_line, pretty, shown_json
from perdure.cli.trouble import Failed

LISTED_MAX = 100  # of each kind, the oldest first: an answer per line is for people
ID_CHARACTERS = 30  # a prefix of four and a ULID

_KINDS = {"apv_": ("approval", "/v1/approvals"), "qst_": ("question", "/v1/questions")}
_DECISIONS = {"approve": "approved", "edit": "approved with other arguments", "deny": "denied", "respond": "answered"}


@dataclass(frozen=True)
class Verdict:
    """What `perdure approve`, `deny` and `respond` were told. ``edited`` is JSON in place of the arguments."""

    decision: str
    message: str = ""
    scope: str | None = None
    edited: str | None = None


def list_asks(run: str | None, *, as_json: bool, where: Where) -> int:
    api = where.connect()
    if run is not None:
        run_id = api.resolve(run)
        asks, more = api.get(f"/v1/runs/{run_id}")["pending_actions"], False
    else:
        pages = [api.get(path, status="open", limit=LISTED_MAX, order="asc") for _, path in _KINDS.values()]
        asks = sorted((ask for page in pages for ask in page["data"]), key=lambda ask: str(ask["created_at"]))
        more = any(page["has_more"] for page in pages)
    if as_json:
        print(pretty(asks))
        return 0
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for ask in asks:
        console.print(f"{ask['id']}  {WORDS[ask['type']]}  {subject(ask)}", style="bold", markup=False)
        console.print(f"    {circumstances(ask)}", style="dim", markup=False)
        for what, line in commands(ask, api.command):
            console.print(f"    {what:<12} {line}", markup=False)
    if not asks:
        print("nothing waits for a person" if run is None else f"{run_id} waits for nobody")
    if more:
        print(f"… the first {LISTED_MAX} of each kind; the API has the rest")
    return 0


def decide(given: str, verdict: Verdict, *, call: str | None, where: Where) -> int:
    api = where.connect()
    body: Object = {"decision": verdict.decision, "message": verdict.message, "scope": verdict.scope}
    if verdict.edited is not None:
        body |= {"decision": "edit", "edited_arguments": arguments_from(verdict.edited, "--edit")}
    approval = find_ask(api, given, ["approval"], call=call)
    body["args_sha256"] = approval["args_sha256"]  # what was found is what is decided
    print(send_decision(api, approval, {name: value for name, value in body.items() if value}))
    return _shows_how(api, approval)


def send_decision(api: Api, approval: Object, body: Object) -> str:
    """Decide, and say in a line what came of it. Refused."""
    after = api.post(f"/v1/approvals/{approval['id']}/decide", body)
    what = f"{subject(after)} of {after['run_id']}"
    if after["status"] == "open":
        missing = after["quorum"] - len(after["votes"])
        return f"your approval counts: {len(after['votes'])} of {after['quorum']}, {missing} more needed for {what}"
    return f"{_DECISIONS.get(after['decision'], after['decision'])}: {what}"


def respond(given: str, text: str, *, call: str | None, where: Where) -> int:
    """The result by hand: instead of an approved run of the tool, of a client's tool, or of a call that is stuck."""
    api = where.connect()
    if given.startswith("ctc_"):
        raise Failed(f"{given} is a client tool's call: name its run, and the call with --call")
    if given.startswith("apv_"):
        approval = find_ask(api, given, ["approval"], call=call)
    else:
        run_id = api.resolve(given)
        pending = _pending(api.get(f"/v1/runs/{run_id}"), ["approval", "client_tool"], call)
        if not pending and call is not None:
            step = api.post(f"/v1/runs/{run_id}/calls/{call}/result", {"output": _json_or_text(text)})
            print(f"the result of {step['name']} ({call}) is what you gave")
            return 0
        approval = _the_one(api, run_id, pending, ["approval", "client_tool"])
    if approval["type"] == "client_tool":
        result = {"call_id": approval["call_id"], "output": _json_or_text(text)}
        api.post(f"/v1/runs/{approval['run_id']}/tool_results", {"results": [result]})
        print(f"answered: {subject(approval)} of {approval['run_id']}")
        return _shows_how(api, approval)
    body = {"decision": "respond", "message": text, "args_sha256": approval["args_sha256"]}
    print(send_decision(api, approval, body))
    return _shows_how(api, approval)


def answer(given: str, pairs: Sequence[str], *, call: str | None, where: Where) -> int:
    api = where.connect()
    question = find_ask(api, given, ["question"], call=call)
    if pairs:
        print(send_answers(api, question, answers_from(question, pairs)))
        return _shows_how(api, question)
    if not sys.stdin.isatty():
        lines = "\n".join(f"  {each['id']}: {question_line(each)}" for each in question["questions"])
        raise Failed(f"say the answers as ID=VALUE, or answer in a terminal. {question['id']} asks:\n{lines}", status=2)
    if question["status"] != "open":
        raise Failed(f"{question['id']} is {question['status']} already")
    from perdure.cli.terminal import LeftOpen, Terminal, ask_questions

    try:
        print(ask_questions(Terminal(), api, question))
    except (LeftOpen, KeyboardInterrupt):
        print(f"\nleft open; answer it with `{api.command('answer', question['id'])}`", file=sys.stderr)
        return 130
    return _shows_how(api, question)


def send_answers(api: Api, question: Object, answers: Object) -> str:
    """Answer, and say so in a line. Refused."""
    after = api.post(f"/v1/questions/{question['id']}/answer", {"answers": answers})
    return f"answered: {one_line(shown_json(after['answers']), 200)}"


def find_ask(api: Api, given: str, types: Sequence[str], *, call: str | None) -> Object:
    """The one that is meant: by its id or the beginning of one, or as the only one that a run waits for."""
    for prefix, (type_, path) in _KINDS.items():
        if not given.startswith(prefix):
            continue
        if type_ not in types:
            verb = "answer" if type_ == "question" else "approve"
            raise Failed(f"{given} is {_an(type_)}: `{api.command(verb, given)}` is for it")
        if len(given) == ID_CHARACTERS:
            return api.get(f"{path}/{given}")
        found = [ask for ask in api.get(path, status="open", limit=LISTED_MAX)["data"] if ask["id"].startswith(given)]
        if len(found) == 1:
            return dict(found[0])
        hint = "give more of the id" if found else f"`{api.command('approvals')}` lists them"
        raise Failed(f"{len(found) or 'none'} of the open ones begin with {given}: {hint}")
    run_id = api.resolve(given)
    return _the_one(api, run_id, _pending(api.get(f"/v1/runs/{run_id}"), types, call), types)


def _pending(run: Object, types: Sequence[str], call: str | None) -> list[Object]:
    return [ask for ask in run["pending_actions"] if ask["type"] in types and call in (None, ask["call_id"])]


def _the_one(api: Api, run_id: str, pending: list[Object], types: Sequence[str]) -> Object:
    match pending:
        case [one]:
            return one
        case []:
            run = api.get(f"/v1/runs/{run_id}")
            what = " or ".join(_an(type_) for type_ in types)
            raise Failed(f"{run_id} does not wait for {what}; it is {run['status']}")
        case _:
            lines = "\n".join(f"  {ask['id']}  {ask['call_id']}  {subject(ask)}" for ask in pending)
            raise Failed(f"{run_id} waits for {len(pending)} of them; name one by its id or with --call:\n{lines}")


def answers_from(question: Object, pairs: Sequence[str]) -> Object:
    """``ID=VALUE`` as the answers the API takes. A single question needs no id. Failed when an id is unknown."""
    by_id = {str(each["id"]): each for each in question["questions"]}
    answers: Object = {}
    for pair in pairs:
        id_, sign, value = pair.partition("=")
        if (not sign or id_ not in by_id) and len(by_id) == 1 and len(pairs) == 1:
            id_, value = next(iter(by_id)), pair
        elif not sign or id_ not in by_id:
            raise Failed(f"{pair!r} is not ID=VALUE; the questions are {', '.join(by_id)}", status=2)
        asked = by_id[id_]
        if asked.get("multiple"):
            answers.setdefault(id_, []).extend(_values(value, asked))
        elif id_ in answers:
            raise Failed(f"{id_} is answered twice, and takes one answer", status=2)
        else:
            answers[id_] = value_from(value, asked)
    return answers


def value_from(text: str, asked: Object) -> Any:
    """The value that ``text`` means: what an option is called, JSON where a schema wants more than text, else
    the text."""
    for value, _ in options_of(asked):
        if text == (value if isinstance(value, str) else json.dumps(value)):
            return value
    schema = asked.get("answer_schema")
    if schema is None or schema.get("type") == "string":
        return text
    return _json_or_text(text)


def _values(text: str, asked: Object) -> list[Any]:
    parsed = _json_or_text(text)
    if isinstance(parsed, list):
        return parsed
    if text in (value for value, _ in options_of(asked)):
        return [text]
    return [value_from(part.strip(), asked) for part in text.split(",") if part.strip()]


def arguments_from(text: str, where: str) -> Object:
    """Edited arguments: a JSON object. Failed."""
    value = json_given(text, where)
    if not isinstance(value, dict):
        raise Failed(f"{where} is not a JSON object, as the arguments of a call are", status=2)
    return value


def _json_or_text(text: str) -> Any:
    try:
        return json_of(text)
    except ValueError:
        return text


def _shows_how(api: Api, ask: Object) -> int:
    print(f"`{api.command('watch', ask['run_id'])}` shows how it goes on")
    return 0


def _an(type_: str) -> str:
    word = WORDS[type_]
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"

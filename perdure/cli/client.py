"""Talking to the API: where it is, one request at a time, and a run's events across any outage."""

from __future__ import annotations

import getpass
import json
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx2

from perdure.cli.place import alive, home_folder, read_up
from perdure.cli.text import clean
from perdure.cli.trouble import Failed

Object = dict[str, Any]

TERMINAL_EVENTS = frozenset({"run.completed", "run.incomplete", "run.failed", "run.cancelled", "run.expired"})
TERMINAL = frozenset(event.removeprefix("run.") for event in TERMINAL_EVENTS)

REQUEST_TIMEOUT_SECONDS = 30.0  # the API answers 503 itself long before
SILENCE_SECONDS = 25.0  # the stream carries a heartbeat every 10 s: two missed ones mean a dead connection
RECONNECT_SECONDS = (0.1, 0.2, 0.5, 1.0)  # a restarted API answers after one or two seconds
OUTAGE_SECONDS_MAX = 120.0  # of the API, before a follower gives up; the run goes on without it
UPLOAD_SECONDS = 600.0  # without an answer: what was sent is checked line by line, and written at once
TRIES_MAX = 8  # of one request, all under the same idempotency key
LAST_PAGES_MAX = 20  # looked through for a run that no other has started: a tree has a thousand at most
TRY_AGAIN_SECONDS = 1.0  # between them, when the API does not say

_ACTOR = re.compile(r"[\x21-\x7e]{1,128}")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}

Command = Callable[..., str]
"""``command("approve", "apv_…")``: the command line that does it here, to be pasted."""


class Refused(Failed):
    """The API answered with a problem document."""

    def __init__(self, status: int, problem: Object) -> None:
        self.status, self.problem = status, problem
        self.code = str(problem.get("code", f"http_{status}"))
        said = str(problem.get("detail") or problem.get("title"))
        errors = problem.get("errors") or []
        details = [f"{_place_of(error)}: {error.get('message')}" for error in errors]
        if details and said in (details[0], errors[0].get("message")):
            said, details = details[0], details[1:]  # a problem with one field says the same as its field
        super().__init__(f"{said.removeprefix(': ')} ({self.code})" + "".join(f"\n  {each}" for each in details))


def _place_of(error: Object) -> str:
    place = str(error.get("pointer") or error.get("parameter") or "")
    return f"line {error['line']} {place}".rstrip() if error.get("line") else place


def find_api(given: str | None, home: Path | None) -> str:
    """The API's URL: as given, else ``PERDURE_API_URL``, else that of the `perdure up` of the home."""
    if url := given or os.environ.get("PERDURE_API_URL"):
        return url.rstrip("/")
    folder = home_folder(home)
    up = read_up(folder)
    start = "perdure up" if home is None else f"perdure up --home {home}"
    if up is None:
        raise Failed(
            f"nothing runs in {folder}: start it with `{start}` in another terminal and wait until it says so, "
            "or say where the API is with --api-url or PERDURE_API_URL"
        )
    if not alive(up["pid"]):
        raise Failed(f"the `perdure up` of {folder} (pid {up['pid']}) has died; start it again with `{start}`")
    return up["api_url"]


@dataclass(frozen=True)
class Where:
    """Which API, and who asks it, as the options of a command say."""

    api_url: str | None = None
    home: Path | None = None
    actor: str | None = None

    def connect(self) -> Api:
        options = ["--api-url", self.api_url] if self.api_url else ["--home", str(self.home)] if self.home else []
        return Api(find_api(self.api_url, self.home), actor=find_actor(self.actor), options=options)


def find_actor(given: str | None) -> str | None:
    """Who decides, as the header X-Actor tells the API: as given, else the login name when that can be one."""
    if given is not None:
        if not _ACTOR.fullmatch(given):
            raise Failed(f"--as {given!r}: a name has 1 to 128 visible ASCII characters, and no spaces", status=2)
        return given
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return None
    return name if _ACTOR.fullmatch(name) else None


class Api:
    """The HTTP surface, blocking. Every trouble is a ``Failed`` with words for a person."""

    def __init__(self, url: str, *, actor: str | None = None, options: list[str] | None = None) -> None:
        self.url = url
        self._options = options or []
        is_local = urlsplit(url).hostname in _LOOPBACK
        headers = {"X-Actor": actor} if actor else {}
        self._http = httpx2.Client(
            base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=not is_local, headers=headers
        )

    def command(self, *words: str) -> str:
        """The line that calls `perdure` with these words and reaches the same API. For a shell, and for the eye:
        words come from models, too."""
        return shlex.join(["perdure", *(clean(word) for word in words), *self._options])

    def get(self, path: str, **query: object) -> Object:
        given = {name: value for name, value in query.items() if value is not None}
        return self._send("GET", path, params=given)

    def post(self, path: str, body: Object) -> Object:
        """Sent again after an outage under the same idempotency key: done once."""
        return self._send("POST", path, json=body, headers={"Idempotency-Key": secrets.token_hex(16)})

    def delete(self, path: str) -> None:
        self._request("DELETE", path)

    def patch(self, path: str, body: Object) -> Object:
        return self._send("PATCH", path, json=body)

    def download(self, path: str, file: BinaryIO) -> None:
        """The body, as it comes. Failed, also when it breaks off."""
        try:
            with self._http.stream("GET", path, timeout=SILENCE_SECONDS) as reply:
                if not reply.is_success:
                    reply.read()
                    raise Refused(reply.status_code, _document(reply))
                for chunk in reply.iter_bytes():
                    file.write(chunk)
        except httpx2.TransportError as trouble:
            raise Failed(f"GET {self.url}{path} broke off: {trouble or type(trouble).__name__}") from None

    def upload(self, path: str, file: BinaryIO, media_type: str) -> Object:
        """The file as the body, once: what is half sent leaves nothing."""
        try:
            reply = self._http.post(path, content=file, headers={"Content-Type": media_type}, timeout=UPLOAD_SECONDS)
        except httpx2.TransportError as trouble:
            raise Failed(f"POST {self.url}{path} broke off: {trouble or type(trouble).__name__}") from None
        if not reply.is_success:
            raise Refused(reply.status_code, _document(reply))
        return _document(reply)

    def get_text(self, path: str, accept: str, **query: object) -> str:
        """The same as ``get`` for another representation than JSON."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._request("GET", path, params=given, headers={"Accept": accept}).text

    def _send(self, method: str, path: str, **request: Any) -> Object:
        return _document(self._request(method, path, **request))

    def _request(self, method: str, path: str, **request: Any) -> httpx2.Response:
        for tries_left in reversed(range(TRIES_MAX)):
            try:
                reply = self._http.request(method, path, **request)
            except httpx2.ConnectError as trouble:
                if not tries_left:
                    hint = "is it running? `perdure doctor` says more"
                    raise Failed(f"no API answers at {self.url} ({trouble}): {hint}") from None
                time.sleep(TRY_AGAIN_SECONDS / 2)  # a killed API is back after two seconds; a busy machine takes four
                continue
            except (httpx2.TransportError, httpx2.InvalidURL) as trouble:
                if not tries_left or isinstance(trouble, httpx2.InvalidURL):
                    raise Failed(f"{method} {self.url}{path} failed: {trouble or type(trouble).__name__}") from None
                continue
            if reply.is_success:
                return reply
            problem = _document(reply)
            if not tries_left or not (problem.get("retryable") and reply.status_code in (409, 503)):
                raise Refused(reply.status_code, problem)
            time.sleep(min(float(reply.headers.get("retry-after", TRY_AGAIN_SECONDS)), 5))  # a person waits here
        raise AssertionError("the last try returns or raises")

    def events(
        self, run_id: str, *, after: int = 0, trouble: Callable[[str], None] = lambda _: None
    ) -> Iterator[Object]:
        """The run's events from the one after ``after`` to its terminal one, in order, each once, whatever
        happens to the connection. ``trouble`` hears of an outage, once each. Failed after
        ``OUTAGE_SECONDS_MAX`` without the API."""
        last, failures, since = after, 0, 0.0
        while True:
            try:
                for event in self._stream(run_id, last):
                    failures = 0
                    if event["seq"] <= last:
                        continue
                    last = event["seq"]
                    yield event
                    if event["type"] in TERMINAL_EVENTS:
                        return
                why = "the stream ended early"
            except httpx2.TransportError as error:
                why = str(error) or type(error).__name__
            except Refused as refused:
                if not refused.problem.get("retryable"):
                    raise
                why = str(refused)
            if not failures:
                since = time.monotonic()
                trouble(why)
            elif time.monotonic() - since > OUTAGE_SECONDS_MAX:
                raise Failed(
                    f"no API at {self.url} for {OUTAGE_SECONDS_MAX:.0f} s ({why}); the run itself goes on. "
                    f"Follow it again with `perdure watch {run_id}`"
                )
            time.sleep(RECONNECT_SECONDS[min(failures, len(RECONNECT_SECONDS) - 1)])
            failures += 1

    def _stream(self, run_id: str, last: int) -> Iterator[Object]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
        timeout = httpx2.Timeout(REQUEST_TIMEOUT_SECONDS, read=SILENCE_SECONDS)
        with self._http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers, timeout=timeout) as reply:
            if not reply.is_success:
                reply.read()
                raise Refused(reply.status_code, _document(reply))
            data: list[str] = []
            for line in reply.iter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data = []

    def resolve(self, run: str) -> str:
        """A run id from ``last`` (the newest that no run has started), a prefix of an id (with or without ``run_``), or
        the id itself."""
        if run != "last" and len(run.removeprefix("run_")) == 26:  # a ULID has 26 characters
            return run if run.startswith("run_") else f"run_{run}"
        if run == "last":
            return self._last()
        newest: list[Object] = self.get("/v1/runs", limit=100, order="desc")["data"]
        prefix = run if run.startswith("run_") else f"run_{run}"
        found = [str(row["id"]) for row in newest if str(row["id"]).lower().startswith(prefix.lower())]
        match found:
            case [one]:
                return one
            case []:
                raise Failed(f"none of the newest 100 runs begins with {prefix!r}; `perdure ls` lists them")
            case _:
                raise Failed(f"{len(found)} runs begin with {prefix!r}: {', '.join(found[:3])}…; give more of the id")

    def _last(self) -> str:
        cursor: str | None = None
        for page_number in range(LAST_PAGES_MAX):
            page = self.get("/v1/runs", limit=100 if page_number else 10, order="desc", after=cursor)
            for row in page["data"]:
                if row["parent_run_id"] is None:
                    return str(row["id"])
            cursor = page["next_cursor"]
            if cursor is None:
                raise Failed('there is no run yet; start one with `perdure run "…"`')
        raise Failed("the newest runs are all started by others: give the id of the run; `perdure ls` lists them")


def _document(reply: httpx2.Response) -> Object:
    try:
        document = reply.json()
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    if reply.is_success:
        raise Failed(f"{reply.url} did not answer with a JSON object: is this the Perdure API?")
    return {"title": f"HTTP {reply.status_code} from {reply.url}", "detail": reply.text[:200] or None}

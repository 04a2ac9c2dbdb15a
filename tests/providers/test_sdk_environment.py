"""The vendors' own environment variables work as their SDKs say, and no key goes where it does not belong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from perdure.providers import EndpointConfig, build_catalog
from perdure.providers.port import ModelTrouble
from tests.providers.conftest import call, request, serve, stop

VARIABLES = (
    "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy",
)  # fmt: skip


class Recorder:
    """A vendor that notes what it is sent and answers every call with 500."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while (part := await receive()).get("more_body"):
            body += part["body"]
        body += part["body"]
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["path"], headers, json.loads(body)))
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Recorder, str]]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    app = Recorder()
    server, thread, url = serve(app)
    yield app, url
    stop(server, thread)


async def ask(model: str, *endpoints: EndpointConfig, **more: Any) -> ModelTrouble:
    catalog = build_catalog(endpoints)
    with pytest.raises(ModelTrouble) as caught:
        await call(catalog, request(model, **more))
    await catalog.close()
    return caught.value


async def test_openai_is_reached_as_its_sdk_reads_the_environment(
    recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = recorder
    monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    await ask("openai/gpt-5.5", request_key="run_7:model-1")
    path, headers, body = app.requests[0]
    assert path == "/v1/responses"
    assert headers["authorization"] == "Bearer sk-mine"
    assert headers["openai-organization"] == "org-mine"
    assert headers["x-client-request-id"] == "run_7:model-1"
    assert headers["content-type"] == "application/json"
    assert (body["model"], body["store"], body["include"]) == ("gpt-5.5", False, ["reasoning.encrypted_content"])


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
async def test_anthropic_is_reached_as_its_sdk_reads_the_environment(
    recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    app, url = recorder
    monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
    monkeypatch.setenv(variable, "k")
    await ask("anthropic/claude-sonnet-5", request_key="run_7:model-2")
    path, headers, body = app.requests[0]
    assert path == "/v1/messages"
    assert headers["authorization"] == "Bearer k"  # this SDK sends both kinds so
    assert headers["anthropic-version"]
    assert headers["x-client-request-id"] == "run_7:model-2"
    assert headers["content-type"] == "application/json"
    assert (body["model"], body["max_tokens"]) == ("claude-sonnet-5", 8192)


@pytest.mark.parametrize(
    ("model", "variable"), [("openai/gpt-5.5", "OPENAI_API_KEY"), ("anthropic/claude-sonnet-5", "ANTHROPIC_API_KEY")]
)
@pytest.mark.usefixtures("recorder")
async def test_a_missing_key_is_named(model: str, variable: str) -> None:
    trouble = await ask(model)
    assert (trouble.code, trouble.retryable) == ("auth", False)
    assert variable in trouble.message


async def test_a_key_that_is_set_later_is_found(
    recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = recorder
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    catalog = build_catalog()
    with pytest.raises(ModelTrouble, match="OPENAI_API_KEY"):
        await call(catalog, request("openai/gpt-5.5"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-late")
    with pytest.raises(ModelTrouble, match="HTTP 500"):
        await call(catalog, request("openai/gpt-5.5"))
    assert app.requests[0][1]["authorization"] == "Bearer sk-late"
    await catalog.close()


@pytest.mark.parametrize(
    ("dialect", "path"),
    [
        ("responses", "/v1/responses"),
        ("chat_completions", "/v1/chat/completions"),
        ("messages", "/v1/messages"),
    ],
)
async def test_a_configured_server_gets_its_own_key_and_nothing_of_the_vendors(
    recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch, dialect: Any, path: str
) -> None:
    app, url = recorder
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "secret-of-the-vendor")
    monkeypatch.setenv("MY_KEY", "k-mine")
    base = url if dialect == "messages" else f"{url}/v1"
    await ask("mine/org/model", EndpointConfig("mine", base, dialect, "MY_KEY"))
    seen, headers, body = app.requests[0]
    assert seen == path
    assert headers["authorization"] == "Bearer k-mine"
    assert "secret-of-the-vendor" not in str(headers)
    assert body["model"] == "org/model"
    assert "include" not in body


async def test_a_configured_server_whose_key_is_not_set_names_the_variable(recorder: tuple[Recorder, str]) -> None:
    trouble = await ask("mine/m", EndpointConfig("mine", recorder[1], api_key_env="MY_KEY_UNSET"))
    assert trouble.code == "auth"
    assert "MY_KEY_UNSET" in trouble.message


async def test_a_proxy_of_the_environment_does_not_stand_before_a_server_on_this_machine(
    recorder: tuple[Recorder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = recorder
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    trouble = await ask("mine/m", EndpointConfig("mine", f"{url}/v1"))
    assert (trouble.code, len(app.requests)) == ("server_error", 1)


async def test_text_that_is_no_unicode_is_sent_readably_and_not_a_crash(recorder: tuple[Recorder, str]) -> None:
    app, url = recorder
    await ask("mine/m", EndpointConfig("mine", f"{url}/v1"), instructions="a\ud800b")
    assert app.requests[0][2]["messages"][0]["content"] == "a?b"

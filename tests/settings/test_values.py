"""Settings that cannot work are refused where they are read, by name. Needs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from perdure.providers.catalog import EndpointConfig, build_catalog
from perdure.settings import ENDPOINT_NAMES_TAKEN, Settings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PERDURE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(toml: str) -> str:
    """The dotted name of the one setting that is refused, and why."""
    Path("perdure.toml").write_text(toml)
    with pytest.raises(ValidationError) as caught:
        Settings()
    [error] = caught.value.errors()
    return f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


@pytest.mark.parametrize(
    "toml", ["zzz = 1", "[zzz]\nmax_turns = 1", "[worker]\nzzz = 1", '[agents.a]\nmodel = "a/b"\nzzz = 1']
)
def test_a_key_that_is_no_setting_is_refused_by_name(toml: str) -> None:
    assert "zzz: Extra inputs" in refusal(toml)


def test_variables_that_others_read_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.toml").write_text("api_port = 9000")
    monkeypatch.setenv("PERDURE_CONFIG", "mine.toml")
    monkeypatch.setenv("PERDURE_API_URL", "http://127.0.0.1:9000")
    assert Settings().api_port == 9000


@pytest.mark.parametrize("url", ["", "local", "127.0.0.1:80", "ftp://host", "http://", "http://host:x", "http://a b"])
def test_an_endpoint_needs_an_http_url(url: str) -> None:
    assert refusal(f'[endpoints.local]\nbase_url = "{url}"').startswith("endpoints.local.base_url: ")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/v1", "https://[::1]/v1", "http://models"])
def test_an_endpoint_takes_any_http_url(url: str) -> None:
    Path("perdure.toml").write_text(f'[endpoints.local]\nbase_url = "{url}"')
    assert Settings().endpoints["local"].base_url == url


@pytest.mark.parametrize("name", [*sorted(ENDPOINT_NAMES_TAKEN), "", "a/b", "a b", "-a", "ä", "a" * 65])
def test_an_endpoint_needs_a_name_of_its_own(name: str) -> None:
    assert repr(name) in refusal(f'[endpoints."{name}"]\nbase_url = "http://host"')


def test_the_names_that_are_taken_are_those_of_the_catalog() -> None:
    for name in ENDPOINT_NAMES_TAKEN:
        with pytest.raises(ValueError, match="taken"):
            build_catalog([EndpointConfig(name, "http://host")])
    served = {model.endpoint for model in build_catalog(scripted_url="http://host").list()}
    assert served == ENDPOINT_NAMES_TAKEN


@pytest.mark.parametrize("network", ["everything", "10.0.0.1/8", "10.0.0.0/99", "http://10.0.0.1"])
def test_addresses_for_http_get_are_networks(network: str) -> None:
    said = refusal(f'[tool_settings]\nhttp_get_allow_addresses = ["127.0.0.0/8", "{network}"]')
    assert said.startswith("tool_settings.http_get_allow_addresses: ")
    assert network in said

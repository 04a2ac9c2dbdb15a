"""Dockerfile and docker-compose.yml, checked as far as no engine allows: that what they name exists, that what
they set is read, that what they promise (loopback only, pinned, healthy before used) is written down."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from perdure.settings import Settings
from tests.house.test_settings_page import rows_of_the_code
from tests.house.tree import ROOT

Service = dict[str, Any]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Service] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("build")}
ENGINE_READS = {"PERDURE_CONFIG"} | {environment.strip("`") for environment, _, _ in rows_of_the_code()}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines, continuations joined, as (INSTRUCTION, rest)."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def all_of(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def assert_starts_our_module(command: list[str]) -> None:
    """``python -P -m perdure.cli.child MODULE …``, and both modules can be run with ``-m``."""
    assert command[:4] == ["python", "-P", "-m", "perdure.cli.child"], command
    for module in (command[3], command[4]):
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"no module {module}"
        if spec.submodule_search_locations:
            assert importlib.util.find_spec(f"{module}.__main__"), f"{module} cannot be started with -m"


# Dockerfile ----------------------------------------------------------------------------------------


def test_the_image_copies_only_what_exists_and_is_let_through() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    for rest in all_of("COPY"):
        if rest.startswith("--from"):
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, f".dockerignore holds {source} back"
    assert "*" in ignored, "everything else stays outside"


def test_the_image_holds_every_module_that_the_wheel_holds() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {source for rest in all_of("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]}
    assert set(wheel["only-include"]) <= copied


def test_the_image_installs_what_the_lock_names_by_its_hashes() -> None:
    installs = [rest for rest in all_of("RUN") if "uv pip install" in rest]
    assert len(installs) == 2
    assert all("--constraint requirements.lock" in rest or "--no-deps" in rest for rest in installs)
    pinned = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    assert all("==" in entry and "--hash=sha256:" in entry for entry in pinned)


def test_the_image_uses_the_same_uv_as_the_makefile() -> None:
    version = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert version
    assert any(f"uv=={version[1]}" in rest for rest in all_of("RUN"))


def test_the_image_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    assert all_of("USER") == ["perdure"]
    [check] = all_of("HEALTHCHECK")
    assert "/healthz" in check
    assert f":{Settings.model_fields['api_port'].default}/" in check
    assert all_of("FROM")[-1].startswith("python:3.11-slim"), "the newest stage is the small one"


def test_the_image_starts_the_api() -> None:
    [command] = all_of("CMD")
    assert_starts_our_module(json.loads(command))


# docker-compose.yml ----------------------------------------------------------------------------------


def test_the_composition_is_what_the_readme_says() -> None:
    assert {"api", "worker", "journal", "temporal", "temporal-database", "temporal-ui"} <= SERVICES.keys()
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


def test_every_image_is_pinned() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":\d+\.\d+(\.\d+)*([-.\w]*)$", service["image"]), f"{name}: {service['image']}"


def test_services_wait_for_services_that_exist_and_can_meet_the_condition() -> None:
    for name, service in SERVICES.items():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            match wanted["condition"]:
                case "service_healthy":
                    assert SERVICES[other].get("healthcheck", {}).get("test"), f"{other} has no healthcheck"
                case "service_completed_successfully":
                    assert SERVICES[other]["restart"].startswith("on-failure"), f"{other} would never be over"
                case condition:
                    assert condition == "service_started"


@pytest.mark.parametrize("name", OURS)
def test_our_services_start_modules_of_ours_with_settings_that_are_read(name: str) -> None:
    assert_starts_our_module(OURS[name]["command"])
    for variable in OURS[name].get("environment", {}):
        if variable.startswith("PERDURE_"):
            assert variable in ENGINE_READS, f"nobody reads {variable}"


def test_our_settings_in_the_composition_are_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in OURS["api"]["environment"].items():
        if value is not None:
            monkeypatch.setenv(variable, interpolated(str(value)))
    settings = Settings()
    assert settings.sql_url == "postgresql://perdure:perdure@journal:5432/perdure"
    assert settings.api_host == "127.0.0.1"


def test_workers_and_api_share_the_home_and_the_journal() -> None:
    for name in ("api", "worker"):
        assert "home:/var/lib/perdure" in OURS[name]["volumes"]
    assert OURS["api"]["environment"]["PERDURE_DATABASE_URL"] == OURS["worker"]["environment"]["PERDURE_DATABASE_URL"]
    assert "PERDURE_HOME=/var/lib/perdure" in " ".join(all_of("ENV"))


def test_nothing_is_published_beyond_the_loopback_of_the_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 2
    assert all(interpolated(port).startswith("127.0.0.1:") for port in published)


def test_the_api_listens_on_loopback_in_its_container_too() -> None:
    """It has no keys: only the forwarder in the same network namespace reaches it."""
    api = SERVICES["api"]
    assert api["network_mode"] == "service:edge"
    assert not {"ports", "networks"} & api.keys()
    port = api["environment"]["PERDURE_API_PORT"]
    assert SERVICES["edge"]["command"].endswith(f"TCP:127.0.0.1:{port}")
    listens = re.search(r"TCP-LISTEN:(\d+)", SERVICES["edge"]["command"])
    assert listens
    assert SERVICES["edge"]["ports"][0].endswith(f":{listens[1]}")
    assert f"127.0.0.1:{port}/healthz" in api["healthcheck"]["test"][-1]


def test_what_the_composition_refers_to_is_declared() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"], f"{name}: {volume}"
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"], name
    assert yaml.safe_load(COMPOSE["configs"]["temporal"]["content"])


def test_the_composition_starts_without_any_variable_set() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    without_default = [found for found in re.findall(r"(?<!\$)\$\{([^}]*)\}", text) if ":-" not in found]
    assert without_default == []


def test_a_worker_is_given_longer_to_stop_than_it_takes() -> None:
    grace = Settings.model_fields["worker"].get_default().graceful_stop_seconds
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > grace


def interpolated(text: str) -> str:
    """As compose does it when no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)

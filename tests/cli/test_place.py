"""Where things are. Needs nothing; Temporal's own reader of its configuration is the witness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio.envconfig import ClientConfig

from perdure.cli.place import Up, home_folder, outside_temporal, read_up, setting, write_up

PROFILES = """
[profile.default]
address = "default.example:7233"
[profile.cloud]
address = "cloud.example:7233"
api_key = "secret"
[profile.bare]
namespace = "elsewhere"
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TEMPORAL_ADDRESS", "TEMPORAL_PROFILE", "TEMPORAL_CONFIG_FILE", "PERDURE_HOME", "PERDURE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def by_temporal_itself() -> str | None:
    return ClientConfig.load_client_connect_config().get("target_host")


@pytest.mark.parametrize("profile", [None, "default", "cloud", "bare"])
@pytest.mark.parametrize("place", ["file", "folder"])
def test_a_profile_of_temporals_own_configuration_is_heard(
    profile: str | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config" / "temporalio" / "temporal.toml" if place == "folder" else tmp_path / "mine.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(PROFILES)
    if place == "file":
        monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    if profile:
        monkeypatch.setenv("TEMPORAL_PROFILE", profile)
    found = outside_temporal()
    assert (found[0] if found else None) == by_temporal_itself()
    if found:
        assert str(file) in found[1]


def test_the_environment_wins_over_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(PROFILES)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(tmp_path / "mine.toml"))
    monkeypatch.setenv("TEMPORAL_ADDRESS", "env.example:7233")
    assert outside_temporal() == ("env.example:7233", "TEMPORAL_ADDRESS")
    assert by_temporal_itself() == "env.example:7233"


def test_without_any_configuration_no_outside_server_is_assumed() -> None:
    assert outside_temporal() is None


def test_the_home_comes_from_the_option_then_the_environment_then_the_file_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home_folder(None) == tmp_path / ".perdure"
    (tmp_path / "perdure.toml").write_text('home = "from-file"\napi_port = 9000\n')
    assert home_folder(None) == tmp_path / "from-file"
    assert setting("api_port") == "9000"
    monkeypatch.setenv("PERDURE_HOME", "from-env")
    assert home_folder(None) == tmp_path / "from-env"
    assert home_folder(Path("given")) == tmp_path / "given"


def test_up_json_is_read_as_it_was_written_and_a_broken_one_counts_as_none(tmp_path: Path) -> None:
    up = Up(pid=1, api_url="http://127.0.0.1:1", temporal_address="a", temporal_ui_url=None, children=[])
    write_up(tmp_path, up)
    assert read_up(tmp_path) == up
    assert [path.name for path in tmp_path.iterdir()] == ["up.json"]
    (tmp_path / "up.json").write_text(json.dumps(up)[:20])
    assert read_up(tmp_path) is None
    assert read_up(tmp_path / "nowhere") is None

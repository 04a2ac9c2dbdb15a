"""Which models there are, what they cost, and that nothing is loaded before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perdure.core.state import Usage
from perdure.providers import EndpointConfig, PriceConfig, build_catalog
from perdure.providers.port import UnknownModel
from tests.providers.conftest import SCRIPTS

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


def test_importing_the_providers_and_building_a_catalogue_loads_no_vendor_sdk() -> None:
    program = (
        "import sys; from perdure.providers import build_catalog; c = build_catalog(scripted_url='http://127.0.0.1:9');"
        "c.check('openai/gpt-5.5'); c.port('openai/gpt-5.5'); c.port('anthropic/x'); c.check('scripted/hello');"
        "print([name for name in ('openai', 'anthropic', 'httpx2', 'genai_prices') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("gpt-5.5", "endpoint/model"),
        ("", "endpoint/model"),
        ("openai/", "endpoint/model"),
        ("/x", "endpoint/model"),
        ("opanai/gpt-5.5", "anthropic, local, openai, scripted, scripted-chat, scripted-messages"),
        ("local/b", "it has a, c/d"),
        ("scripted/no-such", "hello"),
        ("openai/a b", "no model's name"),
        ("openai/a\x00b", "no model's name"),
        ("openai/" + "x" * 500, "no model's name"),
        ("x" * 5000 + "/y", "…"),
    ],
)
def test_a_model_nobody_serves_is_refused_with_what_there_is(model: str, says: str) -> None:
    catalog = build_catalog(
        [EndpointConfig("local", "http://127.0.0.1:1/v1", models=("a", "c/d"))], scripted_url="http://127.0.0.1:9"
    )
    for ask in (catalog.check, catalog.port):
        with pytest.raises(UnknownModel) as caught:
            ask(model)
        assert says in str(caught.value)
        assert len(str(caught.value)) < 1000


def test_models_that_are_served_pass() -> None:
    catalog = build_catalog(
        [EndpointConfig("any", "http://127.0.0.1:1/v1"), EndpointConfig("local", "http://x/v1", models=("c/d",))],
        scripted_url="http://127.0.0.1:9",
        scripts=SCRIPTS,
    )
    for model in (
        "openai/brand-new",
        "anthropic/x",
        "any/org/model:7b",
        "local/c/d",
        "scripted/plain",
        "scripted-chat/hello",
    ):
        catalog.check(model)


def test_without_a_scripted_server_there_are_no_scripted_models() -> None:
    with pytest.raises(UnknownModel):
        build_catalog().check("scripted/hello")


def test_a_broken_script_file_is_told_to_who_misses_a_script_and_spoils_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("turns: 7")
    (tmp_path / "good.yaml").write_text("turns: [{text: x}]")
    catalog = build_catalog(scripted_url="http://127.0.0.1:9", scripts=tmp_path)
    catalog.check("scripted/good")
    catalog.check("scripted-messages/hello")
    with pytest.raises(
        UnknownModel, match=r"it has .*good.*\. 1 script file cannot be read: bad\.yaml: turns"
    ) as caught:
        catalog.check("scripted/bad")
    assert str(tmp_path) not in str(caught.value)
    assert "scripted/good" in {info.id for info in catalog.list()}


def test_a_script_folder_that_is_not_there_is_told_without_the_folders_above_it(tmp_path: Path) -> None:
    catalog = build_catalog(scripted_url="http://127.0.0.1:9", scripts=tmp_path / "nowhere")
    with pytest.raises(UnknownModel, match="scripted has no scripts: nowhere: cannot be read: No such") as caught:
        catalog.check("scripted/hello")
    assert str(tmp_path) not in str(caught.value)
    assert any(info.endpoint == "openai" for info in catalog.list())


@pytest.mark.parametrize("name", ["openai", "anthropic", "scripted", "scripted-chat", "a/b", "", "a\nb"])
def test_an_endpoint_name_that_is_taken_or_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        build_catalog([EndpointConfig(name, "http://127.0.0.1:1/v1")])


def test_known_models_have_the_list_price_with_cheaper_cache_reads() -> None:
    catalog = build_catalog()
    whole = catalog.cost_micros("openai/gpt-5", Usage(input_tokens=1_000, output_tokens=100))
    cached = catalog.cost_micros("openai/gpt-5", Usage(input_tokens=1_000, output_tokens=100, cache_read_tokens=1_000))
    assert whole == 1_250 + 1_000  # $1.25 and $10 per million
    assert cached == 125 + 1_000
    mixed = Usage(input_tokens=1_000, cache_write_tokens=400, cache_read_tokens=500, output_tokens=1)
    written = catalog.cost_micros("anthropic/claude-haiku-4-5", mixed)
    assert written == 100 + 500 + 50 + 5  # $1 fresh, $1.25 written, $0.10 read, $5 output


def test_a_cost_is_rounded_up_to_whole_micros() -> None:
    assert build_catalog().cost_micros("openai/gpt-5", Usage(input_tokens=1, output_tokens=0)) == 2


@pytest.mark.parametrize(
    "model", ["openai/no-such-model-at-all", "local/llama", "openai/omni-moderation-latest", "scripted/x-unpriced"]
)
def test_a_model_without_a_price_costs_nothing_known_and_never_zero(model: str) -> None:
    catalog = build_catalog([EndpointConfig("local", "http://127.0.0.1:1/v1")])
    assert catalog.cost_micros(model, MILLION) is None


def test_a_call_without_usage_has_no_known_cost() -> None:
    assert build_catalog().cost_micros("openai/gpt-5", Usage()) is None


def test_cache_counts_that_contradict_the_total_do_not_break_the_price() -> None:
    usage = Usage(input_tokens=10, output_tokens=1, cache_read_tokens=50, cache_write_tokens=50)
    assert build_catalog().cost_micros("openai/gpt-5", usage) == 12  # 10 cached at $0.125 and 1 at $10, rounded up


def test_prices_from_the_settings_win() -> None:
    catalog = build_catalog(
        [EndpointConfig("local", "http://127.0.0.1:1/v1", models=("m",))],
        {
            "openai/gpt-5": PriceConfig(input=2, output=3),
            "local/m": PriceConfig(input=0.5, output=1.5, cache_read=0.05, cache_write=0.7),
            "scripted/x-unpriced": PriceConfig(input=0, output=0),
        },
    )
    assert catalog.cost_micros("openai/gpt-5", MILLION) == 5_000_000
    cached = Usage(input_tokens=100, output_tokens=10, cache_read_tokens=60, cache_write_tokens=20)
    assert catalog.cost_micros("local/m", cached) == 10 + 3 + 14 + 15
    assert catalog.cost_micros("scripted/x-unpriced", MILLION) == 0  # somebody said that it is free
    row = next(info for info in catalog.list() if info.id == "local/m")
    assert (row.input_price_micros, row.output_price_micros) == (500_000, 1_500_000)


def test_scripted_models_have_a_list_price_so_that_cost_can_be_seen_without_a_key() -> None:
    assert build_catalog().cost_micros("scripted-messages/hello", MILLION) == 5_000_000


def test_a_configured_server_that_the_price_library_knows_by_its_address_has_prices() -> None:
    catalog = build_catalog([EndpointConfig("ds", "https://api.deepseek.com/v1")])
    assert (catalog.cost_micros("ds/deepseek-chat", MILLION) or 0) > 0


def test_the_list_names_models_an_agent_can_run_on_with_price_and_context() -> None:
    catalog = build_catalog(
        [EndpointConfig("local", "http://x/v1", models=("m",))], scripted_url="http://127.0.0.1:9", scripts=SCRIPTS
    )
    rows = {info.id: info for info in catalog.list()}
    assert rows["openai/gpt-5.5"].input_price_micros == 5_000_000
    assert rows["anthropic/claude-opus-5-5"].context_tokens == 1_000_000
    assert rows["local/m"].input_price_micros is None
    assert rows["scripted/everything"].dialect == "responses"
    assert rows["scripted-chat/everything"].dialect == "chat_completions"
    assert rows["scripted/plain-unpriced"].output_price_micros is None
    assert not [model for model in rows if "image" in model or "embedding" in model or "audio" in model]
    vendors = [model for model in rows if not model.startswith("scripted")]  # those grow with the shipped scripts
    assert len(vendors) < 200
    for model in rows:
        catalog.check(model)

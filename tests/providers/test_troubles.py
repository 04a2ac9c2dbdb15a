"""Every way a vendor fails has one name, and says whether and when to ask again."""

from __future__ import annotations

from email.utils import formatdate
from time import time

import pytest

from perdure.providers import Catalog, EndpointConfig, build_catalog
from perdure.providers.errors import retry_after_seconds, trouble_from_words, trouble_of
from perdure.providers.port import ModelTrouble
from tests.providers.conftest import ENDPOINTS, SCRIPTS, Vendor, call, free_port, request

every_dialect = pytest.mark.parametrize("endpoint", ENDPOINTS)


async def trouble(catalog: Catalog, model: str) -> ModelTrouble:
    with pytest.raises(ModelTrouble) as caught:
        await call(catalog, request(model))
    assert model in caught.value.message
    return caught.value


@every_dialect
@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        ("limited", "rate_limited", True),
        ("overloaded", "overloaded", True),
        ("unavailable", "overloaded", True),
        ("server-error", "server_error", True),
        ("unauthorized", "auth", False),
        ("forbidden", "auth", False),
        ("bad", "bad_request", False),
        ("unprocessable", "bad_request", False),
        ("too-large", "context_exceeded", False),
        ("too-long", "context_exceeded", False),
        ("no-money", "auth", False),
        ("cut-at-once", "unreachable", True),
        ("cut-after-1", "truncated_stream", True),
        ("cut-after-4", "truncated_stream", True),
        ("cut-after-9", "truncated_stream", True),
        ("garbage", "truncated_stream", True),
        ("no-end", "truncated_stream", True),
    ],
)
async def test_each_failure_has_its_name(
    catalog: Catalog, endpoint: str, script: str, code: str, retryable: bool
) -> None:
    failed = await trouble(catalog, f"{endpoint}/{script}")
    assert (failed.code, failed.retryable) == (code, retryable)


@every_dialect
@pytest.mark.parametrize(("script", "seconds"), [("limited", 7), ("limited-ms", 1.5), ("limited-long", 3600)])
async def test_the_vendors_wish_to_wait_is_passed_on_up_to_an_hour(
    catalog: Catalog, endpoint: str, script: str, seconds: float
) -> None:
    failed = await trouble(catalog, f"{endpoint}/{script}")
    assert (failed.status, failed.retry_after_seconds) == (429, seconds)


@every_dialect
async def test_the_sdk_does_not_retry_by_itself(catalog: Catalog, vendor: Vendor, endpoint: str) -> None:
    key = f"run_once:{endpoint}"
    with pytest.raises(ModelTrouble):
        await call(catalog, request(f"{endpoint}/overloaded", request_key=key))
    assert (await vendor.log(key)).count("asked") == 1


@every_dialect
async def test_asking_again_after_a_fault_brings_the_answer(catalog: Catalog, endpoint: str) -> None:
    asked = request(f"{endpoint}/limited")
    with pytest.raises(ModelTrouble):
        await call(catalog, asked)
    _, answer = await call(catalog, asked)
    assert answer.stop == "end"


@every_dialect
@pytest.mark.parametrize("script", ["error-inside", "error-inside-flat"])
async def test_an_error_inside_the_stream_is_transient_trouble(catalog: Catalog, endpoint: str, script: str) -> None:
    failed = await trouble(catalog, f"{endpoint}/{script}")
    assert failed.code in ("overloaded", "server_error")
    assert failed.retryable


@every_dialect
@pytest.mark.parametrize("script", ["hang", "hang-inside"])
async def test_a_silent_vendor_is_a_timeout(vendor: Vendor, endpoint: str, script: str) -> None:
    catalog = build_catalog(scripted_url=vendor.url, scripts=SCRIPTS, read_timeout_seconds=0.3)
    failed = await trouble(catalog, f"{endpoint}/{script}")
    assert (failed.code, failed.retryable) == ("timeout", True)
    await catalog.close()


@every_dialect
async def test_nobody_listening_is_unreachable(endpoint: str) -> None:
    catalog = build_catalog(scripted_url=f"http://127.0.0.1:{free_port()}")
    assert (await trouble(catalog, f"{endpoint}/hello")).code == "unreachable"
    await catalog.close()


@every_dialect
async def test_a_closed_catalogue_opens_new_clients_when_it_is_used_again(catalog: Catalog, endpoint: str) -> None:
    await call(catalog, request(f"{endpoint}/plain"))
    await catalog.close()
    _, answer = await call(catalog, request(f"{endpoint}/plain"))
    assert answer.stop == "end"


@pytest.mark.parametrize("dialect", ["responses", "chat_completions", "messages"])
async def test_a_model_the_server_does_not_know_is_an_unknown_model(vendor: Vendor, dialect: str) -> None:
    base = vendor.url if dialect == "messages" else f"{vendor.url}/v1"
    catalog = build_catalog([EndpointConfig("mine", base, dialect)])  # type: ignore[arg-type]
    assert (await trouble(catalog, "mine/nothing-like-it")).code == "unknown_model"
    await catalog.close()


async def test_an_address_that_is_none_is_a_bad_request_and_not_retried() -> None:
    catalog = build_catalog([EndpointConfig("mine", "ftp://127.0.0.1/v1")])
    assert (await trouble(catalog, "mine/x")).code == "bad_request"
    await catalog.close()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "999999"}, 3600.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_is_read_in_every_form_or_not_at_all(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    wait = retry_after_seconds({"retry-after": formatdate(time() + 60, usegmt=True)})
    assert wait is not None
    assert 55 <= wait <= 61


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"error": {"code": "context_length_exceeded", "message": "no"}}, 400, "context_exceeded"),
        ({"message": "This model's maximum context length is 8192 tokens."}, 400, "context_exceeded"),
        ({"error": {"message": "the request exceeds the available context size"}}, 400, "context_exceeded"),
        ({"error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}, 400, "context_exceeded"),
        ({"type": "insufficient_quota", "code": "insufficient_quota", "message": "m"}, 429, "auth"),
        ({"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}}, 400, "auth"),
        ({"message": "Limit reached. See …/billing", "code": "rate_limit_exceeded"}, 429, "rate_limited"),
        ({"error": {"type": "not_found_error", "message": "model: claude-none"}}, 404, "unknown_model"),
        ({"detail": "Not Found"}, 404, "bad_request"),
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, 200, "overloaded"),
        ({"error": {"type": "rate_limit_error", "message": "slow down"}}, 200, "rate_limited"),
        ({"error": {"type": "invalid_request_error", "message": "no"}}, 200, "bad_request"),
        ({"error": {"code": 502, "message": "upstream"}}, None, "server_error"),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "m"}, None, "rate_limited"),
        ({"code": "invalid_prompt", "message": "m"}, None, "bad_request"),
        ({"error": "just words"}, 500, "server_error"),
        ("<html>", 502, "server_error"),
        (None, 418, "bad_request"),
        (None, 504, "timeout"),
    ],
)  # fmt: skip
def test_vendors_words_become_ours(body: object, status: int | None, code: str) -> None:
    assert trouble_from_words("e/m", body, "text", status=status).code == code


def test_our_own_bugs_are_not_called_the_vendors() -> None:
    assert trouble_of(KeyError("oops"), model="e/m", started=True) is None
    assert trouble_of(AssertionError(), model="e/m", started=False) is None

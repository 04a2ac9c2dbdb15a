"""http_get reads the public web and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.tools import ToolLimits, ToolTrouble
from perdure.tools.addresses import networks, refusal
from perdure.tools.builtin.http import Resolve, http_tools, resolve_host
from perdure.tools.html_text import html_text
from perdure.tools.threads import ToolThreads
from tests.tools.calls import asked
from tests.tools.site import Site, a_site, reply

TLS = Path(__file__).parent / "tls"
LOOPBACK = ("127.0.0.1/32", "::1/128")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with a_site() as one:
        yield one


def names(addresses: dict[str, str]) -> Resolve:
    """A resolver that knows these hosts and addresses only."""

    async def resolve(host: str, port: int) -> list[str]:
        if host in addresses:
            return addresses[host].split()
        raise socket.gaierror(socket.EAI_NONAME, "unknown name")

    return resolve


async def get(
    url: str,
    *,
    allow: tuple[str, ...] = LOOPBACK,
    resolve: Resolve = resolve_host,
    tls: ssl.SSLContext | None = None,
    max_bytes: int | None = None,
    **limits: Any,
) -> str:
    tools = http_tools(ToolLimits(http_get_allow_addresses=allow, **limits), ToolThreads(4), resolve=resolve, tls=tls)
    return await asked(tools[0], url=url, max_bytes=max_bytes)


async def refused(url: str, **options: Any) -> ToolTrouble:
    with pytest.raises(ToolTrouble) as trouble:
        await get(url, **options)
    assert trouble.value.code != "tool_error", trouble.value
    return trouble.value


async def test_a_page_comes_with_status_address_type_and_text(site: Site) -> None:
    site.routes["/data?q=1"] = reply('{"a": 1}', "application/json")
    assert await get(site.url("/data?q=1#part")) == (
        f'HTTP 200 OK\nURL: {site.url("/data?q=1")}\nContent-Type: application/json\nBytes: 8\n\n{{"a": 1}}'
    )
    assert site.asked[0].startswith("GET /data?q=1 HTTP/1.1\r\n")


async def test_an_error_status_is_a_result_not_a_failure(site: Site) -> None:
    site.routes["/broken"] = reply("sorry", status="503 Service Unavailable")
    assert (await get(site.url("/nowhere"))).startswith("HTTP 404 Not Found\n")
    broken = await get(site.url("/broken"))
    assert broken.startswith("HTTP 503 Service Unavailable\n")
    assert broken.endswith("sorry")


async def test_html_becomes_plain_text_with_its_title_and_links(site: Site) -> None:
    html = (
        "<html><head><title>The  Page</title><style>p{}</style></head><body><script>evil()</script>"
        "<h1>Hi &amp; ho</h1><p>One<br>two <a href='/more'>more</a></p><ul><li>x<li>y</ul></body></html>"
    )
    site.routes["/"] = reply(html, "text/html; charset=utf-8")
    text = (await get(site.url("/"))).split("\n\n", 1)[1]
    assert text == f"The Page\n\nHi & ho\n\nOne\ntwo more <{site.url('/more')}>\n\n- x\n- y"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("grün".encode("latin-1"), "text/plain; charset=iso-8859-1", "grün"),
        ("grün".encode(), "text/plain", "grün"),
        (b"gr\xfcn", "text/plain", "gr\ufffdn"),
        ("grün".encode("utf-16"), "text/plain; charset=utf-8", "grün"),
        ('<meta charset="latin-1"><p>grün'.encode("latin-1"), "text/html", "grün"),
        (b"abc", "text/plain; charset=no-such-thing", "abc"),
        (b"abc", "text/plain; charset=zlib", "abc"),
        (b"abc", "text/plain; charset=punycode", "abc"),
        (b"abc", 'text/plain; charset="', "abc"),
        (b"<a>1</a>", "application/atom+xml", "<a>1</a>"),
        (b"\x89PNG\0", "image/png", "[not text: image/png, 5 bytes]"),
        (b"%PDF", "application/pdf", "[not text: application/pdf, 4 bytes]"),
        (b"plain", None, "plain"),
        (b"\0\1", None, "[not text: application/octet-stream, 2 bytes]"),
        (b"", "text/plain", ""),
    ],
)
async def test_text_is_decoded_and_anything_else_is_named(
    site: Site, body: bytes, content_type: str | None, text: str
) -> None:
    site.routes["/"] = reply(body, content_type)
    assert (await get(site.url("/"))).split("\n\n", 1)[1] == text


# Limits ---------------------------------------------------------------------------------------------


async def test_a_long_body_is_cut_at_the_limit(site: Site) -> None:
    site.routes["/"] = reply("x" * 100_000)
    answer = await get(site.url("/"), http_get_bytes_max=1_000)
    assert "Bytes: 1000 (cut off" in answer
    assert answer.endswith("x" * 1_000)
    assert "Bytes: 10 (cut off" in await get(site.url("/"), max_bytes=10)
    assert "Bytes: 1000 (cut off" in await get(site.url("/"), max_bytes=10**9, http_get_bytes_max=1_000)


async def test_a_small_packed_body_cannot_unpack_to_gigabytes(site: Site) -> None:
    bomb = gzip.compress(b"\0" * 200_000_000, compresslevel=6)
    site.routes["/"] = reply(bomb, "text/plain", content_encoding="gzip")
    began = time.monotonic()
    assert "Bytes: 5000 (cut off" in await get(site.url("/"), http_get_bytes_max=5_000)
    assert time.monotonic() - began < 5


async def test_a_packed_body_is_unpacked_and_an_unknown_packing_is_named(site: Site) -> None:
    site.routes["/gz"] = reply(gzip.compress(b"unpacked"), content_encoding="gzip")
    site.routes["/br"] = reply(b"\x01\x02", content_encoding="br")
    site.routes["/bad"] = reply(b"not gzip", content_encoding="gzip")
    assert (await get(site.url("/gz"))).endswith("unpacked")
    assert "packed with br" in await get(site.url("/br"))
    assert (await refused(site.url("/bad"))).code == "unreachable"


async def test_an_endless_body_ends_at_the_limit_and_a_slow_one_at_the_timeout(site: Site) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 1_000)
            await writer.drain()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.05)

    site.routes.update({"/endless": endless, "/drip": drip})
    assert "Bytes: 5000 (cut off" in await get(site.url("/endless"), http_get_bytes_max=5_000)
    began = time.monotonic()
    trouble = await refused(site.url("/drip"), http_get_timeout_seconds=0.5)
    assert (trouble.code, trouble.retryable) == ("http_timeout", True)
    assert time.monotonic() - began < 3


async def test_a_lost_connection_asks_for_another_attempt(site: Site) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()

    site.routes["/half"] = hang_up
    site.routes["/garbage"] = b"this is not HTTP\r\n\r\n"
    for url in (site.url("/half"), site.url("/garbage"), "http://127.0.0.1:1/"):
        trouble = await refused(url)
        assert (trouble.code, trouble.retryable) == ("unreachable", True)


async def test_an_unknown_host_is_not_asked_for_again() -> None:
    trouble = await refused("http://nowhere.test/", resolve=names({}))
    assert (trouble.code, trouble.retryable) == ("unreachable", False)


@pytest.mark.parametrize(
    "url",
    [
        "", "nonsense", "//host/path", "/etc/passwd", "ftp://example.com/", "file:///etc/passwd", "gopher://x/",
        "javascript:alert(1)", "data:text/plain,x", "http://", "http:///path", "http://user@example.com/",
        "http://user:secret@example.com/", "http://example.com:99999/", "http://exa mple.com/", "http://[::1/",
        "http://example.com/" + "x" * 9_000, "http://a\nb/", "http://\u0000/", "http://*.example.com:x/",
        "http://example.com:0/",
    ],
)  # fmt: skip
async def test_what_is_no_web_address_is_refused_before_anything_is_asked(url: str) -> None:
    async def never(host: str, port: int) -> list[str]:
        raise AssertionError(f"resolved {host}")

    assert (await refused(url, resolve=never)).code == "invalid_url"


# Addresses ------------------------------------------------------------------------------------------

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1",
    "198.18.0.1", "198.51.100.7", "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
    "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::", "2001::1", "2001:0:7f00:1::",
    "2001:db8::1", "3fff::1", "100::1", "5f00::1",
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.0", "11.0.0.1",
    "2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_an_address_that_is_not_public_is_refused_in_every_form(address: str) -> None:
    trouble = await refused("http://host.test/", resolve=names({"host.test": address}), allow=())
    assert (trouble.code, trouble.retryable) == ("address_refused", False)
    assert address not in trouble.message  # what a name stands for inside a network is not the model's to know


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_not_refused(address: str) -> None:
    assert refusal(ipaddress.ip_address(address), ()) is None


def test_an_operator_may_allow_networks_and_only_those() -> None:
    allowed = networks(["10.1.0.0/16", "fd00::/64"])
    assert refusal(ipaddress.ip_address("10.1.2.3"), allowed) is None
    assert refusal(ipaddress.ip_address("::ffff:10.1.2.3"), allowed) is None
    assert refusal(ipaddress.ip_address("fd00::1"), allowed) is None
    assert refusal(ipaddress.ip_address("10.2.0.1"), allowed) is not None
    assert refusal(ipaddress.ip_address("127.0.0.1"), allowed) is not None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]", "localhost"],
)
async def test_no_way_of_writing_loopback_reaches_it(site: Site, host: str) -> None:
    trouble = await refused(f"http://{host}:{site.port}/", allow=())
    assert trouble.code in ("address_refused", "invalid_url")
    assert site.asked == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    trouble = await refused("http://host.test/", resolve=names({"host.test": "1.1.1.1 10.0.0.1"}), allow=())
    assert trouble.code == "address_refused"


@pytest.mark.parametrize(
    "location", ["http://inner.test/", "//inner.test/", "http://10.0.0.1/", "http://[::ffff:10.0.0.1]/"]
)
async def test_a_redirect_to_a_private_address_is_refused(site: Site, location: str) -> None:
    site.routes["/"] = reply("", status="302 Found", location=location)
    known = {"127.0.0.1": "127.0.0.1", "inner.test": "10.0.0.1", "10.0.0.1": "10.0.0.1"}
    known["::ffff:10.0.0.1"] = "::ffff:10.0.0.1"
    assert (await refused(site.url("/"), resolve=names(known))).code == "address_refused"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/", "http://user:pw@127.0.0.1/", "http://["])
async def test_a_redirect_to_what_is_no_web_address_is_refused(site: Site, location: str) -> None:
    site.routes["/"] = reply("", status="301 Moved Permanently", location=location)
    assert (await refused(site.url("/"))).code == "invalid_url"


async def test_redirects_are_followed_up_to_a_number(site: Site) -> None:
    for number in range(6):
        site.routes[f"/{number}"] = reply("", status="307 Temporary Redirect", location=f"/{number + 1}")
    site.routes["/6"] = reply("arrived")
    answer = await get(site.url("/1"))
    assert answer.endswith("arrived")
    assert f"URL: {site.url('/6')}" in answer
    assert (await refused(site.url("/0"))).code == "too_many_redirects"
    assert (await refused(site.url("/1"), http_get_redirects_max=0)).code == "too_many_redirects"


async def test_a_host_that_changes_its_address_after_the_check_gains_nothing(site: Site) -> None:
    """DNS rebinding: the name answers with an allowed address first and with a private one ever after. The
    connection goes to the address that was checked, so the name is asked once for each request."""
    answers = ["127.0.0.1", "10.0.0.1"]
    lookups: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        lookups.append(host)
        return [answers[min(len(lookups), 2) - 1]]

    site.routes["/"] = reply("public")
    assert (await get(site.url("/", "rebind.test"), resolve=rebinding)).endswith("public")
    assert lookups == ["rebind.test"]
    assert f"host: rebind.test:{site.port}\r\n" in site.asked[0]
    assert (await refused(site.url("/", "rebind.test"), resolve=rebinding)).code == "address_refused"


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async with a_site("::1") as site:
        site.routes["/"] = reply("over IPv6")
        answer = await get(site.url("/", "dual.test"), resolve=names({"dual.test": "127.0.0.1 ::1"}))
        assert answer.endswith("over IPv6")
        assert (await get(site.url("/", "[::1]"))).endswith("over IPv6")
        assert f"host: [::1]:{site.port}\r\n" in site.asked[1]


async def test_proxies_of_the_environment_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.routes["/"] = reply("direct")
    assert (await get(site.url("/"))).endswith("direct")


async def test_cookies_do_not_travel_to_another_host_of_the_same_address(site: Site) -> None:
    site.routes["/"] = reply("", status="302 Found", location=site.url("/in", "b.test"), set_cookie="session=secret")
    site.routes["/in"] = reply("in")
    assert (await get(site.url("/", "a.test"), resolve=names({"a.test": "127.0.0.1", "b.test": "127.0.0.1"}))).endswith(
        "in"
    )
    assert "secret" not in site.asked[1]


@pytest.fixture
async def tls_site() -> AsyncIterator[Site]:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(TLS / "site.test.pem", TLS / "site.test.key")
    async with a_site(tls=server) as site:
        site.routes["/"] = reply("over TLS")
        yield site


@pytest.fixture
def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=TLS / "site.test.pem")


async def test_a_pinned_connection_still_asks_for_the_hosts_certificate(
    tls_site: Site, trusting: ssl.SSLContext
) -> None:
    url = tls_site.url("/", "site.test").replace("http:", "https:")
    assert (await get(url, resolve=names({"site.test": "127.0.0.1"}), tls=trusting)).endswith("over TLS")
    assert tls_site.sni == ["site.test"]


async def test_a_certificate_of_another_host_or_of_nobody_known_is_refused_for_good(
    tls_site: Site, trusting: ssl.SSLContext
) -> None:
    known = names({"other.test": "127.0.0.1", "site.test": "127.0.0.1"})
    other = tls_site.url("/", "other.test").replace("http:", "https:")
    own = tls_site.url("/", "site.test").replace("http:", "https:")
    for trouble in (await refused(other, resolve=known, tls=trusting), await refused(own, resolve=known)):
        assert (trouble.code, trouble.retryable) == ("unreachable", False)
    assert tls_site.asked == []


def test_broken_html_gives_what_text_there_is() -> None:
    assert html_text("<p>a<b>b</p></i><script>x", "http://h/") == "ab"
    assert html_text("<svg><svg></svg>x</svg>y", "http://h/") == "y"
    assert html_text("<a href='http://['>x</a><a href='mailto:a@b'>y</a><a>z</a>", "http://h/") == "xyz"
    assert html_text("", "http://h/") == ""

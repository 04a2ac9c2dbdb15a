"""``http_get``: reads a public web page or document; never a private, loopback or metadata address.

The host is resolved here, every address is checked, and the connection goes to exactly the address that was
checked (the request names it; Host, SNI and certificate stay the host's). Each redirect starts over. Proxies of
the environment are not used: they would resolve again.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

import httpx2
from pydantic import Field

from perdure.tools.addresses import Address, networks, refusal
from perdure.tools.builtin.http_body import body_text
from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.limits import ToolLimits
from perdure.tools.port import ToolTrouble
from perdure.tools.threads import ToolThreads

Resolve = Callable[[str, int], Awaitable[list[str]]]

_URL_CHARS_MAX = 8_000  # what servers commonly take
_PORT_MAX = 65_535
_HOST = re.compile(rb"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")  # any port is allowed: the address is the boundary
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "user-agent": "perdure (http_get)",
    "accept": "text/html, text/*, application/json, application/xml;q=0.9, */*;q=0.5",
    "accept-encoding": "gzip, deflate",  # the two that are unpacked piece by piece under the size limit
}
_MARGIN_SECONDS = 5.0  # the tool's own timeout ends first, with a better message


@dataclass(frozen=True, slots=True)
class _Page:
    status: str
    url: str
    content_type: str
    encoding: str
    body: bytes
    truncated: bool


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host by the system's resolver. Raises OSError (socket.gaierror)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def http_tools(
    limits: ToolLimits,
    threads: ToolThreads,
    *,
    resolve: Resolve = resolve_host,
    tls: ssl.SSLContext | None = None,
) -> list[AnyTool]:
    """``threads`` read the HTML. ``tls`` defaults to the machine's certificates. Raises ValueError for a bad
    network in the limits."""
    allowed = networks(limits.http_get_allow_addresses)
    most = limits.http_get_bytes_max
    seconds = limits.http_get_timeout_seconds

    @functools.cache
    def context() -> ssl.SSLContext:  # made when first needed: it reads all the machine's certificates
        return tls if tls is not None else httpx2.create_ssl_context()

    @tool(effect="read", timeout_seconds=seconds + _MARGIN_SECONDS)
    async def http_get(
        url: Annotated[str, Field(description="http:// or https:// address")],
        max_bytes: Annotated[int | None, Field(ge=1, description="read at most this much of the body")] = None,
    ) -> str:
        """Read a public web page or document: status, final address, type, and text (HTML as plain text)."""
        fetch = _Fetch(resolve, allowed, context, min(max_bytes or most, most), limits.http_get_redirects_max)
        try:
            async with asyncio.timeout(seconds):
                page = await fetch.get(url)
                text = await threads.run(lambda: body_text(page.body, page.content_type, page.encoding, page.url))
        except TimeoutError:
            raise ToolTrouble(
                f"{url[:200]} gave no whole answer within {seconds:g} s", code="http_timeout", retryable=True
            ) from None
        return _shown(page, text)

    return [http_get]


def _shown(page: _Page, text: str) -> str:
    cut = " (cut off here, the document is longer)" if page.truncated else ""
    return (
        f"HTTP {page.status}\nURL: {page.url}\nContent-Type: {page.content_type or 'not given'}\n"
        f"Bytes: {len(page.body)}{cut}\n\n{text}"
    )


class _Fetch:
    """One GET with its redirects."""

    def __init__(
        self,
        resolve: Resolve,
        allowed: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
        tls: Callable[[], ssl.SSLContext],
        bytes_max: int,
        redirects_max: int,
    ) -> None:
        self._resolve = resolve
        self._allowed = allowed
        self._tls = tls
        self._bytes_max = bytes_max
        self._redirects_max = redirects_max

    async def get(self, text: str) -> _Page:
        url = _checked_url(text)
        for _ in range(self._redirects_max + 1):
            page_or_url = await self._hop(url)
            if isinstance(page_or_url, _Page):
                return page_or_url
            url = page_or_url
        raise ToolTrouble(f"{text[:200]} redirects more than {self._redirects_max} times", code="too_many_redirects")

    async def _hop(self, url: httpx2.URL) -> _Page | httpx2.URL:
        """One request: a page, or where it redirects to."""
        addresses = await self._addresses(url)
        trouble: httpx2.TransportError | None = None
        for address in addresses:
            try:
                return await self._request(url, address)
            except httpx2.ConnectError as error:
                trouble = error  # the next address may answer
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                raise _unreachable(url, error) from error
        raise _unreachable(url, trouble) from trouble

    async def _addresses(self, url: httpx2.URL) -> list[Address]:
        host = url.raw_host.decode("ascii").strip("[]")
        try:
            found = await self._resolve(host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError) as error:
            gone = isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN
            raise ToolTrouble(
                f"the host {host!r} cannot be resolved", code="unreachable", retryable=not gone
            ) from error
        addresses = [ipaddress.ip_address(one) for one in found]
        if not addresses:
            raise ToolTrouble(f"the host {host!r} has no address", code="unreachable")
        for address in addresses:  # one refused address is enough: nobody mixes public and private by accident
            if kind := refusal(address, self._allowed):
                raise ToolTrouble(f"{host!r} is {kind} address, which http_get does not reach", code="address_refused")
        return addresses

    async def _request(self, url: httpx2.URL, address: Address) -> _Page | httpx2.URL:
        verify = self._tls() if url.scheme == "https" else False  # False: there is nothing to verify
        extensions = {"sni_hostname": url.raw_host.decode("ascii")} if url.scheme == "https" else {}
        request = httpx2.Request(
            "GET",
            url.copy_with(host=str(address)),
            headers={**_HEADERS, "host": url.netloc.decode("ascii")},
            extensions=extensions,
        )
        # A transport per request, without a client: no cookies, no proxies, no connection shared by two hosts.
        async with (
            httpx2.AsyncHTTPTransport(verify=verify) as transport,
            aclosing(await transport.handle_async_request(request)) as response,
        ):
            location = response.headers.get("location")
            if response.status_code in _REDIRECTS and location is not None:
                return _checked_url(location, url)
            body, truncated = await self._body(response)
            return _Page(
                f"{response.status_code} {response.reason_phrase}".strip(),
                str(url),
                response.headers.get("content-type", ""),
                response.headers.get("content-encoding", ""),
                body,
                truncated,
            )

    async def _body(self, response: httpx2.Response) -> tuple[bytes, bool]:
        """Unpacked bytes, at most the limit; and whether there was more."""
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > self._bytes_max:
                return bytes(body[: self._bytes_max]), True
        return bytes(body), False


def _checked_url(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    if len(text) > _URL_CHARS_MAX:
        raise ToolTrouble(f"the URL is longer than {_URL_CHARS_MAX} characters", code="invalid_url")
    try:
        url = (base.join(text) if base is not None else httpx2.URL(text)).copy_with(fragment=None)
    except (httpx2.InvalidURL, ValueError) as error:  # ValueError: not a text, port or host of a URL
        raise ToolTrouble(f"{text[:200]!r} is no URL: {error}", code="invalid_url") from None
    if url.scheme not in ("http", "https"):
        raise ToolTrouble(f"{text[:200]!r}: only http:// and https:// are supported", code="invalid_url")
    if not _HOST.fullmatch(url.raw_host) or url.port == 0 or (url.port or 1) > _PORT_MAX:
        raise ToolTrouble(f"{text[:200]!r} names no proper host and port", code="invalid_url")
    if url.userinfo:
        raise ToolTrouble("a URL with a user name or password is not fetched", code="invalid_url")
    return url


def _unreachable(url: httpx2.URL, error: Exception | None) -> ToolTrouble:
    certificate = isinstance(error, httpx2.ConnectError) and "certificate" in str(error).lower()
    said = f": {error}" if error is not None and str(error) else ""
    return ToolTrouble(
        f"{url.host} did not answer properly ({type(error).__name__}{said})",
        code="unreachable",
        retryable=not certificate,  # a bad certificate stays bad
    )

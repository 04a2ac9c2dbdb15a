"""Which network addresses a tool may reach: the public ones, and those an operator allows."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registry for IPv4, and addresses of the public range that clouds answer themselves.
_REFUSED_V4: tuple[tuple[ipaddress.IPv4Network, str], ...] = tuple(
    (ipaddress.IPv4Network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", "an unspecified"),
        ("10.0.0.0/8", "a private"),
        ("100.64.0.0/10", "a carrier-internal"),
        ("127.0.0.0/8", "a loopback"),
        ("168.63.129.16/32", "a metadata"),  # Azure's host agent
        ("169.254.0.0/16", "a link-local or metadata"),
        ("172.16.0.0/12", "a private"),
        ("192.0.0.0/24", "a reserved"),
        ("192.0.2.0/24", "a documentation"),
        ("192.88.99.0/24", "a reserved"),
        ("192.168.0.0/16", "a private"),
        ("198.18.0.0/15", "a private"),
        ("198.51.100.0/24", "a documentation"),
        ("203.0.113.0/24", "a documentation"),
        ("224.0.0.0/4", "a multicast"),
        ("240.0.0.0/4", "a reserved"),
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out; ::1, fc00::/7, fe80::/10 lie outside
_REFUSED_V6: tuple[tuple[ipaddress.IPv6Network, str], ...] = (
    (ipaddress.IPv6Network("2001::/23"), "a reserved"),  # Teredo and other protocols' own
    (ipaddress.IPv6Network("2001:db8::/32"), "a documentation"),
    (ipaddress.IPv6Network("3fff::/20"), "a documentation"),
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks in CIDR form; a single address counts as a network of one. Raises ValueError naming the bad one."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def refusal(address: Address, allowed: Iterable[Network]) -> str | None:
    """What kind of address it is, if it may not be reached (``a private``); None when it may."""
    if any(address in network for network in allowed if network.version == address.version):
        return None
    if isinstance(address, ipaddress.IPv6Address):
        return _refusal_v6(address, allowed)
    return next((kind for network, kind in _REFUSED_V4 if address in network), None)


def _refusal_v6(address: ipaddress.IPv6Address, allowed: Iterable[Network]) -> str | None:
    inner = _embedded_v4(address)
    if inner is not None:
        return refusal(inner, allowed)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return "a private, local or reserved"
    return next((kind for network, kind in _REFUSED_V6 if address in network), None)


def _embedded_v4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end up at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)
    return None

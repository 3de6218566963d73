"""Which addresses a name from a policy or a document may lead to.

Spec: reference 7.8; OWASP's advice on server-side request forgery; RFC 6890 (special
addresses). What is judged is the address that is connected to, never the name, so
every spelling of an address (decimal, octal, hexadecimal, mapped) ends here as one.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


_LINK_LOCAL: Final = _networks("169.254.0.0/16", "fe80::/10")
_METADATA: Final = _networks(
    "fd00:ec2::/32",
    "fd20:ce::254/128",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
)
# RFC 6890: "this network" reaches the own host on Linux; the others have no one host behind them.
_NO_HOST: Final = _networks("0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4")
_LOOPBACK: Final = _networks("127.0.0.0/8", "::1/128")
_PRIVATE: Final = _networks(
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"
)
# Addresses that carry an IPv4 address somewhere else than 6to4 and mapped ones do.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# RFC 4380 and RFC 8215: tunnels whose far end cannot be told from the address.
_TUNNELS: Final = _networks("2001::/32", "64:ff9b:1::/48")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRules:
    """Where documents may be fetched from.

    Link-local and metadata addresses are refused whatever is set here. Private
    addresses are where issuers inside a mesh stand; loopback is where nothing but
    the authorizer's own neighbours stand. `refused` adds networks.
    """

    allow_loopback: bool = False
    allow_private: bool = True
    refused: tuple[Network, ...] = ()

    def why_refused(self, text: str) -> str:
        """Return why an address may not be connected to; empty when it may."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return "it is not an IP address"
        # A mapped address is judged as both: as what it is and as what it holds.
        return next(filter(None, map(self._why, _readings(address))), "")

    def _why(self, address: _Address) -> str:
        """Return why one reading of an address is refused; empty when it is not."""
        refusals = (
            (_LINK_LOCAL, "it is link-local"),
            (_METADATA, "it is a cloud's metadata service"),
            (_NO_HOST, "no host stands there"),
            (_TUNNELS, "it is the end of a tunnel"),
            (() if self.allow_loopback else _LOOPBACK, "it is loopback"),
            (() if self.allow_private else _PRIVATE, "it is private"),
            (self.refused, "the configuration refuses it"),
        )
        return next((why for networks, why in refusals if _is_in(address, networks)), "")


def _readings(address: _Address) -> tuple[_Address, ...]:
    """Return the address, and the IPv4 address that it carries inside."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    inner = address.ipv4_mapped or address.sixtofour
    is_compatible = address in _COMPATIBLE and int(address) > 1
    if inner is None and (address in _NAT64 or is_compatible):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return (address,) if inner is None else (inner, address)


def _is_in(address: _Address, networks: tuple[Network, ...]) -> bool:
    """Return whether any of the networks holds the address."""
    return any(address in network for network in networks)


def is_odd_ipv4(host: str) -> bool:
    """Return whether a host is a number that only some readers take for an IPv4 address.

    Such as `2130706433`, `0x7f.1` or `0177.0.0.1`. Spec: WHATWG URL §3.5 (a host
    whose last label is a number is an IPv4 address); RFC 3986 §3.2.2 (dotted decimal).
    """
    if _NUMERIC_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]) is None:
        return False
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False

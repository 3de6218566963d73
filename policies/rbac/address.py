"""Addresses and ports of a policy as Envoy's CidrRange and port numbers."""

from __future__ import annotations

import ipaddress
import re

from policies.rbac.errors import UntranslatableError
from policies.rbac.text import Json

_PORT_MAX = 65535
_PREFIX = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)


def cidr_range(value: str) -> Json:
    """Return the CidrRange of an address or range; host bits stay, Envoy masks them.

    >>> cidr_range("10.1.2.3/8"), cidr_range("2001:DB8::1")["prefixLen"]
    ({'addressPrefix': '10.1.2.3', 'prefixLen': 8}, 128)

    Raises:
        UntranslatableError: the value is neither.
    """
    text, slash, length = value.partition("/")
    try:
        address = ipaddress.ip_address(text)
    except ValueError as exc:
        raise UntranslatableError(f"`{value}` is not an IP address or CIDR range") from exc
    bits: int = address.max_prefixlen
    if slash:
        bits = int(length) if _PREFIX.fullmatch(length) else bits + 1
    if bits > address.max_prefixlen:
        raise UntranslatableError(f"`{value}` is not an IP address or CIDR range")
    return {"addressPrefix": _shown(address), "prefixLen": bits}


def port_number(value: str) -> int:
    """Return the port of a decimal text; leading zeros do not count.

    Raises:
        UntranslatableError: the value is no port.
    """
    if not re.fullmatch(r"[0-9]+", value, re.ASCII) or int(value) > _PORT_MAX:
        raise UntranslatableError(f"`{value}` is not a port")
    return int(value)


def _shown(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    # Go writes an IPv4-mapped address with the IPv4 part in dots; Python's habit has changed.
    mapped = getattr(address, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped else str(address)

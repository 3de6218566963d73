"""The attributes of a request that are not simply one of its fields."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from identity.claims import VerifiedClaims
from policies.mesh import Mesh, MeshMode
from policies.request import Request
from policies.string_match import TextTest, is_text, text_matcher

_FIELD_OF: Final = {":authority": "host", ":method": "method", ":path": "path", ":scheme": "scheme"}

PrincipalTest = Callable[[str | None, str | None], bool]
"""A predicate over `iss` and `sub`, each None unless the claim is a string."""


def joined_header(request: Request, name: str) -> str | None:
    """Return what Envoy before 1.38 tries: the values of a header joined by `,`."""
    values = _header_values(request, name)
    return None if values is None else ",".join(values)


def header_texts(request: Request, name: str, *, wide: bool, commas: int = 0) -> Iterator[str]:
    """Yield the texts of a header that a condition is tried on, as Envoy 1.38 and later do.

    They try each value of a repeated header. When Envoy sent
    them joined, two values cannot be told from one with a comma: the wide
    reading tries the joined text and each run of parts with as many `commas` as
    the policy's value holds, the narrow one the joined text.
    """
    values = _header_values(request, name)
    if values is None:
        return
    yield from values
    if request.headers_merged and wide:
        for value in values:
            parts = value.split(",")
            for start in range(len(parts) - commas):
                yield ",".join(parts[start : start + commas + 1]).strip()


def _header_values(request: Request, name: str) -> tuple[str, ...] | None:
    # "`host` is an alias of `:authority`" in Envoy's header map.
    name = ":authority" if name == "host" else name
    values = request.headers.get(name)
    if values is not None or not name.startswith(":"):
        return values
    # A filter on the headers that Envoy sends leaves these to their own fields.
    field = _FIELD_OF.get(name)
    pseudo = "" if field is None else getattr(request, field)
    return (pseudo,) if pseudo else None


def remote_ip(request: Request, mesh: Mesh) -> str | None:
    """Return the trusted client address, or None when it cannot be told.

    Spec: Envoy "x-forwarded-for": the (hops + 1)-th entry from the right; too few
    or unreadable entries leave the direct peer.
    """
    # A connection has no such header: its remote address is that of its peer.
    if not request.is_http:
        return unmapped(request.source_ip)
    trusted_hops = mesh.trusted_proxy_hops
    if trusted_hops is None:
        return None
    # "If `use_remote_address` is true, the direct peer is the remote address": a gateway trusts
    # no entry but its own, and for a peer on loopback that entry is another address.
    if trusted_hops == 0 and mesh.mode is MeshMode.GATEWAY:
        return unmapped(request.source_ip)
    joined = request.header("x-forwarded-for") or ""
    entries = [entry.strip() for entry in joined.split(",")] if joined else []
    if len(entries) <= trusted_hops:
        return unmapped(request.source_ip)
    candidate = entries[-1 - trusted_hops]
    try:
        return str(ipaddress.ip_address(candidate))
    except ValueError:
        return unmapped(request.source_ip)


def unmapped(address: str) -> str:
    """Return an IPv4-mapped IPv6 address of a connection as the IPv4 address that Envoy shows.

    Not for `x-forwarded-for`: what is written there, Envoy takes as written.
    """
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return str(mapped) if mapped else address


def claim_values(claims: VerifiedClaims | None, path: Sequence[str]) -> Iterator[str]:
    """Yield the texts of a claim: a string itself, or the strings of a list.

    Numbers, booleans, null and objects never match anything, not even `*`.
    """
    if claims is None:
        return
    found: Any = claims.payload
    for name in path:
        if not isinstance(found, Mapping) or name not in found:
            return
        found = found[name]
    if isinstance(found, str):
        yield found
    elif isinstance(found, (list, tuple)):
        yield from (item for item in found if isinstance(item, str))


def request_principal_matcher(value: str) -> PrincipalTest:
    """Return the test of a request principal, which matches `iss` and `sub` apart.

    The value splits at its last `/`; which half may hold a wildcard depends on
    where the `*` stands.
    """
    left, slash, right = value.rpartition("/")
    issuer: TextTest
    subject: TextTest
    if value == "*":
        issuer = subject = is_text
    elif value.startswith("*"):
        issuer = is_text if not slash or left == "*" else _suffix(left[1:])
        subject = _equals(right) if slash else _suffix(value[1:])
    elif value.endswith("*"):
        issuer = _equals(left) if slash else _prefix(value[:-1])
        subject = is_text if not slash or right == "*" else _prefix(right[:-1])
    else:
        issuer = _equals(left if slash else value)
        subject = _equals(right if slash else "")
    return lambda iss, sub: iss is not None and sub is not None and issuer(iss) and subject(sub)


def _equals(expected: str) -> TextTest:
    return lambda text: text == expected


def _prefix(head: str) -> TextTest:
    return lambda text: text.startswith(head)


def _suffix(tail: str) -> TextTest:
    return lambda text: text.endswith(tail)


def filter_metadata_test(namespace: str, key: str, value: str) -> Callable[[Request], bool]:
    """Return the test of `experimental.envoy.filters.*`: `[v]` looks inside a list."""
    is_list = value.startswith("[") and value.endswith("]")
    test = text_matcher(value.strip("[]") if is_list else value)

    def matches(request: Request) -> bool:
        section = request.filter_metadata.get(namespace)
        found = section.get(key) if isinstance(section, Mapping) else None
        if is_list:
            items = found if isinstance(found, (list, tuple)) else ()
            return any(isinstance(item, str) and test(item) for item in items)
        return isinstance(found, str) and test(found)

    return matches

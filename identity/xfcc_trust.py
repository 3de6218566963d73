"""Who may forward a client's certificate, and whom a header then names.

A header is read from its end: what the nearest proxy wrote stands last. Step by step,
from the peer of the connection backwards, an element is believed if whoever wrote it is
trusted to; the first peer that is not is the one who asks.

Spec: Envoy HttpConnectionManager, `forward_client_cert_details`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from identity.errors import CertificateError
from identity.peer import Peer
from identity.peer_certificate import certificate_from_pem
from identity.spiffe_id import SpiffeId
from identity.xfcc import XfccElement

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ForwardMode(StrEnum):
    """What an Envoy does with the header: its `forward_client_cert_details`."""

    SANITIZE = "SANITIZE"
    """It removes what comes in, and forwards nothing."""
    FORWARD_ONLY = "FORWARD_ONLY"
    """It leaves what comes in over mTLS, and removes the rest."""
    APPEND_FORWARD = "APPEND_FORWARD"
    """Over mTLS it adds an element of its own behind what comes in."""
    SANITIZE_SET = "SANITIZE_SET"
    """Over mTLS it puts its own element in the place of what comes in."""
    ALWAYS_FORWARD_ONLY = "ALWAYS_FORWARD_ONLY"
    """It leaves what comes in, over plaintext too."""


APPENDING: Final = (ForwardMode.APPEND_FORWARD, ForwardMode.SANITIZE_SET)
"""The modes in which the last element over mTLS is Envoy's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedForwarder:
    """A proxy whose word about its client counts: by its SPIFFE ID or by its address.

    `mode` is its own: SANITIZE_SET, so that it sends one element and no more, or
    APPEND_FORWARD, so that the last is its own. `by` are URI names of the
    certificate it shows to clients, where that is not the one it shows to us.
    """

    spiffe_id: SpiffeId | None = None
    network: Network | None = None
    mode: ForwardMode = ForwardMode.SANITIZE_SET
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class XfccTrust:
    """The configuration: without forwarders no header is ever believed.

    `own_mode` is that of the Envoy that asks us. `max_hops` bounds how many
    elements are stepped over.
    """

    forwarders: tuple[TrustedForwarder, ...] = ()
    own_mode: ForwardMode = ForwardMode.APPEND_FORWARD
    max_hops: int = 1

    def forwarder_of(self, peer: Peer | None, source_ip: str) -> TrustedForwarder | None:
        """Return the entry that trusts this peer; `source_ip` is empty but for a direct one."""
        spiffe_id = peer.spiffe_id if peer is not None else None
        address = _address(source_ip)
        for each in self.forwarders:
            if spiffe_id is not None and each.spiffe_id == spiffe_id:
                return each
            network = each.network
            # WHY version: an address is never in a network of the other family.
            if network is None or address is None or address.version != network.version:
                continue
            if address in network:
                return each
        return None


@dataclass(frozen=True, slots=True)
class Forwarded:
    """The outcome: the element believed last (None: the direct peer is who asks), and why.

    `refusal` is not empty when a trusted proxy's header cannot be what it should be:
    nobody can then be said to ask, and the request is denied. `passed` are the elements of
    the proxies that were stepped over on the way to `element`.
    """

    element: XfccElement | None = None
    refusal: str = ""
    ignored: str = ""
    steps: tuple[str, ...] = ()
    passed: tuple[XfccElement, ...] = ()


@dataclass(slots=True)
class _Walk:
    """The elements not yet stepped over, and what was noted on the way."""

    elements: list[XfccElement]
    steps: list[str]
    believed: list[XfccElement] = field(default_factory=list)

    def refused(self, why: str) -> Forwarded:
        return Forwarded(refusal=why, steps=(*self.steps, f"refused: {why}"))


def believe(
    elements: Sequence[XfccElement],
    direct: Peer | None,
    source_ip: str,
    trust: XfccTrust,
    *,
    digest: str = "",
) -> Forwarded:
    """Return whom a header of at least one element names, told by trusted proxies only.

    `direct` is the peer of the connection, None over plaintext; `digest` is the
    SHA-256 of its certificate in hex, empty when that is not known.
    """
    if trust.forwarder_of(direct, source_ip) is None:
        is_alone = trust.own_mode in APPENDING and len(elements) == 1
        is_own = is_alone and direct is not None and _speaks_of(elements[0], direct, digest)
        return Forwarded(ignored="" if is_own else untrusted(direct, source_ip))
    walk = _Walk(list(elements), [])
    # "SANITIZE: do not send the XFCC header"; the other modes drop it over plaintext.
    if trust.own_mode is ForwardMode.SANITIZE:
        return Forwarded(ignored="Envoy's own mode forwards no header")
    if direct is None and trust.own_mode is not ForwardMode.ALWAYS_FORWARD_ONLY:
        return Forwarded(ignored="Envoy's own mode forwards no header over plaintext")
    if trust.own_mode in APPENDING:
        refusal = _take_own(walk, direct, digest, trust.own_mode)
        if refusal is not None:
            return refusal
    peer, address = direct, source_ip
    for _ in range(trust.max_hops):
        forwarder = trust.forwarder_of(peer, address)
        if forwarder is None or not walk.elements:
            break
        why = _distrust(walk, forwarder, peer)
        if why:
            return walk.refused(why)
        element = walk.elements.pop()
        if forwarder.mode is ForwardMode.SANITIZE_SET:
            walk.elements.clear()
        walk.believed.append(element)
        names = _names_of(element)
        peer, address = Peer.from_principal(names[0], names), ""
        walk.steps.append(f"`{names[0]}`: forwarded by {_told(forwarder)}")
    last, passed = walk.believed[-1:], walk.believed[:-1]
    return Forwarded(
        element=last[0] if last else None, steps=tuple(walk.steps), passed=tuple(passed)
    )


def _take_own(walk: _Walk, direct: Peer | None, digest: str, mode: ForwardMode) -> Forwarded | None:
    """Take Envoy's own element, which speaks of the direct peer; return a refusal if not."""
    own = walk.elements.pop()
    # "APPEND_FORWARD: append the client certificate information to the request's XFCC header".
    if direct is None or not _speaks_of(own, direct, digest):
        return walk.refused("the last element is not Envoy's own: it names another peer")
    if mode is ForwardMode.SANITIZE_SET and walk.elements:
        return walk.refused("Envoy's own mode sends one element, and there are more")
    walk.steps.append("the last element is Envoy's own, about the peer of the connection")
    return None


def _speaks_of(own: XfccElement, direct: Peer, digest: str) -> bool:
    """Whether an element can be Envoy's own about this peer; it may hold no names at all."""
    is_other = bool(own.names) and direct.principal not in own.names
    return not is_other and not (own.hash and digest and own.hash != digest)


def _distrust(walk: _Walk, forwarder: TrustedForwarder, peer: Peer | None) -> str:
    """Return why the last element cannot be a trusted proxy's word, or nothing."""
    element = walk.elements[-1]
    # "SANITIZE_SET: reset the XFCC header with the client certificate information": what
    # else is there was smuggled in, by a comma in a certificate's name for one.
    if forwarder.mode is ForwardMode.SANITIZE_SET and len(walk.elements) > 1:
        return f"{_told(forwarder)} sends one element, and there are {len(walk.elements)}"
    writers = {*forwarder.by, *(peer.names if peer is not None and forwarder.spiffe_id else ())}
    # `By` is the URI name of the certificate that the proxy showed to its client.
    if element.by and writers and not writers & set(element.by):
        return f"the element is not the word of {_told(forwarder)}: `By` names another proxy"
    if not _names_of(element):
        return "the element names nobody: neither URI, DNS, subject nor certificate does"
    # X509-SVID §2: "exactly one URI SAN"; more, and one of them may be smuggled in.
    if len(element.uris) > 1:
        return f"the element has {len(element.uris)} URI names, and one client has one"
    # Envoy writes names as they stand, so a `;` in one is how a certificate ends it early.
    if element.behind_names:
        return (
            f"`{element.behind_names[0]}` stands behind a name, where Envoy writes none: "
            "a `;` in a certificate's name got it there"
        )
    return ""


def _names_of(element: XfccElement) -> tuple[str, ...]:
    """Return the client's names, those of the certificate where the element has no others."""
    if element.names or not (element.cert or element.chain):
        return element.names
    try:
        return tuple(filter(None, certificate_from_pem(element.cert or element.chain).names))
    except CertificateError:
        return ()


def untrusted(direct: Peer | None, source_ip: str) -> str:
    """Return the clause that says why a header is ignored."""
    name = f"`{direct.principal}`" if direct is not None else f"plaintext from {source_ip or '?'}"
    return f"the peer of the connection, {name}, is not trusted to forward"


def _told(forwarder: TrustedForwarder) -> str:
    return f"`{forwarder.spiffe_id or forwarder.network}`"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address, an IPv4-mapped one as the IPv4 address it is."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found


def parse_forwarder(
    who: str, *, mode: ForwardMode = ForwardMode.SANITIZE_SET, by: tuple[str, ...] = ()
) -> TrustedForwarder:
    """Return the forwarder that a SPIFFE ID or an address range spells.

    Raises:
        SpiffeIdError: it begins like a SPIFFE ID and is none.
        ValueError: it is neither.
    """
    if who.startswith("spiffe:"):
        return TrustedForwarder(spiffe_id=SpiffeId.parse(who), mode=mode, by=by)
    return TrustedForwarder(network=ipaddress.ip_network(who), mode=mode, by=by)

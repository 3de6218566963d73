"""What a certificate or a forwarded header would make of its bearer, step by step.

The steps are those of a request: `identity.peer_finding` takes them here as it does there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from identity.certificate_reading import read_certificate
from identity.errors import CertificateError, XfccError
from identity.peer import Peer, PeerProof
from identity.peer_certificate import (
    PeerCertificate,
    certificate_from_chain,
    certificate_from_pem,
    read_peer_certificate,
)
from identity.peer_finding import PeerEvidence, PeerFinding, PeerRules, find_peer
from identity.svid_fault import SvidRefusal
from identity.trust_bundle import BundleSet
from identity.x509_svid import spiffe_id_of_leaf
from identity.xfcc import XfccElement, parse_xfcc
from identity.xfcc_trust import XfccTrust

_PEM: Final = b"-----BEGIN "
_ENCODED: Final = (b"-----BEGIN%20", b"%2D%2D%2D%2D%2DBEGIN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was seen and what becomes of it; `facts` are pairs for people, in order.

    `fault` is empty when the bearer is a peer or nobody.
    """

    facts: tuple[tuple[str, str], ...]
    steps: tuple[str, ...]
    fault: str = ""
    detail: str = ""
    peer: Peer | None = None
    xfcc: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Return the inspection as JSON values."""
        facts: dict[str, list[str]] = {}
        for name, value in self.facts:
            facts.setdefault(name, []).append(value)
        return {
            "peer": None if self.peer is None else plain_peer(self.peer),
            "fault": self.fault or None,
            "detail": self.detail,
            "xfcc": self.xfcc,
            "steps": list(self.steps),
            "facts": facts,
        }


def plain_peer(peer: Peer) -> dict[str, Any]:
    """Return what policies see of a peer, as JSON values."""
    found: dict[str, Any] = {
        "principal": peer.principal,
        "spiffe_id": str(peer.spiffe_id) if peer.spiffe_id else None,
        "names": list(peer.names),
        "proof": peer.proof.value,
        "namespace": peer.workload[0] if peer.workload else None,
        "service_account": peer.workload[1] if peer.workload else None,
    }
    if peer.reading is not None and peer.reading.workload is not None:
        found["mapping"] = peer.reading.workload.mapping
        found["labels"] = dict(peer.reading.workload.labels)
    return found


def inspect_certificate(
    raw: bytes, rules: PeerRules, bundles: BundleSet, at: datetime
) -> Inspection:
    """Return what a client's certificate would make of it: PEM, DER, or PEM as Envoy sends it."""
    try:
        certificate = _certificate(raw)
        facts = tuple(_certificate_facts(certificate))
    except CertificateError as exc:
        step = f"refused: {exc}"
        return Inspection(
            facts=(), steps=(step,), fault="peer_certificate_unreadable", detail=str(exc)
        )
    evidence = PeerEvidence(principal=certificate.principal, certificate=_as_sent(certificate))
    # What one certificate says does not hang on proxies and waypoints.
    alone = replace(rules, xfcc=XfccTrust(), forwarded_key="")
    finding = find_peer(evidence, alone, bundles, at)
    steps = list(finding.steps)
    if finding.peer is not None and finding.peer.proof is PeerProof.TLS:
        verdict = spiffe_id_of_leaf(certificate.chain[0], at)
        is_refused = isinstance(verdict, SvidRefusal)
        judged = f"no SVID: {verdict}" if is_refused else "fit to be an SVID"
        steps.append(f"no bundle of its trust domain: no path was verified; it is {judged}")
    return _inspection(finding, facts, tuple(steps))


def inspect_xfcc(
    evidence: PeerEvidence, rules: PeerRules, bundles: BundleSet, at: datetime
) -> Inspection:
    """Return what the header in `evidence` would make of its request."""
    facts: list[tuple[str, str]] = []
    try:
        for place, element in enumerate(parse_xfcc(evidence.xfcc or ""), 1):
            facts.extend((f"element {place}", fact) for fact in _element_facts(element))
    except XfccError as exc:
        facts.append(("header", f"cannot be read: {exc}"))
    supposed = replace(rules, is_connection_supposed=True)
    finding = find_peer(evidence, supposed, bundles, at)
    return _inspection(finding, tuple(facts), finding.steps)


def _inspection(
    finding: PeerFinding, facts: tuple[tuple[str, str], ...], steps: tuple[str, ...]
) -> Inspection:
    return Inspection(
        facts=facts,
        steps=steps,
        fault=finding.fault.value if finding.fault else "",
        detail=finding.detail,
        peer=finding.peer,
        xfcc=finding.xfcc,
    )


def _certificate(raw: bytes) -> PeerCertificate:
    text = raw.strip()
    if text.startswith(_ENCODED):
        return read_peer_certificate(text.decode("ascii", "replace"))
    if _PEM in raw:
        return certificate_from_pem(raw.decode("ascii", "replace"))
    return certificate_from_chain((raw,))


def _as_sent(certificate: PeerCertificate) -> str:
    """Return the chain as Envoy would send it: PEM, URL-encoded."""
    pems = (
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)
        for der in certificate.chain
    )
    return quote(b"".join(pems).decode())


def _certificate_facts(certificate: PeerCertificate) -> Iterator[tuple[str, str]]:
    leaf = read_certificate(certificate.chain[0])
    yield "certificates", str(len(certificate.chain))
    yield from (("URI SAN", each) for each in certificate.uris)
    yield from (("DNS SAN", each) for each in certificate.dns_names)
    yield "subject", certificate.subject
    yield "valid from", leaf.not_before_at.isoformat()
    yield "valid until", leaf.not_after_at.isoformat()
    yield "SHA-256", certificate.sha256


def _element_facts(element: XfccElement) -> Iterator[str]:
    yield from (f"By={each}" for each in element.by)
    if element.hash:
        yield f"Hash={element.hash}"
    yield from (f"URI={each}" for each in element.uris)
    yield from (f"DNS={each}" for each in element.dns_names)
    if element.subject is not None:
        yield f"Subject={element.subject}"
    for key, pem in (("Cert", element.cert), ("Chain", element.chain)):
        if pem:
            yield f"{key}: {_names_in(pem)}"
    yield from (f"{key}: means nothing here" for key, _ in element.others)


def _names_in(pem: str) -> str:
    try:
        names = certificate_from_pem(pem).names
    except CertificateError as exc:
        return f"cannot be read: {exc}"
    return ", ".join(f"`{each}`" for each in names) or "no names"

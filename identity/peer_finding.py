"""Who asks: everything that Envoy tells about the caller of one request, weighed.

In this order: what Envoy says of the connection, its certificate, the filter state of a
waypoint, the header of a trusted proxy, and last what the name means (mappings). Each
step that fails is a denial with a name; nothing else in a request ever counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from identity.deny_list import FindDenied, nobody_denied
from identity.errors import CertificateError, XfccError
from identity.mapping import MappingSet
from identity.peer import Peer, PeerProof
from identity.peer_certificate import (
    PeerCertificate,
    certificate_from_pem,
    read_peer_certificate,
)
from identity.svid_fault import SvidRefusal
from identity.svid_memory import SvidMemory
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid
from identity.xfcc import XfccElement, parse_xfcc
from identity.xfcc_trust import APPENDING, XfccTrust, believe, untrusted

# BUDGET: SPIFFE-ID §2.3 has 2048 bytes; a subject may be longer.
_MAX_PRINCIPAL: Final = 8192
_NO_VALUE: Final = "-"
_SPIFFE: Final = "spiffe://"


class PeerFault(StrEnum):
    """Why it cannot be said who asks."""

    CERTIFICATE_UNREADABLE = "peer_certificate_unreadable"
    CERTIFICATE_MISMATCH = "peer_certificate_mismatch"
    CERTIFICATE_UNTRUSTED = "peer_certificate_untrusted"
    FORWARDED_INVALID = "peer_forwarded_invalid"
    DENIED = "peer_denied"
    XFCC_INVALID = "xfcc_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEvidence:
    """What Envoy tells of the caller, believed in nothing yet.

    `certificate` is PEM, URL-encoded; `xfcc` is None without such a header;
    `forwarded` is what came under the configured key of the call's metadata.
    """

    principal: str = ""
    certificate: str = ""
    source_ip: str = ""
    xfcc: str | None = None
    forwarded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRules:
    """The configuration: as it stands here, Envoy's word is believed and nothing else.

    The peer of a connection that Envoy names as one of `verified_domains`, or of a trust
    domain whose bundle is at hand, must verify, also while that bundle is not there, and
    its certificate must come along. So must any other certificate that names one of them;
    with `verify_all` every peer must, forwarded ones too.
    `forwarded_key` is the key of the call's metadata under which a waypoint's Envoy
    names the peer; empty: none does. `denied` returns the deny list that counts now.
    `is_connection_supposed`: who asks a command says who the peer of the connection would
    be, and has no certificate of it; no server sets this.
    """

    xfcc: XfccTrust = XfccTrust()
    mappings: MappingSet = field(default_factory=MappingSet)
    verified_domains: frozenset[str] = frozenset()
    verify_all: bool = False
    forwarded_key: str = ""
    denied: FindDenied = nobody_denied
    is_connection_supposed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFinding:
    """Who asks (None: nobody that TLS knows), or the fault that keeps it from being said.

    `xfcc` is what became of the header, one clause, empty where there was nothing to
    say. `steps` tell the whole way, for people.
    """

    peer: Peer | None = None
    fault: PeerFault | None = None
    detail: str = ""
    xfcc: str = ""
    steps: tuple[str, ...] = ()


class _Refused(Exception):
    """A step failed; caught in `find_peer` and nowhere else."""

    def __init__(self, fault: PeerFault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


def find_peer(
    evidence: PeerEvidence,
    rules: PeerRules,
    bundles: BundleSet,
    at: datetime,
    memory: SvidMemory | None = None,
) -> PeerFinding:
    """Return who asks; never raises, whatever the evidence holds.

    `at` is an aware time, at which certificates are judged.
    """
    search = _Search(evidence, rules, bundles, at, memory or SvidMemory(), [])
    xfcc = ""
    try:
        certificate = search.certificate()
        peer = search.direct(certificate)
        peer = search.forwarded(peer)
        search.check_denied(peer, certificate)
        peer, xfcc = search.xfcc(peer, certificate)
        peer = search.mapped(peer)
    except _Refused as exc:
        search.steps.append(f"refused: {exc.fault}: {exc.detail}")
        return PeerFinding(fault=exc.fault, detail=exc.detail, xfcc=xfcc, steps=tuple(search.steps))
    return PeerFinding(peer=peer, xfcc=xfcc, steps=tuple(search.steps))


@dataclass(slots=True)
class _Search:
    """One search: what is weighed, by what, and what was found on the way."""

    evidence: PeerEvidence
    rules: PeerRules
    bundles: BundleSet
    at: datetime
    memory: SvidMemory
    steps: list[str]

    def certificate(self) -> PeerCertificate | None:
        """Read the certificate of the connection, if Envoy sent it."""
        if not self.evidence.certificate:
            return None
        try:
            return read_peer_certificate(self.evidence.certificate)
        except CertificateError as exc:
            # WHY refused: a name that cannot be read is one that a DENY rule cannot match.
            raise _Refused(PeerFault.CERTIFICATE_UNREADABLE, str(exc)) from exc

    def direct(self, certificate: PeerCertificate | None) -> Peer | None:
        """Return the peer of the connection."""
        principal = self.evidence.principal
        if certificate is None:
            told = f"Envoy names `{principal}`" if principal else "no client certificate"
            self.steps.append(told)
            # WHY not Envoy's word: who gave a bundle wants its peers verified, and a filter that
            # sends no certificate would switch that off unseen.
            is_supposed = self.rules.is_connection_supposed
            if principal and not is_supposed and self._must_verify((principal,)):
                why = "Envoy sends no certificate to verify: it lacks include_peer_certificate"
                raise _Refused(PeerFault.CERTIFICATE_UNTRUSTED, why)
            return Peer.from_principal(principal)
        if principal != certificate.principal:
            raise _Refused(
                PeerFault.CERTIFICATE_MISMATCH,
                f"Envoy names `{principal}` and sends the certificate of `{certificate.principal}`",
            )
        self.steps.append(f"Envoy names `{principal}` and sends its certificate")
        svid = self._verified(certificate)
        proof = PeerProof.TLS if svid is None else PeerProof.CERTIFICATE
        # WHY not only the principal: an empty name may stand before one that a DENY rule knows.
        told = next(filter(None, certificate.names), "")
        return Peer.from_principal(told, certificate.names, proof)

    def forwarded(self, peer: Peer | None) -> Peer | None:
        """Return the peer that the filter state of a waypoint names."""
        if not self.rules.forwarded_key:
            return peer
        told = tuple(each for each in self.evidence.forwarded if each not in ("", _NO_VALUE))
        if not told:
            self.steps.append(f"nothing under `{self.rules.forwarded_key}`")
            return peer
        principal = told[0]
        if len(told) > 1 or len(principal) > _MAX_PRINCIPAL or not principal.isprintable():
            why = f"`{self.rules.forwarded_key}` holds no single printable name"
            raise _Refused(PeerFault.FORWARDED_INVALID, why)
        if peer is not None and peer.principal != principal:
            why = f"the filter state names `{principal}`, the connection `{peer.principal}`"
            raise _Refused(PeerFault.FORWARDED_INVALID, why)
        self.steps.append(f"the filter state names `{principal}`")
        if peer is None and self.rules.verify_all:
            why = "the filter state brings no certificate to verify"
            raise _Refused(PeerFault.CERTIFICATE_UNTRUSTED, why)
        return peer or Peer.from_principal(principal, proof=PeerProof.FILTER_STATE)

    def check_denied(self, peer: Peer | None, certificate: PeerCertificate | None) -> None:
        """Refuse a peer that the deny list names, by a name or by its certificate."""
        names = (
            *(peer.names if peer is not None else ()),
            *(certificate.names if certificate is not None else ()),
        )
        leaf = certificate.chain[0] if certificate is not None else None
        why = self.rules.denied().denial_of(names, leaf, self.at)
        if why is not None:
            raise _Refused(PeerFault.DENIED, why)

    def xfcc(
        self, direct: Peer | None, certificate: PeerCertificate | None
    ) -> tuple[Peer | None, str]:
        """Return the peer that a trusted proxy's header names, and what became of the header."""
        text = self.evidence.xfcc
        if text is None or self._is_plainly_own(text, direct):
            return direct, ""
        trust, source_ip = self.rules.xfcc, self.evidence.source_ip
        is_trusted = trust.forwarder_of(direct, source_ip) is not None
        try:
            elements = parse_xfcc(text)
        except XfccError as exc:
            if is_trusted:
                raise _Refused(PeerFault.XFCC_INVALID, str(exc)) from exc
            return direct, self._ignored(f"{untrusted(direct, source_ip)}; and {exc}")
        if not elements:
            return direct, ""
        digest = certificate.sha256 if certificate is not None else ""
        found = believe(elements, direct, source_ip, trust, digest=digest)
        self.steps.extend(found.steps)
        if found.refusal:
            raise _Refused(PeerFault.XFCC_INVALID, found.refusal)
        if found.element is None:
            return direct, self._ignored(found.ignored) if found.ignored else ""
        # A proxy that was stepped over had its word in this as the one in front of us had.
        for element in found.passed:
            self.check_denied(self._peer_of(element), None)
        peer = replace(self._peer_of(found.element), over_mtls=direct is not None)
        self.check_denied(peer, None)
        return peer, f"believed: it names `{peer.principal}`"

    def _is_plainly_own(self, text: str, direct: Peer | None) -> bool:
        """Whether nobody is believed anyway and the header is but Envoy's own element.

        WHY before it is parsed: Istio's sidecars write one into every request.
        """
        trust = self.rules.xfcc
        is_written = not trust.forwarders and trust.own_mode in APPENDING
        return is_written and direct is not None and "," not in text and direct.principal in text

    def mapped(self, peer: Peer | None) -> Peer | None:
        """Return the peer with what the mappings make of its names."""
        reading = None if peer is None else self.rules.mappings.read(peer.names)
        if peer is None or reading is None:
            return peer
        workload = reading.workload
        self.steps.append(
            "no mapping of its trust domain fits: it has no namespace"
            if workload is None
            else f"mapping `{workload.mapping}`: namespace `{workload.namespace}`, "
            f"service account `{workload.service_account}`"
        )
        return replace(peer, reading=reading)

    def _peer_of(self, element: XfccElement) -> Peer:
        """Return the peer of a believed element, by its certificate where there is one."""
        names = element.names
        if element.cert or element.chain:
            try:
                certificate = certificate_from_pem(element.chain or element.cert)
                alone = certificate_from_pem(element.cert) if element.cert else certificate
            except CertificateError as exc:
                raise _Refused(PeerFault.XFCC_INVALID, str(exc)) from exc
            said = {certificate.sha256, alone.sha256, *([element.hash] if element.hash else ())}
            if len(said) > 1 or not set(names) <= set(certificate.names):
                why = "the header's certificate is not the one that its other words describe"
                raise _Refused(PeerFault.XFCC_INVALID, why)
            names = certificate.names
            self._verified(certificate)
            self.check_denied(None, certificate)
        elif self.rules.verify_all:
            why = "the header brings no certificate to verify"
            raise _Refused(PeerFault.CERTIFICATE_UNTRUSTED, why)
        peer = Peer.from_principal(next(filter(None, names), ""), names, PeerProof.XFCC)
        if peer is None:
            raise _Refused(PeerFault.XFCC_INVALID, "the header's certificate names nobody")
        return peer

    def _verified(self, certificate: PeerCertificate) -> X509Svid | None:
        """Return the certificate's SVID; None where nothing is configured to verify it by."""
        if not self._must_verify(certificate.names):
            return None
        verdict = self.memory.verify(certificate.chain, self.bundles, self.at)
        if isinstance(verdict, SvidRefusal):
            raise _Refused(PeerFault.CERTIFICATE_UNTRUSTED, str(verdict))
        self.steps.append(f"its certificate is verified: an SVID of `{verdict.spiffe_id}`")
        return verdict

    def _must_verify(self, names: tuple[str, ...]) -> bool:
        """Whether all must, or a name of whatever kind claims a domain that we verify ourselves."""
        if self.rules.verify_all:
            return True
        if not (self.rules.verified_domains or len(self.bundles)):
            return False
        # WHY in lower case: what is nearly such a name is verified too, and refused then.
        texts = (name.lower() for name in names)
        claimed = {
            text[len(_SPIFFE) :].partition("/")[0] for text in texts if text.startswith(_SPIFFE)
        }
        known = (each.trust_domain.name for each in self.bundles)
        return not claimed.isdisjoint((*self.rules.verified_domains, *known))

    def _ignored(self, why: str) -> str:
        self.steps.append(f"x-forwarded-client-cert ignored: {why}")
        return f"ignored: {why}"

"""The peer of a request: who stands at the other end of the mTLS connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_NS: Final = "ns"
_SA: Final = "sa"
_MEMORABLE: Final = 256  # BUDGET: a longer name is read each time


class PeerProof(StrEnum):
    """What the belief in a peer rests on."""

    TLS = "tls"
    """Envoy named it, from the certificate of the connection."""
    CERTIFICATE = "certificate"
    """Envoy sent the certificate as well, and it was verified again here."""
    XFCC = "xfcc"
    """A proxy that the configuration trusts forwarded what it knew of its client."""
    FILTER_STATE = "filter_state"
    """Envoy named it, from the filter state of a waypoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedWorkload:
    """The Kubernetes words for a workload that is none: what a mapping made of a name."""

    mapping: str
    namespace: str
    service_account: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadReading:
    """A peer's names as conditions on namespaces and service accounts see them.

    `sure` are those by which a rule may let the peer in, `possible` those by which a
    rule may keep it out: of a trust domain that has mappings, a name that none of
    them fits is possible and not sure. `workload` is what was made of the first
    name that a mapping fits, None when none does.
    """

    sure: tuple[str, ...]
    possible: tuple[str, ...]
    workload: MappedWorkload | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that somebody proved: Envoy, mostly.

    `principal` is the text Envoy reported: the first URI SAN, else the first DNS
    SAN, else the subject. `spiffe_id` is None when that text is no SPIFFE ID;
    such a peer is still a peer, for Istio's `principals: ["*"]` admits it.
    `names` are all its names, of which policies try each: the principal alone
    unless Envoy sent the certificate. `reading` is None where no mapping is
    configured for any of the names: they then are read as Istio reads them.
    `over_mtls` is false for a peer that was forwarded over a plaintext connection.
    """

    principal: str
    spiffe_id: SpiffeId | None
    names: tuple[str, ...] = ()
    proof: PeerProof = PeerProof.TLS
    reading: WorkloadReading | None = None
    over_mtls: bool = True

    def __post_init__(self) -> None:
        """Make the principal the first of the names."""
        if self.principal not in self.names:
            object.__setattr__(self, "names", (self.principal, *self.names))

    @classmethod
    def from_principal(
        cls, principal: str, names: tuple[str, ...] = (), proof: PeerProof = PeerProof.TLS
    ) -> Peer | None:
        """Return the peer of that name, or None: an empty text means no client certificate."""
        if not principal:
            return None
        if names or len(principal) > _MEMORABLE:
            return _read(principal, names, proof)
        return _remembered(principal, proof)

    def workload_names(self, *, wide: bool) -> tuple[str, ...]:
        """Return the names that conditions on namespaces and service accounts are tried on.

        `wide` is for conditions that keep requests out: in doubt those match.
        """
        if self.reading is None:
            return self.names
        return self.reading.possible if wide else self.reading.sure

    @property
    def workload(self) -> tuple[str, str] | None:
        """Namespace and service account, by a mapping or in Kubernetes' own form, or None."""
        if self.reading is None:
            found = KubernetesIdentity.of(self.spiffe_id)
            return None if found is None else (found.namespace, found.service_account)
        mapped = self.reading.workload
        return None if mapped is None else (mapped.namespace, mapped.service_account)


def _read(principal: str, names: tuple[str, ...], proof: PeerProof) -> Peer:
    try:
        return Peer(principal, SpiffeId.parse(principal), names, proof)
    except SpiffeIdError:
        return Peer(principal, None, names, proof)


@lru_cache(maxsize=4096)  # BUDGET: few callers ask often, and a name means the same each time
def _remembered(principal: str, proof: PeerProof) -> Peer:
    return _read(principal, (), proof)


@dataclass(frozen=True, slots=True)
class KubernetesIdentity:
    """The Kubernetes reading of a SPIFFE ID, `spiffe://<td>/ns/<namespace>/sa/<account>`."""

    trust_domain: str
    namespace: str
    service_account: str

    @classmethod
    def of(cls, spiffe_id: SpiffeId | None) -> KubernetesIdentity | None:
        """Return the reading, or None for an ID of any other shape."""
        if spiffe_id is None:
            return None
        match spiffe_id.segments:
            case (ns, namespace, sa, account) if ns == _NS and sa == _SA:
                return cls(spiffe_id.trust_domain.name, namespace, account)
            case _:
                return None

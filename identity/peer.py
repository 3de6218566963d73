"""The peer of a request: who stands at the other end of the mTLS connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_NS: Final = "ns"
_SA: Final = "sa"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer whose certificate Envoy has verified.

    `principal` is the text Envoy reported: the first URI SAN, else the first DNS
    SAN, else the subject. `spiffe_id` is None when that text is no SPIFFE ID;
    such a peer is still a peer, for Istio's `principals: ["*"]` admits it.
    `names` are all its names, of which policies try each: the principal alone
    unless Envoy sent the certificate.
    """

    principal: str
    spiffe_id: SpiffeId | None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Make the principal the first of the names."""
        if self.principal not in self.names:
            object.__setattr__(self, "names", (self.principal, *self.names))

    @classmethod
    def from_principal(cls, principal: str, names: tuple[str, ...] = ()) -> Peer | None:
        """Return the peer Envoy named, or None: an empty text means no client certificate."""
        if not principal:
            return None
        try:
            return cls(principal, SpiffeId.parse(principal), names)
        except SpiffeIdError:
            return cls(principal, None, names)


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

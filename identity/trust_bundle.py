"""The keys that speak for a trust domain, and the bundles of several trust domains side by side.

Spec: SPIFFE Trust Domain and Bundle §3; SPIFFE Federation §4.2. A bundle belongs to
one trust domain and is never merged with another's: an authority of one trust domain
could name workloads of the other. Every value here is immutable; a new bundle makes a
new set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography import x509
from cryptography.x509.verification import Store

from identity.certificate_reading import ReadCertificate, read_parts
from identity.errors import IdentityError
from identity.jwks import Jwk
from identity.spiffe_id import TrustDomain


class BundleError(IdentityError):
    """A trust bundle cannot be read or had; the message says why."""

    code = "identity.trust_bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The authorities of one trust domain; without any, everything of it is untrusted.

    `x509_authorities` verify X.509-SVIDs and `jwt_authorities` JWT-SVIDs, neither the
    other. `intermediates` are trusted for nothing: they only help to find a path for who
    shows a leaf alone. `sequence` and `refresh_hint_seconds` are None when the publisher
    does not say. `notes` tell which entries of the document were left out, and why.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...] = ()
    jwt_authorities: tuple[Jwk, ...] = ()
    intermediates: tuple[x509.Certificate, ...] = ()
    sequence: int | None = None
    refresh_hint_seconds: int | None = None
    notes: tuple[str, ...] = ()
    # The authorities as the path verifier takes them; None without any.
    _store: Store | None = field(init=False, repr=False, compare=False)
    _helping: tuple[ReadCertificate, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make once for all chains what the verifier takes.

        Raises:
            CertificateError: an intermediate cannot be read.
        """
        store = Store(list(self.x509_authorities)) if self.x509_authorities else None
        object.__setattr__(self, "_store", store)
        object.__setattr__(self, "_helping", tuple(map(read_parts, self.intermediates)))

    @property
    def store(self) -> Store | None:
        """The X.509 authorities as `cryptography`'s verifier takes them, or None without any."""
        return self._store

    @property
    def helping(self) -> tuple[ReadCertificate, ...]:
        """The intermediates as the path verifier takes them."""
        return self._helping

    def jwt_authorities_for(self, kid: str, alg: str) -> tuple[Jwk, ...]:
        """Return the JWT authorities of exactly this key id that verify this algorithm."""
        return tuple(
            each
            for each in self.jwt_authorities
            if each.kid == kid and alg in each.algorithms and each.is_eligible(kid, alg)
        )


@dataclass(frozen=True, slots=True)
class BundleSet:
    """Trust bundles by trust domain: the trust domain of an SVID chooses the bundle."""

    by_domain: Mapping[TrustDomain, TrustBundle] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def __post_init__(self) -> None:
        """Close the mapping, and refuse a bundle under another's name."""
        if any(domain != bundle.trust_domain for domain, bundle in self.by_domain.items()):
            raise ValueError("a bundle stands under the name of another trust domain")
        object.__setattr__(self, "by_domain", MappingProxyType(dict(self.by_domain)))

    @classmethod
    def of(cls, *bundles: TrustBundle) -> BundleSet:
        """Return the set of these bundles; of two for one trust domain the last one stands."""
        return cls({bundle.trust_domain: bundle for bundle in bundles})

    def bundle_for(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """Return the bundle of exactly this trust domain, or None."""
        return self.by_domain.get(trust_domain)

    def with_bundle(self, bundle: TrustBundle) -> BundleSet:
        """Return the set with this bundle in place of the one of its trust domain."""
        return BundleSet({**self.by_domain, bundle.trust_domain: bundle})

    def without(self, trust_domains: Iterable[TrustDomain]) -> BundleSet:
        """Return the set without these trust domains."""
        gone = frozenset(trust_domains)
        return BundleSet({k: v for k, v in self.by_domain.items() if k not in gone})

    def __iter__(self) -> Iterator[TrustBundle]:
        """Yield the bundles."""
        return iter(self.by_domain.values())

    def __len__(self) -> int:
        """Return how many trust domains are known."""
        return len(self.by_domain)

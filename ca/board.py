"""What one workload may have at this moment, and who is waiting for it to change.

INVARIANT: nothing is put on a board that a peer would refuse, and nothing is read from it after
its end: an SVID is checked against the roots already on the board when it is put up, and its
validity again at every look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

from cryptography import x509

from ca.clock import Clock
from ca.errors import SdsRequestError, SvidInvalidError
from ca.secrets import VersionedSecret, encode_svid, encode_trust
from ca.svid import X509Svid
from ca.validate import verify_x509_svid
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import TrustBundle

DEFAULT_NAME = "default"
"""The name Istio's and SPIRE's proxies ask their own certificate by."""

ROOT_NAME = "ROOTCA"
"""The name Istio's and SPIRE's proxies ask the roots of their own trust domain by."""

ALL_NAME = "ALL"
"""The name SPIRE's proxies ask the roots of their own and every federated trust domain by."""


class SecretBoard:
    """The secrets of one workload, by every name they may be asked by; for one loop only."""

    def __init__(self, spiffe_id: SpiffeId, clock: Clock) -> None:
        """Start an empty board for `spiffe_id`."""
        self.spiffe_id = spiffe_id
        self._clock = clock
        self._trust_names = _trust_names(spiffe_id.trust_domain, ())
        self._svid_names = (DEFAULT_NAME, str(spiffe_id))
        self._trust: dict[str, VersionedSecret] = {}
        self._svid_secrets: dict[str, VersionedSecret] = {}
        self._roots: tuple[x509.Certificate, ...] = ()
        self._svid: X509Svid | None = None
        self._waiting: dict[asyncio.Event, None] = {}
        self.is_closed = False

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that may be asked here, roots before certificates."""
        return self._trust_names + self._svid_names

    @property
    def own_trust_names(self) -> tuple[str, ...]:
        """The names that the roots of the workload's own trust domain are asked by."""
        return _trust_names(self.spiffe_id.trust_domain, ())

    def now(self) -> datetime:
        """Return the moment by the board's clock."""
        return self._clock()

    @property
    def svid(self) -> X509Svid | None:
        """The SVID on the board, whether or not it is still in its validity."""
        return self._svid

    def check_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return `names` without repeats, roots first; an empty list means every name.

        Raises:
            SdsRequestError: one of them is not this workload's.
        """
        for name in names:
            if name not in self.names:
                raise SdsRequestError(f"secret `{name[:256]}` is not for this workload")
        return tuple(name for name in self.names if not names or name in names)

    def publish_trust(
        self,
        roots: Sequence[x509.Certificate],
        *,
        sequence: int = 1,
        federated: Mapping[TrustDomain, TrustBundle | None] | None = None,
    ) -> None:
        """Put up the roots of the workload's trust domain, and of those it is federated with.

        Of a trust domain whose bundle is None nothing is known yet: its name waits. One whose
        bundle has no roots is trusted no more: its name says so, and `ALL` is without it.

        Raises:
            SvidInvalidError: there are no roots of our own; what was up stays.
        """
        own, others = self.spiffe_id.trust_domain, dict(federated or {})
        named = {d: tuple(b.x509_authorities) for d, b in others.items() if b is not None}
        bundles = {own: tuple(roots)} | {d: found for d, found in named.items() if found}
        trust = {ALL_NAME: encode_trust(ALL_NAME, bundles, sequence=sequence)}
        for name in (ROOT_NAME, f"spiffe://{own}"):
            trust[name] = encode_trust(name, {own: roots}, sequence=sequence)
        for domain, found in named.items():
            name = f"spiffe://{domain}"
            # Envoy takes an empty list of trust domains, and then nobody; an empty PEM it refuses.
            trust[name] = encode_trust(name, {domain: found} if found else {}, sequence=0)
        self._trust, self._roots = trust, tuple(roots)
        self._trust_names = _trust_names(own, tuple(others))
        self._wake()

    def publish_svid(self, svid: X509Svid) -> None:
        """Put up a new SVID, which must hold under the roots already up.

        Raises:
            SvidInvalidError: it does not, or it is another workload's; the old one stays.
        """
        if svid.spiffe_id != self.spiffe_id:
            raise SvidInvalidError(f"an SVID of `{svid.spiffe_id}` is not for this workload")
        verify_x509_svid(svid, self._roots, now=self._clock())
        self._svid_secrets = {name: encode_svid(name, svid) for name in self._svid_names}
        self._svid = svid
        self._wake()

    def withdraw_svid(self) -> None:
        """Take the SVID down: it is denied, and nobody who asks from now on gets it."""
        self._svid_secrets, self._svid = {}, None
        self._wake()

    def look(self, names: Sequence[str]) -> tuple[VersionedSecret, ...]:
        """Return those of `names` that can be had now, in that order."""
        secrets = dict(self._trust)
        if self._svid is not None and self._svid.is_valid_at(self._clock()):
            secrets |= self._svid_secrets
        return tuple(secrets[name] for name in names if name in secrets)

    @contextmanager
    def watch(self, event: asyncio.Event) -> Iterator[None]:
        """Set `event` at every change while the block runs."""
        self._waiting[event] = None
        try:
            yield
        finally:
            del self._waiting[event]

    def close(self) -> None:
        """Tell everyone who waits that nothing more will come."""
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        """Wake everyone who waits, in the order of arrival."""
        for event in self._waiting:
            event.set()


def _trust_names(own: TrustDomain, federated: Sequence[TrustDomain]) -> tuple[str, ...]:
    """Return the names that roots are asked by."""
    return (ROOT_NAME, f"spiffe://{own}", ALL_NAME, *(f"spiffe://{other}" for other in federated))

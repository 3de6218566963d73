"""The making of authorities: a root of our own, and the intermediates under it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from ca.key_kinds import PrivateKey, generate_key, signature_hash
from ca.keys import KeyStore
from ca.profile import Validity, build_intermediate, build_root
from ca.state import AuthorityEntry, Phase, SlotEntry
from ca.svid import to_pem
from identity.spiffe_id import TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class PluggedAuthority:
    """An existing CA that signs here: its certificates, lowest first, and the signer's key.

    `path` goes from the signer up to and including its root; `more_roots` are further ones to
    trust. Made and checked by `ca.plugged`.
    """

    path: tuple[x509.Certificate, ...]
    key: PrivateKey
    more_roots: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityPlan:
    """What authorities are made for, and for how long; serials and keys come from a CSPRNG.

    `leaf_lifetime` is the longest life of a leaf: so long a retired root stays trusted. `plugged`
    is the CA to begin with where the state is empty; without one, a root of our own is made.
    """

    trust_domain: TrustDomain
    root_lifetime: timedelta
    intermediate_lifetime: timedelta
    leaf_lifetime: timedelta = timedelta(days=7)
    plugged: Callable[[], PluggedAuthority] | None = None
    new_serial: Callable[[], int] = x509.random_serial_number
    new_key: Callable[[], PrivateKey] = generate_key


class AuthorityMaker:
    """Makes authorities after a plan; their keys go to a key store before anything names them."""

    def __init__(self, plan: AuthorityPlan, keys: KeyStore) -> None:
        """Make after `plan`, keep keys in `keys`."""
        self._plan = plan
        self._keys = keys

    def make_slot(
        self, number: int, phase: Phase, now: datetime, *, sequence: int = 1
    ) -> SlotEntry:
        """Return a new authority with a root of our own."""
        plan = self._plan
        key, serial = plan.new_key(), plan.new_serial()
        validity = Validity.of(now, plan.root_lifetime, None)
        root = build_root(plan.trust_domain, key.public_key(), serial, validity).sign(
            key, signature_hash(key)
        )
        return SlotEntry(
            number=number,
            phase=phase,
            since=now,
            sequence=sequence,
            root=self._store("root", root, key),
            intermediate=self.make_intermediate(root, key, now),
        )

    def make_intermediate(
        self, root: x509.Certificate, root_key: PrivateKey, now: datetime
    ) -> AuthorityEntry:
        """Make an intermediate and store its key; only the manifest puts it in force."""
        plan = self._plan
        key, serial = plan.new_key(), plan.new_serial()
        validity = Validity.of(now, plan.intermediate_lifetime, root)
        builder = build_intermediate(root, plan.trust_domain, key.public_key(), serial, validity)
        certificate = builder.sign(root_key, signature_hash(root_key))
        return self._store("intermediate", certificate, key)

    def adopt(
        self,
        plugged: PluggedAuthority,
        number: int,
        phase: Phase,
        now: datetime,
        *,
        sequence: int = 1,
    ) -> SlotEntry:
        """Return an existing CA as an authority of ours; its signer's key is copied, no other."""
        signer, root = plugged.path[0], plugged.path[-1]
        # WHY a name of chance: the same signer may be plugged in twice.
        name = f"plugged-{self._plan.new_serial():040x}"
        self._keys.store_key(name, plugged.key)
        return SlotEntry(
            number=number,
            phase=phase,
            since=now,
            sequence=sequence,
            root=AuthorityEntry(key=None, certificate=_pem(root)),
            intermediate=AuthorityEntry(key=name, certificate=_pem(signer)),
            between=tuple(_pem(certificate) for certificate in plugged.path[1:-1]),
            more_roots=tuple(_pem(certificate) for certificate in plugged.more_roots),
        )

    def _store(self, tier: str, certificate: x509.Certificate, key: PrivateKey) -> AuthorityEntry:
        """Keep a new authority's key under a name of its own and return its manifest entry."""
        name = f"{tier}-{certificate.serial_number:040x}"
        self._keys.store_key(name, key)
        return AuthorityEntry(key=name, certificate=_pem(certificate))


def _pem(certificate: x509.Certificate) -> str:
    """Return one certificate as PEM."""
    return to_pem((certificate,)).decode()

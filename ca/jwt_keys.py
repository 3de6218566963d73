"""The keys that sign JWT-SVIDs: one for each authority, trusted and retired together with it.

Theory of operation. An authority's slot decides about its JWT key too: prepared, the key is in the
bundle and signs nothing; active, it signs; retired, it only verifies; gone, it is forgotten. So the
overlap that holds for roots holds for tokens. A key's name follows from its authority, and nothing
else names it: a key that is missing is made, whoever comes first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ca.authority import AuthorityKeeper
from ca.errors import KeyFileError, StateError
from ca.key_kinds import PrivateKey, PublicKey
from ca.keys import KeyStore
from ca.slots import Slot
from ca.state import Phase
from identity.jwks import Jwk
from identity.trust_bundle import TrustBundle

_log = structlog.get_logger(__name__)
# JWT-SVID §2.1 knows RS, ES and PS; RFC 7518 §3.4 ties each curve to its digest.
_EC_ALGORITHMS: Final[Mapping[str, str]] = {"secp256r1": "ES256", "secp384r1": "ES384"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSigner:
    """One authority's JWT key: what signs, and how a verifier finds what verifies."""

    slot: Slot
    kid: str
    algorithm: str
    key: PrivateKey = field(repr=False)

    def jwk(self) -> Jwk:
        """Return the public half as verifiers hold it."""
        return Jwk(
            kid=self.kid,
            alg=self.algorithm,
            algorithms=frozenset({self.algorithm}),
            key=self.key.public_key(),
        )


class JwtKeys:
    """The JWT keys of a keeper's authorities. Any thread may ask."""

    def __init__(
        self, keeper: AuthorityKeeper, keys: KeyStore, *, refresh_hint_seconds: int = 300
    ) -> None:
        """Load the keys of every slot, and make those that are missing.

        Raises:
            KeyFileError: a key cannot be read or written.
        """
        self._keeper = keeper
        self._keys = keys
        self._refresh_hint_seconds = refresh_hint_seconds
        self._lock = Lock()
        self._slots: tuple[Slot, ...] = ()
        self._signers: tuple[JwtSigner, ...] = ()
        self._bundle: TrustBundle | None = None
        self.signers()

    def signers(self) -> tuple[JwtSigner, ...]:
        """Return the keys of every authority, oldest first.

        Raises:
            KeyFileError: a key cannot be read or written.
        """
        with self._lock:
            slots = self._keeper.slots
            if slots is not self._slots:
                self._signers = tuple(self._signer(slot) for slot in slots)
                gone = {s.jwt_key_name for s in self._slots} - {s.jwt_key_name for s in slots}
                self._slots, self._bundle = slots, None
                for name in gone:
                    self._keys.remove_key(name)
            return self._signers

    def active(self) -> JwtSigner:
        """Return the key that signs.

        Raises:
            KeyFileError: a key cannot be read or written.
            StateError: no authority is active.
        """
        for signer in self.signers():
            if signer.slot.phase is Phase.ACTIVE:
                return signer
        raise StateError("no authority is active")

    def bundle(self) -> TrustBundle:
        """Return the trust domain's own bundle, X.509 roots and JWT keys together.

        Raises:
            KeyFileError: a key cannot be read or written.
        """
        signers = self.signers()
        bundle = self._bundle
        if bundle is None or bundle.sequence != self._keeper.sequence:
            bundle = TrustBundle(
                trust_domain=self._keeper.plan.trust_domain,
                x509_authorities=self._keeper.roots,
                jwt_authorities=tuple(signer.jwk() for signer in signers),
                sequence=self._keeper.sequence,
                refresh_hint_seconds=self._refresh_hint_seconds,
            )
            self._bundle = bundle
        return bundle

    def _signer(self, slot: Slot) -> JwtSigner:
        """Return a slot's key, made where it is missing."""
        name = slot.jwt_key_name
        key = self._keys.load_key(name) or self._make(name)
        public = key.public_key()
        return JwtSigner(slot=slot, kid=_kid(public), algorithm=_algorithm(public), key=key)

    def _make(self, name: str) -> PrivateKey:
        """Make and keep a key; where a replica was faster, theirs is the one."""
        key = self._keeper.plan.new_key()
        try:
            self._keys.store_key(name, key)
        except KeyFileError:
            theirs = self._keys.load_key(name)
            if theirs is None:
                raise
            return theirs
        _log.info("jwt_key_made", key=name)
        return key


def _algorithm(key: PublicKey) -> str:
    """Return the JWS algorithm that a kind of key signs with."""
    return "RS256" if isinstance(key, rsa.RSAPublicKey) else _EC_ALGORITHMS[key.curve.name]


def _kid(key: PublicKey) -> str:
    """Return a name for a key that no other key has."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()[:32]

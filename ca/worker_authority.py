"""The authorities as a signing worker has them: what the CA's own process told it last.

A worker holds no lock of the state and changes nothing in it: it is told of every change.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.authority import Authority, AuthorityKeeper, check_in_force
from ca.clock import Clock
from ca.errors import StateError
from ca.key_kinds import check_private_key
from ca.slots import Slot, bundle_with_intermediates, load_slots, trusted_roots
from ca.state import Manifest, Phase
from ca.worker_wire import Message
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import TrustBundle

_versions: Final = count()


def authorities_message(keeper: AuthorityKeeper) -> Message:
    """Return what a worker has to know of the authorities; a secret, for the key is in it.

    Raises:
        AuthorityExpiredError: there is nothing in force to sign with.
    """
    # WHY before anything is looked at: of two messages the one with the higher number was then made
    # of what is newer, in whatever order they arrive.
    version = next(_versions)
    while True:
        slots, authority = keeper.slots, keeper.current()
        if slots is keeper.slots:
            break
    manifest = Manifest(
        trust_domain=keeper.plan.trust_domain.name,
        sequence=authority.sequence,
        slots=tuple(slot.entry for slot in slots),
    )
    key = authority.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "do": "authorities",
        "version": version,
        "manifest": manifest.model_dump(mode="json"),
        "key": key.decode(),
    }


class AuthorityCopy:
    """The authorities of a worker. Any thread may ask; `take` replaces all at once."""

    def __init__(self, trust_domain: TrustDomain, clock: Clock) -> None:
        """Know of none yet."""
        self._trust_domain = trust_domain
        self._clock = clock
        self._version = -1
        self._slots: tuple[Slot, ...] = ()
        self._authority: Authority | None = None

    def take(self, message: Message) -> None:
        """Take up what the CA's process says, unless something newer came before it.

        Raises:
            StateError: an authority in it is not sound, or the key is not the one that signs.
        """
        if message["version"] < self._version:
            return
        manifest = Manifest.model_validate(message["manifest"])
        slots = load_slots(manifest, self._trust_domain)
        slot = next(each for each in slots if each.phase is Phase.ACTIVE)
        key = check_private_key(serialization.load_pem_private_key(message["key"].encode(), None))
        if key.public_key() != slot.intermediate.public_key():
            raise StateError("the key is not that of the authority that signs")
        self._authority = Authority(
            trust_domain=self._trust_domain,
            root=slot.root,
            intermediate=slot.intermediate,
            chain=slot.chain,
            roots=trusted_roots(slots),
            number=slot.number,
            sequence=manifest.sequence,
            key=key,
        )
        self._slots, self._version = slots, message["version"]

    def current(self) -> Authority:
        """Return the authority to sign with now.

        Raises:
            AuthorityExpiredError: it is not in force.
        """
        authority, now = self._known(), self._clock()
        for certificate in (authority.root, *authority.chain):
            check_in_force(certificate, "authority", now)
        return authority

    def chain(self) -> tuple[x509.Certificate, ...]:
        """Return what leaves that are signed now are sent with."""
        return self._known().chain

    def sequence(self) -> int:
        """Return how often the roots changed."""
        return self._known().sequence

    def bundle(self) -> TrustBundle:
        """Return the roots, with what helps to find a path for a leaf that is shown alone."""
        return bundle_with_intermediates(self._trust_domain, self._slots)

    def _known(self) -> Authority:
        """Return the authority that was told of."""
        assert self._authority is not None, "a worker serves only when it knows the authorities"
        return self._authority

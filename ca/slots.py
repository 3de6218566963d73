"""An authority in its slot, read from the manifest as if a stranger had written it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ca.errors import StateError, SvidInvalidError
from ca.state import AuthorityEntry, Manifest, Phase, SlotEntry
from ca.validate import verify_authority
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import TrustBundle

_KEY_NAME: Final = re.compile(r"(root|intermediate|plugged|jwt-[0-9]+)-[0-9a-f]{40}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One authority with its certificates parsed and checked against one another.

    `intermediate` is what signs leaves. `between` leads from it up to, and not including, `root`.
    A plugged-in authority may sign with the root itself: `intermediate` is `root` then.
    """

    entry: SlotEntry
    root: x509.Certificate
    intermediate: x509.Certificate
    between: tuple[x509.Certificate, ...] = ()
    more_roots: tuple[x509.Certificate, ...] = ()

    @property
    def number(self) -> int:
        """The authority's number: 1 is the first this trust domain had."""
        return self.entry.number

    @property
    def phase(self) -> Phase:
        """The slot."""
        return self.entry.phase

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a leaf is sent with: every authority above it, without the root."""
        if self.intermediate == self.root:
            return ()
        return (self.intermediate, *self.between)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """What peers have to trust, the authority's own root first."""
        return (self.root, *self.more_roots)

    @property
    def jwt_key_name(self) -> str:
        """What the key of the authority's JWT-SVIDs is called; no manifest names it."""
        return f"jwt-{self.number}-{self.root.serial_number:040x}"

    @property
    def key_names(self) -> frozenset[str]:
        """What the keys of the authority are called, whether or not they are here."""
        names = (self.entry.root.key, self.entry.intermediate.key, self.jwt_key_name)
        return frozenset(name for name in names if name is not None)

    @property
    def expires_at(self) -> datetime:
        """When the first of the authority's certificates ends."""
        path = (self.root, self.intermediate, *self.between)
        return min(certificate.not_valid_after_utc for certificate in path)


def load_slots(manifest: Manifest, trust_domain: TrustDomain) -> tuple[Slot, ...]:
    """Return every authority of a manifest, oldest first, each part checked against the others.

    Raises:
        StateError: it is another trust domain's, or an authority in it is not sound.
    """
    if manifest.trust_domain != trust_domain.name:
        raise StateError(
            f"the state is of `{manifest.trust_domain}`, expected `{trust_domain}`",
            help="set trustDomain back, or give the new trust domain a state folder of its own",
        )
    ordered = sorted(manifest.slots, key=lambda entry: entry.number)
    return tuple(load_slot(entry, trust_domain) for entry in ordered)


def load_slot(entry: SlotEntry, trust_domain: TrustDomain) -> Slot:
    """Return one authority, checked.

    Raises:
        StateError: naming the first thing that is not sound.
    """
    slot = Slot(
        entry=entry,
        root=_parse(entry.root),
        intermediate=_parse(entry.intermediate),
        between=tuple(_parse_pem(pem, "between") for pem in entry.between),
        more_roots=tuple(_parse_pem(pem, "more_roots") for pem in entry.more_roots),
    )
    try:
        verify_slot(slot, trust_domain)
    except SvidInvalidError as exc:
        raise StateError(f"the state's authority is not sound: {exc}") from exc
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise StateError("the state's intermediate is not signed by its root") from exc
    return slot


def verify_slot(slot: Slot, trust_domain: TrustDomain) -> None:
    """Return when the authority's certificates lead from the signer to its root.

    Raises:
        SvidInvalidError: a certificate may not sign what is below it.
        ValueError, TypeError, InvalidSignature: one is not signed by the next.
    """
    name = f"spiffe://{trust_domain}"
    path = (*slot.chain, slot.root)
    for below, certificate in reversed(tuple(enumerate(path))):
        verify_authority(certificate, name, below=below)
    for certificate, issuer in zip(path, (*path[1:], slot.root), strict=True):
        certificate.verify_directly_issued_by(issuer)
    for root in slot.more_roots:
        verify_authority(root, name, below=0)
        root.verify_directly_issued_by(root)


def trusted_roots(slots: Iterable[Slot]) -> tuple[x509.Certificate, ...]:
    """Return the trust bundle of several authorities, by age and without repeats.

    WHY by age: an authority that changes its slot must not change the bundle.
    """
    return tuple(dict.fromkeys(root for slot in slots for root in slot.roots))


def bundle_with_intermediates(trust_domain: TrustDomain, slots: Sequence[Slot]) -> TrustBundle:
    """Return the roots of authorities, with what helps to find a path for a leaf shown alone."""
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=trusted_roots(slots),
        intermediates=tuple(dict.fromkeys(each for slot in slots for each in slot.chain)),
    )


def orphaned_keys(names: Iterable[str], slots: Iterable[Slot]) -> tuple[str, ...]:
    """Return those of `names` that a key of ours has and no authority in `slots`.

    What else lies beside our keys is not ours.
    """
    named = frozenset(name for slot in slots for name in slot.key_names)
    return tuple(sorted(n for n in names if _KEY_NAME.fullmatch(n) and n not in named))


def _parse(entry: AuthorityEntry) -> x509.Certificate:
    """Return the certificate of a manifest entry."""
    return _parse_pem(entry.certificate, f"key `{entry.key}`")


def _parse_pem(pem: str, whose: str) -> x509.Certificate:
    """Return one certificate of the manifest."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as exc:
        raise StateError(f"the certificate of {whose} cannot be read") from exc

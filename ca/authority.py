"""The authority in force: one root that workloads trust, one intermediate that signs.

Theory of operation. At the first start both are made; at every later start they are loaded and
checked as if a stranger had written them. The intermediate is renewed when a third of its life is
left; leaves carry their intermediate with them, so only the root must be known to peers. The root's
key is used to sign intermediates and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ca.clock import Clock
from ca.errors import AuthorityExpiredError, CaError, StateError, SvidInvalidError
from ca.keys import KeyStore, generate_key
from ca.profile import Validity, build_intermediate, build_root
from ca.state import AuthorityEntry, Manifest, StateFolder
from ca.svid import to_pem
from ca.validate import verify_authority
from identity.spiffe_id import TrustDomain

_log = structlog.get_logger(__name__)
_RENEW_AT_REMAINING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityPlan:
    """What an authority is made for, and for how long; serials and keys come from a CSPRNG."""

    trust_domain: TrustDomain
    root_lifetime: timedelta
    intermediate_lifetime: timedelta
    new_serial: Callable[[], int] = x509.random_serial_number
    new_key: Callable[[], ec.EllipticCurvePrivateKey] = generate_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The certificates in force and the key that signs leaves."""

    trust_domain: TrustDomain
    root: x509.Certificate
    intermediate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The X.509 trust bundle of the trust domain."""
        return (self.root,)


class AuthorityKeeper:
    """Makes, loads, checks and renews the authority of one state folder."""

    def __init__(
        self, state: StateFolder, keys: KeyStore, plan: AuthorityPlan, clock: Clock
    ) -> None:
        """Load the authority, or make it at the first start.

        Raises:
            OperatorError: the state cannot be believed or written, or the root is expired.
        """
        self._state = state
        self._keys = keys
        self._plan = plan
        self._clock = clock
        self._manifest = state.load_manifest() or self._make()
        self._authority = self._load(self._manifest)
        state.publish_bundle(to_pem(self._authority.roots).decode())
        self.current()

    def current(self) -> Authority:
        """Return the authority to sign with now, its intermediate renewed when that is due.

        A renewal that fails is logged and tried again at the next call, as long as the old
        intermediate holds.

        Raises:
            AuthorityExpiredError: there is nothing in force to sign with.
        """
        now = self._clock()
        _check_in_force(self._authority.root, "root", now)
        if self._is_renewal_due(now):
            try:
                self._renew(now)
            except CaError as exc:
                _log.error("intermediate_renewal_failed", error=str(exc), code=exc.code)
        _check_in_force(self._authority.intermediate, "intermediate", now)
        return self._authority

    def _is_renewal_due(self, now: datetime) -> bool:
        """Return whether a third or less of the intermediate's life is left."""
        intermediate, root = self._authority.intermediate, self._authority.root
        if intermediate.not_valid_after_utc >= root.not_valid_after_utc:
            # Its end is the root's end: a new one would live no longer.
            return False
        life = intermediate.not_valid_after_utc - intermediate.not_valid_before_utc
        return intermediate.not_valid_after_utc - now <= life / _RENEW_AT_REMAINING

    def _make(self) -> Manifest:
        """Make root and intermediate for the first time and put them in force."""
        now, plan = self._clock(), self._plan
        key, serial = plan.new_key(), plan.new_serial()
        validity = Validity.of(now, plan.root_lifetime, None)
        root = build_root(plan.trust_domain, key.public_key(), serial, validity).sign(
            key, hashes.SHA256()
        )
        root_entry = self._store("root", root, key)
        manifest = Manifest(
            trust_domain=plan.trust_domain.name,
            root=root_entry,
            intermediate=self._make_intermediate(root, key, now),
        )
        self._state.store_manifest(manifest)
        _log.info(
            "authority_made", trust_domain=plan.trust_domain.name, expires_at=validity.not_after
        )
        return manifest

    def _make_intermediate(
        self, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey, now: datetime
    ) -> AuthorityEntry:
        """Make an intermediate and store its key; only the manifest puts it in force."""
        plan = self._plan
        key, serial = plan.new_key(), plan.new_serial()
        validity = Validity.of(now, plan.intermediate_lifetime, root)
        builder = build_intermediate(root, plan.trust_domain, key.public_key(), serial, validity)
        return self._store("intermediate", builder.sign(root_key, hashes.SHA256()), key)

    def _renew(self, now: datetime) -> None:
        """Put a new intermediate in force and forget the old one's key."""
        old = self._manifest
        root_key = self._keys.load_key(old.root.key)
        if root_key is None:
            raise StateError("the root's key is not here, so no intermediate can be signed")
        entry = self._make_intermediate(self._authority.root, root_key, now)
        manifest = old.model_copy(update={"intermediate": entry})
        authority = self._load(manifest)
        self._state.store_manifest(manifest)
        self._manifest, self._authority = manifest, authority
        _log.info("intermediate_renewed", expires_at=authority.intermediate.not_valid_after_utc)
        self._keys.remove_key(old.intermediate.key)

    def _store(
        self, tier: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> AuthorityEntry:
        """Keep a new authority's key under a name of its own and return its manifest entry."""
        name = f"{tier}-{certificate.serial_number:040x}"
        self._keys.store_key(name, key)
        return AuthorityEntry(key=name, certificate=to_pem((certificate,)).decode())

    def _load(self, manifest: Manifest) -> Authority:
        """Return the authority a manifest names, every part checked against the others."""
        trust_domain = self._plan.trust_domain
        if manifest.trust_domain != trust_domain.name:
            raise StateError(
                f"the state is of `{manifest.trust_domain}`, expected `{trust_domain}`",
                help="set trustDomain back, or give the new trust domain a state folder of its own",
            )
        root, intermediate = _parse(manifest.root), _parse(manifest.intermediate)
        try:
            verify_authority(root, f"spiffe://{trust_domain}", below=1)
            verify_authority(intermediate, f"spiffe://{trust_domain}", below=0)
            root.verify_directly_issued_by(root)
            intermediate.verify_directly_issued_by(root)
        except SvidInvalidError as exc:
            raise StateError(f"the state's authority is not sound: {exc}") from exc
        except (ValueError, TypeError, InvalidSignature) as exc:
            raise StateError("the state's intermediate is not signed by its root") from exc
        key = self._keys.load_key(manifest.intermediate.key)
        if key is None:
            raise StateError(f"key `{manifest.intermediate.key}` of the intermediate is missing")
        if key.public_key() != intermediate.public_key():
            raise StateError(f"key `{manifest.intermediate.key}` is not the intermediate's key")
        return Authority(trust_domain=trust_domain, root=root, intermediate=intermediate, key=key)


def _parse(entry: AuthorityEntry) -> x509.Certificate:
    """Return the certificate of a manifest entry."""
    try:
        return x509.load_pem_x509_certificate(entry.certificate.encode())
    except ValueError as exc:
        raise StateError(f"the certificate of key `{entry.key}` cannot be read") from exc


def _check_in_force(certificate: x509.Certificate, tier: str, now: datetime) -> None:
    """Refuse an authority outside its validity."""
    if now > certificate.not_valid_after_utc:
        raise AuthorityExpiredError(
            f"the {tier} expired at {certificate.not_valid_after_utc.isoformat()}",
            help="move the state folder away to start anew; workloads then need the new root",
        )
    if now < certificate.not_valid_before_utc:
        raise AuthorityExpiredError(
            f"the {tier} is not valid before {certificate.not_valid_before_utc.isoformat()}",
            help="check the machine's clock",
        )

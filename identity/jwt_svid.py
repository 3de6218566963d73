"""The JWT-SVID: whose token is this, and is it meant for us?

Spec: JWT-SVID §2 (header), §3 (claims), §4 (validation); SPIFFE-ID §2. PyJWT and
`cryptography` check signatures; what is checked, against which key, is decided here.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from identity.bundle_document import JWT_SVID_ALGORITHMS
from identity.errors import SpiffeIdError
from identity.jose import (
    MAX_TOKEN_CHARS,
    TokenFormatError,
    UnverifiedToken,
    parse_json_object,
    parse_token,
)
from identity.spiffe_id import SpiffeId
from identity.svid_fault import SvidFault, SvidRefusal
from identity.trust_bundle import BundleSet, TrustBundle

# JWT-SVID, appendix A: for `exp`, "a small amount of leeway is acceptable".
LEEWAY_SECONDS: Final = 60
# JWT-SVID §2: "Any header not described here ... MUST NOT be included".
_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = ("JWT", "JOSE")
# The last second a `datetime` can tell; what expires later may as well expire then.
_LAST_SECOND: Final = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
_VERIFIERS: Final[Mapping[str, Algorithm]] = {
    name: algorithm
    for name, algorithm in get_default_algorithms().items()
    if name in JWT_SVID_ALGORITHMS
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSvid:
    """A token that was verified. Only `verify_jwt_svid` makes one.

    `claims` beyond those of the standard are what the issuer of that trust domain says,
    and weigh no more than it does.
    """

    spiffe_id: SpiffeId
    audiences: tuple[str, ...]
    expires_at: datetime
    claims: Mapping[str, Any]


def verify_jwt_svid(
    text: str, audiences: Collection[str], bundles: BundleSet | TrustBundle, at: datetime
) -> JwtSvid | SvidRefusal:
    """Return whose token this is at the time `at`, or why it is nobody's. Never raises for text.

    `audiences` are our own names: the token has to be meant for one of them, to the letter.
    """
    if len(text) > MAX_TOKEN_CHARS:
        return SvidRefusal(SvidFault.TOKEN_FORMAT, f"longer than {MAX_TOKEN_CHARS} characters")
    header_fault = _header_fault(text)
    if header_fault is not None:
        return header_fault
    try:
        token = parse_token(text)
    except TokenFormatError as exc:
        return SvidRefusal(SvidFault.TOKEN_FORMAT, exc.public_text)
    found = _audiences_of(token.payload)
    fault = _claim_fault(token, found, frozenset(audiences), at.astimezone(UTC))
    if fault is not None:
        return fault
    spiffe_id = _spiffe_id_of(token)
    if isinstance(spiffe_id, SvidRefusal):
        return spiffe_id
    fault = _signature_fault(token, spiffe_id, bundles)
    if fault is not None:
        return fault
    return JwtSvid(
        spiffe_id=spiffe_id,
        audiences=found,
        expires_at=datetime.fromtimestamp(min(int(token.payload["exp"]), _LAST_SECOND), UTC),
        claims=dict(token.payload),
    )


def _header_fault(text: str) -> SvidRefusal | None:
    """Return what the JOSE header holds that no JWT-SVID may; a key in it is never looked at."""
    try:
        raw = base64.urlsafe_b64decode(text.partition(".")[0] + "===")
        header = parse_json_object(raw)
    except (binascii.Error, ValueError):
        return SvidRefusal(SvidFault.TOKEN_FORMAT, "the header is not a JSON object")
    # §2.1: "a token with the `alg` parameter set to a different value MUST [be] reject[ed]".
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in JWT_SVID_ALGORITHMS:
        return SvidRefusal(SvidFault.ALGORITHM, "`alg` is none of those of a JWT-SVID")
    if not header.keys() <= _HEADERS:
        why = "the header holds more than `alg`, `kid` and `typ`"
        return SvidRefusal(SvidFault.TOKEN_HEADER, why)
    # §2.3: "If set, its value MUST be either `JWT` or `JOSE`".
    if header.get("typ", "JWT") not in _TYPES:
        return SvidRefusal(SvidFault.TOKEN_HEADER, "`typ` is neither `JWT` nor `JOSE`")
    # WHY, though §2.2 calls it optional: without it every key of the bundle would be tried,
    # and every issuer known sets it.
    if not isinstance(header.get("kid"), str) or not header["kid"]:
        return SvidRefusal(SvidFault.TOKEN_HEADER, "the header has no `kid`")
    return None


def _audiences_of(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `aud` of a parsed token: one string or a list of them (RFC 7519 §4.1.3)."""
    value = payload.get("aud", ())
    return (value,) if isinstance(value, str) else tuple(value)


def _claim_fault(
    token: UnverifiedToken, found: tuple[str, ...], ours: frozenset[str], at: datetime
) -> SvidRefusal | None:
    """Return what times and audience have against the token."""
    now, payload = at.timestamp(), token.payload
    # §3.3: "validators MUST reject tokens without this claim".
    if "exp" not in payload:
        return SvidRefusal(SvidFault.NO_EXPIRY, "`exp` is not there")
    if now > payload["exp"] + LEEWAY_SECONDS:
        return SvidRefusal(SvidFault.EXPIRED, "`exp` has passed")
    if now + LEEWAY_SECONDS < payload.get("nbf", 0):
        return SvidRefusal(SvidFault.NOT_YET_VALID, "`nbf` has not come yet")
    # §3.2: "MUST reject tokens without an `aud` claim set, or if the value that the validator
    # identifies with is not present".
    if not found:
        return SvidRefusal(SvidFault.AUDIENCE, "`aud` is not there")
    if ours.isdisjoint(found):
        return SvidRefusal(SvidFault.AUDIENCE, "`aud` names none of our audiences")
    return None


def _spiffe_id_of(token: UnverifiedToken) -> SpiffeId | SvidRefusal:
    """Return the SPIFFE ID in `sub`: "MUST be set to the SPIFFE ID of the workload" (§3.1)."""
    try:
        spiffe_id = SpiffeId.parse(str(token.payload.get("sub", "")))
    except SpiffeIdError as exc:
        return SvidRefusal(SvidFault.SPIFFE_ID, f"`sub` is not a SPIFFE ID: {exc.why}")
    if not spiffe_id.path:
        return SvidRefusal(SvidFault.NO_PATH, f"`{spiffe_id}` names a trust domain, not a workload")
    return spiffe_id


def _signature_fault(
    token: UnverifiedToken, spiffe_id: SpiffeId, bundles: BundleSet | TrustBundle
) -> SvidRefusal | None:
    """Return None only where a JWT authority of the ID's own trust domain signed the token."""
    bundle = BundleSet.of(bundles) if isinstance(bundles, TrustBundle) else bundles
    own = bundle.bundle_for(spiffe_id.trust_domain)
    if own is None:
        why = f"there is no bundle of the trust domain `{spiffe_id.trust_domain}`"
        return SvidRefusal(SvidFault.NO_BUNDLE, why)
    if not own.jwt_authorities:
        why = f"the bundle of `{own.trust_domain}` has no JWT authority"
        return SvidRefusal(SvidFault.NO_AUTHORITY, why)
    keys = own.jwt_authorities_for(token.kid, token.alg)
    if not keys:
        why = "no JWT authority of the trust domain has the `kid` and fits the `alg`"
        return SvidRefusal(SvidFault.KEY_UNKNOWN, why)
    if not any(_is_signed_by(token, each.key) for each in keys):
        return SvidRefusal(SvidFault.SIGNATURE, "the signature is not that of the named key")
    return None


def _is_signed_by(token: UnverifiedToken, key: Any) -> bool:
    """Return whether this key, which fits the token's algorithm, verifies the signature."""
    try:
        verifier = _VERIFIERS[token.alg]
        return verifier.verify(token.signing_input, key, token.signature) is True
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return False

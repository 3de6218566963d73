"""A trust bundle as a document: SPIFFE's JWK set, read and written, and plain PEM, read.

Spec: SPIFFE Trust Domain and Bundle §4; X509-SVID §6; JWT-SVID §6 (`jwt-svid` keys).
A document never says whose bundle it is: the caller knows, and names the trust domain.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from identity.certificate_reading import ReadCertificate, read_certificate, split_pem
from identity.errors import CertificateError, KeySourceError
from identity.jose import MAX_JSON_DEPTH, nesting_depth, unique_pairs
from identity.jwks import Jwk, parse_jwk_set
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError, TrustBundle

# BUDGET: a bundle in the middle of two rotations holds fewer than twenty keys.
MAX_BUNDLE_KEYS: Final = 500
# BUDGET: five hundred certificates of 2 KiB.
MAX_BUNDLE_BYTES: Final = 1024 * 1024
# BUDGET: the modulus of an RSA key of 16,384 bits takes 2,731 letters.
_LONGEST_MEMBER: Final = 4096
_X509: Final = "x509-svid"
_JWT: Final = "jwt-svid"
_PUBLIC_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")
# JWT-SVID §2.1: RS, ES and PS only; a key for anything else signs no JWT-SVID.
JWT_SVID_ALGORITHMS: Final = frozenset(
    f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512)
)


@dataclass(slots=True)
class _Found:
    """What was read of the key entries so far."""

    x509_authorities: list[x509.Certificate] = field(default_factory=list)
    jwt_authorities: list[Jwk] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse_bundle(trust_domain: TrustDomain, raw: bytes) -> TrustBundle:
    """Return the bundle that a JWK set document spells for a trust domain.

    An entry that cannot be used is left out with a note: it then speaks for nobody.
    No usable entry at all is a bundle too: everything of the trust domain is untrusted.

    Raises:
        BundleError: the document is not a JWK set.
    """
    document = _read_json(raw)
    # §4.1.3: "The parameter `keys` MUST be present. Its value is an array of JWKs."
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise BundleError("the bundle has no list `keys`")
    if len(entries) > MAX_BUNDLE_KEYS:
        raise BundleError(f"the bundle holds more than {MAX_BUNDLE_KEYS} keys")
    found = _Found()
    for place, entry in enumerate(entries):
        try:
            _read_entry(entry, found)
        except (BundleError, CertificateError, KeySourceError) as exc:
            found.notes.append(f"key {place} is left out: {exc}")
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(dict.fromkeys(found.x509_authorities)),
        jwt_authorities=tuple(found.jwt_authorities),
        sequence=_read_integer(document, "spiffe_sequence"),
        refresh_hint_seconds=_read_integer(document, "spiffe_refresh_hint"),
        notes=tuple(found.notes),
    )


def bundle_from_pem(trust_domain: TrustDomain, pem: bytes) -> TrustBundle:
    """Return a bundle of the certificates in a PEM text, which has no JWT authorities.

    Raises:
        BundleError: there is no certificate, or one cannot be read or is not that of a CA.
    """
    try:
        read = [_check_authority(read_certificate(der)) for der in split_pem(pem)]
    except CertificateError as exc:
        raise BundleError(str(exc)) from exc
    return TrustBundle(trust_domain=trust_domain, x509_authorities=tuple(dict.fromkeys(read)))


def _check_authority(read: ReadCertificate) -> x509.Certificate:
    """Return a CA's certificate; any other vouches for nobody, itself included (X509-SVID §3.2)."""
    basic = read.extension(x509.BasicConstraints)
    if basic is None or not basic.value.ca:
        raise BundleError("a certificate is not that of a CA")
    return read.certificate


def load_bundle(trust_domain: TrustDomain, raw: bytes) -> TrustBundle:
    """Return the bundle in a file's bytes, whichever of the two forms they have.

    Raises:
        BundleError: they have neither.
    """
    if raw.lstrip()[:1] == b"{":
        return parse_bundle(trust_domain, raw)
    return bundle_from_pem(trust_domain, raw)


def encode_bundle(bundle: TrustBundle) -> bytes:
    """Return the bundle as a JWK set document that `parse_bundle` reads back the same.

    Raises:
        BundleError: a certificate holds a key that has no JWK form here.
    """
    document: dict[str, Any] = {
        "keys": [
            *(_x509_entry(each) for each in bundle.x509_authorities),
            *(_jwt_entry(each) for each in bundle.jwt_authorities),
        ]
    }
    if bundle.sequence is not None:
        document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint_seconds is not None:
        document["spiffe_refresh_hint"] = bundle.refresh_hint_seconds
    return json.dumps(document, indent=2).encode()


def _read_json(raw: bytes) -> dict[str, Any]:
    """Return the document, in which no name stands twice.

    WHY not the reader of tokens: that one gives up the last digits of long integers,
    and §4.1.1 wants "at least 64 bits of precision" for the sequence number.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise BundleError(f"the bundle is longer than {MAX_BUNDLE_BYTES} bytes")
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=unique_pairs)
    except (ValueError, RecursionError) as exc:
        raise BundleError("the bundle is not a JSON object with each name once") from exc
    if not isinstance(document, dict):
        raise BundleError("the bundle is not a JSON object")
    # WHY: what was read at one depth of calls cannot always be written at another.
    if nesting_depth(document) > MAX_JSON_DEPTH:
        raise BundleError("the bundle is nested too deeply")
    return document


def _read_integer(document: Mapping[str, Any], name: str) -> int | None:
    """Return a whole number that is not negative, or None when it is absent (§4.1.1, §4.1.2)."""
    value = document.get(name)
    if value is None:
        return None
    # WHY the check for bool: in Python `True` is an int.
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BundleError(f"`{name}` is not a whole number")
    return value


def _read_entry(entry: object, found: _Found) -> None:
    """Add what one JWK says to what was found."""
    if not isinstance(entry, dict):
        raise BundleError("it is not a JSON object")
    # §4.2.2: "Clients encountering unknown `use` values MUST ignore the entire JWK element."
    match entry.get("use"):
        case "x509-svid":
            found.x509_authorities.append(_read_x509_entry(entry))
        case "jwt-svid":
            found.jwt_authorities.append(_read_jwt_entry(entry))
        case _:
            raise BundleError("its `use` is neither `x509-svid` nor `jwt-svid`")


def _read_x509_entry(entry: Mapping[str, Any]) -> x509.Certificate:
    """Return the CA certificate of an entry."""
    # X509-SVID §6.2: "If `x5c` is not set, or is empty, then the entry MUST be ignored";
    # "all but the first MUST be ignored".
    values = entry.get("x5c")
    if not isinstance(values, list) or not values or not isinstance(values[0], str):
        raise BundleError("it has no `x5c`")
    try:
        # RFC 7517 §4.7: "base64-encoded (Section 4 of [RFC4648] -- not base64url-encoded)".
        der = base64.b64decode(values[0], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BundleError("its `x5c` is not base64") from exc
    read = read_certificate(der)
    # RFC 7517 §4.7: the key in the first certificate "MUST match the public key" of the entry.
    if entry.keys() & {"n", "x"} and _key_of(entry) != read.public_key:
        raise BundleError("its `x5c` holds another key than its other members")
    return _check_authority(read)


def _key_of(entry: Mapping[str, Any]) -> Any:
    """Return the public key that the members of an entry spell.

    WHY the public ones alone: to find the primes of a modulus that somebody made up, with the
    private exponent beside it, takes as long as they like.
    """
    public = {name: entry[name] for name in _PUBLIC_MEMBERS if name in entry}
    if any(isinstance(each, str) and len(each) > _LONGEST_MEMBER for each in public.values()):
        raise BundleError("its parameters do not make a key")
    try:
        return PyJWK(public, _any_algorithm(entry)).key
    # WHY `from None`: PyJWT quotes the whole key in some of its messages.
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise BundleError("its parameters do not make a key") from None


def _any_algorithm(entry: Mapping[str, Any]) -> str:
    """Return an algorithm of the key's family, for PyJWT reads no key without one."""
    match entry.get("kty"):
        case "RSA":
            return "RS256"
        case "EC":
            return {"P-384": "ES384", "P-521": "ES512"}.get(str(entry.get("crv")), "ES256")
        case _:
            return "EdDSA"


def _read_jwt_entry(entry: Mapping[str, Any]) -> Jwk:
    """Return the key of an entry, read by the rules of every other key set."""
    # JWT-SVID §5.1: "the `kid` parameter ... MUST be set".
    if not isinstance(entry.get("kid"), str) or not entry["kid"]:
        raise BundleError("it has no `kid`")
    plain = {name: value for name, value in entry.items() if name != "use"}
    keys = parse_jwk_set(json.dumps({"keys": [plain]}), is_inline=False)
    if not keys.keys:
        raise BundleError(keys.notes[0].partition(": ")[2] if keys.notes else "it is no key")
    key = keys.keys[0]
    if not key.algorithms & JWT_SVID_ALGORITHMS:
        raise BundleError("no algorithm of a JWT-SVID fits it")
    return key


def _x509_entry(certificate: x509.Certificate) -> dict[str, Any]:
    """Return the JWK of an X.509 authority, with one certificate and no `kid` (X509-SVID §6.1)."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    public = _public_members(certificate.public_key())
    return public | {"use": _X509, "x5c": [base64.b64encode(der).decode("ascii")]}


def _jwt_entry(key: Jwk) -> dict[str, Any]:
    """Return the JWK of a JWT authority."""
    return _public_members(key.key) | {"use": _JWT, "kid": key.kid}


def _public_members(key: object) -> dict[str, Any]:
    """Return `kty` and the parameters of a public key (RFC 7518 §6)."""
    match key:
        case rsa.RSAPublicKey():
            members = RSAAlgorithm.to_jwk(key, as_dict=True)
        case ec.EllipticCurvePublicKey():
            members = ECAlgorithm.to_jwk(key, as_dict=True)
        case _:
            raise BundleError("only RSA and EC keys have a place in a bundle")
    return {name: members[name] for name in _PUBLIC_MEMBERS if name in members}

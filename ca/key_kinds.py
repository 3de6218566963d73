"""The kinds of key that this house makes, accepts and signs with, and why not the others."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from ca.errors import KeyRefusedError

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
"""A key that signs here; one in a PKCS#11 token or a KMS is a subclass that delegates."""

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""A key that a certificate of ours may hold."""

_RSA_EXPONENT = 65_537
# BUDGET: verifying with a longer RSA key costs every peer at every handshake.
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 4096
_CURVES = {"secp256r1": "EC P-256", "secp384r1": "EC P-384"}


class KeyKind(StrEnum):
    """What a profile may ask for, as it is written in the configuration."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


_MAKERS: dict[KeyKind, Callable[[], PrivateKey]] = {
    KeyKind.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyKind.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyKind.RSA_2048: lambda: rsa.generate_private_key(_RSA_EXPONENT, 2048),
    KeyKind.RSA_3072: lambda: rsa.generate_private_key(_RSA_EXPONENT, 3072),
    KeyKind.RSA_4096: lambda: rsa.generate_private_key(_RSA_EXPONENT, 4096),
}


def generate_key(kind: KeyKind = KeyKind.EC_P256) -> PrivateKey:
    """Return a new key from the system's CSPRNG."""
    return _MAKERS[kind]()


def parse_key_kind(text: str) -> KeyKind:
    """Return the kind that the configuration calls `text`.

    Raises:
        KeyRefusedError: this house makes no such keys; the message says why.
    """
    try:
        return KeyKind(text)
    except ValueError:
        pass
    if text.lower().replace("-", "") in ("ed25519", "ed448"):
        raise KeyRefusedError(_no_edwards(text), help=_INSTEAD)
    known = ", ".join(KeyKind)
    raise KeyRefusedError(f"key kind `{text[:64]}` is not known, expected one of {known}")


def check_public_key(key: object) -> PublicKey:
    """Return `key`, when a certificate of ours may hold it.

    Raises:
        KeyRefusedError: naming the kind of key and what is wrong with it.
    """
    if isinstance(key, ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVES:
            raise KeyRefusedError(
                f"the key is on the curve `{key.curve.name}`, expected P-256 or P-384"
            )
        return key
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
        return key
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        name = "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "Ed448"
        raise KeyRefusedError(_no_edwards(name), help=_INSTEAD)
    kind = "DSA" if isinstance(key, dsa.DSAPublicKey) else type(key).__name__
    raise KeyRefusedError(f"the key is of the kind {kind}, expected EC P-256, P-384 or RSA")


def check_private_key(key: object) -> PrivateKey:
    """Return `key`, when this house signs with such keys.

    Raises:
        KeyRefusedError: naming the kind of key and what is wrong with it.
    """
    public = getattr(key, "public_key", None)
    check_public_key(public() if callable(public) else key)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise KeyRefusedError("the key is a public one, expected a private key")
    return key


def signature_hash(key: PrivateKey | PublicKey) -> hashes.SHA256 | hashes.SHA384:
    """Return the digest to sign with under `key`: as strong as the key, no stronger.

    Spec: RFC 5758 §3.2 (ECDSA), RFC 8017 §8.2 (RSASSA-PKCS1-v1_5).
    """
    is_p384 = (
        isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey)
        and key.curve.name == "secp384r1"
    )
    return hashes.SHA384() if is_p384 else hashes.SHA256()


def describe_key(key: PublicKey) -> str:
    """Return the kind of a key as people name it.

    >>> describe_key(generate_key().public_key())
    'EC P-256'
    """
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return _CURVES.get(key.curve.name, key.curve.name)


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    """Refuse RSA keys that are weak, or made to cost."""
    if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
        raise KeyRefusedError(
            f"the RSA key has {key.key_size} bits, expected {_MIN_RSA_BITS} to {_MAX_RSA_BITS}"
        )
    exponent = key.public_numbers().e
    if exponent != _RSA_EXPONENT:
        shown = str(exponent) if exponent.bit_length() <= 64 else "a very long one"
        raise KeyRefusedError(f"the RSA key's exponent is {shown}, expected {_RSA_EXPONENT}")


_INSTEAD = "use ec-p256, which every SPIFFE library, Envoy and gRPC take"


def _no_edwards(name: str) -> str:
    """Return why keys of this kind are refused."""
    return f"an `{name[:64]}` key is refused by Envoy and gRPC peers at every handshake"

"""JWT: a token that is believed is one that the issuer signed, letter for letter.

Forgeries are put together from pieces of good tokens, other algorithms, keys that are
public, and signatures that are empty, short, zero or another token's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from identity.jwks import parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import VerifiedToken, verify_token
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_NOW = 1_700_000_000.0
_ISSUER = "https://issuer.test"
_EC = ec.derive_private_key(0x5EED, ec.SECP256R1())
_ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_RULE = JwtRule(issuer=_ISSUER, audiences=("shop",))
_FORMS = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _key_set() -> bytes:
    numbers = _EC.public_key().public_numbers()
    point = {"x": numbers.x.to_bytes(32), "y": numbers.y.to_bytes(32)}
    raw = _ED.public_key().public_bytes_raw()
    return _json(
        {
            "keys": [
                {"kty": "EC", "crv": "P-256", "kid": "ec"}
                | {name: _base64url(part) for name, part in point.items()},
                {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": _base64url(raw)},
            ]
        }
    )


_KEYS = parse_jwk_set(_key_set(), is_inline=True)
_HEADERS: tuple[dict[str, Any], ...] = (
    *({"alg": "ES256", "kid": "ec"}, {"alg": "EdDSA", "kid": "ed"}, {"alg": "ES256"}),
    *({"alg": "none"}, {"alg": "None"}, {"alg": ""}, {}, {"alg": None}, {"alg": ["ES256"]}),
    *({"alg": "HS256", "kid": "ec"}, {"alg": "HS256"}, {"alg": "ES384", "kid": "ec"}),
    *({"alg": "es256"}, {"alg": "ES256", "kid": "ed"}, {"alg": "EdDSA", "kid": "ec"}),
    *({"alg": "ES256", "crit": ["b64"], "b64": False}, {"alg": "RS256"}, {"alg": "PS256"}),
    {"alg": "ES256", "jwk": {"kty": "EC"}, "x5c": ["AA"], "jku": "http://127.0.0.1/"},
)
_TIMES = {"exp": _NOW + 60, "iat": _NOW}
_PAYLOADS: tuple[Any, ...] = (
    {"iss": _ISSUER, "aud": "shop", "sub": "a", **_TIMES},
    {"iss": _ISSUER, "aud": ["shop", "x"], "sub": "b", "groups": ["g"], **_TIMES},
    {"iss": _ISSUER, "aud": "shop", "exp": _NOW - 3600},
    {"iss": _ISSUER, "aud": "shop", "nbf": _NOW + 3600},
    {"iss": _ISSUER, "aud": "other", **_TIMES},
    {"iss": "https://other.test", "aud": "shop"},
    {"iss": _ISSUER, "aud": "shop", "exp": "never"},
    {"iss": _ISSUER, "aud": "shop", "exp": -1e300},
    [],
    "text",
)
_GOOD_PAYLOADS = 2
# The last one brings keys of its own, which nobody looks at (RFC 8725 section 3.10).
_GOOD_HEADERS = (*_HEADERS[:3], _HEADERS[-1])


def _signed(header: dict[str, Any], payload: Any) -> str:
    """Return a token that the issuer did sign, whatever it says."""
    signing_input = f"{_base64url(_json(header))}.{_base64url(_json(payload))}"
    if header.get("kid") == "ed":
        signature = _ED.sign(signing_input.encode())
    else:
        der = _EC.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        signature = r.to_bytes(32) + s.to_bytes(32)
    return f"{signing_input}.{_base64url(signature)}"


_MINTED = tuple(_signed(header, payload) for header in _GOOD_HEADERS for payload in _PAYLOADS)
_GOOD = frozenset(
    _signed(header, payload).rpartition(".")[0]
    for header in _GOOD_HEADERS
    for payload in _PAYLOADS[:_GOOD_PAYLOADS]
)
_PUBLIC_TEXTS = (
    _EC.public_key().public_bytes(*_FORMS),
    _EC.public_key().public_bytes(serialization.Encoding.DER, _FORMS[1]),
    _key_set(),
    b"",
)


def _run(data: bytes) -> None:
    choices = Choices(data)
    text = _forged(choices, choices.number(5))

    verdict = verify_token(text, _RULE, lambda: _KEYS, _NOW)

    if isinstance(verdict, VerifiedToken):
        # An ECDSA signature has two forms (s and -s), so only what it signs is compared.
        assert text.rpartition(".")[0] in _GOOD, "a forged token was believed"


def _forged(choices: Choices, way: int) -> str:
    if way == 0:
        return choices.rest().decode("utf-8", "surrogateescape")
    if way == 1:
        return choices.edited(choices.pick(_MINTED).encode()).decode("utf-8", "surrogateescape")
    if way == 2:
        parts = [choices.pick(_MINTED).split(".")[choices.number(3)] for _ in range(3)]
        return ".".join(parts[: 1 + choices.number(4)])
    header, payload = choices.pick(_HEADERS), choices.pick(_PAYLOADS)
    if way == 3:
        return _signed(header, payload)
    signing_input = f"{_base64url(_json(header))}.{_base64url(_json(payload))}"
    secret = choices.pick(_PUBLIC_TEXTS)
    signatures = (
        hmac.new(secret, signing_input.encode(), hashlib.sha256).digest(),
        b"",
        bytes(64),
        choices.take(64),
        bytes(31) + b"\x01" + bytes(31) + b"\x01",
    )
    return f"{signing_input}.{_base64url(choices.pick(signatures))}"


def _signed_and_good(text: str) -> bool:
    return isinstance(verify_token(text, _RULE, lambda: _KEYS, _NOW), VerifiedToken)


def _seeds() -> list[bytes]:
    return [
        *(b"\x00" + token.encode() for token in _MINTED[:4]),
        *(
            bytes([way, first, second])
            for way in (1, 2, 3, 4)
            for first, second in ((0, 0), (1, 1))
        ),
    ]


# A target that believes nothing would find no forgery.
assert sum(_signed_and_good(token) for token in _MINTED) == len(_GOOD)
TARGET = Target(run=_run, seeds=_seeds, words=("alg", "none", "kid", "."), share=2.0)

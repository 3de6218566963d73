"""JWKS: a document of an issuer is a set of public keys, or a refusal that names why."""

from __future__ import annotations

import json

from identity.errors import KeySourceError
from identity.jwks import parse_jwk_set
from tests.fuzz.target import Target

_EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
_ED = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def _run(data: bytes) -> None:
    try:
        keys = parse_jwk_set(data[1:], is_inline=data[:1] == b"i")
    except KeySourceError:
        return
    for key in keys.keys:
        assert key.algorithms, "a key that verifies nothing was kept"
        assert not hasattr(key.key, "private_numbers"), "a private key was kept"


def _seeds() -> list[bytes]:
    sets: list[object] = [
        {"keys": [_EC, _ED]},
        {"keys": [_EC | {"kid": "a", "use": "sig", "alg": "ES256", "key_ops": ["verify"]}]},
        {"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
        {"keys": []},
        [],
    ]
    return [kind + json.dumps(each).encode() for each in sets for kind in (b"i", b"f")]


TARGET = Target(
    run=_run,
    seeds=_seeds,
    words=('"kty"', '"RSA"', '"oct"', '"d"', '"crv"', '"P-521"', '"alg"', '"RS256"', '"x5c"'),
)

"""Whether a token is to be believed, told in the plainest way, without a line of ours.

PyJWT and joserfc both have to verify the signature, by one key that the standards let them take;
claims are read from what the signature covers. Nothing is remembered, and nothing is fast.

Spec: RFC 7515 §2, §4.1, §5.2; RFC 7517 §4; RFC 7518 §3; RFC 7519 §4.1, §7.2; RFC 7797 §7; RFC 8725.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jwt
from joserfc import jwk, jws
from joserfc.errors import JoseError
from jwt.exceptions import PyJWTError

_LEEWAY = 60
_LONGEST = 65_536
_LETTERS = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_BITS = {"256": 32, "384": 48, "512": 64}
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "oth"}
_PUBLIC = ("kty", "crv", "n", "e", "x", "y", "k")
_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "HS": "oct"}
_ALGORITHMS = {f"{family}{bits}" for family in _FAMILIES for bits in _BITS} | {"EdDSA"}


class Refused(Exception):
    """The token is not to be believed; the text says why."""


def judge(
    text: str,
    document: bytes,
    *,
    is_inline: bool,
    issuer: str,
    audiences: Sequence[str],
    now: int,
) -> dict[str, Any]:
    """Return the claims of a token that is to be believed.

    Raises:
        Refused: it is not.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise Refused("not three parts")
    header, payload = (_object(_bytes(part)) for part in parts[:2])
    _bytes(parts[2])
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in _ALGORITHMS:
        raise Refused("its algorithm")
    if not isinstance(header.get("kid", ""), str):
        raise Refused("its key id")
    if "crit" in header or header.get("b64", True) is not True:
        raise Refused("an extension")
    _judge_claims(payload, issuer, audiences, now)
    keys = [each for each in _object(document)["keys"] if _may_sign(each, header, is_inline)]
    if not any(_verifies(text, alg, key) for key in keys):
        raise Refused("no key verifies it")
    return payload


def _bytes(part: str) -> bytes:
    """Return what a part spells in base64url, if it is the only spelling of it."""
    if not _LETTERS.fullmatch(part):
        raise Refused("letters")
    try:
        raw = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as exc:
        raise Refused("base64url") from exc
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:
        raise Refused("another spelling")
    return raw


def _object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that every reader reads alike."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) < len(found):
            raise Refused("a name twice")
        return dict(found)

    def constant(name: str) -> None:
        raise Refused(name)

    try:
        found = json.loads(raw.decode(), object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise Refused("JSON") from exc
    if not isinstance(found, dict):
        raise Refused("no object")
    return found


def _judge_claims(payload: dict[str, Any], issuer: str, audiences: Sequence[str], now: int) -> None:
    if payload.get("iss") != issuer:
        raise Refused("its issuer")
    for name in ("sub", "jti"):
        if not isinstance(payload.get(name, ""), str):
            raise Refused(name)
    for name in ("exp", "nbf", "iat"):
        value = payload.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise Refused(name)
    # Fractions of a second are nobody's leeway.
    if "exp" in payload and now > int(payload["exp"]) + _LEEWAY and not _is_endless(payload):
        raise Refused("its end")
    if now + _LEEWAY < int(payload.get("nbf", 0)):
        raise Refused("its beginning")
    named = payload.get("aud", [])
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise Refused("its audiences")
    if audiences and not set(map(_bare, audiences)) & set(map(_bare, named)):
        raise Refused("another audience")


def _is_endless(payload: dict[str, Any]) -> bool:
    """Whether `exp` is zero, which Envoy takes for no end at all, and so must we."""
    return int(payload["exp"]) == 0


def _bare(audience: str) -> str:
    """Return an audience as Envoy compares it."""
    return re.sub(r"\A(?:https?://)?(.*?)/?\Z", r"\1", audience, flags=re.DOTALL)


def _may_sign(key: Any, header: dict[str, Any], is_inline: bool) -> bool:
    """Whether a JWK is a key that a token with this header may be signed by."""
    if not isinstance(key, dict):
        return False
    alg, has_private = header["alg"], bool(_PRIVATE & key.keys())
    is_secret = key.get("kty") == "oct"
    operations = key.get("key_ops", ["verify"])
    wanted = {"verify", "sign"} if has_private or is_secret else {"verify"}
    return (
        key.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and any(each in wanted for each in operations if isinstance(each, str))
        and key.get("alg", alg) == alg
        and isinstance(key.get("kid", ""), str)
        and (not header.get("kid") or not key.get("kid") or key["kid"] == header["kid"])
        and (is_inline or not (has_private or is_secret))
        and key.get("kty") == _FAMILIES.get(alg[:2], "OKP")
        and key.get("crv") == _CURVES.get(alg, "Ed25519" if alg == "EdDSA" else key.get("crv"))
    )


def _verifies(text: str, alg: str, key: dict[str, Any]) -> bool:
    """Whether both libraries say that this key made the signature."""
    public = {name: key[name] for name in _PUBLIC if name in key}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            imported = jwk.import_key(public)
            # What nobody looks at (`typ`, `jku` and the like) may be of any type and length.
            registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
            registry.header_registry, registry.max_header_length = {}, _LONGEST
            registry.max_payload_length = _LONGEST
            jws.deserialize_compact(text, imported, registry=registry)
            plain = jwt.PyJWK(public, alg).key
            jwt.PyJWS().decode_complete(text, plain, algorithms=[alg])
        except (JoseError, PyJWTError, ValueError, TypeError, KeyError):
            return False
    if alg[:2] in ("RS", "PS"):
        return 2048 <= plain.key_size <= 8192
    return alg[:2] != "HS" or len(plain) >= _BITS[alg[2:]]

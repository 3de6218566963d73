"""The compact JWS, taken apart and believed in nothing yet.

Spec: RFC 7515 §3.1, §7.1 (compact form); RFC 7519 §4.1 (registered claims).
The texts for the caller are those of Envoy's `jwt_authn` filter, measured on
Envoy 1.40. Where the RFC is stricter than Envoy (single quotes and trailing
commas in JSON), the RFC holds: such a token is refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from identity.errors import TokenError

ALGORITHMS: Final = frozenset(
    {f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)}
    | {"EdDSA"}
)
# BUDGET: Envoy accepts 60 KiB of headers unless told otherwise; no token it passes on is longer.
MAX_TOKEN_CHARS: Final = 65_536
# BUDGET: the depth at which protobuf's JSON reader gives up, and Envoy with it.
MAX_JSON_DEPTH: Final = 100
_MAX_EXACT_INTEGER: Final = 2**53
_UINT64_END: Final = float(2**64)
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
# RFC 4648 §3.5: the last letter's unused bits are zero. Other letters would decode to the
# same bytes, and one signature would have several spellings.
_LAST_LETTERS: Final = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_DOTS: Final = re.compile(r"\.+")
_PARTS: Final = 3

_NOT_THREE_PARTS: Final = (
    "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
)


class TokenFormatError(TokenError):
    """A text is not a token that could be verified; `public_text` may be told to the caller."""

    code = "identity.token_format"

    def __init__(self, public_text: str) -> None:
        """Keep the text for the caller; it never holds any of the token."""
        super().__init__("the token has a wrong format")
        self.public_text = public_text


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredClaims:
    """The claims that say whether a token is for us and now (RFC 7519 §4.1).

    `not_before` and `expires_at` are whole seconds since the epoch, 0 when absent;
    `issuer` is empty when absent.
    """

    issuer: str
    audiences: tuple[str, ...]
    not_before: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedToken:
    """A well-formed token before anything in it is believed.

    Shapes: `payload_text` is the base64url text as it came; `kid` is empty when absent.
    """

    alg: str
    kid: str
    payload: Mapping[str, Any]
    payload_text: str
    signing_input: bytes
    signature: bytes
    claims: RegisteredClaims


def parse_token(text: str) -> UnverifiedToken:
    """Return the parts of a compact JWS that carries a JWT.

    Raises:
        TokenFormatError: the text is no such thing. Nothing else is raised.
    """
    if len(text) > MAX_TOKEN_CHARS:
        raise TokenFormatError(_NOT_THREE_PARTS)
    # RFC 7515 §7.1: BASE64URL(header) || '.' || BASE64URL(payload) || '.' || BASE64URL(signature).
    parts = text.split(".", _PARTS)
    if len(parts) != _PARTS or not all(parts):
        raise TokenFormatError(_NOT_THREE_PARTS)
    header_text, payload_text, signature_text = parts
    alg, kid = _read_header(_decode_json(header_text, "header"))
    payload = _decode_json(payload_text, "payload")
    return UnverifiedToken(
        alg=alg,
        kid=kid,
        payload=payload,
        payload_text=payload_text,
        signing_input=f"{header_text}.{payload_text}".encode("ascii"),
        claims=read_registered_claims(payload),
        signature=_decode_base64url(signature_text, "signature"),
    )


def peek_header(text: str) -> dict[str, Any]:
    """Return every field of a header, for people to look at; nothing may be decided by it.

    Raises:
        TokenFormatError: the first part of the text is no JSON object.
    """
    return _decode_json(text[:MAX_TOKEN_CHARS].partition(".")[0], "header")


def has_jws_shape(text: str) -> bool:
    """Return whether a text is meant for a JWS: the first of its three parts is a JSON object.

    WHY by a lax reading, and with parts that are empty or too many dots: what an issuer may take
    for a JWS of its own must not be asked about because we do not. A JWE has more parts.
    """
    parts = _DOTS.split(text.strip("."), _PARTS)
    if len(text) > MAX_TOKEN_CHARS or text.count(".") < _PARTS - 1 or len(parts) > _PARTS:
        return False
    try:
        raw = base64.urlsafe_b64decode(parts[0] + "===")
        return isinstance(json.loads(raw, parse_int=float), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def read_registered_claims(payload: Mapping[str, Any]) -> RegisteredClaims:
    """Return the registered claims of a payload.

    Raises:
        TokenFormatError: one of them, or `sub`, `jti` or `iat`, has a wrong type.
    """
    # WHY this order: it is Envoy's, so that of two faults the same one is told.
    _check_string(payload, "iss")
    _check_string(payload, "sub")
    _read_time(payload, "iat")
    not_before = _read_time(payload, "nbf")
    expires_at = _read_time(payload, "exp")
    _check_string(payload, "jti")
    return RegisteredClaims(
        issuer=payload.get("iss", ""),
        audiences=_read_audiences(payload),
        not_before=not_before,
        expires_at=expires_at,
    )


def _read_header(header: Mapping[str, Any]) -> tuple[str, str]:
    """Return `alg` and `kid`; `jwk`, `jku`, `x5c` and `x5u` are never looked at.

    WHY: a key that comes with the token proves only that the caller owns a key.
    """
    alg = header.get("alg")
    if not isinstance(alg, str):
        raise TokenFormatError("Jwt header [alg] field is required and must be a string")
    # RFC 8725 §3.1: only algorithms that were chosen beforehand; `none` is not among them.
    if alg not in ALGORITHMS:
        raise TokenFormatError("Jwt header [alg] is not supported")
    kid = header.get("kid", "")
    if not isinstance(kid, str):
        raise TokenFormatError("Jwt header [kid] field is not a string")
    # RFC 7797 §7 forbids an unencoded payload in a JWT: others would read another text in it.
    if header.get("b64", True) is not True:
        raise TokenFormatError("Jwt verification fails")
    # RFC 7515 §4.1.11: extensions in `crit` that are not understood make the JWS invalid.
    if "crit" in header:
        raise TokenFormatError("Jwt verification fails")
    return alg, kid


def _decode_base64url(text: str, part: str) -> bytes:
    """Return the bytes of an unpadded, canonical base64url text (RFC 7515 §2)."""
    last_letters = _LAST_LETTERS.get(len(text) % 4)
    is_canonical = last_letters is None or text[-1] in last_letters
    if not is_canonical or _BASE64URL.fullmatch(text) is None:
        raise TokenFormatError(f"Jwt {part} is an invalid Base64url encoded")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as exc:
        raise TokenFormatError(f"Jwt {part} is an invalid Base64url encoded") from exc


def _decode_json(text: str, part: str) -> dict[str, Any]:
    """Return the JSON object that a part of the token holds."""
    raw = _decode_base64url(text, part)
    try:
        return parse_json_object(raw)
    except ValueError as exc:
        raise TokenFormatError(f"Jwt {part} is an invalid JSON") from exc


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object, read strictly: no duplicate names, no NaN, no lone surrogates.

    Raises:
        ValueError: the bytes are anything else, or nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        # RFC 7519 §4: duplicate claim names are rejected, for two readers may pick two values.
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=unique_pairs,
            parse_int=_read_integer,
            parse_float=_read_float,
            parse_constant=_refuse_constant,
        )
    except RecursionError as exc:
        raise ValueError("the JSON is nested too deeply") from exc
    if not isinstance(value, dict):
        raise ValueError("the JSON is not an object")
    if raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH and nesting_depth(value) > MAX_JSON_DEPTH:
        raise ValueError("the JSON is nested too deeply")
    if b"\\u" in raw and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise ValueError("the JSON holds half of a surrogate pair")
    return value


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of a JSON reader's pairs.

    Raises:
        ValueError: a name stands twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in a JSON object")
    return found


def _read_integer(text: str) -> int | float:
    """Return an integer, as a double where Envoy's doubles could not hold it exactly."""
    value = _read_float(text)
    return int(text) if abs(value) < _MAX_EXACT_INTEGER else value


def _read_float(text: str) -> float:
    """Return a finite double."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return value


def _refuse_constant(_name: str) -> float:
    """Refuse `NaN` and the infinities, which RFC 8259 §6 does not know."""
    raise ValueError("a number is not a number")


def nesting_depth(value: object) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    deepest, level = 0, [value]
    while level := [item for item in level if isinstance(item, (list, dict))]:
        deepest += 1
        level = [inner for item in level for inner in _children(item)]
    return deepest


def _children(item: object) -> Sequence[object]:
    """Return what a list or object holds."""
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else ()


def _check_string(payload: Mapping[str, Any], name: str) -> None:
    """Refuse a registered claim that is there and no string (RFC 7519 §4.1)."""
    if name in payload and not isinstance(payload[name], str):
        raise TokenFormatError(f"Jwt payload [{name}] field is not a string")


def _read_time(payload: Mapping[str, Any], name: str) -> int:
    """Return a NumericDate without its fraction (RFC 7519 §2), 0 when it is absent."""
    value = payload.get(name, 0)
    # WHY the check for bool: in Python `True` is an int.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenFormatError(f"Jwt payload [{name}] field is not an integer")
    if not 0 <= value < _UINT64_END:
        raise TokenFormatError(f"Jwt payload [{name}] field is not a positive 64 bit integer")
    return int(value)


def _read_audiences(payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `aud` as a tuple: it may be one string or a list of them (RFC 7519 §4.1.3)."""
    value = payload.get("aud", [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise TokenFormatError("Jwt payload [aud] field is not a string or string list")
    return tuple(values)

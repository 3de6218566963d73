"""JWT beside the standards' own words: who is believed is believed by PyJWT and joserfc too.

Header, payload and key set are put together from odd pieces and truly signed, then bent as
bytes. The token is judged cold, twice by a memory, under rotated keys and with the clock moved;
what a memory says has to be what is said without one.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from identity.errors import KeySourceError
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import Verdict, VerifiedToken, verify_token
from identity.request_authentication import authenticate_request
from identity.token_locations import find_tokens
from identity.token_memory import TokenMemory
from tests.fuzz.choices import Choices
from tests.fuzz.plain_tokens import Refused, judge
from tests.fuzz.target import Target

_NOW = 1_800_000_000
_ISSUER = "https://issuer.test"
_RSA = rsa.generate_private_key(65537, 2048)
_WEAK = rsa.generate_private_key(65537, 1024)
_EC = {
    "ES256": ec.derive_private_key(0x5EED, ec.SECP256R1()),
    "ES384": ec.derive_private_key(0x5EED, ec.SECP384R1()),
    "ES512": ec.derive_private_key(0x5EED, ec.SECP521R1()),
    "ES256K": ec.derive_private_key(0x5EED, ec.SECP256K1()),
}
_ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_PEM = _RSA.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
_SECRETS = (b"k" * 64, b"k" * 32, b"k" * 31, b"k", _PEM, b"")
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "ES256K": "secp256k1"}
_DEEP = "[" * 120 + "]" * 120


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _base64url(value.to_bytes((value.bit_length() + 7) // 8))


def _rsa_entry(key: rsa.RSAPrivateKey, **fields: Any) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **fields}


def _ec_entry(alg: str, **fields: Any) -> dict[str, Any]:
    numbers = _EC[alg].public_key().public_numbers()
    size = (_EC[alg].key_size + 7) // 8
    point = {"x": _base64url(numbers.x.to_bytes(size)), "y": _base64url(numbers.y.to_bytes(size))}
    return {"kty": "EC", "crv": _CURVES[alg], **point, **fields}


def _secret_entry(secret: bytes, **fields: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": _base64url(secret), **fields}


_ED_ENTRY = {"kty": "OKP", "crv": "Ed25519", "x": _base64url(_ED.public_key().public_bytes_raw())}
_ENTRIES: tuple[Any, ...] = (
    _rsa_entry(_RSA, kid="rsa"),
    *(_ec_entry(alg, kid=alg) for alg in _EC),
    _ED_ENTRY | {"kid": "ed"},
    *(_secret_entry(secret, kid="oct") for secret in _SECRETS),
    _rsa_entry(_WEAK, kid="weak"),
    _rsa_entry(_RSA),
    _ec_entry("ES256"),
    _ec_entry("ES256", kid="rsa"),
    _ec_entry("ES256", kid="ES256", d=_base64url(b"\x5e\xed")),
    _ec_entry("ES256", kid="ES256") | {"crv": "P-384"},
    *(7, None, [], {}, {"kty": "RSA"}),
)
_CHANGES: tuple[dict[str, Any], ...] = (
    *({"use": "sig"}, {"use": "enc"}, {"use": None}, {"use": ["sig"]}),
    *({"key_ops": ["verify"]}, {"key_ops": ["sign"]}, {"key_ops": []}, {"key_ops": [1, "encrypt"]}),
    *({"alg": "RS256"}, {"alg": "PS256"}, {"alg": "ES256"}, {"alg": "HS256"}, {"alg": "none"}),
    *({"alg": None}, {"alg": ["RS256"]}, {"kid": "rsa"}, {"kid": ""}, {"kid": 5}, {"kid": None}),
    *({"e": "AQ"}, {"e": "Ag"}, {"x": "AA"}, {"n": "AQAB"}, {"d": "AQAB"}, {"x5c": ["AA"]}),
)
_HEADER_MEMBERS = (
    *('"kid":"rsa"', '"kid":"ES256"', '"kid":"ed"', '"kid":"oct"', '"kid":"nobody"', '"kid":""'),
    *('"kid":5', '"kid":null', '"kid":["rsa"]', '"kid":"r\\u0073a"', '"kid":"rsa\\u0000"'),
    *('"typ":"JWT"', '"typ":"at+jwt"', '"typ":5', '"cty":"JWT"', '"zip":"DEF"', '"b64":false'),
    *('"b64":true', '"b64":0', '"crit":["exp"]', '"crit":[]', '"crit":["b64"]', '"enc":"A128GCM"'),
    *('"jwk":{"kty":"oct","k":"AA"}', '"jku":"http://127.0.0.1/"', '"x5u":"x"', '"x5c":["AA"]'),
    *(
        '"alg":"none"',
        '"alg":"HS256"',
        '"ALG":"none"',
        '"\\u0061lg":"none"',
        '"x":1e999',
        '"x":NaN',
    ),
    *('"x":' + _DEEP, '"x":"\\ud800"', "", '"exp":1'),
)
_ALGS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"),
    *("HS256", "HS384", "HS512", "ES256K", "none", "None", "rs256", "RS1", ""),
)
_TIMES = (
    *("1800000600", "1800000600.5", "1.8000006e9", "1799999940", "1799999939", "1799999939.9"),
    *("0", "0.0", "0.5", "-0", "-1", "-0.5", "1e400", "1e19", "18446744073709551615", "1E+9"),
    *("18446744073709551616", "9007199254740993", "true", "null", '"1800000600"', "[1800000600]"),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "00",
        "0x10",
        "1.",
        ".5",
        "1e",
        "9" * 5000,
        "0." + "1" * 5000,
    ),
    *("1800000060", "1800000061", "1800000060.9", "{}", "1_800_000_600", "1800000600 ", "\\u0031"),
)
_AUDIENCES = (
    *('"shop"', '["shop","x"]', '"https://shop/"', '"http://shop"', '"shop/"', '"SHOP"', '""'),
    *("[]", '["x"]', "null", "5", "{}", '[["shop"]]', '["shop",5]', '"shop,x"', '" shop"'),
    *('"https://http://shop"', '"shop//"', '"shop\\u0000"', '"shop\\n"'),
)
_PAYLOAD_MEMBERS = (
    *('"sub":"ann"', '"sub":5', '"sub":null', '"jti":1', '"sub":"a\\u0000"', '"iss":"https://x"'),
    *(
        '"\\u0069ss":"https://x"',
        '"x":1e999',
        '"x":' + _DEEP,
        '"x":"\\ud800"',
        '"x":"\\ud83d\\ude00"',
    ),
    *('"x":{"a":1,"a":2}', '"x":[{"a":1}]', '"x":-0.0', '"x":1e-400', "", '"scope":"a b"'),
)
_ISSUERS = (
    *(f'"{_ISSUER}"',) * 6,
    f'"{_ISSUER}/"',
    '"HTTPS://issuer.test"',
    "null",
    f'["{_ISSUER}"]',
)
_SPACES = ("", " ", "\n", "\t", "\r\n", "\x0b", "\ufeff", "\0", "\u00a0")
_RULES = (
    JwtRule(issuer=_ISSUER),
    JwtRule(issuer=_ISSUER, audiences=("shop",)),
    JwtRule(issuer=_ISSUER, audiences=("https://shop/", "y")),
)
_PLACES = (
    "Bearer {}",
    "bearer {}",
    "Bearer  {}",
    "Bearer {} ",
    "Bearer {},{}",
    "x Bearer {}",
    "{}",
)
_MOVES = (0, 1, 59, 61, 3600, 10**9, -1, -61, -3600, -(10**9))


def _run(data: bytes) -> None:
    choices = Choices(data)
    documents = [_document(choices) for _ in range(2)]
    is_inline = choices.is_yes()
    rule, header, payload = choices.pick(_RULES), _header(choices), _payload(choices)
    text = _bent(choices, f"{header[1]}.{payload}.{_signature(choices, *header, payload)}")
    move, memory = choices.pick(_MOVES), TokenMemory()
    for document, now in (
        *((documents[0], _NOW), (documents[0], _NOW), (documents[0], _NOW + move)),
        *((documents[1], _NOW), (documents[1], _NOW + move), (documents[0], _NOW)),
    ):
        keys = _keys(document, is_inline)
        cold = verify_token(text, rule, lambda keys=keys: keys, now)
        warm = memory.verify(text, rule, lambda keys=keys: keys, now)
        assert _shown(cold) == _shown(warm), "what is remembered differs"
        if isinstance(cold, VerifiedToken):
            claims = _judged(text, document, rule, now, is_inline=is_inline)
            assert _same(claims, cold.payload), "other claims than those that were signed"
    _run_request(choices.pick(_PLACES).replace("{}", text), rule, documents[0], is_inline)


def _run_request(value: str, rule: JwtRule, document: bytes, is_inline: bool) -> None:
    """Ask with the token where requests have theirs: all that is found must be to be believed."""
    keys, headers = _keys(document, is_inline), {"authorization": (value,)}

    class Keys:
        def keys_for(self, _rule: JwtRule) -> JwkSet | None:
            return keys

    found = authenticate_request(
        [rule], method="GET", path="/", host="h", scheme="https", headers=headers,
        keys=Keys(), now=_NOW,
    )  # fmt: skip
    if found.claims is None:
        return
    for token in find_tokens(rule, headers, "/"):
        _judged(token.text, document, rule, _NOW, is_inline=is_inline)


def _judged(
    text: str, document: bytes, rule: JwtRule, now: int, *, is_inline: bool
) -> dict[str, Any]:
    try:
        return judge(
            text,
            document,
            is_inline=is_inline,
            issuer=rule.issuer,
            audiences=rule.audiences,
            now=now,
        )
    except Refused as exc:
        raise AssertionError(f"believed, though the standards do not: {exc}") from exc


@lru_cache(maxsize=8)
def _keys(document: bytes, is_inline: bool) -> JwkSet | None:
    try:
        return parse_jwk_set(document, is_inline=is_inline)
    except KeySourceError:
        return None


def _shown(verdict: Verdict) -> tuple[Any, ...]:
    if isinstance(verdict, VerifiedToken):
        return verdict.payload, verdict.payload_text, verdict.claims
    return verdict.status, verdict.public_text, verdict.detail


def _same(claims: Any, payload: Any) -> bool:
    """Whether claims are the same but for integers that no double holds."""
    return json.loads(json.dumps(claims), parse_int=float) == json.loads(
        json.dumps(payload), parse_int=float
    )


def _document(choices: Choices) -> bytes:
    entries = []
    for _ in range(1 + choices.number(4)):
        entry = choices.pick(_ENTRIES)
        if isinstance(entry, dict) and choices.number(3) == 2:
            entry = entry | choices.pick(_CHANGES)
        entries.append(entry)
    return json.dumps({"keys": entries}).encode()


def _header(choices: Choices) -> tuple[str, str]:
    alg = choices.pick(_ALGS)
    members = [f'"alg":"{alg}"', *(choices.pick(_HEADER_MEMBERS) for _ in range(choices.number(3)))]
    return alg, _base64url(_object(choices, members))


def _payload(choices: Choices) -> str:
    members = [f'"iss":{choices.pick(_ISSUERS)}', f'"aud":{choices.pick(_AUDIENCES)}']
    members.append(f'"exp":{choices.pick(_TIMES)}')
    members += [f'"{choices.pick(("nbf", "iat"))}":{choices.pick(_TIMES)}'] * choices.number(2)
    members += [choices.pick(_PAYLOAD_MEMBERS) for _ in range(choices.number(3))]
    return _base64url(_object(choices, members))


def _object(choices: Choices, members: list[str]) -> bytes:
    text = ",".join(each for each in members if each)
    spaces = [choices.pick(_SPACES) if choices.number(4) == 3 else "" for _ in range(3)]
    return f"{spaces[0]}{{{spaces[1]}{text}}}{spaces[2]}".encode("utf-8", "surrogatepass")


def _signature(choices: Choices, alg: str, header: str, payload: str) -> str:
    data = f"{header}.{payload}".encode()
    signed = _sign(choices, alg, data)
    match choices.number(12):
        case 10:
            signed = choices.edited(signed)
        case 11:
            signed = choices.pick((b"", bytes(64), bytes(256), b"\0" + signed, signed + b"\0"))
        case _:
            pass
    return _base64url(signed)


def _sign(choices: Choices, alg: str, data: bytes) -> bytes:
    """Sign as the header says, mostly, and as it must not be otherwise."""
    bits = alg[2:5] if alg[2:5] in _HASHES else "256"
    other = choices.number(10)
    ways: dict[str, Callable[[], bytes]] = {
        "RS": lambda: _RSA.sign(data, padding.PKCS1v15(), _HASHES[bits]),
        "PS": lambda: _RSA.sign(data, _pss(_HASHES[bits]), _HASHES[bits]),
        "HS": lambda: hmac.digest(choices.pick(_SECRETS), data, f"sha{bits}"),
        "Ed": lambda: _ED.sign(data),
        "ES": lambda: _ec_signature(choices, alg if alg in _EC else "ES256", data, bits),
    }
    way = alg[:2] if alg[:2] in ways else "ES"
    if other == 9:
        way = choices.pick(tuple(ways))
    elif other == 8 and way in ("RS", "PS"):
        return _WEAK.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return ways[way]()


def _pss(algorithm: hashes.HashAlgorithm) -> padding.PSS:
    return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)


def _ec_signature(choices: Choices, alg: str, data: bytes, bits: str) -> bytes:
    key = _EC[alg]
    der = key.sign(data, ec.ECDSA(_HASHES[bits]))
    r, s = utils.decode_dss_signature(der)
    size = (key.key_size + 7) // 8
    match choices.number(10):
        case 5:
            return der
        case 6:
            r = 0
        case 7:
            s = 0
        case 8:
            s = _ORDER - s if alg == "ES256" else s
        case 9:
            return s.to_bytes(size) + r.to_bytes(size)
        case _:
            pass
    return r.to_bytes(size) + s.to_bytes(size)


_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def _bent(choices: Choices, text: str) -> str:
    """Bend the finished text now and then: letters, padding, parts."""
    match choices.number(12):
        case 8:
            return choices.edited(text.encode(), 3).decode("utf-8", "surrogateescape")
        case 9:
            parts = text.split(".")
            place = choices.number(len(parts))
            last = parts[place][-1:]
            parts[place] = parts[place][:-1] + choices.pick(("A", "B", "_", "-", "=", "+", last))
            return ".".join(parts)
        case 10:
            return text + choices.pick(("=", "==", ".", ".x", "\n", " ", "\0", ",", ";", "~"))
        case 11:
            return choices.pick(("", " ", "Bearer ", ".", "\ufeff")) + text
        case _:
            return text


def _seeds() -> list[bytes]:
    return [
        b"",
        *(
            bytes([0, entry, 0, 0, 0, entry, 0, 1, 0, alg])
            for entry in range(12)
            for alg in range(13)
        ),
    ]


# Each run judges a token seven times and signs it, so that it takes as long as fifty of others.
TARGET = Target(run=_run, seeds=_seeds, words=("Bearer ", "=="), share=0.2)

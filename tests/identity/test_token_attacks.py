"""The attack corpus: forged, bent and oversized tokens, each refused for the right reason."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwk
from jwt.algorithms import get_default_algorithms

from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import VerifiedToken, verify_token
from identity.request_authentication import authenticate_request
from identity.token_memory import TokenMemory
from identity.token_status import TokenStatus

CASES: Final = yaml.safe_load((Path(__file__).parent / "attacks.yaml").read_text(encoding="utf-8"))
KEYS: Final = ("rsa", "p256", "p384", "p521", "ed25519")
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519_ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def encode(raw: bytes) -> str:
    """Return unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Forge:
    """Makes the token that a case describes, and the key set it is held against."""

    def __init__(self, ring: Any, case: dict[str, Any]) -> None:
        self.ring = ring
        self.case = case
        self.key_name = case.get("key", "rsa")
        self.alg = case.get("alg", "RS256")
        self.head = encode(self._header())
        self.body = self._payload()

    def token(self) -> str:
        """Return the finished text."""
        signature = self.case.get("signature")
        if signature is None:
            signature = self._formed_signature()
        token = f"{self.head}.{self.body}.{signature}"
        if self.case.get("form") == "other_payload":
            other = json.dumps(self._claims() | {"sub": "root"})
            token = f"{self.head}.{encode(other.encode())}.{signature}"
        parts = {
            "token": token,
            "head": self.head,
            "payload": self.body,
            "signature": signature,
            "dots": "." * 60_000,
        }
        return _filled(self.case.get("edit", "{token}"), parts)

    def jwks(self) -> JwkSet:
        """Return the set of the case, fetched or inline."""
        names = self.case.get("keys", KEYS)
        if self.case.get("inline"):
            names = (*names, "oct")
        entries = [self.ring.public_key(name) | self.case.get("jwk", {}) for name in names]
        document = json.dumps({"keys": entries})
        return parse_jwk_set(document, is_inline=bool(self.case.get("inline")))

    def _claims(self) -> dict[str, Any]:
        """Return the good claims with the case's in their place."""
        claims = {"iss": self.ring.issuer, "sub": "alice", "aud": "shop"}
        claims |= {"exp": self.ring.now + 600} | self.case.get("claims", {})
        return {name: value for name, value in claims.items() if value is not None}

    def _header(self) -> bytes:
        """Return the header's bytes."""
        if "header_json" in self.case:
            return self._expanded(self.case["header_json"]).encode()
        header = {"alg": self.alg, "kid": self.key_name} | self.case.get("header", {})
        header |= self._embedded()
        return json.dumps(
            {name: text for name, text in header.items() if text is not None}
        ).encode()

    def _embedded(self) -> dict[str, Any]:
        """Return the key that the attacker sends along."""
        public = self.ring.public_key(self.key_name)
        match self.case.get("embed"):
            case "jwk":
                return {"jwk": public}
            case "jwks":
                return {"jwks": {"keys": [public]}}
            case "oct":
                return {"jwk": {"kty": "oct", "k": encode(b"rsa")}}
            case "x5c":
                key = self.ring.keys[self.key_name].raw_value.public_key()
                der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                return {"x5c": [base64.b64encode(der).decode()]}
            case _:
                return {}

    def _payload(self) -> str:
        """Return the payload part of the token."""
        claims = json.dumps(self._claims())
        case = self.case
        if "payload_json" in case:
            # YAML reads `\ud800` in single quotes as six letters, which is what JSON wants.
            return encode(self._expanded(case["payload_json"]).encode("utf-8"))
        if "payload_latin1" in case:
            return encode(self._expanded(case["payload_latin1"]).encode("latin-1"))
        if "payload_utf16" in case:
            return encode(self._expanded(case["payload_utf16"]).encode("utf-16"))
        if case.get("payload_raw"):
            return claims.replace(".", "_")
        if case.get("payload_zip"):
            return encode(zlib.compress(claims.encode())[2:-4])
        if case.get("nested"):
            return encode(self.ring.mint().encode())
        return encode(claims.encode())

    def _expanded(self, text: str) -> str:
        """Return the raw text with the placeholders replaced."""
        inner = json.dumps(self._claims())[1:-1]
        claims = {name: value for name, value in self._claims().items() if name != "exp"}
        text = text.replace("{claims}", inner).replace("{timeless}", json.dumps(claims)[1:-1])
        return re.sub(r"\{(deep|wide|long|digits):(\d+)\}", _grown, text)

    def _signed(self, text: str) -> bytes:
        """Return the signature over a text, made with the case's key or the attacker's secret."""
        if "secret" in self.case:
            name = json.loads(self._header())["alg"].replace("HS", "sha")
            secret = _secrets(self.ring)[self.case["secret"]]
            return hmac.new(secret, text.encode(), getattr(hashlib, name)).digest()
        key = self.ring.keys[self.key_name].raw_value
        return bytes(get_default_algorithms()[self.alg].sign(text.encode(), key))

    def _formed_signature(self) -> str:
        """Return the signature in the form that the case asks for."""
        signature = self._signed(f"{self.head}.{self.body}")
        form = self.case.get("form", "")
        if form == "base64":
            return base64.b64encode(signature).decode().rstrip("=") + "+/"
        if form == "last_letter":
            text = encode(signature)
            return text[:-1] + chr(ord(text[-1]) + 1)
        if form == "other_token":
            return encode(self._signed(f"{self.head}.{encode(b'{}')}"))
        return encode(_bent(self.ring, form, signature))


def _filled(text: str, parts: dict[str, str]) -> str:
    """Return a text with `{name}` replaced by parts; other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda found: parts.get(found[1], found[0]), text)


def _grown(found: re.Match[str]) -> str:
    """Return what a size placeholder stands for."""
    count = int(found[2])
    match found[1]:
        case "deep":
            return "[" * count + "]" * count
        case "wide":
            return ",".join(f'"c{number}":{number}' for number in range(count))
        case "digits":
            return "9" * count
        case _:
            return "x" * count


def _secrets(ring: Any) -> dict[str, bytes]:
    """Return what an attacker may take for a secret."""
    key = ring.keys["rsa"].raw_value.public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "pem": pem,
        "pem_stripped": pem.strip(),
        "pem_pkcs1": key.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "der": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "n": ring.public_key("rsa")["n"].encode(),
        "jwk": json.dumps(ring.public_key("rsa")).encode(),
        "empty": b"",
        "kid": b"rsa",
        "issuer": ring.issuer.encode(),
    }


def _bent(ring: Any, form: str, signature: bytes) -> bytes:
    """Return a good signature bent into another one."""
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
    modulus = ring.keys["rsa"].raw_value.public_key().public_numbers().n
    forms = {
        "": lambda: signature,
        "other_payload": lambda: signature,
        "longer": lambda: signature + b"\0",
        "shorter": lambda: signature[:-1],
        "zero_before": lambda: b"\0" + signature,
        "zeros": lambda: bytes(len(signature)),
        "plus_n": lambda: (int.from_bytes(signature) + modulus).to_bytes(len(signature) + 1),
        "der": lambda: encode_dss_signature(r, s),
        "r_zero": lambda: bytes(half) + signature[half:],
        "s_zero": lambda: signature[:half] + bytes(half),
        "order": lambda: P256_ORDER.to_bytes(32) * 2,
        "r_plus_order": lambda: (r + P256_ORDER).to_bytes(33) + signature[half:],
        "s_negated": lambda: signature[:half] + (P256_ORDER - s).to_bytes(half),
        "s_plus_l": lambda: signature[:half] + _raised(signature[half:]),
        "identity_point": lambda: (1).to_bytes(32, "little") + bytes(32),
    }
    return forms[form]()


def _raised(scalar: bytes) -> bytes:
    """Return an Ed25519 scalar raised by the group's order."""
    return (int.from_bytes(scalar, "little") + ED25519_ORDER).to_bytes(32, "little")


@pytest.fixture(scope="module")
def weak_ring(ring: Any) -> Any:
    """The ring with an RSA key that is too short besides."""
    key = rsa.generate_private_key(65537, 1024)
    numbers = key.private_numbers()
    fields = {
        "kty": "RSA",
        "n": encode(numbers.public_numbers.n.to_bytes(128)),
        "e": "AQAB",
        "d": encode(numbers.d.to_bytes(128)),
        "p": encode(numbers.p.to_bytes(64)),
        "q": encode(numbers.q.to_bytes(64)),
        "dp": encode(numbers.dmp1.to_bytes(64)),
        "dq": encode(numbers.dmq1.to_bytes(64)),
        "qi": encode(numbers.iqmp.to_bytes(64)),
    }
    return type(ring)({**ring.keys, "rsa1024": jwk.RSAKey.import_key(fields)})


@pytest.mark.filterwarnings("ignore::UserWarning")  # What is minted here is weak on purpose.
@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_attack(weak_ring: Any, case: dict[str, Any]) -> None:
    """The forged token gets the case's verdict, alone, in memory and in a request."""
    forge = Forge(weak_ring, case)
    text, keys = forge.token(), forge.jwks()
    rule = JwtRule(issuer=weak_ring.issuer)
    if "rule" in case:
        rule = JwtRule(issuer=weak_ring.issuer, audiences=tuple(case["rule"].get("audiences", ())))
    now = float(weak_ring.now + case.get("at", 0))

    verdict = verify_token(text, rule, lambda: keys, now)

    status = TokenStatus.OK if isinstance(verdict, VerifiedToken) else verdict.status
    assert status == case["want"]
    memory = TokenMemory()
    memory.verify(weak_ring.mint(), rule, lambda: keys, weak_ring.now)
    assert [memory.verify(text, rule, lambda: keys, now) for _ in range(2)] == [verdict] * 2
    assert _in_request(text, rule, keys, now) == (status is TokenStatus.OK)


class _Keys:
    """One set for every rule."""

    def __init__(self, keys: JwkSet) -> None:
        self._keys = keys

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the set."""
        return self._keys


def _in_request(text: str, rule: JwtRule, keys: JwkSet, now: float) -> bool:
    """Return whether a request with this parameter has an identity, and 401 or 403 when not."""
    rule = JwtRule(issuer=rule.issuer, audiences=rule.audiences, from_cookies=("t",))
    outcome = authenticate_request(
        [rule],
        method="GET",
        path="/x",
        host="h",
        scheme="https",
        headers={"cookie": (f"t={text}",)},
        keys=_Keys(keys),
        now=now,
    )
    if outcome.claims is None:
        assert outcome.failure is not None
        assert outcome.failure.http_status in (401, 403)
        assert len(text) < 20 or text not in repr(outcome)
    return outcome.claims is not None


def test_every_attack_has_its_own_note() -> None:
    """No two cases of the corpus bear one name, and each says what it wants."""
    notes = [case["note"] for case in CASES]
    assert len(set(notes)) == len(notes)
    assert all(case["want"] in set(TokenStatus) for case in CASES)

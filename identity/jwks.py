"""A set of verification keys, and which of them may have signed a token.

Spec: RFC 7517 §4, §5 (JWK, JWK set); RFC 7518 §3 (algorithms), §6 (key parameters).
Key material never appears in a note or an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from identity.errors import KeySourceError
from identity.jose import parse_json_object

# RFC 7518 §3.3 and §3.5: "A key of size 2048 bits or larger MUST be used".
MIN_RSA_BITS: Final = 2048
# BUDGET: a verification with a 16384-bit key takes milliseconds; no issuer needs more than 8192.
MAX_RSA_BITS: Final = 8192
# BUDGET: every key without a matching `kid` costs one signature check.
MAX_KEYS: Final = 100

# RFC 7638 §3.2, RFC 8037 §2.
_THUMBPRINT_MEMBERS: Final = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
}
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_RSA_ALGORITHMS: Final = frozenset(
    {f"{family}{bits}" for family in ("RS", "PS") for bits in (256, 384, 512)}
)
# RFC 7518 §3.2: "A key of the same size as the hash output (...) or larger MUST be used".
_OCT_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwk:
    """One verification key. `kid` and `alg` are empty when the set does not name them.

    `algorithms` are those that this kind of key can verify; `key` is what
    PyJWT's algorithm of that family takes. `kind` and `thumbprint` are for people.
    """

    kid: str
    alg: str
    algorithms: frozenset[str]
    key: Any
    kind: str = ""
    thumbprint: str = ""

    def is_eligible(self, kid: str, alg: str) -> bool:
        """Return whether neither `kid` nor `alg` speaks against this key (reference 7.3)."""
        if kid and self.kid and kid != self.kid:
            return False
        return not self.alg or self.alg == alg


@dataclass(frozen=True, slots=True)
class JwkSet:
    """The usable keys of a set, in its order, and a note for each key left out.

    `revision` is a digest of the usable keys: two sets of one revision verify the
    same tokens. It is empty for a set that no document was read for.
    """

    keys: tuple[Jwk, ...]
    notes: tuple[str, ...] = ()
    revision: str = ""

    def eligible(self, kid: str, alg: str) -> tuple[Jwk, ...]:
        """Return the keys that a token with this header may name."""
        return tuple(key for key in self.keys if key.is_eligible(kid, alg))


def parse_jwk_set(raw: bytes | str, *, is_inline: bool) -> JwkSet:
    """Return the keys of a JWK set document.

    A key that cannot be used is left out with a note, so that one new key kind
    does not take an issuer down; a set without usable keys verifies nothing.
    `is_inline` says that the operator wrote the set: only then may it hold
    symmetric keys, or private parts beside the public ones (not looked at).

    Raises:
        KeySourceError: the document is not a JWK set.
    """
    try:
        document = parse_json_object(raw.encode() if isinstance(raw, str) else raw)
    except ValueError as exc:
        raise KeySourceError("the key set is not a JSON object") from exc
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise KeySourceError("the key set has no list `keys`")
    if len(entries) > MAX_KEYS:
        raise KeySourceError(f"the key set holds more than {MAX_KEYS} keys")
    keys: list[Jwk] = []
    notes: list[str] = []
    used: list[object] = []
    for place, entry in enumerate(entries):
        try:
            keys.append(_read_key(entry, is_inline=is_inline))
            used.append(entry)
        except KeySourceError as exc:
            notes.append(f"key {place} is left out: {exc}")
    notes.extend(_shared_kids(keys))
    return JwkSet(tuple(keys), tuple(notes), _digest(used))


def _shared_kids(keys: Iterable[Jwk]) -> Iterator[str]:
    """Yield a note for each `kid` of several keys; all of them are tried."""
    # RFC 7517 §4.5: "different keys within the JWK Set SHOULD use distinct kid values".
    for kid, count in Counter(key.kid for key in keys if key.kid).items():
        if count > 1:
            yield f"{count} keys share the `kid` `{kid[:80]}`; each of them is tried"


def _digest(entries: Sequence[object]) -> str:
    """Return the SHA-256 of key entries, in their order."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _read_key(entry: object, *, is_inline: bool) -> Jwk:
    """Return one key of the set, or say why it is left out."""
    if not isinstance(entry, dict):
        raise KeySourceError("it is not a JSON object")
    kid, alg = entry.get("kid", ""), entry.get("alg", "")
    if not isinstance(kid, str) or not isinstance(alg, str):
        raise KeySourceError("its `kid` or `alg` is not a string")
    # RFC 7517 §4.2: `use` says what the key is for; an encryption key signs nothing.
    if entry.get("use", "sig") != "sig":
        raise KeySourceError("its `use` is not `sig`")
    _check_operations(entry, is_inline=is_inline)
    algorithms = _algorithms_of(entry)
    if alg and alg not in algorithms:
        raise KeySourceError("its `alg` does not fit its `kty` and `crv`")
    if not is_inline:
        _refuse_published_secrets(entry)
    public = {name: value for name, value in entry.items() if name not in _PRIVATE}
    key = _load_key(public, algorithms)
    if isinstance(key, bytes):
        algorithms = _algorithms_of_secret(key, alg)
    return Jwk(
        kid=kid,
        alg=alg,
        algorithms=algorithms,
        key=key,
        kind=_kind(entry, key),
        thumbprint=_thumbprint(entry),
    )


def _kind(entry: Mapping[str, Any], key: Any) -> str:
    """Return the kind of a key that was read, as people name it."""
    if isinstance(key, RSAPublicKey):
        return f"RSA {key.key_size}"
    return f"{entry['kty']} {entry['crv']}" if "crv" in entry else str(entry["kty"])


def _thumbprint(entry: Mapping[str, Any]) -> str:
    """Return the RFC 7638 thumbprint of a key that was read; none of a symmetric one.

    WHY none: the digest of a weak secret is a way to the secret.
    """
    members = _THUMBPRINT_MEMBERS.get(entry["kty"])
    if members is None:
        return ""
    # RFC 7638 §3.3: the required members in lexicographic order, without white space.
    text = json.dumps({name: entry[name] for name in members}, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def _check_operations(entry: Mapping[str, Any], *, is_inline: bool) -> None:
    """Refuse a key that is there for something else than verifying."""
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list):
        raise KeySourceError("its `key_ops` is not a list")
    # RFC 7517 §4.3: `key_ops` names the operations the key is intended for. A private key
    # of an inline set may say `sign`: its public half verifies.
    wanted = {"verify", "sign"} if is_inline and (_PRIVATE | {"k"}) & entry.keys() else {"verify"}
    if not wanted & {each for each in operations if isinstance(each, str)}:
        raise KeySourceError("its `key_ops` do not hold `verify`")


def _algorithms_of(entry: Mapping[str, Any]) -> frozenset[str]:
    """Return what a key of this kind verifies (RFC 7518 §3.1, RFC 8037 §3.1)."""
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            return _RSA_ALGORITHMS
        case "EC", str(curve) if curve in _EC_ALGORITHMS:
            return frozenset({_EC_ALGORITHMS[curve]})
        case "OKP", "Ed25519":
            return frozenset({"EdDSA"})
        case "oct", _:
            return frozenset(_OCT_BYTES)
        case _:
            raise KeySourceError("its `kty` or `crv` is not known")


def _refuse_published_secrets(entry: Mapping[str, Any]) -> None:
    """Refuse a key of a fetched set that everyone who can fetch it could sign with."""
    if entry.get("kty") == "oct":
        raise KeySourceError("a symmetric key is believed only in an inline set")
    if _PRIVATE & entry.keys():
        raise KeySourceError("its private part was published with it")


def _load_key(public: dict[str, Any], algorithms: frozenset[str]) -> Any:
    """Return the key as PyJWT's algorithms take it, once it is strong enough."""
    try:
        made = PyJWK(public, min(algorithms))
        # A secret that is the text of a public key is one that everybody has.
        key = made.Algorithm.prepare_key(made.key)
    # WHY `from None`: PyJWT quotes the whole key in some of its messages.
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        raise KeySourceError("its parameters do not make a key") from None
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeySourceError(f"an RSA key of {key.key_size} bits is not accepted")
    return key


def _algorithms_of_secret(secret: bytes, alg: str) -> frozenset[str]:
    """Return what a symmetric key is long enough for."""
    found = frozenset(name for name, least in _OCT_BYTES.items() if len(secret) >= least)
    if not found or (alg and alg not in found):
        raise KeySourceError(f"a symmetric key of {len(secret)} bytes is too short")
    return found

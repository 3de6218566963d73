"""`.signatures.json`: who stands behind a bundle, and for exactly which files.

Theory of operation. The file holds one JWS. Its payload lists every file of the bundle with
a hash; the signature over that list makes the bundle the signer's. So nothing may be left out
of the list, and nothing listed may be missing.

Spec: OPA, "Bundles", section "Signing"; RFC 7515; RFC 7518 section 3 (algorithms).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from opa_bridge.bundle_json import canonical, read_literal_json
from opa_bridge.bundle_manifest import MANIFEST
from opa_bridge.bundle_paths import base_of, clean_name
from opa_bridge.bundle_yaml import read_literal_yaml
from opa_bridge.errors import PolicyBundleError
from policies.diagnostic import shown

SIGNATURES: Final = ".signatures.json"
ALGORITHMS: Final = tuple(
    f"{family}{n}" for family in ("RS", "ES", "PS", "HS") for n in (256, 384, 512)
)
# BUDGET: NIST SP 800-131A: RSA below 2048 bits signs nothing any more.
MIN_RSA_BITS: Final = 2048
# RFC 7518 section 3.2: a key "of the same size as the hash output ... or larger MUST be used".
_MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
_VERIFIERS: Final[Mapping[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS
}
# OPA's names; its MD5 and SHA-1 prove nothing and are refused.
_HASHES: Final = {
    "SHA-224": "sha224",
    "SHA-256": "sha256",
    "SHA-384": "sha384",
    "SHA-512": "sha512",
    "SHA-512-224": "sha512_224",
    "SHA-512-256": "sha512_256",
}
_JSON_FILES: Final = ("data.json", MANIFEST)
_YAML_FILES: Final = ("data.yaml", "data.yml")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SigningKey:
    """What a signature is verified by.

    `key_id` is the token's `kid` that the key is for; empty: whatever it is. `key` is a PEM
    public key or certificate, for HS256 and its like the secret itself.
    """

    algorithm: str
    key: bytes
    key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Signing:
    """Who may sign a bundle, and the `scope` that has to stand in the signature."""

    keys: tuple[SigningKey, ...]
    scope: str = ""


def check_key(key: SigningKey) -> None:
    """Refuse a key that could verify nothing, or anything.

    Raises:
        PolicyBundleError: why; nothing of the key is told.
    """
    _prepared(key)


def verify_files(files: Mapping[str, bytes], signing: Signing) -> None:
    """Prove that one of the keys stands behind exactly these files.

    Raises:
        PolicyBundleError: there is no such proof.
    """
    token = _read_token(files)
    payload = _verified_payload(token, signing)
    # OPA: an absent scope is the empty one, on both sides.
    if payload.get("scope", "") != signing.scope:
        raise _refused("the signature is for another scope", f"asked for is `{signing.scope}`")
    listed = dict(_listed_files(payload.get("files")))
    signed = {path: content for path, content in files.items() if path != SIGNATURES}
    for path in sorted(signed.keys() | listed.keys()):
        if path not in listed:
            raise _refused(f"`{path}` is in the bundle and not in its signature")
        if path not in signed:
            raise _refused(f"`{path}` is in the signature and not in the bundle")
        algorithm, digest = listed[path]
        if not hmac.compare_digest(digest, file_digest(path, signed[path], algorithm)):
            raise _refused(f"`{path}` is not the file that was signed")


def file_digest(path: str, content: bytes, algorithm: str) -> bytes:
    """Return the hash of a file as OPA computes it; `algorithm` is OPA's name for it.

    Raises:
        PolicyBundleError: a structured file cannot be read.
    """
    return hashlib.new(_HASHES[algorithm], _hashed(path, content)).digest()


def _hashed(path: str, content: bytes) -> bytes:
    # "For structured files, read the byte stream and parse into a JSON structure; then
    # recursively order the fields of all objects alphabetically".
    if base_of(path) in _JSON_FILES:
        return canonical(read_literal_json(content, path))
    if base_of(path) in _YAML_FILES:
        return canonical(read_literal_yaml(content, path))
    return content


def _read_token(files: Mapping[str, bytes]) -> str:
    if SIGNATURES not in files:
        help_ = "sign it: `opa build --bundle DIR --signing-key KEY`"
        raise _refused(f"the bundle has no `{SIGNATURES}`", help_)
    try:
        found = json.loads(files[SIGNATURES])
    except (ValueError, RecursionError) as exc:
        raise _refused(f"`{SIGNATURES}` is no JSON") from exc
    if not isinstance(found, dict):
        raise _refused(f"`{SIGNATURES}` is not an object")
    # `opa build` writes the name of OPA's own way; anything else is somebody's extension.
    if found.get("plugin", "") not in ("", "_default"):
        raise _refused("the signature asks for a plugin of OPA", "sign it without `plugin`")
    tokens = found.get("signatures")
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], str):
        raise _refused(f"`{SIGNATURES}` does not hold exactly one signature")
    return tokens[0]


def _verified_payload(token: str, signing: Signing) -> Mapping[str, Any]:
    """Return the payload of the token when one of the keys verifies it."""
    parts = token.split(".")
    if len(parts) != 3:
        raise _refused("the signature is no compact JWS")
    header, payload = (_json_part(part) for part in parts[:2])
    key_id = header.get("kid") or payload.get("keyid") or ""
    if not isinstance(key_id, str) or "crit" in header:
        raise _refused("the signature's header asks for what is not known")
    eligible = [key for key in signing.keys if key.key_id in ("", key_id)]
    if not eligible:
        configured = ", ".join(f"`{key.key_id}`" for key in signing.keys)
        help_ = f"configured: {configured}"
        raise _refused(f"no key `{shown(key_id)}` is configured", help_)
    signed, signature = f"{parts[0]}.{parts[1]}".encode("ascii", "replace"), _bytes(parts[2])
    # RFC 8725 section 3.1: the key's algorithm counts, never the token's word for it.
    if not any(
        key.algorithm == header.get("alg") and _is_signed(key, signed, signature)
        for key in eligible
    ):
        alg = shown(str(header.get("alg", "")))
        raise _refused(f"no configured key verifies the signature (its `alg` is `{alg}`)")
    return payload


def _is_signed(key: SigningKey, signed: bytes, signature: bytes) -> bool:
    prepared = _prepared(key)
    try:
        return _VERIFIERS[key.algorithm].verify(signed, prepared, signature) is True
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return False


def _prepared(key: SigningKey) -> Any:
    """Return the key as its algorithm takes it."""
    if key.algorithm not in ALGORITHMS:
        raise _refused(f"the algorithm `{shown(key.algorithm)}` is not known")
    least = _MIN_SECRET_BYTES.get(key.algorithm)
    if least is not None:
        if len(key.key) < least:
            raise _refused(f"the secret for {key.algorithm} is shorter than {least} bytes")
        return key.key
    public = _public_key(key.key)
    family = EllipticCurvePublicKey if key.algorithm.startswith("ES") else RSAPublicKey
    if not isinstance(public, family):
        raise _refused(f"the key is not one for {key.algorithm}")
    if isinstance(public, RSAPublicKey) and public.key_size < MIN_RSA_BITS:
        raise _refused(f"the RSA key has fewer than {MIN_RSA_BITS} bits")
    return public


def _public_key(pem: bytes) -> Any:
    try:
        if b"BEGIN CERTIFICATE" in pem:
            return load_pem_x509_certificate(pem).public_key()
        return serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as exc:
        help_ = "write the public key: `openssl pkey -in KEY -pubout`"
        raise _refused("the key is no PEM public key or certificate", help_) from exc


def _listed_files(value: Any) -> Iterator[tuple[str, tuple[str, bytes]]]:
    if not isinstance(value, list):
        raise _refused("the signature lists no files")
    seen: set[str] = set()
    for each in value:
        name, digest, algorithm = _entry(each)
        path = clean_name(name)
        if path in seen:
            raise _refused(f"the signature lists `{path}` twice")
        if algorithm not in _HASHES:
            help_ = f"known: {', '.join(_HASHES)}"
            raise _refused(f"`{path}` is hashed by `{shown(algorithm)}`", help_)
        seen.add(path)
        try:
            yield path, (algorithm, bytes.fromhex(digest))
        except ValueError as exc:
            raise _refused(f"the hash of `{path}` is not hexadecimal") from exc


def _entry(value: Any) -> Sequence[str]:
    keys = ("name", "hash", "algorithm")
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in keys):
        raise _refused("the signature lists a file without name, hash or algorithm")
    return [value[key] for key in keys]


def _json_part(part: str) -> Mapping[str, Any]:
    try:
        found = json.loads(_bytes(part))
    except (ValueError, RecursionError) as exc:
        raise _refused("the signature is no compact JWS") from exc
    if not isinstance(found, dict):
        raise _refused("the signature is no compact JWS")
    return found


def _bytes(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _refused("the signature is no compact JWS") from exc


def _refused(why: str, help_: str = "") -> PolicyBundleError:
    return PolicyBundleError("bundle.signature", why, help_)

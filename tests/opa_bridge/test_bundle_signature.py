"""Signatures of bundles: exactly the listed files, by exactly the configured keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

import pytest
from bundling import FILES, Signer, changed
from hypothesis import given, settings
from hypothesis import strategies as st

from opa_bridge.bundle_contents import read_bundle
from opa_bridge.bundle_signature import (
    ALGORITHMS,
    SIGNATURES,
    Signing,
    SigningKey,
    check_key,
    file_digest,
    verify_files,
)
from opa_bridge.errors import PolicyBundleError

SIGNER = Signer("ES256")
SIGNED = SIGNER.signed(FILES)


def trusted(*signers: Signer, scope: str = "") -> Signing:
    """The configuration that trusts these signers."""
    return Signing(keys=tuple(each.key for each in signers), scope=scope)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_verifies(algorithm: str) -> None:
    """A bundle that is signed with a configured algorithm is taken, and counted as signed."""
    signer = Signer(algorithm)

    assert read_bundle("b", signer.signed(FILES), trusted(signer)).is_signed


def test_the_key_id_of_the_token_chooses_the_key() -> None:
    """While keys are rotated both are configured; a bundle is verified by the one it names."""
    old, new = Signer(key_id="2025"), Signer(key_id="2026")
    both = trusted(old, new)

    verify_files(new.signed(FILES), both)
    verify_files(old.signed(FILES), both)
    with pytest.raises(PolicyBundleError, match="no key `2025` is configured"):
        verify_files(old.signed(FILES), trusted(new))
    # OPA's older way: the claim `keyid`.
    verify_files(Signer.signed(_nameless(new), FILES, keyid="2026"), both)


def _nameless(signer: Signer) -> Signer:
    twin = Signer()
    twin.private = signer.private
    return twin


def test_the_scope_must_be_the_configured_one() -> None:
    """A signature made for another scope is none here, and an absent one is the empty one."""
    scoped = SIGNER.signed(FILES, scope="write")

    verify_files(scoped, trusted(SIGNER, scope="write"))
    for files, scope in ((scoped, ""), (scoped, "read"), (SIGNED, "write")):
        with pytest.raises(PolicyBundleError, match="another scope"):
            verify_files(files, trusted(SIGNER, scope=scope))


def test_structured_files_are_signed_by_their_meaning() -> None:
    """Blanks and the order of keys do not count; a number's spelling and all of Rego do."""
    files = changed(FILES, a_data__json=b'{"x": 1, "y": 2}')
    signed = SIGNER.signed(files)

    verify_files(changed(signed, a_data__json=b'{ "y":2,\n"x":1 }'), trusted(SIGNER))
    for name, content in (
        ("a/data.json", b'{"x": 1.0, "y": 2}'),
        ("a/data.json", b'{"x": 2, "y": 2}'),
        ("envoy/allow.rego", files["envoy/allow.rego"] + b" "),
    ):
        with pytest.raises(PolicyBundleError, match=f"`{name}` is not the file"):
            verify_files({**signed, name: content}, trusted(SIGNER))


def token_of(files: Mapping[str, bytes]) -> str:
    """The token in a bundle."""
    return str(json.loads(files[SIGNATURES])["signatures"][0])


def with_token(token: Any) -> dict[str, bytes]:
    """The sample files with another token."""
    return {**FILES, SIGNATURES: json.dumps({"signatures": [token]}).encode()}


def entries(*, algorithm: str = "SHA-256", **by_name: str) -> list[dict[str, str]]:
    """A list of files as signatures hold it."""
    listed = {name: file_digest(name, content, "SHA-256").hex() for name, content in FILES.items()}
    return [
        {"name": name, "hash": digest, "algorithm": algorithm}
        for name, digest in {**listed, **by_name}.items()
    ]


def unsigned() -> str:
    """A token that nobody signed, by the algorithm `none`."""
    payload = {"files": entries()}
    parts = ({"alg": "none"}, payload)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(text.rstrip("=") for text in texts) + "."


def by_public_key() -> str:
    """A token that takes the public key for the secret of an HMAC."""
    payload = SIGNER.token({"files": entries()}).split(".")[1]
    head = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    proof = hmac.new(SIGNER.public, f"{head}.{payload}".encode(), hashlib.sha256).digest()
    return f"{head}.{payload}.{base64.urlsafe_b64encode(proof).decode().rstrip('=')}"


REFUSED: dict[str, tuple[Mapping[str, bytes], str]] = {
    "no signature": (FILES, "has no `.signatures.json`"),
    "a file that is not listed": ({**SIGNED, "x.txt": b""}, "`x.txt` is in the bundle and not"),
    "a listed file that is missing": (
        {name: content for name, content in SIGNED.items() if name != ".manifest"},
        "`.manifest` is in the signature and not",
    ),
    "another's signature": (Signer("ES256").signed(FILES), "no configured key verifies"),
    "another algorithm": (Signer("RS256").signed(FILES), "its `alg` is `RS256`"),
    "no algorithm": (with_token(unsigned()), "its `alg` is `none`"),
    "the public key as a secret": (with_token(by_public_key()), "its `alg` is `HS256`"),
    "a changed signature": (with_token(token_of(SIGNED)[:-4] + "AAAA"), "no configured key"),
    "two tokens": (
        {**FILES, SIGNATURES: json.dumps({"signatures": [token_of(SIGNED)] * 2}).encode()},
        "exactly one",
    ),
    "a plugin": (
        {**FILES, SIGNATURES: json.dumps({"signatures": ["x"], "plugin": "p"}).encode()},
        "a plugin of OPA",
    ),
    "no JSON": ({**FILES, SIGNATURES: b"{"}, "is no JSON"),
    "no object": ({**FILES, SIGNATURES: b"[]"}, "not an object"),
    "no token": (with_token(7), "exactly one"),
    "two parts": (with_token("a.b"), "no compact JWS"),
    "no base64": (with_token("!.!.!"), "no compact JWS"),
    "not ASCII": (with_token("é.é.é"), "no compact JWS"),
    "a list as payload": (with_token("W10.W10.W10"), "no compact JWS"),
    "no files": (with_token(SIGNER.token({})), "lists no files"),
    "files of another shape": (with_token(SIGNER.token({"files": [1]})), "without name, hash"),
    "a file twice": (with_token(SIGNER.token({"files": entries() * 2})), "twice"),
    "a path that leads out": (
        with_token(SIGNER.token({"files": entries(**{"../x": "00"})})), "leads out",
    ),
    "a weak hash": (with_token(SIGNER.token({"files": entries(algorithm="MD5")})), "by `MD5`"),
    "no hexadecimal": (
        with_token(SIGNER.token({"files": entries(**{".manifest": "zz"})})), "not hexadecimal",
    ),
    "what must be understood": (with_token(SIGNER.token({}, crit=["exp"])), "is not known"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "why"), REFUSED.values(), ids=REFUSED)
def test_anything_but_the_proof_is_refused(files: Mapping[str, bytes], why: str) -> None:
    """A bundle is taken only where one configured key stands behind each of its files."""
    with pytest.raises(PolicyBundleError, match=why) as refusal:
        read_bundle("b", files, trusted(SIGNER))

    assert refusal.value.code in {"bundle.signature", "bundle.name"}


def test_a_signed_bundle_needs_a_key() -> None:
    """Without `signing` a signed bundle is refused: its author wanted it verified."""
    with pytest.raises(PolicyBundleError, match="no key is known"):
        read_bundle("b", SIGNED, None)


@pytest.mark.parametrize(
    ("algorithm", "key", "why"),
    [
        ("none", b"", "algorithm `none` is not known"),
        ("HS256", b"short", "shorter than 32 bytes"),
        ("RS256", SIGNER.public, "not one for RS256"),
        ("ES256", Signer("RS256").public, "not one for ES256"),
        ("ES256", SIGNER.private_pem, "no PEM public key"),
        ("RS256", b"nonsense", "no PEM public key"),
    ],
)
def test_an_unfit_key_is_refused(algorithm: str, key: bytes, why: str) -> None:
    """A key of the wrong kind, a weak one or a private one is told at load."""
    with pytest.raises(PolicyBundleError, match=why):
        check_key(SigningKey(algorithm=algorithm, key=key))


@settings(max_examples=50)
@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    """Whatever byte of whatever file is changed, the bundle is refused or means the same."""
    name = data.draw(st.sampled_from(sorted(SIGNED)))
    content = bytearray(SIGNED[name])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))

    try:
        found = read_bundle("b", {**SIGNED, name: bytes(content)}, trusted(SIGNER))
    except PolicyBundleError:
        return
    true = read_bundle("b", SIGNED, trusted(SIGNER))
    assert (true.modules, true.data) == (found.modules, found.data)

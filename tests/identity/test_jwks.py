"""Key sets: what is a usable key, and what is left out with a note."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk
from joserfc.errors import SecurityWarning

from identity.errors import KeySourceError
from identity.jwks import MAX_KEYS, JwkSet, parse_jwk_set


def read(entry: Any, *, is_inline: bool = False) -> JwkSet:
    """Return the set of one entry."""
    return parse_jwk_set(json.dumps({"keys": [entry]}), is_inline=is_inline)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"kty": "XYZ"}, "`kty` or `crv` is not known"),
        ({"kty": None}, "`kty` or `crv` is not known"),
        ({"kid": 5}, "is not a string"),
        ({"alg": "none"}, "does not fit"),
        ({"alg": "HS256"}, "does not fit"),
        ({"alg": "RSA-OAEP"}, "does not fit"),
        ({"use": "enc"}, "is not `sig`"),
        ({"n": "AQAB"}, "24 bits is not accepted|do not make a key"),
        ({"n": "***"}, "do not make a key"),
        ({"n": 5}, "do not make a key"),
        ({"e": None}, "do not make a key"),
        ({"d": "AQAB"}, "private part"),
    ],
)
def test_unusable_keys(ring: Any, change: dict[str, Any], note: str) -> None:
    """A key that cannot be used is left out, with a note that holds no key material."""
    entry = ring.public_key("rsa") | change
    keys = read(entry)
    assert keys.keys == ()
    with pytest.raises(AssertionError, match=note):
        raise AssertionError(keys.notes[0])
    assert ring.public_key("rsa")["n"][:20] not in keys.notes[0]


def test_weak_rsa_keys(ring: Any) -> None:
    """RSA keys under 2048 bits are left out (RFC 7518 §3.3)."""
    with pytest.warns(SecurityWarning):
        weak = jwk.RSAKey.generate_key(1024).as_dict(private=False)
    assert read(weak).keys == ()
    assert "1024 bits" in read(weak).notes[0]


@pytest.mark.parametrize(
    ("length", "algorithms"),
    [
        (31, set()),
        (32, {"HS256"}),
        (47, {"HS256"}),
        (48, {"HS256", "HS384"}),
        (64, {"HS256", "HS384", "HS512"}),
    ],
)
def test_short_secrets(length: int, algorithms: set[str]) -> None:
    """A symmetric key serves the hashes that are no longer than it (RFC 7518 §3.2)."""
    secret = base64.urlsafe_b64encode(b"k" * length).rstrip(b"=").decode()
    entry = {"kty": "oct", "k": secret}
    assert algorithms == set().union(*(key.algorithms for key in read(entry, is_inline=True).keys))
    bound = read(entry | {"alg": "HS512"}, is_inline=True)
    assert bool(bound.keys) is ("HS512" in algorithms)
    assert bound.keys or "too short" in bound.notes[0]
    assert secret not in str(bound.notes)


def test_a_private_key_may_say_that_it_signs(ring: Any) -> None:
    """`key_ops` of a private key that an operator wrote is that of its private half."""
    private = ring.keys["rsa"].as_dict(private=True) | {"key_ops": ["sign"]}
    assert len(read(private, is_inline=True).keys) == 1
    for is_inline in (True, False):
        assert read(ring.public_key("rsa") | {"key_ops": ["sign"]}, is_inline=is_inline).keys == ()


def test_private_parts_inline(ring: Any) -> None:
    """In an inline set a private key is read for its public half only."""
    (key,) = read(ring.keys["rsa"].as_dict(private=True), is_inline=True).keys
    assert not hasattr(key.key, "private_numbers")


def test_unknown_keys_do_not_spoil_the_set(ring: Any) -> None:
    """One key of a new kind leaves the others in use."""
    entries = [{"kty": "AKP"}, 5, ring.public_key("p256"), {"kty": "EC", "crv": "secp256k1"}]
    keys = parse_jwk_set(json.dumps({"keys": entries}), is_inline=False)
    assert [key.kid for key in keys.keys] == ["p256"]
    assert len(keys.notes) == 3


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", '{"keys": 5}', '{"keys":[],"keys":[]}'])
def test_not_a_key_set(text: str) -> None:
    """A document that is no key set is refused whole."""
    with pytest.raises(KeySourceError):
        parse_jwk_set(text, is_inline=True)


def test_too_many_keys(ring: Any) -> None:
    """A set that would cost too many signature checks is refused."""
    entries = [ring.public_key("p256")] * (MAX_KEYS + 1)
    with pytest.raises(KeySourceError):
        parse_jwk_set(json.dumps({"keys": entries}), is_inline=True)


NAMES = st.sampled_from(["kty", "crv", "kid", "alg", "use", "n", "e", "x", "y", "k", "d"])
VALUES = st.one_of(
    st.sampled_from(["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "sig"]),
    st.text(max_size=8),
    st.integers(),
    st.none(),
    st.lists(st.text(max_size=3), max_size=2),
)


@given(st.one_of(st.binary(max_size=60), st.text(max_size=60)))
def test_any_document(raw: bytes | str) -> None:
    """Any document is a key set or a named error."""
    try:
        assert parse_jwk_set(raw, is_inline=True).keys == ()
    except KeySourceError as exc:
        assert str(exc)


@given(st.dictionaries(NAMES, VALUES))
def test_any_entry(entry: dict[str, Any]) -> None:
    """Any entry is a key or a note."""
    keys = read(entry, is_inline=True)
    assert len(keys.keys) + len(keys.notes) == 1

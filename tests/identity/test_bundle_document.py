"""Trust bundles as documents: read, written, and what in them is left out."""

from __future__ import annotations

import base64
import contextlib
import json
from functools import cache
from typing import Any

import pytest
from certificate_making import AUTHORITY, LEAF, Made, Recipe, make
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from identity.bundle_document import (
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_KEYS,
    bundle_from_pem,
    encode_bundle,
    load_bundle,
    parse_bundle,
)
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError, TrustBundle

EXAMPLE = TrustDomain("example.org")


@cache
def authority(kind: str = "p256") -> Made:
    """An authority with a key of that kind, made once."""
    return make(Recipe.of({"subject": f"root {kind}", "key": kind}, AUTHORITY))


@cache
def jwt_key(kind: str = "p256") -> dict[str, Any]:
    """The public members of a new key."""
    if kind == "rsa":
        public = rsa.generate_private_key(65537, 2048).public_key()
        members = dict(RSAAlgorithm.to_jwk(public, as_dict=True))
    elif kind == "ed25519":
        edwards = ed25519.Ed25519PrivateKey.generate().public_key()
        members = dict(OKPAlgorithm.to_jwk(edwards, as_dict=True))
    else:
        curve = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "k1": ec.SECP256K1}[kind]
        members = dict(ECAlgorithm.to_jwk(ec.generate_private_key(curve()).public_key(), True))
    return {name: value for name, value in members.items() if name != "key_ops"}


def x509_entry(made: Made, **fields: Any) -> dict[str, Any]:
    """The entry of an X.509 authority that holds no more than it must."""
    return {"kty": "EC", "use": "x509-svid", "x5c": [base64.b64encode(made.der).decode()]} | fields


def jwt_entry(kind: str = "p256", **fields: Any) -> dict[str, Any]:
    """The entry of a JWT authority."""
    return jwt_key(kind) | {"use": "jwt-svid", "kid": kind} | fields


def parsed(*entries: Any, **fields: Any) -> TrustBundle:
    """The bundle of a document with these entries."""
    return parse_bundle(EXAMPLE, json.dumps({"keys": entries} | fields).encode())


def test_a_whole_document() -> None:
    """Both kinds of authorities, the sequence and the hint are read."""
    bundle = parsed(
        x509_entry(authority()),
        x509_entry(authority("rsa2048"), kty="RSA"),
        jwt_entry(),
        jwt_entry("rsa"),
        spiffe_sequence=2**63 + 1,
        spiffe_refresh_hint=600,
        another_member={"is": "allowed"},
    )

    assert bundle.notes == ()
    assert list(bundle.x509_authorities) == [
        authority().certificate,
        authority("rsa2048").certificate,
    ]
    assert [each.kid for each in bundle.jwt_authorities] == ["p256", "rsa"]
    assert (bundle.sequence, bundle.refresh_hint_seconds) == (2**63 + 1, 600)


def test_there_and_back() -> None:
    """What is written is read back the same, and says what the standard wants of it."""
    bundle = parsed(
        x509_entry(authority()),
        x509_entry(authority("rsa2048"), kty="RSA"),
        jwt_entry("p384"),
        jwt_entry("rsa"),
        spiffe_sequence=4,
        spiffe_refresh_hint=60,
    )

    written = encode_bundle(bundle)
    document = json.loads(written)

    assert bundle == parse_bundle(EXAMPLE, written)
    assert (document["spiffe_sequence"], document["spiffe_refresh_hint"]) == (4, 60)
    of_x509 = [each for each in document["keys"] if each["use"] == "x509-svid"]
    # X509-SVID §6.1: no `kid`, exactly one certificate, and what RFC 7517 requires of a key.
    assert all("kid" not in each and len(each["x5c"]) == 1 for each in of_x509)
    assert [each["kty"] for each in of_x509] == ["EC", "RSA"]
    assert all(each["kid"] for each in document["keys"] if each["use"] == "jwt-svid")
    assert not any({"d", "p", "q", "k"} & each.keys() for each in document["keys"])


def test_a_bundle_of_nothing() -> None:
    """No key is a bundle too, in both directions."""
    bundle = parsed()

    assert (bundle.x509_authorities, bundle.jwt_authorities, bundle.notes) == ((), (), ())
    assert bundle.store is None
    assert json.loads(encode_bundle(bundle)) == {"keys": []}
    assert bundle == parse_bundle(EXAMPLE, encode_bundle(bundle))


LEFT_OUT = {
    "no object": ("text", "not a JSON object"),
    "no use": ({"kty": "EC", "x5c": ["AA=="]}, "`use`"),
    "an unknown use": (x509_entry(authority(), use="wit-svid"), "`use`"),
    "a use in capitals": (x509_entry(authority(), use="X509-SVID"), "`use`"),
    "a use for signing": (jwt_entry(use="sig"), "`use`"),
    "no certificate": (x509_entry(authority(), x5c=None), "no `x5c`"),
    "an empty x5c": (x509_entry(authority(), x5c=[]), "no `x5c`"),
    "an x5c of numbers": (x509_entry(authority(), x5c=[1]), "no `x5c`"),
    "an x5c that is no list": (x509_entry(authority(), x5c="AAAA"), "no `x5c`"),
    "base64url": (
        x509_entry(authority(), x5c=[base64.urlsafe_b64encode(b"\xff\xfe" * 99).decode()]),
        "not base64",
    ),
    "PEM": (x509_entry(authority(), x5c=[authority().pem.decode()]), "not base64"),
    "no DER": (x509_entry(authority(), x5c=["AAAA"]), "cannot be read"),
    "another key than the certificate's": (x509_entry(authority(), **jwt_key()), "another key"),
    "a leaf": (x509_entry(make(LEAF, authority())), "not that of a CA"),
    "a modulus that somebody made up, with its exponents": (
        x509_entry(authority(), kty="RSA", n="_" * 50_000, e="AQAB", d="_" * 50_000),
        "make a key",
    ),
    "private exponents of another modulus": (
        x509_entry(authority("rsa2048"), kty="RSA", n="_" * 342, e="AQAB", d="AQAB"),
        "another key",
    ),
    "half a key": (x509_entry(authority(), kty="EC", crv="P-256", x="AA"), "make a key"),
    "no kid": (jwt_entry(kid=None), "no `kid`"),
    "an empty kid": (jwt_entry(kid=""), "no `kid`"),
    "a kid of a number": (jwt_entry(kid=1), "no `kid`"),
    "a private key": (jwt_entry(d="AAAA"), "private part"),
    "a symmetric key": ({"kty": "oct", "k": "AAAA", "use": "jwt-svid", "kid": "a"}, "symmetric"),
    "Ed25519": (jwt_entry("ed25519"), "no algorithm of a JWT-SVID"),
    "secp256k1": (jwt_entry("k1"), "not known"),
    "an unknown kty": (jwt_entry(kty="AKP"), "not known"),
    "another algorithm than the key's": (jwt_entry(alg="RS256"), "does not fit"),
    "a JWT key without members": ({"kty": "EC", "use": "jwt-svid", "kid": "a"}, ""),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_entries_that_are_left_out(name: str) -> None:
    """An entry that cannot be used speaks for nobody, is noted, and spoils no other."""
    entry, why = LEFT_OUT[name]

    bundle = parsed(entry, x509_entry(authority()))

    assert list(bundle.x509_authorities) == [authority().certificate]
    assert bundle.jwt_authorities == ()
    assert len(bundle.notes) == 1
    assert bundle.notes[0].startswith("key 0 is left out: ")
    assert why in bundle.notes[0]


@pytest.mark.parametrize("depth", [99, 300, *range(900, 1000, 3), 5000])
def test_a_nested_document_is_refused_as_a_whole(depth: int) -> None:
    """Whatever depth can just be read, nothing but a named error comes of it."""
    raw = b'{"keys":[{"use":"jwt-svid","kid":"a","x":' + b"[" * depth + b"]" * depth + b"}]}"
    with pytest.raises(BundleError):
        parse_bundle(EXAMPLE, raw)


def test_no_key_of_one_kind_serves_the_other() -> None:
    """A JWT authority signs no certificates, and an X.509 authority no tokens."""
    bundle = parsed(jwt_entry(x5c=[base64.b64encode(authority().der).decode()]))
    assert bundle.x509_authorities == ()

    bundle = parsed(x509_entry(authority(), kid="p256"))
    assert bundle.jwt_authorities == ()
    assert len(bundle.x509_authorities) == 1


def test_only_the_first_certificate_of_an_entry_counts() -> None:
    """X509-SVID §6.2: all but the first value of `x5c` are ignored."""
    second = base64.b64encode(authority("rsa2048").der).decode()
    entry = x509_entry(authority())

    bundle = parsed(entry | {"x5c": [*entry["x5c"], second, "nonsense"]})

    assert list(bundle.x509_authorities) == [authority().certificate]


def test_an_entry_may_spell_its_key() -> None:
    """The members of a key beside its certificate are checked, whatever the key is for."""
    for kind in ("p256", "p384", "p521", "rsa2048"):
        bundle = TrustBundle(trust_domain=EXAMPLE, x509_authorities=(authority(kind).certificate,))
        document = json.loads(encode_bundle(bundle))
        assert {"n", "x"} & document["keys"][0].keys()
        assert bundle == parse_bundle(EXAMPLE, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"\xff\xfe{}", "not a JSON object"),
        (b"{}", "no list `keys`"),
        (b'{"keys": {}}', "no list `keys`"),
        (b'{"keys": null}', "no list `keys`"),
        (b'{"keys": [], "keys": []}', "each name once"),
        (b'{"keys": [{"use": "a", "use": "b"}]}', "each name once"),
        (b'{"keys": [], "spiffe_sequence": "1"}', "`spiffe_sequence` is not a whole number"),
        (b'{"keys": [], "spiffe_sequence": 1.5}', "`spiffe_sequence` is not a whole number"),
        (b'{"keys": [], "spiffe_sequence": true}', "`spiffe_sequence` is not a whole number"),
        (b'{"keys": [], "spiffe_sequence": -1}', "`spiffe_sequence` is not a whole number"),
        (b'{"keys": [], "spiffe_refresh_hint": NaN}', "`spiffe_refresh_hint` is not"),
        (b'{"keys": ' + b"[" * 100_000, "not a JSON object"),
        (b'{"keys": [], "spiffe_sequence": ' + b"9" * 5000 + b"}", "not a JSON object"),
        (b'{"keys": [' + b"1," * MAX_BUNDLE_KEYS + b"1]}", "more than"),
        (b" " * MAX_BUNDLE_BYTES + b"{}", "longer than"),
    ],
)
def test_what_is_no_bundle(raw: bytes, why: str) -> None:
    """A document that is no JWK set is refused whole, and leaves the last good one in place."""
    with pytest.raises(BundleError, match=why.replace("`", ".")):
        parse_bundle(EXAMPLE, raw)


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"nothing of the kind",
        authority().key_pem,
        authority().pem[:200],
        authority().pem.replace(b"M", b"!", 1),
        authority().pem * 501,
        authority().pem + make(LEAF, authority()).pem,
    ],
)
def test_what_is_no_pem(pem: bytes) -> None:
    """A file without whole certificates is refused, however it goes on."""
    with pytest.raises(BundleError):
        bundle_from_pem(EXAMPLE, pem)


def test_a_file_of_either_form() -> None:
    """A file says by its first letter which form it has."""
    bundle = bundle_from_pem(EXAMPLE, authority().pem)

    assert bundle == load_bundle(EXAMPLE, b"\n" + authority().pem)
    assert bundle == load_bundle(EXAMPLE, b"\n " + encode_bundle(bundle))


def test_a_key_without_a_place_is_not_written() -> None:
    """What no reader could use is not written."""
    edwards = make(Recipe.of({"key": "ed25519", "subject": "root"}, AUTHORITY))
    with pytest.raises(BundleError, match="only RSA and EC"):
        encode_bundle(TrustBundle(trust_domain=EXAMPLE, x509_authorities=(edwards.certificate,)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "use": st.sampled_from(["x509-svid", "jwt-svid"]) | JSON,
        "kty": st.sampled_from(["EC", "RSA", "OKP", "oct"]) | JSON,
        "crv": st.sampled_from(["P-256", "P-384", "P-521"]) | JSON,
        "x5c": st.lists(st.binary(max_size=40).map(lambda each: base64.b64encode(each).decode()))
        | JSON,
        "kid": st.just("a") | JSON,
        "alg": st.just("ES256") | JSON,
        **{name: st.just("AQAB") | JSON for name in ("x", "y", "n", "e", "d", "k", "key_ops")},
    },
)


@settings(max_examples=50, deadline=None)
@given(st.lists(ENTRIES | JSON, max_size=4), st.dictionaries(st.text(max_size=8), JSON))
def test_any_document(entries: list[Any], fields: dict[str, Any]) -> None:
    """Whatever a document holds, it is a bundle or refused by name, and notes are one line each."""
    raw = json.dumps(fields | {"keys": entries}).encode()
    try:
        bundle = parse_bundle(EXAMPLE, raw)
    except BundleError as exc:
        assert str(exc).isprintable()
    else:
        assert all(note.isprintable() for note in bundle.notes)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda each: b"{" + each))
def test_any_bytes(raw: bytes) -> None:
    """Bytes are a bundle or refused by name."""
    with contextlib.suppress(BundleError):
        assert load_bundle(EXAMPLE, raw).trust_domain == EXAMPLE

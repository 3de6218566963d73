"""The same requests to a real Envoy's `jwt_authn` filter and to ours: same answers.

Known differences, all of them refusals where Envoy admits or another text:
JSON that RFC 8259 forbids, `crit` and `b64` headers, further spellings of one signature
(padding, a dot behind it, unused bits: `test_what_only_envoy_admits`), and Envoy's
text for a signature of the wrong length for an Ed25519 key. Where one rule finds
several good tokens, Envoy writes its output headers once for each of them; we write
those of the token whose claims count.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import ClaimHeader, JwtRule, TokenHeader
from identity.jwt_verify import verify_token
from identity.request_authentication import Authentication, authenticate_request
from identity.token_memory import TokenMemory
from tests.jwt_authn import provider_of

pytestmark = pytest.mark.envoy

MEMORY = TokenMemory()
CLAIMS = ("sub", "n", "neg", "frac", "big", "obj", "list", "nested.a", "flag", "dot.ted", "empty")
SEEN = ["authorization", "x-payload", "cookie", ":path", "x-tok", "x-b", "x-pre"]
OTHER = "https://b.example"


def header_of(claim: str) -> str:
    """Return the header that a claim goes out in."""
    return f"x-c-{claim.replace('.', '-')}"


RULES = {
    "a": JwtRule(
        audiences=("shop", "https://x.example/"),
        output_payload_to_header="x-payload",
        output_claim_to_headers=tuple(ClaimHeader(header_of(claim), claim) for claim in CLAIMS),
    ),
    "b": JwtRule(issuer=OTHER, from_headers=(TokenHeader("x-b"),), forward_original_token=True),
    "any": JwtRule(
        from_headers=(TokenHeader("X-Tok"), TokenHeader("x-pre", "tok=")),
        from_params=("tok",),
        from_cookies=("sess",),
    ),
}
GROUPS = {"a": ["a"], "b": ["b"], "any": ["any"], "ab": ["b", "a"]}


def rule_of(name: str, issuer: str) -> JwtRule:
    """Return the rule with the issuer of this run."""
    return replace(RULES[name], issuer=issuer) if name == "a" else RULES[name]


def encode(raw: bytes) -> str:
    """Return unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class OneSet:
    """Looks every rule's keys up in one set."""

    def __init__(self, jwks: str) -> None:
        """Read the set."""
        self._keys = parse_jwk_set(jwks, is_inline=True)

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the one set."""
        return self._keys


@pytest.fixture(scope="module")
def key_text(ring: Any) -> str:
    """The set both sides verify with; the Ed25519 key is last, for Envoy stops there."""
    names = ("rsa", "p256", "p384", "p521", "oct", "ed25519")
    return json.dumps({"keys": [ring.public_key(name) for name in names]})


@pytest.fixture(scope="module")
def envoy(ring: Any, launch_envoy: Any, key_text: str) -> Any:
    """A real Envoy with the rules of this file."""
    rules = {name: replace(rule_of(name, ring.issuer), jwks=key_text) for name in RULES}
    providers = {name: provider_of(rule) for name, rule in rules.items()}
    return launch_envoy(providers, GROUPS, SEEN + [header_of(claim) for claim in CLAIMS])


def ours(
    ring: Any, key_text: str, url: str, headers: list[tuple[str, str]], method: str
) -> Authentication:
    """Return our outcome for the request, as Envoy would describe it to us."""
    parts = urlsplit(url)
    grouped: dict[str, tuple[str, ...]] = {}
    for name, value in headers:
        grouped[name.lower()] = (*grouped.get(name.lower(), ()), value)
    path = url[url.index(parts.path, len("http://")) :]
    now = time.time()
    outcomes = [
        authenticate_request(
            [rule_of(name, ring.issuer) for name in GROUPS[parts.path.split("/")[1]]],
            method=method,
            path=path,
            host=parts.netloc,
            scheme="http",
            headers=grouped,
            keys=OneSet(key_text),
            now=now,
            verify=verify,
        )
        for verify in (verify_token, MEMORY.verify, MEMORY.verify)
    ]
    # A token that is remembered is judged as one that is not.
    assert outcomes[0] == outcomes[1] == outcomes[2]
    return outcomes[0]


def compare(
    ring: Any,
    envoy: Any,
    key_text: str,
    url: str = "/a/x",
    *,
    headers: list[tuple[str, str]],
    method: str = "GET",
) -> int:
    """Send one request both ways, hold the answers against each other, return the status."""
    theirs = envoy.ask(url, headers, method)
    base = str(envoy.client.base_url).rstrip("/")
    mine = ours(ring, key_text, base + url, headers, method)
    if mine.failure is None:
        assert theirs.status == 200, theirs
        set_headers = dict(mine.set_request_headers)
        for name in (*SEEN, *map(header_of, CLAIMS)):
            if name in (":path", "cookie"):
                continue
            sent = ",".join(value for key, value in headers if key.lower() == name) or None
            upstream = None if name in mine.remove_request_headers else sent
            upstream = set_headers.get(name, upstream)
            assert upstream == theirs.upstream.get(name), name
        for param in mine.remove_query_parameters:
            assert f"{param}=" not in theirs.upstream["path"]
        return 200
    answer = (mine.failure.http_status, mine.failure.body, mine.failure.www_authenticate)
    assert answer == (theirs.status, theirs.body, theirs.www_authenticate)
    return theirs.status


def bearer(text: str) -> list[tuple[str, str]]:
    """Return the headers that carry a token the usual way."""
    return [("authorization", f"Bearer {text}")]


NOW = int(time.time())
CLAIM_CASES: list[tuple[dict[str, Any], int]] = [
    ({}, 200),
    ({"exp": NOW - 30}, 200),
    ({"exp": NOW - 90}, 401),
    ({"exp": 0}, 200),
    ({"exp": 0.5}, 200),
    ({"exp": -1}, 401),
    ({"exp": 2**64}, 401),
    ({"exp": 2**63}, 200),
    ({"exp": 1e300}, 401),
    ({"exp": "5"}, 401),
    ({"exp": True}, 401),
    ({"nbf": NOW + 30}, 200),
    ({"nbf": NOW + 120}, 401),
    ({"nbf": -1}, 401),
    ({"nbf": "x"}, 401),
    ({"iat": -1}, 401),
    ({"iat": NOW + 9999}, 200),
    ({"aud": "no"}, 403),
    ({"aud": []}, 403),
    ({"aud": None}, 403),
    ({"aud": ["no", "shop"]}, 200),
    ({"aud": ["shop", 1]}, 401),
    ({"aud": "https://shop/"}, 200),
    ({"aud": "shop//"}, 403),
    ({"aud": "x.example"}, 200),
    ({"aud": "https://http://shop"}, 403),
    ({"iss": "other"}, 401),
    ({"iss": None}, 401),
    ({"iss": 5}, 401),
    ({"sub": 5}, 401),
    ({"sub": None}, 200),
    ({"jti": 5}, 401),
    ({"n": 5, "neg": -5, "frac": 1.5, "big": 2**60, "flag": False, "empty": ""}, 200),
    ({"obj": {"a": "é"}, "list": ["x", "ü"], "nested": {"a": "deep"}}, 200),
    ({"dot.ted": "x", "nested": ["a"], "n": 0.0, "frac": 1e-9, "big": 2**70}, 200),
]


def _fresh(claims: dict[str, Any]) -> dict[str, Any]:
    """Move the times near NOW to the present: a long run must not age its own cases."""
    aged = int(time.time()) - NOW
    return {name: value + aged if _is_near_now(value) else value for name, value in claims.items()}


def _is_near_now(value: Any) -> bool:
    return type(value) is int and abs(value - NOW) < 100_000


@pytest.mark.parametrize(("claims", "status"), CLAIM_CASES, ids=range(len(CLAIM_CASES)))
def test_claims(ring: Any, envoy: Any, key_text: str, claims: dict[str, Any], status: int) -> None:
    """Issuer, times, audiences and output headers as in Envoy."""
    text = ring.mint(**_fresh({"exp": NOW + 600} | claims))
    assert compare(ring, envoy, key_text, headers=bearer(text)) == status


NUMBERS = (
    2**53 + 1, 1e15, 2**63 - 1, 2**63, 2**64 - 2048, 2**64, 1e20, 1e308, -1e20, -(2**63), -1,
    -0.0, 0.1, 1e-7, 5e-324, 1.9999999, 123456789.123456789,
)  # fmt: skip
# One member each: the order of several is not said anywhere, and Envoy's is that of a hash.
VALUES = (
    {"e": 1e14}, {"e": 1e15}, {"e": 1e17}, {"e": 1e20}, {"e": 1e-7}, {"e": 5e-324}, {"e": 1 / 3},
    {"e": 2**53 + 1}, {"e": 2**63}, {"e": -0.0}, {"e": -5}, {"e": None}, {"e": True}, [[], {}],
    [1, 2.5, "x", None, False], {"<\x7f>": "\u2028&'\"\\/\0\x85\xad\u200b\ufeff\b\f\n\r\t\x1f"},
    ["\u0600\u0604\u06dd\u070f\u17b4\u17b6\u2027\u202f\u2064\u206a\u2070\ufff9\ufffc"],
    ["\U0001d173\U0001f600\U000e0001\U000e0020\U000e0080"],
)  # fmt: skip


@pytest.mark.parametrize("value", [*NUMBERS, *VALUES], ids=lambda value: ascii(value)[:40])
def test_output_forms(ring: Any, envoy: Any, key_text: str, value: Any) -> None:
    """Numbers, lists and objects go into headers digit by digit as Envoy writes them."""
    name = "n" if isinstance(value, (int, float)) else "obj"
    text = ring.mint(**{"exp": int(time.time()) + 600, name: value})
    assert compare(ring, envoy, key_text, headers=bearer(text)) == 200


def test_malformed_tokens(ring: Any, envoy: Any, key_text: str) -> None:
    """Each fault of form is answered with Envoy's text for it."""
    head, payload, signature = ring.mint(exp=NOW + 600).split(".")
    heads = [b"nope", b"[]", b"{}", b'{"alg":5}', b'{"alg":"none"}', b'{"alg":"ES256K"}']
    heads += [b'{"alg":"RS256","kid":5}', b'{"alg":"RS256","alg":"none"}', b"\xff"]
    texts = [f"{encode(raw)}.{payload}.{signature}" for raw in heads]
    texts += [f"{head}.{encode(raw)}.{signature}" for raw in (b"zz", b"[]", b'{"iss":"\xff"}')]
    texts += [head, f"{head}.{payload}", f"{head}.{payload}.", f".{payload}.{signature}"]
    texts += [f"{head}.{payload}.{signature}.x", f"{head}.{payload}.A", "..", "***"]
    texts += [f"{head}.{payload}.{signature[:-8]}AAAAAAAA"]
    for text in texts:
        assert compare(ring, envoy, key_text, headers=bearer(text)) == 401, text


def test_json_forms(ring: Any, envoy: Any, key_text: str) -> None:
    """Odd JSON in a well-signed payload is read or refused as Envoy reads or refuses it."""
    base = f'"iss":"{ring.issuer}","sub":"alice","aud":"shop"'.encode()
    bodies = {
        b'{"sub":"eve",' + base + b"}": 401,
        b'{"x":NaN,' + base + b"}": 401,
        b'{"x":1e400,' + base + b"}": 401,
        b'{"x":"\\ud800",' + base + b"}": 401,
        b'{"x":"\\ud83d\\ude00",' + base + b"}": 200,
        b'{"x":' + b"[" * 99 + b"]" * 99 + b"," + base + b"}": 200,
        b'{"x":' + b"[" * 100 + b"]" * 100 + b"," + base + b"}": 401,
        b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"," + base + b"}": 401,
        b" \n{" + base + b"}\n ": 200,
        b"{" + base + b"}x": 401,
        b'{"x":' + b"9" * 400 + b"," + base + b"}": 401,
        b'{"x":' + b"9" * 30 + b"," + base + b"}": 200,
        b'{"x":01,' + base + b"}": 401,
        b"\xef\xbb\xbf{" + base + b"}": 401,
    }
    for body, status in bodies.items():
        text = ring.sign("rsa", "RS256", {"kid": "rsa"}, body)
        assert compare(ring, envoy, key_text, headers=bearer(text)) == status, body[:40]


def test_what_only_envoy_admits(ring: Any, envoy: Any, key_text: str) -> None:
    """One signature has one spelling with us; Envoy reads several, and extensions it knows not."""
    good = ring.mint(exp=int(time.time()) + 600)
    head, payload, signature = good.split(".")
    last = chr(ord(signature[-1]) + 1)
    texts = [good + "==", good + ".", f"{head}.{payload}.{signature[:-1]}{last}"]
    claims = json.dumps({"iss": ring.issuer, "sub": "alice", "aud": "shop"}).encode()
    texts.append(_signed(ring, {"crit": ["exp"], "exp": 1}, claims))
    # RFC 7797 §7: no JWT has an unencoded payload, whoever reads this one as if it had not.
    texts.append(_signed(ring, {"b64": False}, claims))
    for text in texts:
        assert envoy.ask("/a/x", bearer(text), "GET").status == 200, text[-40:]
        mine = ours(ring, key_text, "http://h/a/x", bearer(text), "GET")
        assert mine.failure is not None
        assert mine.failure.http_status == 401


def _signed(ring: Any, header: dict[str, Any], payload: bytes) -> str:
    """Return a token with header fields that a library would refuse to write."""
    head = json.dumps({"alg": "RS256", "kid": "rsa"} | header).encode()
    text = f"{encode(head)}.{encode(payload)}"
    key = ring.keys["rsa"].raw_value
    return f"{text}.{encode(key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def test_header_fields_that_nobody_reads(ring: Any, envoy: Any, key_text: str) -> None:
    """`typ`, `cty`, `zip`, `enc` and `b64` as ever change nothing, for Envoy and for us."""
    claims = json.dumps({"iss": ring.issuer, "sub": "alice", "aud": "shop"}).encode()
    for header in ({"typ": "JWE"}, {"cty": "JWT"}, {"zip": "DEF"}, {"enc": "x"}, {"b64": True}):
        text = _signed(ring, header, claims)
        assert compare(ring, envoy, key_text, headers=bearer(text)) == 200, header


def test_algorithms_and_keys(ring: Any, envoy: Any, key_text: str) -> None:
    """Every algorithm, and every way for `kid` and key not to fit."""
    payload = json.dumps({"iss": ring.issuer, "sub": "alice", "aud": "shop"}).encode()
    pairs = [("rsa", f"{family}{bits}") for family in ("RS", "PS") for bits in (256, 384, 512)]
    pairs += [("p256", "ES256"), ("p384", "ES384"), ("p521", "ES512"), ("ed25519", "EdDSA")]
    pairs += [("oct", "HS256"), ("oct", "HS384"), ("oct", "HS512")]
    for key, alg in pairs:
        text = ring.sign(key, alg, {"kid": key}, payload)
        assert compare(ring, envoy, key_text, headers=bearer(text)) == 200, alg
    for key, header in (("rsa", {"kid": "nobody"}), ("stranger", {"kid": "rsa"})):
        text = ring.sign(key, "RS256", header, payload)
        assert compare(ring, envoy, key_text, headers=bearer(text)) == 401, header
    text = ring.sign("p256", "ES256", {"kid": "rsa"}, payload)
    assert compare(ring, envoy, key_text, headers=bearer(text)) == 401


def test_locations(ring: Any, envoy: Any, key_text: str) -> None:
    """Headers, parameters and cookies are searched as Envoy searches them."""
    good = ring.mint(exp=NOW + 600)
    wide = ring.mint(iss="whoever", exp=NOW + 600)
    cases: list[tuple[str, list[tuple[str, str]], int]] = [
        ("/a/x", [], 200),
        ("/a/x", [("authorization", f"bearer {good}")], 200),
        ("/a/x", [("authorization", "Basic abc")], 200),
        ("/a/x", [("authorization", f"Basic abc, Bearer {good}")], 200),
        ("/a/x", [("authorization", f"Bearer ***{good}")], 200),
        ("/a/x", [("authorization", f"Bearer {good}, x")], 401),
        ("/a/x", [("authorization", "Basic x"), ("authorization", f"Bearer {good}")], 200),
        ("/a/x", [("authorization", f"Bearer {good}"), ("authorization", "Bearer x")], 401),
        (f"/a/x?q=1&access_token={good}&z=2", [], 200),
        (f"/a/x?access%5Ftoken={good}", [], 200),
        (f"/a/x?access_token={good.replace('.', '%2E')}", [], 200),
        (f"/a/x?q=1;access_token={good}", [], 200),
        ("/a/x?access_token=", [], 401),
        ("/a/x?access_token", [], 401),
        (f"/a/x?access_token={good}&access_token=bad", [], 200),
        ("/a/x?access_token=bad", bearer(good), 401),
        (f"/a/x?access_token={good}", bearer("bad"), 401),
        ("/any/x", [("x-tok", wide)], 200),
        ("/any/x", [("x-tok", "")], 401),
        ("/any/x", [("x-tok", wide + "=")], 401),
        ("/any/x", [("x-tok", wide), ("x-tok", wide)], 200),
        ("/any/x", [("x-tok", wide), ("x-tok", "bad")], 401),
        ("/any/x", [("x-tok", f"{wide},{wide}")], 401),
        ("/any/x", [("x-tok", wide), ("x-tok", "")], 401),
        ("/any/x", [("x-pre", f"a tok={wide}")], 200),
        ("/any/x", [("x-pre", f"a tok=({wide})x")], 401),
        ("/any/x", [("cookie", f"a=b; sess={wide}; c=d")], 200),
        ("/any/x", [("cookie", f'a=b;sess="{wide}"')], 200),
        ("/any/x", [("cookie", f"sess={wide}; sess=bad")], 200),
        ("/any/x", [("cookie", f'sess="{wide}')], 401),
        ("/any/x", [("cookie", "sess=")], 401),
        ("/any/x", [("cookie", f"sess ={wide}")], 200),
        (f"/any/x?tok={wide}", [], 200),
        ("/any/x", [("x-tok", wide), ("cookie", "sess=bad")], 401),
        ("/any/x", bearer("bad"), 200),
    ]
    for url, headers, status in cases:
        got = compare(ring, envoy, key_text, url, headers=headers)
        assert got == status, (url[:40], [name for name, _ in headers])


def test_several_rules(ring: Any, envoy: Any, key_text: str) -> None:
    """Two rules are combined, and their failures chosen from, as in Envoy."""
    good, other = ring.mint(exp=NOW + 600), ring.mint(iss=OTHER, exp=NOW + 600)
    old, other_old = ring.mint(exp=NOW - 900), ring.mint(iss=OTHER, exp=NOW - 900)
    cases = [
        ([], 200),
        (bearer(good), 200),
        ([("x-b", other)], 200),
        ([*bearer(good), ("x-b", "bad")], 200),
        ([*bearer("bad"), ("x-b", other)], 200),
        (bearer(old), 401),
        (bearer(other), 401),
        ([("x-b", good)], 401),
        ([*bearer(ring.mint(aud="no", exp=NOW + 600)), ("x-b", other_old)], 401),
        ([*bearer(old), ("x-b", ring.mint(iss=OTHER, aud="no", exp=NOW + 600))], 200),
        ([*bearer(ring.mint(aud="no", exp=NOW + 600)), ("x-b", good)], 403),
        ([*bearer(old), ("x-b", ring.mint(iss=OTHER, exp=NOW + 600)[:-8] + "AAAAAAAA")], 401),
        ([*bearer(other), ("x-b", other_old)], 401),
        ([*bearer(old), ("x-b", good)], 401),
    ]
    for headers, status in cases:
        assert compare(ring, envoy, key_text, "/ab/x", headers=headers) == status


def test_preflight_and_realm(ring: Any, envoy: Any, key_text: str) -> None:
    """A preflight passes unverified, two signs are none, and the realm is cut like Envoy's."""
    both = [("origin", "x"), ("access-control-request-method", "GET")]
    bad = bearer("bad")
    assert compare(ring, envoy, key_text, headers=bad + both, method="OPTIONS") == 200
    assert compare(ring, envoy, key_text, headers=bad + both[:1], method="OPTIONS") == 401
    assert compare(ring, envoy, key_text, headers=bad + both[1:], method="OPTIONS") == 401
    assert compare(ring, envoy, key_text, headers=bad + both, method="GET") == 401
    for length in (200, 253, 254, 300, 900):
        url = "/a/" + "y" * length + "?q=1"
        assert compare(ring, envoy, key_text, url, headers=bad) == 401


def test_forged_output_headers(ring: Any, envoy: Any, key_text: str) -> None:
    """Output headers that the client sends are gone with a token and without."""
    forged = [("x-payload", "forged"), ("x-c-sub", "root"), ("x-c-n", "7")]
    assert compare(ring, envoy, key_text, headers=forged) == 200
    assert (
        compare(ring, envoy, key_text, headers=forged + bearer(ring.mint(exp=int(time.time()) + 9)))
        == 200
    )

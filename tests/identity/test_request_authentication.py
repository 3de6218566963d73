"""What the tokens of a request prove, and what goes upstream."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import ClaimHeader, JwtRule, RuleOrigin, TokenHeader
from identity.request_authentication import Authentication, TokenStatus, authenticate_request

ORIGIN = RuleOrigin(namespace="foo", name="jwt", file="jwt.yaml", line=7)


class Keys:
    """Looks every rule's keys up in one set, or in none."""

    def __init__(self, keys: JwkSet | None) -> None:
        """Keep the set."""
        self._keys = keys

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the set."""
        return self._keys


def ask(ring: Any, rules: list[JwtRule], **fields: Any) -> Authentication:
    """Authenticate a request that is plain but for the fields given."""
    request: dict[str, Any] = {
        "method": "GET",
        "path": "/x",
        "host": "shop.example",
        "scheme": "https",
        "headers": {},
        "keys": Keys(parse_jwk_set(ring.inline(), is_inline=True)),
        "now": float(ring.now),
    }
    return authenticate_request(rules, **(request | fields))


def bearer(text: str) -> dict[str, tuple[str, ...]]:
    """Return the headers that carry a token the usual way."""
    return {"authorization": (f"Bearer {text}",)}


def test_no_rules_no_processing(ring: Any) -> None:
    """Without rules a token is neither believed nor refused, nor taken away."""
    assert ask(ring, [], headers=bearer(ring.mint())) == Authentication()
    assert ask(ring, [], headers=bearer("bad")) == Authentication()


def test_good_token(ring: Any) -> None:
    """A good token makes claims, and goes no further unless the rule says so."""
    rule = JwtRule(issuer=ring.issuer)
    outcome = ask(ring, [rule], headers=bearer(ring.mint()))
    assert outcome.failure is None
    assert outcome.claims is not None
    assert outcome.claims.request_principal == f"{ring.issuer}/alice"
    assert outcome.remove_request_headers == ("authorization",)
    assert outcome.token_headers == ("authorization",)
    kept = dataclasses.replace(rule, forward_original_token=True)
    assert ask(ring, [kept], headers=bearer(ring.mint())).remove_request_headers == ()


def test_missing_token_is_no_failure(ring: Any) -> None:
    """A request without token goes on without identity; so does another scheme."""
    rule = JwtRule(issuer=ring.issuer)
    for headers in ({}, {"authorization": ("Basic abc",)}, {"authorization": ("bearer x",)}):
        outcome = ask(ring, [rule], headers=headers)
        assert (outcome.claims, outcome.failure) == (None, None)


def test_failure_says_why(ring: Any) -> None:
    """A rejection carries Envoy's answer, the reason, and where the deciding rule stands."""
    rule = JwtRule(issuer=ring.issuer, audiences=("a",), origin=ORIGIN)
    failure = ask(ring, [rule], headers=bearer(ring.mint()), path="/x?q=1").failure
    assert failure is not None
    assert failure.status is TokenStatus.AUDIENCE_NOT_ALLOWED
    assert (failure.http_status, failure.origin) == (403, ORIGIN)
    assert failure.body == "Audiences in Jwt are not allowed"
    expected = 'Bearer realm="https://shop.example/x?q=1", error="invalid_token"'
    assert failure.www_authenticate == expected


def test_keys_not_had_refuse(ring: Any) -> None:
    """When keys cannot be had a token is refused, and a request without one passes."""
    rule = JwtRule(issuer=ring.issuer)
    outcome = ask(ring, [rule], headers=bearer(ring.mint()), keys=Keys(None))
    assert outcome.failure is not None
    assert outcome.failure.status is TokenStatus.NO_KEYS
    assert ask(ring, [rule], keys=Keys(None)).failure is None


def test_unknown_key_is_reported(ring: Any) -> None:
    """A token under an unknown kid is followed up with the rule it came under."""
    heard: list[JwtRule] = []
    rule = JwtRule(issuer=ring.issuer)
    keys = Keys(parse_jwk_set(ring.public("p256"), is_inline=False))
    ask(ring, [rule], headers=bearer(ring.mint()), keys=keys, on_unknown_key=heard.append)
    ask(ring, [rule], headers=bearer(ring.mint(exp=1)), keys=keys, on_unknown_key=heard.append)
    assert heard == [rule]


OUTPUTS = JwtRule(
    issuer="https://issuer.example",
    from_headers=(TokenHeader("x-tok"),),
    output_payload_to_header="X-Payload",
    output_claim_to_headers=(ClaimHeader("X-Sub", "sub"), ClaimHeader("X-Role", "a.role")),
)


@pytest.mark.parametrize("with_token", ["none", "good", "bad", "preflight"])
def test_output_headers_are_never_the_clients(ring: Any, with_token: str) -> None:
    """Whatever the outcome, each output header of each rule is overwritten or removed."""
    other = JwtRule(issuer="z", output_payload_to_header="x-other")
    headers: dict[str, tuple[str, ...]] = {"x-payload": ("forged",), "x-role": ("root",)}
    if with_token != "none":
        headers["x-tok"] = (ring.mint() if with_token == "good" else "bad",)
    method = "GET"
    if with_token == "preflight":
        method = "OPTIONS"
        headers |= {"origin": ("o",), "access-control-request-method": ("GET",)}
    outcome = ask(ring, [OUTPUTS, other], headers=headers, method=method)
    written = {name for name, _ in outcome.set_request_headers}
    assert {"x-payload", "x-sub", "x-role", "x-other"} <= written | set(
        outcome.remove_request_headers
    )
    assert not written & set(outcome.remove_request_headers)
    assert written == ({"x-payload", "x-sub"} if with_token == "good" else set())


@pytest.mark.parametrize("value", ["a\r\nx-admin: 1", "a\x00", "a\nb", "\x7f", ""])
def test_claims_cannot_write_other_headers(ring: Any, value: str) -> None:
    """A claim that is no header value makes no header."""
    outcome = ask(ring, [OUTPUTS], headers={"x-tok": (ring.mint(sub=value),)})
    assert outcome.claims is not None
    assert "x-sub" not in dict(outcome.set_request_headers)
    assert "x-sub" in outcome.remove_request_headers


def test_every_token_that_holds_is_written(ring: Any) -> None:
    """Each of several tokens writes its claims, the last one first, and none overwrites another."""
    rule = JwtRule(
        issuer=ring.issuer,
        from_headers=(TokenHeader("x-tok"),),
        output_claim_to_headers=(ClaimHeader("X-Who", "sub"), ClaimHeader("x-who", "azp")),
    )
    tokens = (ring.mint(sub="alice", azp="shop"), ring.mint(sub="bob"))
    outcome = ask(ring, [rule], headers={"x-tok": tokens})
    assert ("bob", "alice", "shop") == tuple(value for _, value in outcome.set_request_headers)
    assert ("x-tok",) == outcome.remove_request_headers


def test_space_delimited_claims(ring: Any) -> None:
    """Scope, permission and named top-level claims become lists; blank ones stay."""
    rule = JwtRule(issuer=ring.issuer, space_delimited_claims=("roles", "a.b"))
    claims = {"scope": "read  write", "permission": "x", "roles": "r1 r2", "other": "o p"}
    text = ring.mint(**claims, **{"a.b": "c d"}, nested={"scope": "q r"})
    payload = ask(ring, [rule], headers=bearer(text)).claims.payload
    assert (payload["scope"], payload["permission"]) == (["read", "write"], ["x"])
    assert (payload["roles"], payload["other"]) == (["r1", "r2"], "o p")
    assert (payload["a.b"], payload["nested"]) == (["c", "d"], {"scope": "q r"})
    blank = ask(ring, [rule], headers=bearer(ring.mint(scope="  "))).claims.payload
    assert blank["scope"] == "  "


def test_every_place_is_named_for_masking(ring: Any) -> None:
    """Tokens at the places of every rule are named, tried or not, believed or not."""
    rules = [
        JwtRule(issuer=ring.issuer),
        JwtRule(issuer="z", from_headers=(TokenHeader("X-Z"),), from_params=("t",)),
        JwtRule(issuer="y", from_cookies=("sess",)),
    ]
    headers = bearer(ring.mint()) | {"x-z": ("bad",), "cookie": ("a=b; sess=bad",)}
    outcome = ask(ring, rules, headers=headers, path="/x?t=bad&u=1")
    assert outcome.claims is not None
    assert outcome.token_headers == ("authorization", "cookie", "x-z")
    assert outcome.token_params == ("t",)
    assert outcome.remove_query_parameters == ()


def test_no_token_text_in_the_record(ring: Any) -> None:
    """Nothing of a refused token stands in the detail or the body."""
    rule = JwtRule(issuer=ring.issuer)
    for text in ("s3cret.s3cret.s3cret", ring.mint(iss="s3cret"), "s3cret"):
        failure = ask(ring, [rule], headers=bearer(text)).failure
        assert failure is not None
        assert "s3cret" not in json.dumps(dataclasses.asdict(failure))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    path=st.text(max_size=40),
    host=st.text(max_size=20),
    values=st.lists(st.text(max_size=30), max_size=3),
)
def test_any_request(ring: Any, path: str, host: str, values: list[str]) -> None:
    """Any text anywhere has an outcome, never an identity, and an answer fit for a header."""
    rules = [
        JwtRule(issuer=ring.issuer),
        JwtRule(
            from_headers=(TokenHeader("x-tok"), TokenHeader("x-tok", "p")),
            from_params=("t", ""),
            from_cookies=("c", ""),
        ),
    ]
    headers = {name: tuple(values) for name in ("authorization", "x-tok", "cookie", "origin")}
    outcome = ask(ring, rules, path=path + "?t=" + path, host=host, headers=headers)
    assert outcome.claims is None
    if outcome.failure is not None:
        assert outcome.failure.www_authenticate.isprintable()
        assert outcome.failure.www_authenticate.count('"') == 4

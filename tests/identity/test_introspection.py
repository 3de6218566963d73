"""Opaque tokens over real HTTP: the issuer is asked once, believed and waited for a while."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback_issuer import FETCHER, PATIENCE, Issuer, eventually

from identity.document_fetch import Document
from identity.introspection import IntrospectionProvider, Introspector
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal, Verdict, VerifiedToken, verify_token
from identity.request_authentication import Authentication, authenticate_request
from identity.token_status import TokenStatus
from identity.token_verifier import TokenVerifier

ISSUER = "https://opaque.example"
RULE = JwtRule(issuer=ISSUER)
TOKEN = "2YotnFZFEjr1zCsicMWpAA"
SECRET = "s3cret-of-the-client"
NOW = 1_800_000_000
ACTIVE = {"active": True, "sub": "alice", "scope": "read write", "exp": NOW + 600, "aud": "shop"}


class Desk:
    """An introspector with a clock of its own, asking a loopback endpoint."""

    def __init__(self, issuer: Issuer, **fields: Any) -> None:
        self.issuer = issuer
        self.clock = 1000.0
        provider = IntrospectionProvider(
            **(
                {
                    "issuer": ISSUER,
                    "endpoint": issuer.url + "/introspect",
                    "client_id": "meshwarden",
                    "client_secret": SECRET,
                    "timeout_seconds": PATIENCE,
                }
                | fields
            )
        )
        self.introspector = Introspector(
            [provider], FETCHER.post, clock=lambda: self.clock, fraction=lambda: 0.0
        )

    def answer(self, document: object, status: int = 200) -> None:
        """Let the endpoint answer with a document from now on."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.issuer.answers["/introspect"] = (status, {}, body)

    def verify(self, text: str = TOKEN, rule: JwtRule = RULE, now: float = NOW) -> Verdict | None:
        """Judge one text."""
        return self.introspector.verify(text, rule, now)

    def status(self, text: str = TOKEN, rule: JwtRule = RULE, now: float = NOW) -> TokenStatus:
        """Judge one text and return its status."""
        verdict = self.verify(text, rule, now)
        assert verdict is not None
        return TokenStatus.OK if isinstance(verdict, VerifiedToken) else verdict.status


@pytest.fixture
def desk_of() -> Iterator[Callable[..., Desk]]:
    """Make desks with an endpoint each, closed at the end."""
    made: list[Desk] = []

    def make(**fields: Any) -> Desk:
        made.append(Desk(Issuer(), **fields))
        return made[-1]

    yield make
    for desk in made:
        desk.introspector.close()
        desk.issuer.close()


@pytest.fixture
def desk(desk_of: Callable[..., Desk]) -> Desk:
    """One desk, whose endpoint calls every token active."""
    made = desk_of()
    made.answer(ACTIVE)
    return made


def test_active_token(desk: Desk) -> None:
    """The answer's claims become the verified claims, `iss` being the issuer that was asked."""
    verdict = desk.verify()
    assert isinstance(verdict, VerifiedToken)
    expected = {name: value for name, value in ACTIVE.items() if name != "active"}
    assert verdict.payload == {"iss": ISSUER} | expected
    padded = verdict.payload_text + "=" * (-len(verdict.payload_text) % 4)
    assert json.loads(base64.urlsafe_b64decode(padded)) == verdict.payload


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_the_question(desk_of: Callable[..., Desk], method: str) -> None:
    """The token is sent as a form, with the client's secret where the method puts it."""
    desk = desk_of(auth_method=method)
    desk.answer(ACTIVE)
    assert desk.status() is TokenStatus.OK
    headers, body = desk.issuer.received[0]
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    assert (form.pop("token"), form.pop("token_type_hint")) == (TOKEN, "access_token")
    if method == "client_secret_basic":
        expected = base64.b64encode(f"meshwarden:{SECRET}".encode()).decode()
        assert headers["Authorization"] == f"Basic {expected}"
        assert form == {}
    else:
        assert form == {"client_id": "meshwarden", "client_secret": SECRET}


def test_other_issuers_are_not_asked(desk: Desk) -> None:
    """A rule of an issuer without provider has no verdict here."""
    assert desk.verify(rule=JwtRule(issuer="https://other")) is None
    assert desk.verify(rule=JwtRule(issuer="")) is None
    assert desk.issuer.asked == []


def test_remembered_for_a_while(desk: Desk) -> None:
    """An answer is believed for its time, so that a revocation counts after it."""
    assert [desk.status() for _ in range(3)] == [TokenStatus.OK] * 3
    assert len(desk.issuer.asked) == 1
    desk.answer({"active": False})
    desk.clock += 59
    assert desk.status() is TokenStatus.OK
    desk.clock += 2
    assert desk.status() is TokenStatus.INACTIVE
    assert len(desk.issuer.asked) == 2


def test_never_past_expiry(desk: Desk) -> None:
    """An answer is not remembered past the token's `exp`, and the times count at every use."""
    desk.answer(ACTIVE | {"exp": NOW + 5})
    assert desk.status() is TokenStatus.OK
    desk.clock += 6
    assert desk.status(now=NOW + 6) is TokenStatus.OK
    assert len(desk.issuer.asked) == 2
    assert desk.status(now=NOW + 66) is TokenStatus.EXPIRED
    desk.answer(ACTIVE | {"nbf": NOW + 61})
    assert desk.status("another") is TokenStatus.NOT_YET_VALID


def test_inactive_is_remembered_shortly(desk: Desk) -> None:
    """A refused token is not asked about again at once, and is soon."""
    desk.answer({"active": False, "sub": "alice"})
    assert [desk.status() for _ in range(3)] == [TokenStatus.INACTIVE] * 3
    assert len(desk.issuer.asked) == 1
    desk.answer(ACTIVE)
    desk.clock += 6
    assert desk.status() is TokenStatus.OK


def test_audience_and_issuer(desk: Desk) -> None:
    """The rule's audiences hold for opaque tokens too, and the answer must be of the issuer."""
    assert desk.status(rule=JwtRule(issuer=ISSUER, audiences=("shop",))) is TokenStatus.OK
    wrong = desk.status(rule=JwtRule(issuer=ISSUER, audiences=("x",)))
    assert wrong is TokenStatus.AUDIENCE_NOT_ALLOWED
    assert len(desk.issuer.asked) == 1
    desk.answer(ACTIVE | {"iss": "https://other"})
    assert desk.status("another") is TokenStatus.UNKNOWN_ISSUER


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"<html>", b"{", b"{}", b'{"active":"true"}', b'{"active":1}',
     b'{"active":true,"active":false}', b'{"active":true,"exp":"5"}', b'{"active":true,"sub":5}',
     b'{"active":true,"exp":1e400}', b'{"active":true,"aud":[5]}', b"\xff", b"[" * 100_000,
     b'{"active":true,"x":NaN}'],
)  # fmt: skip
def test_lying_endpoint(desk: Desk, body: bytes) -> None:
    """An answer that cannot be read refuses the token."""
    desk.answer(body)
    assert desk.status() is TokenStatus.INTROSPECTION_FAILED


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403, 404, 500, 503])
def test_endpoint_that_refuses(desk: Desk, status: int) -> None:
    """No status but a good one counts, and the question is not sent on to elsewhere."""
    desk.issuer.answers["/introspect"] = (
        status,
        {"location": desk.issuer.url + "/elsewhere"},
        json.dumps(ACTIVE).encode(),
    )
    assert desk.status() is TokenStatus.INTROSPECTION_FAILED
    assert desk.issuer.asked == ["/introspect"]


def test_hanging_endpoint(desk_of: Callable[..., Desk], record_property: Any) -> None:
    """A request waits no longer than the limit; then the endpoint is left alone for a while."""
    limit = 0.2
    desk = desk_of(timeout_seconds=limit)
    desk.issuer.answers["/introspect"] = lambda _handler: desk.issuer.release.wait(PATIENCE)
    begun = time.monotonic()
    assert desk.status() is TokenStatus.INTROSPECTION_FAILED
    waited = time.monotonic() - begun
    record_property("waited_seconds", round(waited, 3))
    assert waited < limit + 2
    eventually(lambda: "lately" in _detail(desk.verify()))
    asked = len(desk.issuer.asked)
    assert [desk.status(str(number)) for number in range(20)] == [
        TokenStatus.INTROSPECTION_FAILED
    ] * 20
    assert len(desk.issuer.asked) == asked
    desk.answer(ACTIVE)
    desk.clock += 1
    assert desk.status("later") is TokenStatus.OK


def _detail(verdict: Verdict | None) -> str:
    """Return why a token was refused."""
    return verdict.detail if isinstance(verdict, TokenRefusal) else ""


def test_nobody_listens(desk_of: Callable[..., Desk]) -> None:
    """An endpoint that is down refuses, and the pause between tries doubles."""
    desk = desk_of(endpoint="http://127.0.0.1:1/introspect")
    pauses = []
    for _ in range(7):
        assert desk.status() is TokenStatus.INTROSPECTION_FAILED
        begun = desk.clock
        while "lately" in _detail(desk.verify()):
            desk.clock += 0.5
        pauses.append(desk.clock - begun)
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_one_question_for_many(desk: Desk) -> None:
    """Many requests with one token at once ask once."""
    asked = threading.Event()
    release = threading.Event()

    def answer(handler: Any) -> None:
        asked.set()
        release.wait(PATIENCE)
        body = json.dumps(ACTIVE).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    desk.issuer.answers["/introspect"] = answer
    found: list[TokenStatus] = []
    threads = [threading.Thread(target=lambda: found.append(desk.status())) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert asked.wait(PATIENCE)
    release.set()
    for thread in threads:
        thread.join()
    assert found == [TokenStatus.OK] * 8
    assert len(desk.issuer.asked) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(text=st.text(max_size=30) | st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")))
def test_texts_that_are_no_tokens(desk: Desk, text: str) -> None:
    """Only what RFC 6750 calls a bearer token is sent anywhere; the rest is refused unsent."""
    desk.answer({"active": False})
    sendable = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
    if text and set(text) <= sendable:
        assert desk.status(text) in (TokenStatus.INACTIVE, TokenStatus.BAD_FORMAT)
    else:
        assert desk.status(text) is TokenStatus.BAD_FORMAT


def test_too_long(desk: Desk) -> None:
    """A handle longer than any is not asked about."""
    assert desk.status("a" * 5000) is TokenStatus.BAD_FORMAT
    assert desk.issuer.asked == []


def test_no_secret_anywhere(desk: Desk) -> None:
    """Neither token nor client secret shows in a verdict, a provider or a message."""
    provider = IntrospectionProvider(
        issuer=ISSUER, endpoint="http://127.0.0.1:1/", client_id="c", client_secret=SECRET
    )
    assert SECRET not in repr(provider)
    for document, status in ((ACTIVE, 500), ({"active": False}, 200), (b"<", 200)):
        desk.answer(document, status)
        desk.clock += 100
        verdict = desk.verify()
        assert isinstance(verdict, TokenRefusal)
        assert TOKEN not in repr(verdict)
        assert SECRET not in repr(verdict)


class _Keys:
    """One set for every rule."""

    def __init__(self, keys: JwkSet) -> None:
        self._keys = keys

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the set."""
        return self._keys


def _ask(ring: Any, desk: Desk, rules: list[JwtRule], token: str) -> Authentication:
    """Authenticate a request with a token, JWTs and opaque ones both."""
    verifier = TokenVerifier(verify_jwt=verify_token, ask_issuer=desk.introspector.verify)
    return authenticate_request(
        rules,
        method="GET",
        path="/x",
        host="shop.example",
        scheme="https",
        headers={"authorization": (f"Bearer {token}",)},
        keys=_Keys(parse_jwk_set(ring.public(), is_inline=False)),
        now=NOW,
        verify=verifier.verify,
    )


@pytest.mark.parametrize(
    "token", [TOKEN, "a~b+c/d==", "~", "+start/with-odd", "a.b", "a.b.c.d", "a.b~c.d+e"]
)
def test_request_with_opaque_token(ring: Any, desk: Desk, token: str) -> None:
    """The whole of an opaque token arrives at its issuer, and its claims at the decision."""
    outcome = _ask(ring, desk, [RULE], token)
    assert outcome.claims is not None
    assert outcome.claims.request_principal == f"{ISSUER}/alice"
    assert outcome.claims.payload["scope"] == ["read", "write"]
    assert parse_qs(desk.issuer.received[0][1].decode())["token"] == [token]


def test_a_jwt_is_never_asked_about(ring: Any, desk: Desk) -> None:
    """A JWT that does not hold is refused, though its issuer would call it active."""
    rule = JwtRule(issuer=ISSUER)
    for text in (
        ring.mint("stranger", iss=ISSUER),
        ring.mint(iss=ISSUER, exp=1),
        ring.mint(iss=ISSUER).rpartition(".")[0] + ".",
        ring.mint(iss=ISSUER).rpartition(".")[0] + ".~",
    ):
        assert _ask(ring, desk, [rule], text).failure is not None
    assert _ask(ring, desk, [rule], ring.mint(iss=ISSUER)).claims is not None
    assert desk.issuer.asked == []


def test_beside_a_jwt_rule(ring: Any, desk: Desk) -> None:
    """A rule of JWTs and a rule of opaque tokens at one place are alternatives."""
    rules = [RULE, JwtRule(issuer=ring.issuer)]
    assert _ask(ring, desk, rules, TOKEN).claims is not None
    assert _ask(ring, desk, rules, ring.mint(exp=NOW + 600)).claims is not None
    desk.answer({"active": False})
    failure = _ask(ring, desk, rules, "another").failure
    assert failure is not None
    assert failure.http_status == 401


ANSWER = st.binary(max_size=60) | st.dictionaries(
    st.sampled_from(["active", "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope"]),
    st.booleans() | st.none() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([ISSUER, NOW + 60]) | st.lists(st.text(max_size=3), max_size=2),
    max_size=6,
).map(lambda document: json.dumps(document).encode())  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(body=ANSWER)
def test_any_answer_is_judged(body: bytes) -> None:
    """Whatever an endpoint answers: verified only where it says `active` and the claims hold."""
    provider = IntrospectionProvider(
        issuer=ISSUER, endpoint="https://o.example/", client_id="c", client_secret=SECRET
    )
    introspector = Introspector([provider], lambda _url, **_fields: Document(body=body))
    verdict = introspector.verify(TOKEN, RULE, NOW)
    introspector.close()
    assert verdict is not None
    if isinstance(verdict, VerifiedToken):
        document = json.loads(body)
        assert document["active"] is True
        assert document.get("iss", ISSUER) == ISSUER
        assert document.get("exp", NOW) >= NOW - 60 or document["exp"] < 1
        assert "active" not in verdict.payload


def _bent_jws(ring: Any) -> dict[str, str]:
    """Return texts that somebody may still take for a JWS of the issuer."""
    head, payload, signature = ring.mint(iss=ISSUER).split(".")

    def headed(raw: bytes) -> str:
        text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        return f"{text}.{payload}.{signature}"

    return {
        "a dot behind": f"{head}.{payload}.{signature}.",
        "dots around": f"..{head}.{payload}.{signature}..",
        "dots between": f"{head}...{payload}..{signature}",
        "another last letter": f"{head[:-1]}{chr(ord(head[-1]) + 1)}.{payload}.{signature}",
        "a name twice": headed(b'{"alg":"none","alg":"RS256"}'),
        "a byte order mark": headed(b'\xef\xbb\xbf{"alg":"RS256"}'),
        "another encoding": headed('{"alg":"RS256"}'.encode("utf-16")),
        "not a number": headed(b'{"alg":"RS256","x":NaN}'),
        "a number of many digits": headed(b'{"alg":"RS256","x":%s}' % (b"9" * 4400)),
        "a deep header": headed(b'{"x":' + b"[" * 1400 + b"]" * 1400 + b"}"),
        "blanks around": headed(b' \n{"alg":"RS256"} '),
        "no signature": f"{head}.{payload}.",
        "no signature and dots": f"{head}.{payload}...",
        "no payload": f"{head}..{signature}",
    }


def test_a_bent_jws_is_not_asked_about(ring: Any, desk: Desk) -> None:
    """What an issuer may take for its JWT is refused by the rule, and never asked about."""
    keys = parse_jwk_set(ring.public("rsa"), is_inline=False)
    verifier = TokenVerifier(verify_jwt=verify_token, ask_issuer=desk.introspector.verify)
    for name, text in _bent_jws(ring).items():
        assert isinstance(verifier.verify(text, RULE, lambda: keys, NOW), TokenRefusal), name
        assert desk.issuer.asked == [], name


@pytest.mark.parametrize(
    "text", ["eyJ1IjoxfQ.c2ln", "eyJhbGciOiJkaXIifQ..aXY.Y3Q.dGFn", "a.b.c", "x"]
)
def test_what_is_no_jws_is_asked_about(desk: Desk, text: str) -> None:
    """Two parts, the five of a JWE, and three that begin with no object are the issuer's own."""
    verifier = TokenVerifier(verify_jwt=verify_token, ask_issuer=desk.introspector.verify)
    assert isinstance(verifier.verify(text, RULE, lambda: None, NOW), VerifiedToken)
    assert len(desk.issuer.asked) == 1

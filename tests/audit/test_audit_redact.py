"""No secret reaches the record, and what is no secret stays readable."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import redact
from audit.document import document_from_record
from audit.keyed_hash import KeyedHash
from audit.record import DecisionFacts, RequestFacts, SubjectFacts
from audit.redact import Redactor
from audit.secret_text import MASK

_REDACTOR = Redactor(secret_headers=["X-Vault"], secret_parameters=["pin"])


def _part(value: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


JWT = f"{_part({'alg': 'RS256'})}.{_part({'sub': 'SECRETSUB'})}.c2lnbmF0dXJlU0VDUkVU"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a?access_token=S3&b=1", "/a?access_token=***&b=1"),
        ("/a?b=1&ID_TOKEN=S3", "/a?b=1&ID_TOKEN=***"),
        ("/a?api%5Fkey=S3", "/a?api%5Fkey=***"),
        ("/a?access%255ftoken=S3", "/a?access%255ftoken=***"),
        ("/a?x=1;token=S3;S3&y=2", "/a?x=1;token=***&y=2"),
        ("/a?client-secret=S3#access_token=S3", "/a?client-secret=***#access_token=***"),
        ("/a?token[0]=S3&token[]=S3", "/a?token[0]=***&token[]=***"),
        ("/a?password1=S3&user[password2]=S3", "/a?password1=***&user[password2]=***"),
        ("/a?code%5B0%5D=S3&u=%3Fsid2%3DS3", "/a?code%5B0%5D=***&u=%3Fsid2%3D***"),
        ("/a?PHPSESSID=S3&code_verifier=S3", "/a?PHPSESSID=***&code_verifier=***"),
        ("/a?page2=x&2=y&oauth2=z", "/a?page2=x&2=y&oauth2=z"),
        ("/a;sessionid=S3;S3/b?c=d", "/a;sessionid=***/b?c=d"),
        ("/cb?code=S3&state=x", "/cb?code=***&state=x"),
        (
            "/f?X-Amz-Signature=S3&X-Amz-Credential=S3",
            "/f?X-Amz-Signature=***&X-Amz-Credential=***",
        ),
        ("/f?pin=S3&sig=S3", "/f?pin=***&sig=***"),
        ("/f?carried=S3", "/f?carried=***"),
        ("https://me:S3@host/x", "https://***@host/x"),
        ("/a?next=/b%3Faccess_token%3DS3", "/a?next=/b%3Faccess_token%3D***"),
        ("/a?next=%2Fcb%3Fcode%3DS3%26state%3Dx&b=1", "/a?next=%2Fcb%3Fcode%3D***%26state%3Dx&b=1"),
        ("/a?u=x%253Fa%253D1%2526sig%253DS3%25S3&c=d", "/a?u=x%253Fa%253D1%2526sig%253D***&c=d"),
        ("/a?n=pin%3dS3%23sid%3DS3#code%3DS3", "/a?n=pin%3d***%23sid%3D***#code%3D***"),
        ("/a?n=%3Fcarried%3DS3%3Dcode%3DS3", "/a?n=%3Fcarried%3D***"),
        ("/a?n=%3Fpage%3D3%26barcode%3D4", "/a?n=%3Fpage%3D3%26barcode%3D4"),
        (f"/t/{JWT}/x", "/t/***/x"),
        ("/orders/7?page=2&sort=name", "/orders/7?page=2&sort=name"),
        ("/tokens/list?tokens_left=3", "/tokens/list?tokens_left=3"),
        ("/v1.2.3/file.name.tar.gz", "/v1.2.3/file.name.tar.gz"),
        ("", ""),
    ],
)
def test_paths(path: str, shown: str) -> None:
    """A secret parameter loses its value, however its name is spelled; the rest stays."""
    assert _REDACTOR.path(path, frozenset({"carried"})) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {JWT} refused", "token *** refused"),
        (f"foo.{JWT}", "foo.***"),
        (f"longer-prefix.{JWT}", "***"),
        ("Bearer abcDEF123456", "Bearer ***"),
        ("Basic dXNlcjpwYXNz", "Basic ***"),
        ("the bearer token has expired", "the bearer token has expired"),
        ("basic authentication required", "basic authentication required"),
        ("host newsletter.shop.svc.cluster.local", "host newsletter.shop.svc.cluster.local"),
        ("password=hunter22 is wrong", "password=*** is wrong"),
    ],
)
def test_texts(text: str, shown: str) -> None:
    """What looks like a credential is masked in any text; words about one are not."""
    assert _REDACTOR.text(text) == shown


@pytest.mark.parametrize("value", ["S3", 1234, 1.5, ["S3"], {"value": "S3"}, [[{"a": 1}]], "", []])
@pytest.mark.parametrize("name", ["password", "Client-Secret", "api_key", "pin", "accessToken"])
def test_member_with_a_secret_name_is_masked_whole(name: str, value: object) -> None:
    """What stands under a secret name in a claim is masked, whatever kind of value it is."""
    claim = {"list": [{name: value, "page": value, "is": {name: True, f"{name}x": None}}]}
    assert _REDACTOR.claim("roles", claim) == {
        "list": [{name: MASK, "page": value, "is": {name: True, f"{name}x": None}}]
    }


def test_headers_are_an_allow_list() -> None:
    """Secret headers show that they were there; unknown ones are left out; others stay."""
    shown = _REDACTOR.headers(
        {
            "authorization": (f"Bearer {JWT}", "x"),
            "cookie": ("sid=S3",),
            "x-vault": ("S3",),
            "x-carrier": ("S3",),
            "x-unknown": ("S3",),
            "user-agent": (f"curl {JWT}",),
            "referer": ("https://h/?token=S3",),
            "x-request-id": ("r1",),
        },
        frozenset({"X-Carrier"}),
    )
    assert shown == {
        "authorization": [MASK, MASK],
        "cookie": [MASK],
        "x-vault": [MASK],
        "x-carrier": [MASK],
        "user-agent": ["curl ***"],
        "referer": ["https://h/?token=***"],
        "x-request-id": ["r1"],
    }


# Spelled out once more: who takes a name from the lists of the code has to take it from here.
_ALWAYS_SECRET = (
    *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"),
    *("x-auth-token", "x-csrf-token", "x-amz-security-token", "x-goog-iap-jwt-assertion"),
)
_SHOWN = (
    *(":authority", ":method", ":path", ":scheme", "accept", "content-length", "content-type"),
    *("host", "origin", "referer", "traceparent", "user-agent", "x-envoy-external-address"),
    *("x-forwarded-for", "x-forwarded-proto", "x-request-id"),
)
_URLS = (":path", "referer", "origin", "location", "x-envoy-original-path")


@pytest.mark.parametrize("name", [*_ALWAYS_SECRET, "x-vault", "x-carrier"])
def test_secret_headers(name: str) -> None:
    """Of these only their number is written, even where somebody asks for them."""
    carriers = frozenset({"X-Carrier"})
    for shown in ((), (name,)):
        redactor = Redactor(headers=shown, secret_headers=["x-other", "X-Vault"])
        assert redactor.shown_header(name, ("a", "b"), carriers) == [MASK, MASK]
        assert redactor.header(name, ("a", "b"), carriers) == [MASK, MASK]
        assert redactor.hides_header(name, carriers)
        assert redactor.mask_of(name, carriers) is None


def test_shown_headers() -> None:
    """The usual ones are shown in their order, others where they are asked for, however spelled."""
    names = (*_SHOWN, "x-carrier", "x-unknown")
    plain = dict.fromkeys(reversed(names), ("a", "b"))
    shown = Redactor().headers(plain)
    assert [*shown.items()] == [(name, ["a", "b"]) for name in sorted(_SHOWN)]
    asked = Redactor(headers=["X-Unknown", "X-CARRIER"])
    assert [*asked.headers(plain)] == ["x-carrier", "x-unknown"]
    assert asked.headers(plain, frozenset({"x-carrier"}))["x-carrier"] == [MASK, MASK]
    assert asked.hides_header("accept")
    assert asked.mask_of("accept") is None
    assert not asked.hides_header("x-unknown")


@pytest.mark.parametrize("name", [*_URLS, "user-agent"])
def test_headers_that_are_urls(name: str) -> None:
    """In these a parameter is secret by its name, of rules and of carriers too."""
    redactor = Redactor(headers=[name])
    carriers = frozenset({"x1"})
    given, shown = "/?sid=S3&x1=S3", "/?sid=***&x1=***"
    want = shown if name in _URLS else given
    mask = redactor.mask_of(name, carriers)
    assert mask is not None
    assert mask(given) == want
    assert redactor.shown_header(name, (given, "/"), carriers) == [want, "/"]
    assert redactor.header(name, (given, "/"), carriers) == [want, "/"]


_SECRET_PARAMETERS = (
    *("code", "sig", "auth", "authorization", "pwd", "pass", "sid", "pin", "x-pin", "carried"),
    *("token", "secret", "password", "passwd", "passphrase", "apikey", "accesskey", "privatekey"),
    *("signature", "credential", "credentials", "assertion", "sessionid", "jwt"),
    *("passcode", "secretkey", "subscriptionkey", "authcode", "devicecode", "codeverifier"),
    *("samlresponse", "sessid", "pass2", "token[0]", "password12", "n" * 80 + "sid_token9"),
    *("my_token", "MySecret", "a.password", "api-key", "API%255fKEY", "client+assertion"),
    *("n" * 59 + "token", "n" * 60 + "token", "n" * 200 + "-jwt"),
)
_PLAIN_PARAMETERS = (
    *("page", "codec", "signed", "authority", "passage", "side", "tokens", "secretary", "jwts"),
    *("n" * 63, "n" * 64, "n" * 65, "n" * 200, "pinned", "2pass", "%", "", "x1"),
)


@pytest.mark.parametrize("name", _SECRET_PARAMETERS)
@pytest.mark.parametrize(
    "place",
    [
        "/a?{}=S3", "/a?b=1&{}=S3&c=2", "/a?b;{}=S3", "/a?{}=S3;S3", "/a?{}=;S3", "/a#{}=S3",
        "/a?b=1#{}=S3", "/a#b?{}=S3", "/a;{}=S3/b", "/{}=S3/b?c=1", "/{}=S3#c?d=1", "{}=S3",
        "/" + "a" * 130 + "?{}=S3", "/a?" + "b&" * 60 + "{}=S3",
    ],
)  # fmt: skip
def test_secret_parameters(name: str, place: str) -> None:
    """Wherever a path has one, and however long it is, its value is not shown."""
    redactor = Redactor(secret_parameters=["Pin", "other", "X Pin"])
    shown = redactor.path(place.format(name), frozenset({"Carri-ed"}))
    assert "S3" not in shown
    assert name in shown
    assert shown.count(MASK) == 1
    assert redactor.path(shown, frozenset({"carried"})) == shown


@pytest.mark.parametrize("name", _PLAIN_PARAMETERS)
def test_plain_parameters(name: str) -> None:
    """What is no secret stays, whatever was secret in the company of others."""
    redactor = Redactor(secret_parameters=["pin"])
    for path in (f"/a?{name}=5&b", f"/a;{name}=5", f"/{'a' * 130}?{name}=5", f"/{name}=5?b#c"):
        assert redactor.path(path) == path
    assert redactor.path("/a?x1=5", frozenset({"x1"})) == f"/a?x1={MASK}"
    assert redactor.path("/a?x1=5", frozenset({"x2"})) == "/a?x1=5"
    for empty in ("/a?token=", "/a?token", "/a?token;S3", "/a?b;token=", "/a?b=1;token;S3"):
        assert redactor.path(empty) == empty


@pytest.mark.parametrize("bound", [2, 1024])
def test_carriers_that_are_not_remembered_count_as_well(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many sets of them come, each is looked at, and so many are kept."""
    monkeypatch.setattr(redact, "_SETS_MAX", bound)
    redactor = Redactor()
    for number in [*range(5), *range(5)]:
        shown = redactor.path(f"/a?k{number}=1&k9=1", frozenset({f"k{number}"}))
        assert shown == f"/a?k{number}=***&k9=1"
    assert len(redactor._sets) == min(bound, 5)


def _deep(depth: int, inner: object, *, is_mapped: bool) -> object:
    for _ in range(depth):
        inner = {"k": inner} if is_mapped else [inner]
    return inner


@pytest.mark.parametrize("is_mapped", [True, False])
def test_values_that_are_nested(is_mapped: bool) -> None:
    """Down to a depth all is written, and below it nothing."""
    redactor = Redactor()
    whole = _deep(24, "x", is_mapped=is_mapped)
    assert redactor.value(whole) == whole
    cut = _deep(25, "(nested too deep)", is_mapped=is_mapped)
    assert redactor.value(_deep(25, "x", is_mapped=is_mapped)) == cut


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.5, 1.5), (math.inf, "inf"), (-math.inf, "-inf"), (b"x", "(bytes)"), (("a",), ["a"]),
        ({"client_secret": "S3"}, {"client_secret": MASK}),
        ({"client_secret": 5}, {"client_secret": MASK}),
        ({"My-Pin": "S3", 7: "x"}, {"My-Pin": MASK, "7": "x"}), ({"page": "S3"},) * 2,
        ({"sid": True, "jwt": None}, {"sid": True, "jwt": None}), ({"pwd": []}, {"pwd": MASK}),
        ({"a": [{"sid": "S3"}]}, {"a": [{"sid": MASK}]}),
        ({"token=S3cret1": "x"}, {"token=***": "x"}),
    ],
)  # fmt: skip
def test_values_of_every_kind(value: object, shown: object) -> None:
    """What is no JSON is named by its kind; a member is secret by its name."""
    assert Redactor(secret_parameters=["my_pin"]).value(value) == shown


def test_claims_stand_in_their_order() -> None:
    """The usual ones are shown; who asks for others has those; issuer and subject stand beside."""
    names = ("scope", "roles", "iat", "groups", "exp", "client_id", "azp", "aud", "x", "iss", "sub")
    payload = dict.fromkeys(names, "v")
    assert [*Redactor().claims(payload)] == sorted(names[:8])
    assert Redactor(claims=["x", "y"]).claims(payload) == {"x": "v"}
    hashing = KeyedHash(b"k" * 32, claims=("iss", "sub", "x"))
    hashed = Redactor(claims=[], hashing=hashing)
    assert hashed.claims(payload) == {"x": hashing.value("v")}
    assert [hashed.hashes_claim(name) for name in ("iss", "x", "aud")] == [True, True, False]


def test_hashed_headers_are_neither_hidden_nor_masked() -> None:
    """Their hash is written; it hangs on the value, so that no mask can stand for it."""
    hashing = KeyedHash(b"k" * 32, headers=("cookie", "x-request-id", "x-user"))
    redactor = Redactor(hashing=hashing)
    for name in ("cookie", "x-request-id", "x-user"):
        assert not redactor.hides_header(name)
        assert redactor.mask_of(name) is None
        want = [hashing.text("a"), hashing.text("b")]
        assert redactor.shown_header(name, ("a", "b")) == want == redactor.header(name, ("a", "b"))


def test_whole_record_holds_no_planted_secret(record) -> None:
    """Secrets planted in every text of a record are nowhere in its document, and named."""
    planted = record(
        request=RequestFacts(
            method="GET",
            host=f"h.{JWT}",
            path="/a?password=S3CRET",
            id=JWT,
            headers={"cookie": ("S3CRET",), "user-agent": (JWT,), ":path": ("/?sig=S3CRET",)},
        ),
        subject=SubjectFacts(
            issuer="i",
            sub=JWT,
            claims={"groups": [JWT, {"client_secret": "S3CRET"}], "odd": "S3CRET"},
        ),
        decision=DecisionFacts(
            effect="deny",
            reason="r",
            layer="DENY",
            http_status=401,
            detail=f"x {JWT}",
            near_miss=JWT,
        ),
    )
    document = document_from_record(planted, node="n", redactor=Redactor())
    text = json.dumps(document)
    assert "S3CRET" not in text
    assert JWT.split(".")[1] not in text
    assert set(document["masked"]) == {
        "/subject/sub",
        "/subject/claims/groups",
        "/request/id",
        "/request/host",
        "/request/path",
        "/request/headers/:path",
        "/request/headers/cookie",
        "/request/headers/user-agent",
        "/decision/detail",
        "/decision/near_miss",
    }


@given(before=st.text(alphabet="ab/.-_?&=%; ", max_size=30), after=st.text(max_size=30))
def test_a_token_after_a_boundary_never_survives(before: str, after: str) -> None:
    """Whatever stands around it, a JWT's payload and signature are masked."""
    shown = _REDACTOR.path(f"{before}/{JWT} {after}")
    assert JWT.split(".")[1] not in shown
    assert JWT.split(".")[2] not in shown


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_value_becomes_json(value: object) -> None:
    """Claims and details of any shape come out as plain JSON."""
    json.dumps(_REDACTOR.value(value), allow_nan=False)

"""No secret reaches the record, and what is no secret stays readable."""

from __future__ import annotations

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import redact
from audit.document import document_from_record
from audit.record import DecisionFacts, RequestFacts, SubjectFacts
from audit.redact import MASK, Redactor

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


@pytest.mark.parametrize("head", ["/", "/bearer", "/basic%20"])
@pytest.mark.parametrize(
    "unit",
    ["ey", "eyJa.", "a.", "token", "bearer ", "bearer+", "bearer+abcdef&", "+", "%20", "://"]
    + ["?;=", "%2e", "="],
)
def test_long_hostile_text_is_quick(head: str, unit: str) -> None:
    """Sixty thousand letters of any pattern take no time to speak of (a guard against blow-up)."""
    started = time.process_time()
    _REDACTOR.path(head + unit * (60_000 // len(unit)))
    assert time.process_time() - started < 5


_PIECES = st.sampled_from(
    [
        "ey",
        "eyJhbGciOiJSUzI1NiJ9.eyJ.x",
        "Bearer ",
        "ba\u017fic ",
        "bas\u0130c A1b2c3d4",
        "token=",
        "x",
    ]
    + ["signature%3D", '"secret": "', "://u:p@h/", "A1b2c3d4e5", "&", " ", "api_key=", "Negotiate+"]
)


@given(st.lists(_PIECES | st.text(max_size=6), max_size=6).map("".join))
def test_the_quick_look_finds_whatever_the_searches_find(text: str) -> None:
    """A text that is called harmless has nothing that a search would mask."""
    searched = redact._DOTTED.sub(redact._mask_jwt, text)
    for pattern in (redact._CREDENTIAL, redact._NAMED):
        searched = pattern.sub(rf"\1\2{redact.MASK}", searched)
    searched = redact._USERINFO.sub(f"://{redact.MASK}@", searched)

    assert not redact._is_harmless(text) or text == searched

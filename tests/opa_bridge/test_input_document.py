"""The input document, field by field as opa-envoy-plugin has it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.peer import Peer
from opa_bridge.errors import InputError
from opa_bridge.input_document import input_document
from opa_bridge.parsed_body import parse_body
from opa_bridge.parsed_path import parse_path, parse_query
from policies.request import Request

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
PARTS = "multipart/form-data; boundary=b"


def body_request(kind: str, body: bytes, **headers: str) -> Request:
    """Return a POST with a body."""
    found = {name.replace("_", "-"): (value,) for name, value in headers.items()}
    if kind:
        found["content-type"] = (kind,)
    return Request(method="POST", path="/", host="h", headers=found, body=body)


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/my/test/path", ["my", "test", "path"]),
        ("//x/people?lang=en", ["x", "people"]),
        ("/", [""]),
        ("", [""]),
        ("/a/", ["a", ""]),
        ("/a%0Ab", ["a\nb"]),
        ("/%ff", ["\N{REPLACEMENT CHARACTER}"]),
        ("/a+b", ["a+b"]),
    ],
)
def test_parsed_path(path: str, want: list[str]) -> None:
    """The path is decoded whole, stripped of leading slashes and split."""
    assert want == parse_path(path)


@pytest.mark.parametrize("path", ["%2Fmy%2Ftest", "/a%2fb", "/%zz", "/%2"])
def test_path_that_two_readers_read_differently(path: str) -> None:
    """An encoded slash is refused unless the policies are known to count on it."""
    with pytest.raises(InputError):
        parse_path(path)


def test_encoded_slash_as_the_plugin_takes_it() -> None:
    """With the switch an encoded slash is a slash."""
    assert parse_path("%2Fmy%2Ftest", is_encoded_slash_taken=True) == ["my", "test"]


@pytest.mark.parametrize(
    ("query", "want"),
    [
        ("a=1&a=new%0aline&b", {"a": ["1", "new\nline"], "b": [""]}),
        ("a+b=c+d&&", {"a b": ["c d"]}),
        ("a=b=c", {"a": ["b=c"]}),
        ("=x", {"": ["x"]}),
        ("", {}),
        ("a=%3B", {"a": [";"]}),
    ],
)
def test_parsed_query(query: str, want: dict[str, list[str]]) -> None:
    """The query is read by Go's rules, values in order."""
    assert want == parse_query(f"/x?{query}")


@pytest.mark.parametrize(
    ("kind", "body", "headers", "want"),
    [
        ("", b'{"a":1}', {}, (None, False)),
        ("text/html", b"foo", {}, (None, False)),
        (JSON, b'{"a":[1,null,true]}', {}, ({"a": [1, None, True]}, False)),
        (f"{JSON}; charset=utf-8", b'"x"', {}, ("x", False)),
        ("Application/JSON", b'"x"', {}, (None, False)),
        (JSON, b"", {}, (None, False)),
        (JSON, b'"\xff"', {}, ("\N{REPLACEMENT CHARACTER}", False)),
        (JSON, b'{"a":', {"content_length": "1000"}, (None, True)),
        (JSON, b'"x"', {"x_envoy_auth_partial_body": "true"}, (None, True)),
        (JSON, b'"x"', {"x_envoy_auth_partial_body": "false"}, ("x", False)),
        ("application/grpc", b"\0\0\0\0\0", {}, (None, False)),
        (FORM, b"a=1&a=2", {}, ({"a": ["1", "2"]}, False)),
        (FORM, b"", {}, (None, False)),
        ("multipart/form-data", b"--b--", {}, (None, False)),
        (
            PARTS,
            b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nv\r\n'
            b'--b\r\nContent-Disposition: form-data; name="j"\r\n'
            b'Content-Type: application/json\r\n\r\n{"a":1}\r\n'
            b"--b\r\nContent-Disposition: form-data\r\n\r\ndropped\r\n--b--\r\n",
            {},
            ({"f": ["v"], "j": [{"a": 1}]}, False),
        ),
    ],
)
def test_parsed_body(kind: str, body: bytes, headers: dict[str, str], want: Any) -> None:
    """The body is parsed by its content type, or left alone."""
    assert want == parse_body(body_request(kind, body, **headers))


@pytest.mark.parametrize(
    ("kind", "body", "headers"),
    [
        (JSON, b"{", {}),
        (JSON, b"NaN", {}),
        (JSON, b"1", {"content_length": "x"}),
        (JSON, b"1", {"content_length": "-1"}),
        (FORM, b"a;b", {}),
        (FORM, b"a=%z", {}),
        (PARTS, b"no part here", {}),
        # Each of these took seconds, in which nobody else was answered.
        (FORM, b"a&" * 500_000, {}),
        (PARTS, b"--b\r\n" + b"a: b\r\n" * 150_000 + b"\r\n1\r\n--b--", {}),
        (PARTS, b"--b\r\nContent-Disposition: form-data" + b';a="\\' * 200_000 + b"\n\n", {}),
    ],
)
def test_malformed_body_is_an_error(kind: str, body: bytes, headers: dict[str, str]) -> None:
    """A body that is not what it says gives no input document."""
    with pytest.raises(InputError):
        parse_body(body_request(kind, body, **headers))


def test_attributes_name_what_is_set() -> None:
    """Names are camelCase, times are numbers, empty fields are absent."""
    document = input_document(
        Request(
            method="GET",
            path="/a?b=c",
            host="h",
            headers={"x": ("1", "2")},
            headers_merged=True,
            source_ip="10.0.0.1",
            source_port=7,
            destination_principal="spiffe://td/ns/b/sa/s",
            sni="h.example",
            received_at=12.5,
            body=b"\xff",
            context_extensions={"k": "v"},
            filter_metadata={"ns": {"a": 1}},
            peer=Peer.from_principal("CN=x"),
        )
    )
    assert document == {
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "attributes": {
            "source": {
                "address": {"socketAddress": {"address": "10.0.0.1", "portValue": 7}},
                "principal": "CN=x",
            },
            "destination": {"principal": "spiffe://td/ns/b/sa/s"},
            "request": {
                "time": {"seconds": 12, "nanos": 500_000_000},
                "http": {
                    "method": "GET",
                    "headers": {"x": "1,2"},
                    "path": "/a?b=c",
                    "host": "h",
                    "rawBody": "/w==",
                },
            },
            "contextExtensions": {"k": "v"},
            "metadataContext": {"filterMetadata": {"ns": {"a": 1}}},
            "tlsSession": {"sni": "h.example"},
        },
        "parsed_path": ["a"],
        "parsed_query": {"b": ["c"]},
        "parsed_body": None,
        "truncated_body": False,
        "source_principal": "CN=x",
        "meshwarden": {"peer": {"principal": "CN=x", "proof": "tls"}},
    }


def test_who_asks_is_absent_when_unknown() -> None:
    """Without peer and token nothing stands in for them."""
    document = input_document(Request(method="GET", path="/", host="h"))
    assert document["meshwarden"] == {}
    assert "source_principal" not in document


@given(st.text(), st.sampled_from([JSON, FORM, PARTS, "multipart/form-data", ""]), st.binary())
def test_any_request_gives_a_document_or_an_input_error(path: str, kind: str, body: bytes) -> None:
    """No path and no body escapes with another exception."""
    request = Request(
        method="POST", path=path, host="h", headers={"content-type": (kind,)}, body=body
    )
    with contextlib.suppress(InputError):
        assert "attributes" in input_document(request)

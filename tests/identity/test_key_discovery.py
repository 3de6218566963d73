"""From an issuer to its keys: the metadata may lead no way that the issuer's scheme forbids."""

from __future__ import annotations

import json

import pytest

from identity.document_fetch import Document
from identity.errors import KeySourceError
from identity.key_discovery import KeyPlace, fetch_keys

KEYS = b'{"keys": []}'


def fetched(issuer: str, jwks_uri: object) -> list[str]:
    """Return the URLs that are fetched for an issuer whose metadata names these keys."""
    asked: list[str] = []

    def fetch(url: str, *, timeout_seconds: float) -> Document:
        asked.append(url)
        metadata = json.dumps({"issuer": issuer, "jwks_uri": jwks_uri}).encode()
        return Document(body=KEYS if len(asked) > 1 else metadata)

    fetch_keys(KeyPlace(issuer, True), fetch, 1.0)
    return asked


@pytest.mark.parametrize("issuer", ["https://a.example", "HTTPS://a.example", "hTTpS://a.example/"])
@pytest.mark.parametrize("is_lax", [False, True])
@pytest.mark.parametrize(
    "jwks_uri",
    ["http://a.example/k", "HTTP://a.example/k", "//a.example/k", "/k", "ftp://a", "", 5],
)
def test_keys_of_an_https_issuer_come_by_https(
    issuer: str, is_lax: bool, jwks_uri: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither capitals nor a variable that is meant for another library open a way down."""
    if is_lax:
        monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    with pytest.raises(KeySourceError):
        fetched(issuer, jwks_uri)


def test_the_ways_that_there_are() -> None:
    """By https from https, and from plain http by either."""
    for issuer, jwks_uri in (
        ("https://a.example/", "https://b.example/k"),
        ("http://a.mesh", "http://a.mesh/k"),
        ("http://a.mesh", "https://b.example/k"),
    ):
        assert fetched(issuer, jwks_uri)[1] == jwks_uri

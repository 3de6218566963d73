"""From a rule to the keys of its issuer: where they are published, and one fetch of them.

Spec: OpenID Connect Discovery 1.0 §4; reference 7.8 (sources).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from identity.document_fetch import Document
from identity.errors import KeySourceError
from identity.jose import parse_json_object
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule

if TYPE_CHECKING:
    from authlib.oidc.discovery import OpenIDProviderMetadata

_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
_T = TypeVar("_T")


class Fetch(Protocol):
    """Fetches one document; raises KeySourceError."""

    def __call__(self, url: str, *, timeout_seconds: float) -> Document:
        """Return what the URL answers with."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where keys come from: a key set's URL, or an issuer whose metadata names it."""

    url: str
    is_issuer: bool

    @classmethod
    def of(cls, rule: JwtRule) -> KeyPlace:
        """Return the place of a rule without inline keys."""
        return cls(rule.jwks_uri, False) if rule.jwks_uri else cls(rule.issuer, True)

    def __str__(self) -> str:
        """Return the place as a person names it."""
        return f"issuer {self.url}" if self.is_issuer else self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedKeys:
    """The keys a place published, and how they came.

    `max_age_seconds` is how long the place calls them fresh, None when it does not say;
    `length` is the document's in bytes.
    """

    keys: JwkSet
    jwks_uri: str
    max_age_seconds: float | None
    content_type: str = ""
    length: int = 0


def fetch_keys(place: KeyPlace, fetch: Fetch, timeout_seconds: float) -> FetchedKeys:
    """Return the keys that the place publishes now.

    Raises:
        KeySourceError: a document could not be had or is not what it should be.
    """
    url = place.url
    if place.is_issuer:
        url = _discover(place.url, fetch, timeout_seconds)
    found = fetch(url, timeout_seconds=timeout_seconds)
    keys = _read(found, url, lambda body: parse_jwk_set(body, is_inline=False))
    return FetchedKeys(
        keys=keys,
        jwks_uri=url,
        max_age_seconds=found.max_age_seconds,
        content_type=found.content_type,
        length=len(found.body),
    )


def _discover(issuer: str, fetch: Fetch, timeout_seconds: float) -> str:
    """Return the `jwks_uri` of an issuer's metadata."""
    # OpenID Connect Discovery §4: "any terminating / MUST be removed before appending".
    url = issuer.removesuffix("/") + _DISCOVERY_PATH
    found = fetch(url, timeout_seconds=timeout_seconds)
    metadata = _read(found, url, lambda body: _metadata(body, issuer))
    # §4.3: "The issuer value returned MUST be identical to the Issuer URL".
    if metadata.get("issuer") != issuer:
        raise KeySourceError(f"the metadata of `{issuer}` is that of another issuer")
    jwks_uri = metadata.get("jwks_uri")
    if not isinstance(jwks_uri, str) or not jwks_uri:
        raise KeySourceError(f"the metadata of `{issuer}` names no `jwks_uri`")
    # WHY only for https: authlib knows no issuers on plain http, which a mesh may have inside.
    if urlsplit(issuer).scheme == "https":
        # WHY here too: a variable of the environment has authlib take any scheme.
        if urlsplit(jwks_uri).scheme != "https":
            raise KeySourceError(f"the `jwks_uri` of `{issuer}` is not an https URL")
        try:
            metadata.validate_issuer()
            metadata.validate_jwks_uri()
        except ValueError as exc:
            raise KeySourceError(f"the metadata of `{issuer}` is not valid") from exc
    return jwks_uri


def _metadata(body: bytes, issuer: str) -> OpenIDProviderMetadata:
    """Return the issuer's metadata, not looked into yet."""
    # WHY here: most issuers' keys are where the configuration says.
    from authlib.oidc.discovery import OpenIDProviderMetadata  # noqa: PLC0415

    try:
        return OpenIDProviderMetadata(parse_json_object(body))
    except ValueError as exc:
        raise KeySourceError(f"the metadata of `{issuer}` is not a JSON object") from exc


def _read(found: Document, url: str, read: Callable[[bytes], _T]) -> _T:
    """Return what a document holds; one that cannot be read is told with the type it came as."""
    try:
        return read(found.body)
    except KeySourceError as exc:
        kind = found.content_type.partition(";")[0].strip().lower()
        if not kind or kind.endswith("json"):
            raise
        raise KeySourceError(f"{exc} (`{url}` answered with `{kind[:40]}`)") from exc

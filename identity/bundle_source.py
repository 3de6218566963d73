"""Where a trust bundle comes from: a file, or a bundle endpoint of one of two profiles.

Spec: SPIFFE Federation §5.2.1 (`https_web`), §5.2.2 (`https_spiffe`). Whose bundle a
source holds is the operator's word, never the source's (§7.2).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives import serialization

from identity.bundle_document import (
    MAX_BUNDLE_BYTES,
    bundle_from_pem,
    load_bundle,
    parse_bundle,
)
from identity.document_fetch import DocumentFetcher
from identity.errors import KeySourceError
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.svid_fault import SvidRefusal
from identity.trust_bundle import BundleError, BundleSet, TrustBundle
from identity.x509_svid import spiffe_id_of_leaf

_HTTPS: Final = "https://"


def _utc_now() -> datetime:
    """Return the system's time."""
    return datetime.now(UTC)


class BundleSource(Protocol):
    """One place of one trust domain's bundle."""

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose bundle it is."""

    @property
    def name(self) -> str:
        """The place, as a person names it."""

    @property
    def is_remote(self) -> bool:
        """Whether the copy ages, and its publisher's refresh hint counts."""

    @property
    def given(self) -> TrustBundle | None:
        """The bundle to start from, where the operator gave one."""

    def load(self, held: BundleSet) -> TrustBundle:
        """Return the bundle as it is there now; `held` are the bundles had before.

        Raises:
            BundleError: it cannot be had; the message says why.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file of SPIFFE's JSON or of PEM certificates."""

    trust_domain: TrustDomain
    path: Path
    is_remote: bool = False
    given: TrustBundle | None = None

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def load(self, held: BundleSet) -> TrustBundle:
        """Return the bundle that the file holds now."""
        raw = _read_file(self.path)
        try:
            return load_bundle(self.trust_domain, raw)
        except BundleError as exc:
            raise BundleError(f"`{self.path}`: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class WebEndpoint:
    """A bundle endpoint whose host name a public authority vouches for (`https_web`)."""

    trust_domain: TrustDomain
    url: str
    fetcher: DocumentFetcher
    timeout_seconds: float = 10.0
    is_remote: bool = True
    given: TrustBundle | None = None

    @property
    def name(self) -> str:
        """The endpoint's URL."""
        return self.url

    def load(self, held: BundleSet) -> TrustBundle:
        """Return the bundle that the endpoint publishes now."""
        return _fetch(self, self.fetcher)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeEndpoint:
    """A bundle endpoint that shows an X.509-SVID (`https_spiffe`).

    `endpoint_id` is the SPIFFE ID it has to show. The bundle of that ID's trust domain
    has to be held already: `given` to start with where it is the same trust domain, or had
    from a source of its own.
    """

    trust_domain: TrustDomain
    url: str
    endpoint_id: SpiffeId
    fetcher: DocumentFetcher
    timeout_seconds: float = 10.0
    given: TrustBundle | None = None
    now: Callable[[], datetime] = _utc_now
    is_remote: bool = True

    @property
    def name(self) -> str:
        """The endpoint's URL."""
        return self.url

    def load(self, held: BundleSet) -> TrustBundle:
        """Return the bundle that the endpoint publishes now."""
        # §5.2.2.4: "The latest available bundle MUST be used to validate any subsequent
        # connections"; for another trust domain's endpoint, "the latest available SPIFFE
        # bundle corresponding to the trust domain of the endpoint's SPIFFE ID".
        own = held.bundle_for(self.endpoint_id.trust_domain)
        if own is None or not own.x509_authorities:
            why = f"no X.509 authority of `{self.endpoint_id.trust_domain}` is known yet"
            raise BundleError(f"`{self.url}` cannot be verified: {why}")
        fetcher = replace(self.fetcher, tls=_tls_for(own), check_certificate=self._check)
        return _fetch(self, fetcher)

    def _check(self, der: bytes) -> None:
        """Refuse a server whose leaf is not the X.509-SVID of the endpoint."""
        found = spiffe_id_of_leaf(der, self.now())
        if isinstance(found, SvidRefusal):
            raise KeySourceError(f"`{self.url}` shows no X.509-SVID: {found.detail}")
        if found != self.endpoint_id:
            raise KeySourceError(f"`{self.url}` is `{found}`, expected `{self.endpoint_id}`")


@dataclass(frozen=True, slots=True, kw_only=True)
class WithIntermediates:
    """A source with a PEM file of intermediates beside it, read whenever the bundle is.

    For certificates that arrive without their chain: Envoy sends a check server the leaf.
    """

    source: BundleSource
    path: Path

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose bundle it is."""
        return self.source.trust_domain

    @property
    def name(self) -> str:
        """The place of the bundle."""
        return self.source.name

    @property
    def is_remote(self) -> bool:
        """Whether the copy ages."""
        return self.source.is_remote

    @property
    def given(self) -> TrustBundle | None:
        """The bundle to start from, with the intermediates."""
        return None if self.source.given is None else self._complete(self.source.given)

    def load(self, held: BundleSet) -> TrustBundle:
        """Return the bundle with the intermediates as they are now."""
        return self._complete(self.source.load(held))

    def _complete(self, bundle: TrustBundle) -> TrustBundle:
        """Return the bundle with the intermediates."""
        raw = _read_file(self.path)
        try:
            helping = bundle_from_pem(self.trust_domain, raw).x509_authorities
        except BundleError as exc:
            raise BundleError(f"`{self.path}`: {exc}") from exc
        return replace(bundle, intermediates=helping)


def _read_file(path: Path) -> bytes:
    """Return the bytes of a file, read no further than a bundle's limit."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    except OSError as exc:
        raise BundleError(f"`{path}` cannot be read: {exc.strerror}") from exc


def check_endpoint_url(url: str) -> None:
    """Refuse a URL that no bundle endpoint may have (§5.2.1.1, §5.2.2.1).

    Raises:
        BundleError: its scheme is not `https`. What else is wrong shows when it is fetched.
    """
    if not url.startswith(_HTTPS):
        raise BundleError("the URL of a bundle endpoint starts with `https://`")


def _fetch(source: WebEndpoint | SpiffeEndpoint, fetcher: DocumentFetcher) -> TrustBundle:
    """Return the bundle at the source's URL, got by a fetcher made for it."""
    check_endpoint_url(source.url)
    try:
        document = fetcher.fetch(source.url, timeout_seconds=source.timeout_seconds)
    except KeySourceError as exc:
        raise BundleError(str(exc)) from exc
    try:
        return parse_bundle(source.trust_domain, document.body)
    except BundleError as exc:
        raise BundleError(f"`{source.url}`: {exc}") from exc


def _tls_for(bundle: TrustBundle) -> ssl.SSLContext:
    """Return a client that takes only chains to this bundle's authorities.

    WHY the path is OpenSSL's here and not `certificate_path`'s: before Python 3.13 the
    chain that a server sends is out of reach, and only its leaf can be judged by us. No
    host name is verified: the SPIFFE ID takes its place.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An authority of a bundle "SHOULD be self-signed" (X509-SVID §6.1), so it may not be.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    der = [each.public_bytes(serialization.Encoding.DER) for each in bundle.x509_authorities]
    try:
        context.load_verify_locations(cadata=b"".join(der))
    except (ssl.SSLError, ValueError) as exc:
        raise BundleError(f"TLS takes no authority of `{bundle.trust_domain}`") from exc
    return context

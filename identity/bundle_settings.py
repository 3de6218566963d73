"""Where trust bundles come from, as operators write it down: files, endpoints, how often.

The authorizer and the companion CA have these settings in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from identity.bundle_source import (
    BundleFile,
    BundleSource,
    SpiffeEndpoint,
    WebEndpoint,
    check_endpoint_url,
)
from identity.bundle_watch import WatchTimes
from identity.document_fetch import DocumentFetcher
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import BundleError, BundleSet


class _Section(BaseModel):
    """A mapping of the configuration: camelCase keys, none unknown, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )


class FetchedBundleSettings(_Section):
    """A SPIFFE bundle endpoint. Nothing of it is guessed from anything else."""

    url: str = Field(description="Its URL: `https`, without user and password.")
    profile: Literal["https_web", "https_spiffe"] = Field(
        description="How the server proves itself: by a certificate of a public authority for the "
        "URL's host, or by an X.509-SVID."
    )
    spiffe_id: str = Field(
        default="", description="For `https_spiffe`: the SPIFFE ID that the server has to show."
    )
    bootstrap: Path | None = Field(
        default=None,
        description="For `https_spiffe` with an ID of this trust domain: a file with the bundle "
        "that verifies the first connection. The bundle fetched last verifies each later one.",
    )
    timeout_seconds: float = Field(
        default=10, gt=0, le=60, description="How long a fetch may take, redirects included."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            check_endpoint_url(value)
        except BundleError as exc:
            raise ValueError(str(exc)) from exc
        return value

    @model_validator(mode="after")
    def _check_profile(self) -> FetchedBundleSettings:
        if self.profile == "https_web" and (self.spiffe_id or self.bootstrap):
            raise ValueError("`spiffeId` and `bootstrap` belong to `https_spiffe`")
        if self.profile == "https_spiffe":
            try:
                SpiffeId.parse(self.spiffe_id)
            except SpiffeIdError as exc:
                why = f"`https_spiffe` needs the server's `spiffeId`: {exc.why}"
                raise ValueError(why) from exc
        return self


class BundleOriginSettings(_Section):
    """Where the trust bundle of one trust domain comes from: a file or an endpoint."""

    trust_domain: str = Field(
        description="Whose authorities they are: the name in its SPIFFE IDs, without `spiffe://`."
    )
    file: Path | None = Field(
        default=None,
        description="A file of SPIFFE's JSON or of PEM certificates; an edit counts soon.",
    )
    endpoint: FetchedBundleSettings | None = Field(
        default=None, description="The endpoint that publishes the bundle, instead of a file."
    )

    @field_validator("trust_domain")
    @classmethod
    def _check_trust_domain(cls, value: str) -> str:
        try:
            return TrustDomain(value).name
        except SpiffeIdError as exc:
            raise ValueError(f"not a trust domain: {exc.why}") from exc

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.file is None) == (self.endpoint is None):
            raise ValueError("a trust bundle has a `file` or an `endpoint`, one of them")
        endpoint = self.endpoint
        if endpoint is not None and endpoint.profile == "https_spiffe":
            is_own = SpiffeId.parse(endpoint.spiffe_id).trust_domain.name == self.trust_domain
            if is_own and endpoint.bootstrap is None:
                raise ValueError("an endpoint with an ID of its own trust domain needs `bootstrap`")
            if endpoint.bootstrap is not None and not is_own:
                raise ValueError("`bootstrap` is for an endpoint of the same trust domain")
        return self

    def resolved(self, folder: Path) -> Self:
        """Return the same settings with their files counted from a folder."""
        update: dict[str, object] = {} if self.file is None else {"file": folder / self.file}
        endpoint = self.endpoint
        if endpoint is not None and endpoint.bootstrap is not None:
            bootstrap = {"bootstrap": folder / endpoint.bootstrap}
            update["endpoint"] = endpoint.model_copy(update=bootstrap)
        return self.model_copy(update=update)


class BundleRefreshSettings(_Section):
    """How often trust bundles are looked at."""

    default_seconds: float = Field(
        default=300,
        ge=1,
        description="Pause between fetches where a bundle has no `spiffe_refresh_hint`.",
    )
    shortest_seconds: float = Field(
        default=30, ge=1, description="Shortest pause, whatever the hint."
    )
    longest_seconds: float = Field(
        default=86400, ge=1, description="Longest pause, whatever the hint."
    )
    retry_seconds: float = Field(
        default=5,
        ge=0.1,
        description="Pause after a failed fetch; it doubles up to the pause between fetches.",
    )
    file_seconds: float = Field(default=5, ge=0.1, description="Pause between looks at a file.")
    max_age_seconds: float = Field(
        default=604800,
        ge=60,
        description="How old a fetched bundle may grow while no fetch succeeds; after that "
        "nobody of its trust domain is believed. Files do not age.",
    )

    def to_watch_times(self) -> WatchTimes:
        """Return how often bundles are looked at."""
        return WatchTimes(
            default_seconds=self.default_seconds,
            shortest_seconds=self.shortest_seconds,
            longest_seconds=max(self.shortest_seconds, self.longest_seconds),
            first_retry_seconds=self.retry_seconds,
            file_seconds=self.file_seconds,
            max_age_seconds=self.max_age_seconds,
        )


def check_bundle_origins(value: Sequence[BundleOriginSettings]) -> None:
    """Refuse two bundles for one trust domain, and an endpoint that nothing could verify.

    Raises:
        PydanticCustomError: naming the entry at fault.
    """
    names = [each.trust_domain for each in value]
    for place, each in enumerate(value):
        if each.trust_domain in names[:place]:
            raise _fault(place, f"the trust domain `{each.trust_domain}` stands there twice")
        endpoint = each.endpoint
        if endpoint is not None and endpoint.profile == "https_spiffe":
            needed = SpiffeId.parse(endpoint.spiffe_id).trust_domain.name
            if needed not in names:
                raise _fault(place, f"nothing verifies the server: no bundle of `{needed}`")


def bundle_source(settings: BundleOriginSettings, fetcher: DocumentFetcher) -> BundleSource:
    """Return where the authorities come from.

    Raises:
        BundleError: the file that verifies the first connection cannot be read.
    """
    trust_domain = TrustDomain(settings.trust_domain)
    if settings.file is not None:
        return BundleFile(trust_domain=trust_domain, path=settings.file)
    # The settings have one of the two.
    assert settings.endpoint is not None
    return _endpoint(trust_domain, settings.endpoint, fetcher)


def _endpoint(
    trust_domain: TrustDomain, settings: FetchedBundleSettings, fetcher: DocumentFetcher
) -> BundleSource:
    """Return one bundle endpoint."""
    if settings.profile == "https_web":
        return WebEndpoint(
            trust_domain=trust_domain,
            url=settings.url,
            fetcher=fetcher,
            timeout_seconds=settings.timeout_seconds,
        )
    given = None
    if settings.bootstrap is not None:
        given = BundleFile(trust_domain=trust_domain, path=settings.bootstrap).load(BundleSet())
    return SpiffeEndpoint(
        trust_domain=trust_domain,
        url=settings.url,
        endpoint_id=SpiffeId.parse(settings.spiffe_id),
        fetcher=fetcher,
        timeout_seconds=settings.timeout_seconds,
        given=given,
    )


def _fault(place: int, why: str) -> PydanticCustomError:
    """Return an error that says which entry of the list is at fault."""
    return PydanticCustomError("trust_bundle", "{why}", {"why": why, "spot": (place,)})

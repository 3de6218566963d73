"""The `federation` block of the CA's configuration: whose roots are handed out beside our own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from identity.bundle_settings import (
    BundleOriginSettings,
    BundleRefreshSettings,
    check_bundle_origins,
)


def _checked(value: tuple[BundleOriginSettings, ...]) -> tuple[BundleOriginSettings, ...]:
    """Return `value`, which can be had together."""
    check_bundle_origins(value)
    return value


class FederationSettings(BaseModel):
    """Other trust domains: workloads are told their roots, in bundles of their own."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    trust_domains: Annotated[tuple[BundleOriginSettings, ...], AfterValidator(_checked)] = Field(
        default=(),
        description="Each other trust domain, and where its bundle comes from: a file or endpoint.",
    )
    refresh: BundleRefreshSettings = Field(
        default_factory=BundleRefreshSettings, description="How often their bundles are looked at."
    )
    allow_loopback: bool = Field(
        default=False,
        description=(
            "Whether an endpoint may stand on this machine; metadata services are refused whatever "
            "is set."
        ),
    )

    def resolved(self, folder: Path) -> FederationSettings:
        """Return the same settings with relative paths taken from `folder`."""
        domains = tuple(each.resolved(folder) for each in self.trust_domains)
        return self.model_copy(update={"trust_domains": domains})

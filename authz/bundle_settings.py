"""`identity.trustBundles`: whose authorities are trusted, and where they are published."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from identity.bundle_settings import BundleOriginSettings, check_bundle_origins


class TrustBundleSettings(BundleOriginSettings):
    """The trust bundle of one trust domain, from a file or from an endpoint."""

    intermediates: Path | None = Field(
        default=None,
        description="A PEM file of intermediate authorities, trusted for nothing. Envoy sends us a "
        "peer's leaf without its chain: what lies between it and the bundle has to stand here.",
    )


def check_trust_bundles(
    value: tuple[TrustBundleSettings, ...],
) -> tuple[TrustBundleSettings, ...]:
    """Refuse two bundles for one trust domain, and an endpoint that nothing could verify.

    Raises:
        PydanticCustomError: naming the entry at fault.
    """
    check_bundle_origins(value)
    return value


def with_absolute_bundles(
    base: Path, value: tuple[TrustBundleSettings, ...]
) -> tuple[TrustBundleSettings, ...]:
    """Return the settings with their files counted from a folder."""
    return tuple(_with_absolute_files(base, each) for each in value)


def _with_absolute_files(base: Path, each: TrustBundleSettings) -> TrustBundleSettings:
    found = each.resolved(base)
    if found.intermediates is None:
        return found
    return found.model_copy(update={"intermediates": base / found.intermediates})

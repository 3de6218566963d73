"""From `identity.trustBundles` to the watch that keeps them fresh."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from authz.bundle_settings import TrustBundleSettings
from authz.identity_settings import IdentitySettings
from authz.metrics import Metrics
from identity.bundle_settings import bundle_source
from identity.bundle_source import BundleSource, WithIntermediates
from identity.bundle_watch import BundleStatus, BundleWatch
from identity.document_fetch import DocumentFetcher

_log = structlog.get_logger(__name__)


def build_bundle_watch(settings: IdentitySettings) -> BundleWatch:
    """Return the watch over every configured bundle, its files read, nothing fetched yet.

    Endpoints may stand where `identity.jwks` lets issuers stand.

    Raises:
        BundleError: a file cannot be read.
    """
    fetcher = DocumentFetcher(addresses=settings.jwks.to_address_rules())
    return BundleWatch(
        [_source(each, fetcher) for each in settings.trust_bundles],
        times=settings.bundle_refresh.to_watch_times(),
        on_change=_log_change,
    )


def _source(settings: TrustBundleSettings, fetcher: DocumentFetcher) -> BundleSource:
    """Return where one trust domain's bundle comes from, with its intermediates."""
    source = bundle_source(settings, fetcher)
    if settings.intermediates is None:
        return source
    return WithIntermediates(source=source, path=settings.intermediates)


def watch_bundles(metrics: Metrics, bundles: BundleWatch) -> None:
    """Export how many trust domains nobody is believed of, and how many were not read last time."""
    metrics.watch(
        "meshwarden_trust_bundles_missing",
        "Trust domains without a bundle, or with one too old to count: their peers are refused.",
        lambda: sum(not each.is_ready for each in bundles.status()),
    )
    metrics.watch(
        "meshwarden_trust_bundles_failing",
        "Trust domains whose bundle could not be read last time; the last good one counts.",
        lambda: sum(bool(each.last_error) for each in bundles.status()),
    )


def shown_bundle(status: BundleStatus) -> Mapping[str, Any]:
    """Return how one trust domain's bundle stands, as `/readyz` tells it."""
    return {
        "trust_domain": status.trust_domain.name,
        "ready": status.is_ready,
        "sequence": status.sequence,
        "fetched_at": status.fetched_at.isoformat() if status.fetched_at else None,
        "error": status.last_error,
    }


def _log_change(status: BundleStatus) -> None:
    """Tell of a new bundle, or of why there is none."""
    fields = {"trust_domain": status.trust_domain.name, "source": status.source}
    if status.last_error:
        _log.warning("trust_bundle_failed", error=status.last_error, **fields)
        return
    _log.info(
        "trust_bundle",
        sequence=status.sequence,
        x509_authorities=status.x509_authorities,
        jwt_authorities=status.jwt_authorities,
        left_out=list(status.notes),
        **fields,
    )

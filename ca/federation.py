"""The bundles of other trust domains: kept fresh, and handed to everyone who is told of roots.

Theory of operation. `identity.bundle_watch` fetches in a thread of its own. What it holds is never
merged with our own bundle, and a trust domain that is not believed any more (its bundle is empty,
or too old) is told as one without roots, so that proxies stop trusting it.

Spec: SPIFFE Federation §4, §5, §6; SPIFFE Trust Domain and Bundle §3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from ca.errors import ListenError
from ca.federation_cache import BundleCache
from ca.federation_settings import FederationSettings
from ca.running import RunningCa
from ca.troubles import Trouble
from identity.address_guard import AddressRules
from identity.bundle_settings import bundle_source
from identity.bundle_watch import BundleStatus, BundleWatch
from identity.document_fetch import DocumentFetcher
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError, TrustBundle

_log = structlog.get_logger(__name__)
# BUDGET: how late a bundle that was fetched, or grew too old, is handed on.
_LOOK_SECONDS: Final = 0.5


class Federation:
    """The other trust domains of one CA."""

    def __init__(self, watch: BundleWatch, cache: BundleCache) -> None:
        """Tell of what `watch` holds; `cache` has what was held before this process."""
        self._watch = watch
        self._cache = cache
        self._known: set[TrustDomain] = set()
        self._kept: dict[TrustDomain, datetime] = {}

    def bundles(self) -> Mapping[TrustDomain, TrustBundle | None]:
        """Return the bundle of each trust domain, None of one that was never had.

        One that was had and is believed no more is there without authorities.
        """
        current = self._watch.current()
        found: dict[TrustDomain, TrustBundle | None] = {}
        for status in self._watch.status():
            domain = status.trust_domain
            bundle = current.bundle_for(domain)
            if bundle is not None and not self._is_stale(status):
                self._known.add(domain)
            elif bundle is not None or domain in self._known:
                bundle = TrustBundle(trust_domain=domain)
            found[domain] = bundle
        return found

    def keep(self) -> None:
        """Keep what was fetched for the next start; blocks."""
        current = self._watch.current()
        for status in self._watch.status():
            bundle, at = current.bundle_for(status.trust_domain), status.fetched_at
            # What was not fetched anew must not look as if it was.
            if bundle is not None and at is not None and self._kept.get(bundle.trust_domain) != at:
                self._cache.keep(bundle)
                self._kept[bundle.trust_domain] = at

    def _is_stale(self, status: BundleStatus) -> bool:
        """Return whether a bundle is of before this process, and too old by now."""
        return status.fetched_at is None and self._cache.is_over(status.trust_domain)

    def troubles(self) -> Iterator[Trouble]:
        """Yield the trust domains whose bundle is missing, or could not be read last time."""
        for status in self._watch.status():
            if not status.is_ready or self._is_stale(status):
                message = f"there is no bundle, its peers are refused: {status.last_error or '-'}"
                yield Trouble(
                    code="federation_missing", subject=status.trust_domain.name, message=message
                )
            elif status.last_error:
                message = f"the bundle of before counts: {status.last_error}"
                yield Trouble(
                    code="federation_late", subject=status.trust_domain.name, message=message
                )

    def describe(self) -> list[dict[str, Any]]:
        """Return how each trust domain stands, for `status`."""
        return [
            {
                "trustDomain": each.trust_domain.name,
                "source": each.source,
                "ready": each.is_ready,
                "sequence": each.sequence,
                "roots": each.x509_authorities,
                "fetchedAt": each.fetched_at.isoformat() if each.fetched_at else None,
            }
            for each in self._watch.status()
        ]


@asynccontextmanager
async def federate(ca: RunningCa) -> AsyncIterator[None]:
    """Keep the bundles of the configured trust domains while the context is entered.

    Raises:
        ListenError: a file of a bundle cannot be read.
    """
    settings = ca.settings.federation
    if not settings.trust_domains:
        yield
        return
    max_age = timedelta(seconds=settings.refresh.max_age_seconds)
    cache = BundleCache(ca.settings.state_folder, max_age, ca.clock)
    watch = _watch_of(settings, cache)
    federation = Federation(watch, cache)
    await asyncio.to_thread(watch.start)
    await asyncio.to_thread(federation.keep)
    ca.federated = federation.bundles
    ca.probes.append(federation.troubles)
    ca.sections["federation"] = federation.describe
    keeping = asyncio.create_task(_announce(ca, watch, federation))
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.to_thread(watch.stop)


def _watch_of(settings: FederationSettings, cache: BundleCache) -> BundleWatch:
    """Return the watch over every configured trust domain, its files read."""
    rules = AddressRules(allow_loopback=settings.allow_loopback)
    fetcher = DocumentFetcher(addresses=rules)
    try:
        return BundleWatch(
            [cache.primed(bundle_source(each, fetcher)) for each in settings.trust_domains],
            times=settings.refresh.to_watch_times(),
            on_change=_log_change,
        )
    except BundleError as exc:
        raise ListenError(f"a federated bundle cannot be had: {exc}") from exc


async def _announce(ca: RunningCa, watch: BundleWatch, federation: Federation) -> None:
    """Tell everyone when there are other bundles than before, and keep what is fetched."""
    told, kept = federation.bundles(), _fetches(watch)
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if (bundles := federation.bundles()) != told:
            told = bundles
            for listener in ca.on_federated:
                listener()
        if (fetches := _fetches(watch)) != kept:
            kept = fetches
            await asyncio.to_thread(federation.keep)


def _fetches(watch: BundleWatch) -> tuple[object, ...]:
    """Return when each bundle was had last."""
    return tuple(status.fetched_at for status in watch.status())


def _log_change(status: BundleStatus) -> None:
    """Tell of a new bundle, or of why there is none."""
    fields = {"trust_domain": status.trust_domain.name, "source": status.source}
    if status.last_error:
        _log.warning("federated_bundle_failed", error=status.last_error, **fields)
    else:
        _log.info("federated_bundle", sequence=status.sequence, **fields)

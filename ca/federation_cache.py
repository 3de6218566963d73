"""The bundles of other trust domains as they were last fetched, for a CA that starts again.

Proxies hold the roots that they were told; a CA that comes back while an endpoint is away must not
take them from them. What is kept here is believed as long as it would be in memory.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from ca.clock import Clock
from ca.errors import StateError
from ca.files import (
    make_private_folder,
    read_private_file,
    sweep_temporary_files,
    write_private_file,
)
from identity.bundle_document import encode_bundle, parse_bundle
from identity.bundle_source import BundleSource, SpiffeEndpoint, WebEndpoint
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError, TrustBundle

_log = structlog.get_logger(__name__)
_FOLDER: Final = "federated"


class BundleCache:
    """One file a trust domain, in the state folder."""

    def __init__(self, state_folder: Path, max_age: timedelta, clock: Clock) -> None:
        """Keep bundles below `state_folder`; what is older than `max_age` counts no more.

        Raises:
            StateError: the folder cannot be made, or is open to others.
        """
        self._folder = state_folder / _FOLDER
        self._max_age = max_age
        self._clock = clock
        self._fetched: set[TrustDomain] = set()
        make_private_folder(self._folder)
        sweep_temporary_files(self._folder)

    def primed(self, source: BundleSource) -> BundleSource:
        """Return `source` with the bundle that it gave last, where that still counts."""
        if not isinstance(source, WebEndpoint | SpiffeEndpoint):
            return source
        self._fetched.add(source.trust_domain)
        kept = self._load(source.trust_domain)
        return source if kept is None else replace(source, given=kept)

    def is_over(self, trust_domain: TrustDomain) -> bool:
        """Return whether a bundle from here, never fetched since, is too old by now."""
        kept_at = self._kept_at(trust_domain)
        return kept_at is not None and self._clock() - kept_at > self._max_age

    def keep(self, bundle: TrustBundle) -> None:
        """Keep a bundle of an endpoint; where that fails the next start does without."""
        if bundle.trust_domain not in self._fetched:
            # A file is there at the next start as it is now.
            return
        try:
            write_private_file(self._path(bundle.trust_domain), encode_bundle(bundle))
        except (StateError, BundleError) as exc:
            _log.warning("federated_bundle_not_kept", error=str(exc))

    def _load(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """Return what is kept of a trust domain, None when there is nothing that counts."""
        try:
            raw = read_private_file(self._path(trust_domain))
            if raw is None or self.is_over(trust_domain):
                return None
            return parse_bundle(trust_domain, raw)
        except (StateError, BundleError) as exc:
            _log.warning("federated_bundle_not_read", error=str(exc))
            return None

    def _kept_at(self, trust_domain: TrustDomain) -> datetime | None:
        """Return when a bundle was kept last."""
        try:
            return datetime.fromtimestamp(self._path(trust_domain).stat().st_mtime, UTC)
        except OSError:
            return None

    def _path(self, trust_domain: TrustDomain) -> Path:
        """Return the file of a trust domain; its alphabet keeps it inside the folder."""
        # WHY the prefix: `..` is a legal trust domain.
        return self._folder / f"bundle-{trust_domain}.json"

"""A verified certificate is remembered until its path ends, or the bundles change.

Verifying costs signatures; a peer's certificate lasts thousands of requests.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from identity.svid_fault import SvidRefusal
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid, verify_svid

# BUDGET: certificates remembered at once; when there are more, all are forgotten.
_REMEMBERED: Final = 4096


class SvidMemory:
    """Verifies chains and remembers those that hold. Safe to share between threads.

    Refusals are not remembered: time or a new bundle may lift them.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._known: dict[tuple[bytes, ...], tuple[BundleSet, X509Svid]] = {}

    def verify(
        self, chain: tuple[bytes, ...], bundles: BundleSet, at: datetime
    ) -> X509Svid | SvidRefusal:
        """Return what `verify_svid` says of this chain, under these bundles, at this time."""
        known = self._known.get(chain)
        # INVARIANT: a verdict counts for the very bundles it was reached with.
        if known is not None and known[0] is bundles:
            svid = known[1]
            if svid.valid_from_at <= at <= svid.valid_until_at:
                return svid
        verdict = verify_svid(chain, bundles, at)
        if isinstance(verdict, X509Svid):
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[chain] = (bundles, verdict)
        return verdict

"""The SPIFFE bundle endpoint (`https_web`): our bundle, for other trust domains to fetch.

Who fetches is not asked. The certificate is one that the public trusts, never one of ours: a client
that does not know our roots yet could not check it.

Spec: SPIFFE Federation §4 and §5.2 (`https_web`), SPIFFE Trust Domain and Bundle §4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ca.errors import CaError
from ca.https_server import Answer, HttpAnswer, HttpRequest
from identity.bundle_document import encode_bundle
from identity.trust_bundle import BundleError, TrustBundle

BUNDLE_PATH: Final = "/bundle.json"
"""Where the bundle is; the root path answers too."""


def bundle_routes(bundle: Callable[[], TrustBundle]) -> dict[tuple[str, str], Answer]:
    """Return the routes that answer with the bundle of the moment."""

    def answer(_: HttpRequest) -> HttpAnswer:
        try:
            document, hint = encode_bundle(current := bundle()), current.refresh_hint_seconds
        except (CaError, BundleError):
            return HttpAnswer(status=503, body=b"{}")
        # SPIFFE Federation §4.1: JSON in UTF-8; a cache must not outlive the hint.
        return HttpAnswer(
            status=200, body=document, headers={"cache-control": f"max-age={hint or 0}"}
        )

    return {("GET", path): answer for path in ("/", BUNDLE_PATH)}

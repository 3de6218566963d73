"""From bundles to what a provider is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from opa_bridge.bundle_contents import Bundle, combined
from opa_bridge.errors import PolicyBundleError
from opa_bridge.provider import RegoPolicy
from policies.diagnostic import Diagnostic, LoadError, Location


def policy_of(bundles: Sequence[Bundle], entrypoint: str) -> RegoPolicy:
    """Return the policy that bundles make together.

    Raises:
        LoadError: two of them own the same part of `data`, or there is no module.
    """
    place = ", ".join(bundle.name for bundle in bundles)
    try:
        modules, data = combined(bundles)
        if not modules:
            why = f"there is no Rego in {place}"
            raise PolicyBundleError("bundle.empty", why, "name the bundle of the policy as well")
    except PolicyBundleError as exc:
        location = Location(f"bundle {place}")
        found = Diagnostic(code=exc.code, message=str(exc), location=location, help=exc.help)
        raise LoadError([found]) from exc
    total = hashlib.sha256(entrypoint.strip("/").encode())
    for bundle in sorted(bundles, key=lambda each: each.name):
        total.update(f"\n{bundle.name}={bundle.digest}".encode())
    return RegoPolicy(
        modules=modules, data=data, revision=total.hexdigest(), place=f"bundle {place}"
    )

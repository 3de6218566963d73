"""Providers that serve already, found again where nothing of theirs has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from weakref import WeakValueDictionary

from authz.provider_settings import ProviderSettings
from opa_bridge.compiled_memory import CompiledMemory
from opa_bridge.provider import RegoProvider


class ProviderMemory:
    """Remembers providers for as long as some serving state has them.

    WHY: compiling Rego takes from milliseconds to seconds, and a reload is mostly about
    something else: an Istio policy, or another provider's bundle. One thread at a time.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.compiled = CompiledMemory()
        """Plans of providers whose data alone have changed since."""
        self._found: WeakValueDictionary[Hashable, RegoProvider] = WeakValueDictionary()

    def find(
        self, settings: ProviderSettings, mark: str, make: Callable[[], RegoProvider]
    ) -> RegoProvider:
        """Return the provider of these settings and this policy; make it where there is none.

        `mark` tells the policy, findings about it included, from all others.

        Raises:
            LoadError: it cannot be made.
        """
        # A descriptor set is read at load and is in no revision.
        if settings.rego.proto_descriptor is not None:
            return make()
        key = (settings.model_dump_json(), mark)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = make()
        return found

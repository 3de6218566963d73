"""Compiled policies that are remembered, so that new data alone compile nothing.

The library takes seconds over a large policy, and its plan depends on the modules and on the
outline of the data alone (`opa_bridge.rego_binary`). So the plan is kept without data, and
new data are put into it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opa_bridge.rego_binary import UnknownForm, outline_of, with_data
from opa_bridge.rego_module import Module, scan_module
from opa_bridge.rule_index import ModuleSet

# BUDGET: policies kept; a plan has some kilobytes for each hundred rules.
_ENTRIES: Final = 32


class CompiledMemory:
    """Plans by their modules, entrypoints and outline. Safe from many threads."""

    def __init__(self, entries: int = _ENTRIES) -> None:
        """Begin empty."""
        self._entries = entries
        self._plans: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        """How often nothing had to be compiled."""

    def find(self, sets: Sequence[ModuleSet], data: str) -> list[bytes] | None:
        """Return a binary for each set, with the data in it; None when one has to be compiled."""
        values = json.loads(data)
        key = _key(sets, values)
        with self._lock:
            plans = self._plans.get(key) if key is not None else None
            if key is None or plans is None:
                return None
            self._plans.move_to_end(key)
            self.hits += 1
        return [with_data(plan, values) for plan in plans]

    def keep(self, sets: Sequence[ModuleSet], data: str, binaries: Sequence[bytes]) -> None:
        """Remember what was compiled, without its data."""
        key = _key(sets, json.loads(data))
        if key is None:
            return
        try:
            plans = [with_data(binary, {}) for binary in binaries]
        except UnknownForm:
            return
        with self._lock:
            self._plans[key] = plans
            if len(self._plans) > self._entries:
                self._plans.popitem(last=False)


def _key(sets: Sequence[ModuleSet], data: Mapping[str, Any]) -> bytes | None:
    """Return what the plans depend on, hashed; None where a module cannot be read."""
    whole: list[Any] = []
    for each in sets:
        scanned = [scan_module(file, source) for file, source in each.modules]
        packages = [found.package.split("/") for found in scanned if isinstance(found, Module)]
        if len(packages) != len(scanned):
            return None
        whole.append([each.modules, each.entrypoints, outline_of(data, packages)])
    return hashlib.sha256(json.dumps(whole).encode("utf-8", "surrogatepass")).digest()

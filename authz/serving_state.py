"""Everything a decision depends on, as one immutable value that a reload swaps."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from authz.custom import CustomTerms
from authz.selection import Selection
from policies.collection import collection_paused
from policies.decision import Provider
from policies.diagnostic import Diagnostic
from policies.pace import Pace, no_pace
from policies.request import Service, Workload
from policies.snapshot import Snapshot, WorkloadPolicies

# BUDGET: distinct workloads remembered for one snapshot (namespace and labels as Envoy sent them).
_SELECTIONS_MAX = 4096

_SelectionKey = tuple[str, frozenset[tuple[str, str]], Service | None, bool]


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class ServingState:
    """A policy snapshot with its providers. `revision` and `warnings` cover both.

    `terms` say how the providers come to be asked, and what their failure means.
    """

    snapshot: Snapshot
    providers: Mapping[str, Provider] = field(default_factory=dict)
    revision: str
    warnings: tuple[Diagnostic, ...] = ()
    terms: CustomTerms = CustomTerms()
    provider_revisions: Mapping[str, str] = field(default_factory=dict)
    _selections: dict[_SelectionKey, Selection] = field(
        default_factory=dict, repr=False, compare=False
    )

    _selecting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def needs_service(self) -> bool:
        """Whether a request must say which service it is for."""
        return self.snapshot.needs_service

    @property
    def needs_workload(self) -> bool:
        """Whether anything hangs on the workload: not where a default provider is all there is."""
        snapshot = self.snapshot
        return not self.terms.default or bool(
            snapshot.policies or snapshot.request_authentications or snapshot.peer_authentications
        )

    def policies_for(self, workload: Workload, *, is_http: bool = True) -> WorkloadPolicies:
        """Return what applies to a workload."""
        return self.selection(workload, is_http=is_http).policies

    def selection(self, workload: Workload, *, is_http: bool = True) -> Selection:
        """Return what applies to a workload ready to be asked, remembered while this serves."""
        labels = frozenset(workload.labels.items())
        key = (workload.namespace, labels, workload.service, is_http)
        found = self._selections.get(key)
        if found is not None:
            return found
        # WHY one at a time: of a crowd that asks first, the others find what the first one made.
        with self._selecting:
            return self._selections.get(key) or self._select(key, workload)

    def prepare_for(self, before: ServingState, pace: Pace, seconds: float) -> None:
        """Select for the workloads that another state was asked about, as far as time allows.

        WHY: the first question of a workload waits until its policies are sorted, and after a
        reload every workload's question is the first.
        """
        until = time.monotonic() + seconds
        for key, known in tuple(before._selections.items()):
            if time.monotonic() >= until:
                return
            namespace, labels, service, _ = key
            asked = Workload(namespace=namespace, labels=dict(labels), service=service)
            self._select(key, asked, pace, known.policies)

    def parts(self) -> list[object]:
        """Return what this state is made of, in small pieces, for who drops it bit by bit."""
        return [*self.snapshot.policies, *self._selections.values()]

    def _select(
        self,
        key: _SelectionKey,
        workload: Workload,
        pace: Pace = no_pace,
        before: WorkloadPolicies | None = None,
    ) -> Selection:
        # WHY paused: many objects come to be that stay, and the collector would walk all of them.
        with collection_paused():
            policies = self.snapshot.select(workload, is_http=key[3], pace=pace, before=before)
            found = Selection.of(policies, self.snapshot.mesh.path_normalization, pace)
        if len(self._selections) < _SELECTIONS_MAX:
            self._selections[key] = found
        return found


def combined_revision(snapshot: Snapshot, provider_revisions: Mapping[str, str]) -> str:
    """Return the SHA-256 over the policies' revision and each provider's."""
    total = hashlib.sha256(snapshot.revision.encode())
    for name in sorted(provider_revisions):
        total.update(f"\n{name}={provider_revisions[name]}".encode())
    return total.hexdigest()

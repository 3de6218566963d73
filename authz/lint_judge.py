"""The server's evaluator, as the linter asks it about its witnesses."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from authz.decide import decide
from authz.denial import denial
from authz.serving_state import ServingState
from policies.decision import Decision, Effect, Layer, Provider, ProviderVerdict, Reason
from policies.http_path import normalize_path
from policies.mesh import Mesh
from policies.model import Resource
from policies.request import Request, Workload
from policies.snapshot import snapshot_of

# BUDGET: the whole set, the one before it, and the few policies of the finding at hand.
_SETS: Final = 4


class _Refusing:
    """A provider that refuses: what passes all the same is what nobody guards."""

    def evaluate(self, request: Request, *_: object) -> ProviderVerdict:
        """Return the verdict."""
        return ProviderVerdict(effect=Effect.DENY)


class LintJudge:
    """Answers as the server would; remembers the last few sets of resources it was asked under."""

    def __init__(self) -> None:
        """Start without any."""
        self._states: deque[tuple[Sequence[Resource], Mesh, ServingState]] = deque(maxlen=_SETS)

    def __call__(self, resources: Sequence[Resource], mesh: Mesh, request: Request) -> Decision:
        """Return the decision on a request whose peer, claims and workload are in it."""
        state = self._state_of(resources, mesh)
        path = normalize_path(request.path, mesh.path_normalization)
        if path is None:
            return denial(Reason.REQUEST_MALFORMED, Layer.REQUEST, detail="the path is not one")
        workload = request.workload or Workload(namespace="")
        policies = state.policies_for(workload, is_http=request.is_http)
        providers: Mapping[str, Provider] = {name: _Refusing() for name in policies.custom}
        return decide(policies, replace(request, path=path), providers)

    def _state_of(self, resources: Sequence[Resource], mesh: Mesh) -> ServingState:
        for asked, of, state in self._states:
            if asked is resources and of is mesh:
                return state
        state = ServingState(snapshot=snapshot_of(resources, mesh), revision="")
        self._states.append((resources, mesh, state))
        return state

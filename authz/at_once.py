"""The walk of a request as far as nobody is waited for: at once, or not at all.

Theory of operation. Nothing is guessed beforehand: the walk is the one walk, with parts around
it that give it up where they would wait, or compute for longer than a request's worth: a
provider, a fetch of keys, the sorting of policies for a workload that nobody asked about yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NoReturn

from authz.selection import Selection
from authz.serving_state import ServingState
from authz.walk import Surroundings, walk_with_peer
from identity.jwt_rule import JwtRule
from policies.decision import Decision
from policies.pace import Pace, no_pace
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies


class AtOnce:
    """Walks requests under a state, and gives up where it would wait. Safe from many threads."""

    __slots__ = ("_around", "_state", "state")

    def __init__(self, state: ServingState, around: Surroundings) -> None:
        """Walk under `state`; what it remembers of workloads is shared with it."""
        self.state = state
        self._around = replace(around, on_unknown_key=_give_up_on_key)
        parts = {each.name: getattr(state, each.name) for each in fields(ServingState)}
        self._state = _KnownWorkloads(**parts | {"providers": dict.fromkeys(state.providers, _NO)})

    def decide(self, request: Request, seconds_left: Callable[[], float | None]) -> Decision | None:
        """Return the decision on a request whose peer is known; None where it would wait."""
        try:
            return walk_with_peer(request, self._state, self._around, seconds_left).decision
        except _WouldWait:
            return None


class _WouldWait(BaseException):
    """The walk is given up.

    WHY not an Exception: nothing on the walk may take it for a failure of a part, and go on.
    """


class _KnownWorkloads(ServingState):
    """A state that answers for workloads it was asked about before."""

    __slots__ = ()

    def _select(
        self,
        key: object,
        workload: Workload,
        pace: Pace = no_pace,
        before: WorkloadPolicies | None = None,
    ) -> Selection:
        raise _WouldWait


class _Nobody:
    """A provider that nobody asks."""

    def evaluate(
        self,
        request: Request,
        seconds: float | None = None,
        istio: Callable[[], Decision] | None = None,
        /,
    ) -> NoReturn:
        raise _WouldWait


def _give_up_on_key(rule: JwtRule) -> NoReturn:
    raise _WouldWait


_NO = _Nobody()

"""Reload after reload: nothing of a set that serves no more stays, whatever way it was read."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable

import pytest

from authz.policy_reading import PolicyReading
from authz.serving_state import ServingState
from policies.mesh import Mesh
from policies.request import Workload

_EDITS, _POLICIES = 500, 12
# What was met in the first edits stays: forms, which are learned when they come again.
_FIRST = 120


def _one_value(number: int) -> str:
    """Return a set of which each edit changes one value of one policy."""
    return _set({0: {"paths": [f"/edit/{number}"]}})


def _one_shape(number: int) -> str:
    """Return a set of which each edit gives one policy a form that it never had."""
    return _set({0: {"paths": [f"/{each}" for each in range(number % 23 + 1)], "methods": ["GET"]}})


def _every_value(number: int) -> str:
    """Return a set of which each edit changes every policy."""
    return _set({each: {"paths": [f"/edit/{number}/{each}"]} for each in range(_POLICIES)})


def _moved(number: int) -> str:
    """Return a set that stands on other lines after each edit; a policy comes and goes."""
    return "#\n" * (number % 20) + _set({}, _POLICIES + number % 2)


def _set(operations: dict[int, dict[str, list[str]]], count: int = _POLICIES) -> str:
    documents = (
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{each}", "namespace": "shop"},
            "spec": {"rules": [{"to": [{"operation": operations.get(each, {"paths": ["/"]})}]}]},
        }
        for each in range(count)
    )
    return "\n---\n".join(map(json.dumps, documents))


def _counted() -> Counter[str]:
    """Return how many objects of our own types there are, garbage included.

    WHY included: a load takes from the collector for good what is there (`gc.freeze`).
    """
    gc.unfreeze()
    every = (type(each) for each in gc.get_objects())
    return Counter(
        each.__qualname__
        for each in every
        if str(each.__module__).startswith(("policies.", "authz."))
    )


@pytest.mark.parametrize("edited", [_one_value, _one_shape, _every_value, _moved])
def test_five_hundred_edits_leave_no_more_than_one(edited: Callable[[int], str]) -> None:
    """Of policies, clauses, predicates, indexes and sorted sets there are as many as before."""
    reading = PolicyReading()
    asked = Workload(namespace="shop")
    state = None

    def load(number: int) -> None:
        nonlocal state
        snapshot = reading.snapshot([("p.yaml", edited(number))], Mesh())
        after = ServingState(snapshot=snapshot, revision=snapshot.revision)
        if state is None:
            after.selection(asked)
        else:
            reading.hand_over(state, after)
            reading.let_go(state.parts())
        state = after

    for number in range(_FIRST):
        load(number)
    load(0)
    before = _counted()
    for number in range(_EDITS):
        load(number)
    load(0)

    assert not _counted() - before

"""The garbage collector pauses while policies are built, and keeps no garbage for it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from weakref import ref

import pytest

from policies.collection import collection_paused
from policies.mesh import Mesh
from policies.snapshot import build_snapshot

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: a, namespace: shop}
spec: {}
"""


class _Knot:
    """Something that refers to itself, so that only the collector finds it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector as it was found: on, and with nothing set aside by a test."""
    assert gc.isenabled()
    yield
    assert gc.isenabled()
    gc.unfreeze()


def test_reloads_keep_no_garbage() -> None:
    """What became garbage between two loads is freed by the second."""
    found = []
    for _ in range(20):
        build_snapshot([("a.yaml", POLICY)], Mesh())
        found.append(ref(_Knot()))
    build_snapshot([("a.yaml", POLICY)], Mesh())
    assert [each() for each in found] == [None] * 20


def test_what_came_to_be_is_set_aside() -> None:
    """The collector walks nothing of what was made in a pause, and it is freed all the same."""
    with collection_paused():
        made = [_Knot() for _ in range(100)]
        assert not gc.isenabled()
    assert not {id(each) for each in made} & {id(each) for each in gc.get_objects()}
    gone = ref(made[0])
    made[0].itself = made[1]
    del made[0]
    assert gone() is None


def test_pause_ends_with_the_last_build() -> None:
    """Of two builds in two threads the one that is through first leaves the other its pause."""
    begun, go_on = threading.Event(), threading.Event()
    seen = []

    def build() -> None:
        with collection_paused():
            begun.set()
            go_on.wait(10)
            seen.append(gc.isenabled())

    with collection_paused():
        other = threading.Thread(target=build)
        other.start()
        assert begun.wait(10)
    assert not gc.isenabled()
    go_on.set()
    other.join(10)
    assert seen == [False]


def test_build_that_fails_ends_its_pause() -> None:
    """After an error the collector is on again."""
    with pytest.raises(ValueError, match="no policy"), collection_paused(collects_first=True):
        raise ValueError("no policy")
    assert gc.isenabled()


def test_collector_that_is_off_stays_off() -> None:
    """Who runs without the collector goes on without it, and nothing is set aside."""
    gc.unfreeze()
    gc.disable()
    try:
        with collection_paused():
            pass
        assert (gc.isenabled(), gc.get_freeze_count()) == (False, 0)
    finally:
        gc.enable()

"""A build that remembers the one before makes what a build from nothing makes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.diagnostic import LoadError
from policies.load import Inspected, inspect_file, join_files, read_resources
from policies.mesh import Mesh
from policies.pace import Pace, no_pace
from policies.set_memory import SetMemory, Texts
from policies.snapshot import build_snapshot

_TEXTS = {
    "allow": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: allow, namespace: shop}\nspec: {rules: [{}]}\n",
    "deny": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: deny, namespace: shop}\nspec: {action: DENY, rules: [{}]}\n",
    "custom": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: ask, namespace: shop}\n"
    "spec: {action: CUSTOM, provider: {name: p}, rules: [{}]}\n",
    "peer": "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
    "metadata: {name: strict, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n",
    "unknown field": "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
    "metadata: {name: odd, namespace: shop}\nspec: {rulez: [{}]}\n",
    "no yaml": "a: [",
    "empty": "",
}
_SETS = st.lists(
    st.tuples(st.sampled_from(["a.yaml", "b.yaml", "c.yaml"]), st.sampled_from(sorted(_TEXTS))),
    max_size=4,
    unique_by=lambda each: each[0],
)


def _texts(chosen: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(file, _TEXTS[name]) for file, name in chosen]


def _outcome(texts: list[tuple[str, str]], memory: SetMemory) -> object:
    try:
        snapshot = build_snapshot(texts, Mesh(), memory=memory)
    except LoadError as exc:
        return exc.diagnostics
    return snapshot.revision, [policy for policy, _ in snapshot.policies], snapshot.warnings


@given(st.lists(_SETS, min_size=2, max_size=4))
def test_memory_changes_nothing_but_the_time(sets: list[list[tuple[str, str]]]) -> None:
    """Set after set through one memory comes to what each comes to alone, refusals included."""
    memory = SetMemory()

    for chosen in sets:
        assert _outcome(_texts(chosen), SetMemory()) == _outcome(_texts(chosen), memory)


@given(_SETS)
def test_files_join_to_what_they_are_together(chosen: list[tuple[str, str]]) -> None:
    """Files that were read one by one are judged as if they had been read together."""

    def findings(read: Iterable[Inspected] | None) -> object:
        try:
            found = join_files(read, Mesh()) if read else read_resources(_texts(chosen), Mesh())
        except LoadError as exc:
            return exc.diagnostics
        return found

    assert findings(None) == findings([inspect_file(*each) for each in _texts(chosen)] or None)


class _Reader:
    """Reads as always, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Texts, pace: Pace) -> Iterable[Inspected]:
        """Read the files."""
        self.asked += [file for file, _, _ in texts]
        return [inspect_file(*each) for each in texts]


def test_only_what_changed_is_read_and_compiled() -> None:
    """After one edit of two files one is read; the other's policy is the same object."""
    reader = _Reader()
    memory = SetMemory(reader)
    first = build_snapshot(_texts([("a", "allow"), ("b", "deny")]), Mesh(), memory=memory)
    reader.asked.clear()

    second = build_snapshot(_texts([("a", "allow"), ("b", "peer")]), Mesh(), memory=memory)

    assert ["b"] == reader.asked
    assert second.policies[0][1] is first.policies[0][1]


def test_another_mesh_compiles_anew() -> None:
    """What a mesh decides is not taken over from another mesh."""
    memory = SetMemory()
    texts = _texts([("a", "allow")])
    first = build_snapshot(texts, Mesh(), memory=memory)

    second = build_snapshot(texts, Mesh(trust_domain="other"), memory=memory)

    assert second.policies[0][1] is not first.policies[0][1]


@pytest.mark.parametrize("pace_is_used", [True, False])
def test_pace_is_asked_on_the_way(pace_is_used: bool) -> None:
    """The build calls `pace` for each policy, and comes to the same with and without."""
    calls: list[None] = []

    def count() -> None:
        calls.append(None)

    texts = _texts([("a", "allow"), ("b", "deny")])
    snapshot = build_snapshot(texts, Mesh(), pace=count if pace_is_used else no_pace)

    assert 2 == len(snapshot.policies)
    assert pace_is_used is (len(calls) >= 4)

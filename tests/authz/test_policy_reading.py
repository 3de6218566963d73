"""A server's reloads: read in a process of their own, a little at a time, the same in the end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import yaml

from authz import reading_process
from authz.decision_memory import _new_shelf
from authz.pacer import Pacer
from authz.policy_reading import PolicyReading
from authz.reading_process import read_apart
from authz.serving_state import ServingState
from authz.settings import IdentityHeaderSettings
from policies.matchers import CompiledPolicy
from policies.mesh import Mesh
from policies.model import Clause
from policies.pace import no_pace
from policies.request import Workload
from policies.set_memory import Texts, read_here
from policies.snapshot import Snapshot, WorkloadPolicies, build_snapshot


def _policies(count: int, note: str = "") -> str:
    return yaml.safe_dump_all(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{number}", "namespace": "shop"},
            "spec": {"rules": [{"to": [{"operation": {"paths": [f"/{note}{number}"]}}]}]},
        }
        for number in range(count)
    )


TEXTS: Texts = [
    ("many.yaml", _policies(400), 1),
    ("empty.yaml", "", 1),
    ("comment.yaml", "# nothing\n---\n", 9),
    ("broken.yaml", "a: [", 7),
    ("odd.yaml", _policies(60).replace("paths", "pathz"), 1),
]


def test_another_process_reads_the_same() -> None:
    """What comes back in pieces is what reading here gives, faults and empty files included."""
    assert list(read_here(TEXTS, no_pace)) == list(read_apart(TEXTS, no_pace))


def test_a_process_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other process the files are read here."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")

    assert list(read_here(TEXTS, no_pace)) == list(read_apart(TEXTS, no_pace))


def test_a_process_that_ends_early_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends in the middle of a piece is as good as none."""
    monkeypatch.setattr(sys, "executable", "/bin/true")

    assert list(read_here(TEXTS, no_pace)) == list(read_apart(TEXTS, no_pace))


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was stopped would keep this edit and all later ones from counting."""

    def start(command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, **pipes)
        process.send_signal(signal.SIGSTOP)
        started.append(process)
        return process

    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(reading_process, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(
        reading_process, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE)
    )

    assert list(read_here(TEXTS, no_pace)) == list(read_apart(TEXTS, no_pace))
    assert [-signal.SIGKILL] == [each.returncode for each in started]


def test_no_module_comes_from_where_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that bears a module's name is not imported for lying in the folder."""
    (tmp_path / "struct.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.chdir(tmp_path)

    assert list(read_here(TEXTS, no_pace)) == list(read_apart(TEXTS, no_pace))
    assert not (tmp_path / "imported").exists()


def test_few_texts_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small edit is read at once."""
    monkeypatch.setattr(reading_process, "_read_in_process", None)

    assert 1 == len(list(read_apart([("a.yaml", _policies(2), 1)], no_pace)))


def test_a_server_builds_the_same_beside_its_traffic() -> None:
    """Before and after serving has begun, the same files make the same snapshot."""
    texts = [("many.yaml", _policies(300)), ("more.yaml", _policies(3).replace("shop", "bank"))]
    reading = PolicyReading()
    at_once = reading.snapshot(texts, Mesh())
    reading.begin_serving()

    later = PolicyReading()
    later.begin_serving()

    for snapshot in (reading.snapshot(texts, Mesh()), later.snapshot(texts, Mesh())):
        assert at_once.revision == snapshot.revision
        assert [each for each, _ in at_once.policies] == [each for each, _ in snapshot.policies]


def _rests(others: float, every: int = 1) -> list[float]:
    """Return the rests of a thousand pieces of 0.1 ms, others working so much in each nth rest."""
    now, theirs = [0.0], [0.0]
    rests: list[float] = []

    def rest(seconds: float) -> None:
        rests.append(seconds)
        theirs[0] += seconds * others * (len(rests) % every == 0)

    pacer = Pacer(
        share=0.25,
        slice_seconds=0.001,
        clock=lambda: now[0],
        wall=lambda: now[0],
        others=lambda: theirs[0],
        rest=rest,
    )
    for _ in range(1000):
        now[0] += 0.0001
        pacer()
    return rests


def test_the_pacer_works_its_share() -> None:
    """With a quarter of the time for itself, it rests three times as long as it works."""
    rests = _rests(others=0.5)

    assert 85 <= len(rests) <= 100
    assert pytest.approx(0.003) == rests[0]


def test_the_pacer_seldom_rests_for_nobody() -> None:
    """While the other threads do next to nothing, most of the work is done at once."""
    assert 5 <= len(_rests(others=0.01)) <= 8


def test_the_pacer_goes_on_resting_for_a_few() -> None:
    """Others that take a quarter of a core are traffic, and feel no more than of a crowd."""
    assert 85 <= len(_rests(others=0.25)) <= 100


def test_one_question_in_between_is_no_traffic() -> None:
    """Of five rests one may be somebody's; two are traffic."""
    assert 5 <= len(_rests(others=0.9, every=5)) <= 8
    assert 85 <= len(_rests(others=0.9, every=2)) <= 100


def test_a_quiet_past_is_no_quiet_now() -> None:
    """Whoever builds again after a while finds out anew whether somebody works."""
    now = [0.0]
    rests: list[float] = []
    pacer = Pacer(
        slice_seconds=0.001, clock=lambda: now[0], wall=lambda: now[0], others=lambda: 0.0,
        rest=rests.append,
    )  # fmt: skip

    def work() -> list[float]:
        rests.clear()
        for _ in range(100):
            now[0] += 0.001
            pacer()
        return list(rests)

    first = work()
    assert first[0] > work()[0]
    now[0] += 60
    assert first == work()


def test_the_pacer_rests_in_every_thread() -> None:
    """CPU time is a thread's own: in another thread it counts from where that one is."""
    rests: list[float] = []
    clock = {threading.get_ident(): 9.0}

    def now() -> float:
        return clock.setdefault(threading.get_ident(), 0.0)

    pacer = Pacer(slice_seconds=0.001, clock=now, wall=now, rest=rests.append)
    pacer()

    def work() -> None:
        for _ in range(20):
            clock[threading.get_ident()] = now() + 0.0005
            pacer()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()

    assert rests


def test_a_new_state_is_ready_for_the_workloads_of_the_old() -> None:
    """After a hand-over the first question of a known workload finds its policies sorted."""
    texts = [("p.yaml", _policies(5))]
    before, after = (
        ServingState(snapshot=build_snapshot(texts, Mesh()), revision=str(number))
        for number in range(2)
    )
    known = Workload(namespace="shop", labels={"app": "x"})
    before.selection(known)

    PolicyReading().hand_over(before, after)

    assert 1 == len(after._selections)
    ready = next(iter(after._selections.values()))
    assert ready is after.selection(known)
    assert 5 == len(list(ready.policies.allow))


def _labelled(count: int, changed: str = "") -> list[tuple[str, str]]:
    """Return a policy each for so many workloads, and one for all of them."""
    text = "---\n".join(
        yaml.safe_dump(
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": {"name": f"p-{name}", "namespace": "shop"},
                "spec": {
                    "selector": {"matchLabels": {"app": name}},
                    "rules": [
                        {"to": [{"operation": {"paths": ["/b" if name == changed else "/a"]}}]}
                    ],
                },
            }
        )
        for name in map(str, range(count))
    )
    return [("p.yaml", text)]


def _sources(policy: CompiledPolicy) -> list[Clause]:
    """Return what the author wrote of a policy."""
    return [clause.source for rule in policy.rules for group in rule.operations for clause in group]


def test_what_is_sorted_already_is_taken_over() -> None:
    """After an edit of one policy only its workload's policies are sorted anew."""
    reading = PolicyReading()
    before, after = (
        ServingState(snapshot=reading.snapshot(texts, Mesh()), revision=str(number))
        for number, texts in enumerate([_labelled(4), _labelled(4, changed="2")])
    )
    workloads = [Workload(namespace="shop", labels={"app": str(name)}) for name in range(4)]
    old = [before.selection(each).policies for each in workloads]

    reading.hand_over(before, after)

    new = [after.selection(each).policies for each in workloads]
    taken = [one.allow is other.allow for one, other in zip(old, new, strict=True)]
    assert [True, True, False, True] == taken
    alone = build_snapshot(_labelled(4, changed="2"), Mesh())
    for workload, found in zip(workloads, new, strict=True):
        expected = list(alone.select(workload).allow)
        assert [each.ref for each in expected] == [each.ref for each in found.allow]
        assert [_sources(each) for each in expected] == [_sources(each) for each in found.allow]


def test_nothing_sorted_is_taken_from_another_mesh() -> None:
    """The same policies mean something else under other trust domains."""
    states = [
        ServingState(snapshot=build_snapshot(_labelled(1), mesh), revision="1")
        for mesh in (Mesh(), Mesh(trust_domain="other.example"))
    ]
    known = Workload(namespace="shop", labels={"app": "0"})
    old = states[0].selection(known).policies

    PolicyReading().hand_over(*states)

    assert states[1].selection(known).policies.allow is not old.allow


def test_parts_are_dropped_one_by_one() -> None:
    """Nothing is left of what is let go."""
    state = ServingState(snapshot=build_snapshot([("p", _policies(5))], Mesh()), revision="1")
    parts = state.parts()

    PolicyReading().let_go(parts)

    assert [] == parts


def test_a_crowd_that_asks_first_has_the_policies_sorted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of many threads that ask for an unknown workload at once, one sorts and all have the same."""
    snapshot = build_snapshot([("p.yaml", _policies(50))], Mesh())
    state = ServingState(snapshot=snapshot, revision="1")
    sorted_for: list[Workload] = []
    select = type(snapshot).select

    def counted(self: Snapshot, workload: Workload, **more: Any) -> WorkloadPolicies:
        sorted_for.append(workload)
        return select(self, workload, **more)

    monkeypatch.setattr(type(snapshot), "select", counted)
    with ThreadPoolExecutor(16) as crowd:
        found = list(crowd.map(state.selection, [Workload(namespace="shop")] * 64))

    assert 1 == len(sorted_for)
    assert all(each is found[0] for each in found)


def test_what_is_remembered_keeps_no_state() -> None:
    """A state that serves no more goes, also where no check comes that would find it stale."""
    state = ServingState(
        snapshot=build_snapshot([("p.yaml", _policies(400))], Mesh()), revision="1"
    )
    gone, shelf = ref(state), _new_shelf(state, IdentityHeaderSettings())

    del state

    assert gone() is None
    assert shelf.state() is None

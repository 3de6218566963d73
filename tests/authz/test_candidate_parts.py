"""A configured candidate set: loaded beside the enforced one, reloaded, broken, mended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from checking import NoKeys

from authz.build import load_state
from authz.candidate_parts import Candidate, candidate_providers, watched_paths
from authz.config_file import load_settings
from authz.metrics import Metrics
from authz.policy_bundle_parts import PolicyBundles, TakeBundle, no_bundles
from authz.serving_state import ServingState
from authz.walk import Surroundings
from policies.decision import Decision, Effect, Layer, Reason, ShadowOutcome, ShadowVerdict
from policies.request import Request, Workload

ALLOW = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.DEFAULT)
CONFIGURATION = """\
policies: {paths: [policies], reloadSeconds: 0.02}
workload: {namespace: shop}
providers:
  - {name: one, rego: {paths: [one.rego], workers: 1}, default: true}
  - {name: two, rego: {paths: [two.rego], workers: 1}}
dryrun:
  candidate:
    paths: [candidate]
    budgetSeconds: 10
    providers:
      - {name: two, rego: {paths: [new.rego], workers: 1}}
"""
DENY_ALL = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec: {action: DENY, rules: [{}]}
"""
ASK_TWO = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: two}, rules: [{}]}
"""
REGO = "package envoy.authz\nimport rego.v1\ndefault allow := %s\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration, whose candidate is empty yet."""
    (tmp_path / "meshwarden.yaml").write_text(CONFIGURATION)
    (tmp_path / "candidate").mkdir()
    for name, verdict in (("one", "true"), ("two", "true"), ("new", "false")):
        (tmp_path / f"{name}.rego").write_text(REGO % verdict)
    return tmp_path


@contextmanager
def running(
    folder: Path, take: TakeBundle = no_bundles
) -> Iterator[tuple[Callable[[], ShadowVerdict], Metrics]]:
    """Yield what asks the candidate about one request, and the metrics."""
    settings, metrics = load_settings(folder / "meshwarden.yaml"), Metrics()
    around = Surroundings(keys=NoKeys(), static_workload=Workload(namespace="shop"))
    candidate = Candidate(settings, around, metrics, take=take)
    candidate.start()
    request = Request(method="GET", path="/", host="h")
    try:
        yield lambda: candidate.shadow.verdict(request, ALLOW, lambda: None), metrics
    finally:
        candidate.stop()


def until(ask: Callable[[], ShadowVerdict], outcome: ShadowOutcome) -> ShadowVerdict:
    """Return the first verdict with that outcome."""
    for _ in range(1000):
        verdict = ask()
        if verdict.outcome is outcome:
            return verdict
        threading.Event().wait(0.02)
    raise AssertionError(f"never {outcome}: {verdict}")


def test_a_candidate_that_never_loaded_is_marked_until_it_does(folder: Path) -> None:
    """An empty folder is an error for the shadow alone; a set that comes later counts."""
    with running(folder) as (ask, metrics):
        assert (ShadowOutcome.ERROR, "") == (ask().outcome, ask().revision)
        assert b"meshwarden_candidate_fresh 0.0" in metrics.text()
        (folder / "candidate" / "deny.yaml").write_text(DENY_ALL)
        verdict = until(ask, ShadowOutcome.WOULD_DENY)
        assert verdict.would is not None
        assert ("shop/none#0", 64) == (str(verdict.would.rule and verdict.would.rule.name),
                                       len(verdict.revision))  # fmt: skip
        # It is told once the set serves.
        for _ in range(1000):
            if b"meshwarden_candidate_fresh 1.0" in metrics.text():
                break
            threading.Event().wait(0.02)
        assert b"meshwarden_candidate_fresh 1.0" in metrics.text()


def test_a_candidate_that_breaks_stays_as_it_was(folder: Path) -> None:
    """The last set that loaded is asked while newer files are refused."""
    path = folder / "candidate" / "deny.yaml"
    path.write_text(DENY_ALL)
    with running(folder) as (ask, metrics):
        revision = until(ask, ShadowOutcome.WOULD_DENY).revision
        path.write_text("kind: [")
        for _ in range(1000):
            if b"meshwarden_candidate_fresh 0.0" in metrics.text():
                break
            threading.Event().wait(0.02)
        assert b"meshwarden_candidate_fresh 0.0" in metrics.text()
        assert (ShadowOutcome.WOULD_DENY, revision) == (ask().outcome, ask().revision)


def test_the_candidate_asks_its_own_rego(folder: Path) -> None:
    """A provider that the candidate names is its own, the others are those of the enforced set."""
    (folder / "candidate" / "ask.yaml").write_text(ASK_TWO)
    settings = load_settings(folder / "meshwarden.yaml")
    assert [("two", False), ("one", True)] == [
        (each.name, each.default) for each in candidate_providers(settings)
    ]
    assert {folder / "candidate", folder / "new.rego", folder / "one.rego"} == set(
        watched_paths(settings)
    )
    with running(folder) as (ask, _):
        verdict = until(ask, ShadowOutcome.WOULD_DENY)
        assert verdict.would is not None
        assert Reason.CUSTOM_DENIED is verdict.would.reason


def test_the_candidate_follows_bundles(folder: Path) -> None:
    """A bundle that a provider of the candidate names is read again when it changes."""
    (folder / "candidate" / "ask.yaml").write_text(ASK_TWO)
    bundle = folder / "bundle"
    bundle.mkdir()
    (bundle / "policy.rego").write_text(REGO % "true")
    text = CONFIGURATION.replace("{paths: [new.rego], workers: 1}", "{bundles: [b], workers: 1}")
    (folder / "meshwarden.yaml").write_text(f"{text}bundles:\n  - {{name: b, path: bundle}}\n")
    bundles = PolicyBundles(load_settings(folder / "meshwarden.yaml").bundles)
    with running(folder, bundles.take) as (ask, _):
        until(ask, ShadowOutcome.SAME)
        (bundle / "policy.rego").write_text(REGO % "false")
        until(ask, ShadowOutcome.WOULD_DENY)


def noting(monkeypatch: pytest.MonkeyPatch, note: Callable[[ServingState], None]) -> None:
    """Have every state noted that a candidate loads."""

    def noted(*args: Any, **more: Any) -> ServingState:
        state = load_state(*args, **more)
        note(state)
        return state

    monkeypatch.setattr("authz.candidate_parts.load_state", noted)


def test_an_edit_of_a_policy_starts_no_provider_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rego that did not change is neither compiled again nor given other processes."""
    states: list[ServingState] = []
    noting(monkeypatch, states.append)
    (folder / "candidate" / "ask.yaml").write_text(ASK_TWO)
    with running(folder) as (ask, _):
        before = until(ask, ShadowOutcome.WOULD_DENY)
        (folder / "candidate" / "deny.yaml").write_text(DENY_ALL)
        after = until(ask, ShadowOutcome.WOULD_DENY)
        while after.revision == before.revision:
            after = ask()

    assert states[0].providers["two"] is states[-1].providers["two"]
    assert states[0].snapshot is not states[-1].snapshot


def test_a_set_that_was_replaced_is_let_go_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an edit nothing holds the set before it, though nobody asks the new one."""
    states: list[ref[ServingState]] = []
    noting(monkeypatch, lambda state: states.append(ref(state)))
    (folder / "candidate" / "ask.yaml").write_text(ASK_TWO)
    with running(folder) as (ask, _):
        until(ask, ShadowOutcome.WOULD_DENY)
        assert states[0]() is not None
        (folder / "candidate" / "deny.yaml").write_text(DENY_ALL)
        for _ in range(1000):
            if len(states) > 1 and states[0]() is None:
                break
            threading.Event().wait(0.02)
        gc.collect()
        assert [True, False] == [each() is None for each in states][:2]
        assert ShadowOutcome.WOULD_DENY is ask().outcome

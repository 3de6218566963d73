"""What is counted of checks: by policy, by phase, with labels that no stranger can grow."""

from __future__ import annotations

import threading

from checking import WEB, MemoryRecorder, ask, make_authorizer, make_message
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from authz.metrics import Metrics
from authz.phase_metrics import PhaseMetrics
from authz.phases import Phase, PhaseClock
from authz.pipeline import Authorizer
from authz.policy_metrics import MOST, OTHERS, PolicyMetrics, enforced_names

_DENY_X = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]}
_NEVER = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/never"]}}]}]}


def _samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels, in order of their names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def _watched(authorizer: Authorizer) -> Metrics:
    authorizer.metrics.by_policy.watch(lambda: enforced_names(authorizer.state()))
    return authorizer.metrics


def test_each_policy_is_counted_with_its_answers() -> None:
    """A policy that decided has its counts, one that never did is there with zero."""
    authorizer = make_authorizer([{"rules": [{}]}, _DENY_X, _NEVER])
    metrics = _watched(authorizer)
    for path in ("/x", "/x", "/y"):
        ask(authorizer, make_message(path=path))
    found = _samples(metrics)
    name = "meshwarden_policy_decisions_total"
    assert found[name, "allow", "shop/p0"] == 1
    assert found[name, "deny", "shop/p1"] == 2
    assert found[name, "deny", "shop/p2"] == 0
    assert found["meshwarden_policies_never_fired",] == 1


def test_each_phase_is_timed_and_on_record() -> None:
    """A check that was decided has every phase once, in the metrics and in its record."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer([{"rules": [{}]}], recorder)
    ask(authorizer, make_message())
    found = _samples(authorizer.metrics)
    counted = {phase: found["meshwarden_phase_seconds_count", phase] for phase in Phase}
    once = dict.fromkeys(Phase, 1) | {Phase.RECALL: 0}
    assert counted == once | {Phase.PEER: counted[Phase.PEER]}
    split = recorder.records[0].phases
    assert set(split) <= set(Phase) - {Phase.RECORD}
    assert {Phase.DECODE, Phase.TOKEN, Phase.POLICIES, Phase.ANSWER} <= set(split)
    assert sum(split.values()) <= recorder.records[0].duration_microseconds
    assert found["meshwarden_phase_seconds_bucket", "+Inf", "decode"] == 1


def test_a_malformed_message_has_the_phases_it_came_to() -> None:
    """What cannot be read is answered and recorded, with nothing said of what was not done."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer((), recorder)
    authorizer.check(b"\xff\xff\xff")
    assert Phase.POLICIES not in recorder.records[0].phases
    assert _samples(authorizer.metrics)["meshwarden_phase_seconds_count", "policies"] == 0


def test_no_stranger_makes_a_label() -> None:
    """Whatever requests hold, the series stay those of the policies and phases."""
    authorizer = make_authorizer([{"rules": [{}]}, _DENY_X])
    metrics = _watched(authorizer)
    ask(authorizer, make_message())
    before = _samples(metrics).keys()
    for number in range(50):
        ask(authorizer, make_message(path=f"/{number}", peer=f"{WEB}{number}"))
    assert _samples(metrics).keys() == before


def test_policies_beyond_the_bound_are_counted_together() -> None:
    """With more policies than have a place, the rest is `others`, and counts only grow."""
    registry = CollectorRegistry()
    names = [f"shop/p{number:05d}" for number in range(MOST + 500)]
    metrics = PolicyMetrics(registry, lambda: names)
    for name in names:
        metrics.fired(name, "deny")
    families = {family.name: family for family in metrics.collect()}
    series = families["meshwarden_policy_decisions"].samples
    assert len({sample.labels["policy"] for sample in series}) == MOST + 1
    assert sum(sample.value for sample in series) == len(names)
    others = [each for each in series if each.labels == {"policy": OTHERS, "effect": "deny"}]
    assert [each.value for each in others] == [500]


def test_threads_lose_no_phase() -> None:
    """What several threads count at a time is all there afterwards."""
    metrics = PhaseMetrics(CollectorRegistry())

    def count() -> None:
        for _ in range(2000):
            clock = PhaseClock(0.0)
            clock.ends.append((Phase.DECODE, 0.5))
            metrics.count(clock)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (family,) = metrics.collect()
    values = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in family.samples
        if sample.labels["phase"] == "decode"
    }
    assert values["meshwarden_phase_seconds_bucket", "+Inf"] == 8000
    assert values["meshwarden_phase_seconds_bucket", "0.2"] == 0
    assert values["meshwarden_phase_seconds_bucket", "1.0"] == 8000
    assert values["meshwarden_phase_seconds_sum", None] == 4000.0

"""What is counted: metric names, units and labels, each label set fixed and small."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from authz.phase_metrics import PhaseMetrics
from authz.policy_metrics import PolicyMetrics

# Seconds; the range in which Envoy's 200 ms timeout matters.
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0)


class Metrics:
    """The metrics of one authorizer, in a registry of its own."""

    def __init__(self) -> None:
        """Register every metric."""
        self.registry = CollectorRegistry()
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self.decisions = Counter(
            "meshwarden_decisions",
            "Answered checks by effect, deciding layer and reason.",
            ("effect", "layer", "reason"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "meshwarden_check_seconds",
            "Time from the received message to the answer, audit hand-over included.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        memory = Counter(
            "meshwarden_decision_memory",
            "Checks that could be remembered: recalled (`hit`), or decided in full (`miss`).",
            ("result",),
            registry=self.registry,
        )
        self.recalled, self.not_recalled = memory.labels("hit"), memory.labels("miss")
        self.shadow = Counter(
            "meshwarden_shadow",
            "What is not enforced would have done, by policy (or `together`, `candidate`) and "
            "outcome.",
            ("policy", "outcome"),
            registry=self.registry,
        )
        self.candidate_fresh = Gauge(
            "meshwarden_candidate_fresh",
            "1 while the candidate set that is shadowed is that of its newest files.",
            registry=self.registry,
        )
        self.failed_open = Counter(
            "meshwarden_provider_failed_open",
            "Requests let past a provider that gave no verdict, by its name and the reason.",
            ("provider", "reason"),
            registry=self.registry,
        )
        self.reloads = Counter(
            "meshwarden_reloads",
            "Loads of the policy set by result.",
            ("result",),
            registry=self.registry,
        )
        self.policies = Gauge(
            "meshwarden_policies",
            "AuthorizationPolicies in the serving set.",
            registry=self.registry,
        )
        self.by_policy = PolicyMetrics(self.registry)
        self.phases = PhaseMetrics(self.registry)
        self.loaded_at = Gauge(
            "meshwarden_loaded_timestamp_seconds",
            "When the serving set was loaded.",
            registry=self.registry,
        )

    def decision(self, effect: str, layer: str, reason: str) -> None:
        """Count a decision."""
        # WHY kept: to find a counter by its labels costs many times what counting does.
        key = (effect, layer, reason)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self.decisions.labels(effect, layer, reason)
        counter.inc()

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Export a value that is read at each scrape."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)

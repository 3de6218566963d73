"""What is counted about each Rego provider: names, units and labels.

What an engine counts itself begins anew with every load; Prometheus takes a counter that
falls for one that began anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.serving_state import ServingState
from opa_bridge.engine import EngineStats
from opa_bridge.provider import RegoProvider
from policies.decision import Reason

# Seconds; from a remembered result to the longest budget that makes sense behind Envoy.
_BUCKETS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


class ProviderMetrics:
    """The metrics of the providers that serve; safe from many threads."""

    def __init__(self, registry: CollectorRegistry, state: Callable[[], ServingState]) -> None:
        """Register them; `state` returns what serves now."""
        self._evaluations = Counter(
            "meshwarden_rego_evaluations",
            "Requests put to a Rego provider, by what came of it.",
            ("provider", "result"),
            registry=registry,
        )
        self._stopped = Counter(
            "meshwarden_rego_stopped",
            "Evaluations that were stopped at their time limit, or found no time left.",
            ("provider",),
            registry=registry,
        )
        self._seconds = Histogram(
            "meshwarden_rego_seconds",
            "Time from asking a Rego provider to its verdict or failure.",
            ("provider",),
            buckets=_BUCKETS,
            registry=registry,
        )
        registry.register(_EngineCollector(state))

    def observe(self, name: str, came: str, seconds: float) -> None:
        """Count one provider that was asked; see `authz.custom.Observe`."""
        self._evaluations.labels(name, came).inc()
        self._seconds.labels(name).observe(seconds)
        if came == Reason.PROVIDER_TIMEOUT:
            self._stopped.labels(name).inc()


class _EngineCollector(Collector):
    """What the engines that serve have counted, read at each scrape."""

    def __init__(self, state: Callable[[], ServingState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        state = self._state()
        replaced = CounterMetricFamily(
            "meshwarden_rego_workers_replaced",
            "Rego workers that were stopped or died, and made way for others.",
            labels=("provider",),
        )
        hits = CounterMetricFamily(
            "meshwarden_rego_remembered",
            "Evaluations answered with the remembered result of the same input.",
            labels=("provider",),
        )
        in_process = CounterMetricFamily(
            "meshwarden_rego_in_process",
            "Evaluations that needed no worker.",
            labels=("provider",),
        )
        handed_over = CounterMetricFamily(
            "meshwarden_rego_handed_over",
            "Evaluations that began in process and went to a worker.",
            labels=("provider",),
        )
        evaluation = GaugeMetricFamily(
            "meshwarden_rego_evaluation",
            "1, with where a provider's entrypoint is evaluated, and why not in process.",
            labels=("provider", "where", "why"),
        )
        fails_open = GaugeMetricFamily(
            "meshwarden_rego_fails_open",
            "1 for a provider that is configured to fail open.",
            labels=("provider",),
        )
        for name, stats in _stats(state):
            replaced.add_metric((name,), stats.workers_replaced)
            hits.add_metric((name,), stats.remembered_hits)
            in_process.add_metric((name,), stats.in_process)
            handed_over.add_metric((name,), stats.handed_over)
            evaluation.add_metric((name, stats.where, stats.why), 1.0)
            fails_open.add_metric((name,), float(state.terms.terms_of(name).fails_open))
        yield from (replaced, hits, in_process, handed_over, evaluation, fails_open)


def _stats(state: ServingState) -> Iterator[tuple[str, EngineStats]]:
    for name, provider in state.providers.items():
        if isinstance(provider, RegoProvider):
            yield name, provider.engine.stats()

"""How often each policy decided, and how many never did: labels are names of the configuration."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from authz.serving_state import ServingState
from policies.model import Action

MOST: Final = 1000  # BUDGET: policies with series of their own; the others are counted together
OTHERS: Final = "others"


class PolicyMetrics(Collector):
    """Counts decisions by the policy that made them. Thread-safe."""

    def __init__(
        self, registry: CollectorRegistry, names: Callable[[], Iterable[str]] = tuple
    ) -> None:
        """Register the series; `names` are the enforced policies, `namespace/name`."""
        self._names = names
        self._fired: Counter[tuple[str, str]] = Counter()
        self._shown: dict[str, None] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def watch(self, names: Callable[[], Iterable[str]]) -> None:
        """Take the enforced policies from elsewhere from now on."""
        self._names = names

    def fired(self, policy: str, effect: str) -> None:
        """Count a decision of a policy."""
        with self._lock:
            self._fired[policy, effect] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield a series of each policy and effect, and how many policies never decided."""
        current = tuple(self._names())
        with self._lock:
            fired = dict(self._fired)
        counts: Counter[tuple[str, str]] = Counter()
        for name in current:
            for effect in ("allow", "deny"):
                counts[self._label(name), effect] += 0
        for (name, effect), count in fired.items():
            counts[self._label(name), effect] += count
        family = CounterMetricFamily(
            "meshwarden_policy_decisions",
            "Decisions by the policy that made them; those beyond a bound are `others`.",
            labels=["policy", "effect"],
        )
        for labels, count in counts.items():
            family.add_metric(labels, count)
        yield family
        decided = {name for name, _ in fired}
        yield GaugeMetricFamily(
            "meshwarden_policies_never_fired",
            "Enforced policies that made no decision since the start.",
            value=sum(name not in decided for name in current),
        )

    def _label(self, name: str) -> str:
        """Return the name while there is room; it keeps its place, so that counters only grow."""
        if name not in self._shown and len(self._shown) < MOST:
            self._shown[name] = None
        return name if name in self._shown else OTHERS


def enforced_names(state: ServingState) -> tuple[str, ...]:
    """Return the policies of a state that can make a decision, `namespace/name`."""
    return tuple(
        f"{policy.metadata.namespace}/{policy.metadata.name}"
        for policy, _ in state.snapshot.policies
        if not policy.dry_run and policy.action is not Action.AUDIT
    )

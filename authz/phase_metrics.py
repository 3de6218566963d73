"""How long the phases of checks take, as histograms: counted on each thread, added up when read."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from authz.phases import Phase, PhaseClock

# Seconds: a phase that asks nobody takes microseconds, one that does up to Envoy's 200 ms.
BUCKETS: Final = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.2, 1.0)
_NAME: Final = "meshwarden_phase_seconds"


class _Counts:
    """What one thread counted: for each phase the buckets, the last without a bound, and a sum."""

    __slots__ = ("buckets", "sums")

    def __init__(self) -> None:
        self.buckets = {phase: [0] * (len(BUCKETS) + 1) for phase in Phase}
        self.sums = dict.fromkeys(Phase, 0.0)


class PhaseMetrics(Collector):
    """The histograms. A thread counts without a lock; what is read may miss a check under way."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them."""
        self._mine = threading.local()
        self._all: list[_Counts] = []
        self._lock = threading.Lock()
        registry.register(self)

    def count(self, clock: PhaseClock) -> None:
        """Count the phases of one check."""
        counts: _Counts | None = getattr(self._mine, "counts", None)
        if counts is None:
            counts = self._mine.counts = _Counts()
            with self._lock:
                self._all.append(counts)
        begun, buckets, sums = clock.begun, counts.buckets, counts.sums
        for phase, ended in clock.ends:
            seconds = ended - begun
            buckets[phase][bisect_left(BUCKETS, seconds)] += 1
            sums[phase] += seconds
            begun = ended

    def collect(self) -> Iterator[Metric]:
        """Yield the histograms of all threads together."""
        family = HistogramMetricFamily(
            _NAME, "Time that each phase of a check took.", labels=["phase"]
        )
        with self._lock:
            counted = list(self._all)
        for phase in Phase:
            parts = [each.buckets[phase] for each in counted]
            columns = [sum(column) for column in zip(*parts, strict=True)]
            whole = sum(each.sums[phase] for each in counted)
            family.add_metric([phase], _cumulative(columns or [0] * (len(BUCKETS) + 1)), whole)
        yield family


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return the buckets as they are exported: each with all that are shorter."""
    bounds = [*map(str, BUCKETS), "+Inf"]
    found: list[tuple[str, float]] = []
    for bound, count in zip(bounds, counts, strict=True):
        found.append((bound, count + (found[-1][1] if found else 0)))
    return found

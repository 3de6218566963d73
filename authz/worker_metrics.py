"""The metrics of several workers as those of one server.

What is counted is added up; what is measured (a gauge) keeps its worker as a label, for the
sum of two clocks or of two sets of policies says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

_ADDED_UP = frozenset({"counter", "histogram", "summary"})
_CREATED = "_created"


def merge_metrics(texts: Mapping[str, str]) -> bytes:
    """Return the exposition text of workers, by their names, as one.

    Raises:
        ValueError: a text is no exposition.
    """
    merged = _Merged(texts)
    registry = CollectorRegistry()
    registry.register(merged)
    return generate_latest(registry)


class _Merged(Collector):
    """The families of all workers."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._families: dict[str, Metric] = {}
        self._sums: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}
        for worker, text in texts.items():
            for family in text_string_to_metric_families(text):
                self._take(worker, family)

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        for name, family in self._families.items():
            for (sample, labels), value in self._sums.get(name, {}).items():
                family.add_sample(sample, dict(labels), value)
            yield family

    def _take(self, worker: str, family: Metric) -> None:
        known = self._families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        if family.type not in _ADDED_UP:
            for sample in family.samples:
                known.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
            return
        sums = self._sums.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            before = sums.get(key)
            if before is None:
                sums[key] = sample.value
            elif sample.name.endswith(_CREATED):
                sums[key] = min(before, sample.value)
            else:
                sums[key] = before + sample.value

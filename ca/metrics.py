"""The CA's metrics: names and labels are constant, no identity is ever a label."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ca.authority import AuthorityKeeper
from ca.clock import Clock
from ca.streams import OpenStreams


class CaMetrics:
    """What the CA counts; `observe` adds what is read at each scrape."""

    def __init__(self) -> None:
        """Start every count at zero."""
        self.registry = CollectorRegistry()
        self.issued = Counter(
            "meshwarden_ca_issued",
            "Certificates and tokens issued, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.refused = Counter(
            "meshwarden_ca_refused",
            "Requests for issuance refused, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.repeated = Counter(
            "meshwarden_ca_repeated",
            "Requests answered with the certificate that the same request got before.",
            registry=self.registry,
        )
        self.renewals_late = Counter(
            "meshwarden_ca_renewals_late",
            "Renewals that failed when they were due, each attempt.",
            registry=self.registry,
        )

    def observe(self, keeper: AuthorityKeeper, streams: OpenStreams, clock: Clock) -> None:
        """Show authorities and streams at each scrape from now on."""
        self.registry.register(_Observed(keeper, streams, clock))

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Observed(Collector):
    """What is read, not counted."""

    def __init__(self, keeper: AuthorityKeeper, streams: OpenStreams, clock: Clock) -> None:
        """Read from these."""
        self._keeper = keeper
        self._streams = streams
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        expiry = GaugeMetricFamily(
            "meshwarden_ca_authority_expiry_seconds",
            "Seconds until an authority's certificate expires, below zero after it.",
            labels=["authority", "phase", "tier"],
        )
        now = self._clock()
        for slot in self._keeper.slots:
            for tier, certificate in (("root", slot.root), ("intermediate", slot.intermediate)):
                left = (certificate.not_valid_after_utc - now).total_seconds()
                expiry.add_metric([str(slot.number), slot.phase.value, tier], left)
        yield expiry
        streams = GaugeMetricFamily(
            "meshwarden_ca_open_streams", "Open streams, by kind.", labels=["kind"]
        )
        for kind, number in self._streams.by_kind().items():
            streams.add_metric([kind], number)
        yield streams
        yield GaugeMetricFamily(
            "meshwarden_ca_bundle_sequence",
            "How often the trusted roots changed.",
            value=self._keeper.sequence,
        )

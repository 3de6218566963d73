"""What a run did, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from tests.differential.identities import CLIENTS, is_ipv6
from tests.differential.model import NO_CERTIFICATE, PLAINTEXT, Answer, Probe

_ALLOWED = 200


@dataclass(slots=True)
class Tally:
    """Counts of sets, requests by kind, answers by status, and differences.

    `unsteady` requests differed once and not when they were asked again.
    """

    sets: int = 0
    tcp_sets: int = 0
    requests: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    connections: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    differences: int = 0
    unsteady: int = 0
    explained: Counter[str] = field(default_factory=Counter)

    def count(self, probe: Probe, answer: Answer, *, is_tcp: bool) -> None:
        """Count one request by what it is and by Envoy's own answer."""
        self.requests += 1
        self.kinds.update(kinds_of(probe, is_tcp=is_tcp))
        if is_tcp:
            self.connections["open" if answer.status == _ALLOWED else "closed"] += 1
        else:
            self.answers[answer.status] += 1

    def add(self, other: Tally) -> None:
        """Add the counts of another part of the run."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def __str__(self) -> str:
        """The counts, a line for each subject."""
        lines = [
            f"policy sets   {self.sets} ({self.sets - self.tcp_sets} HTTP, {self.tcp_sets} TCP)",
            f"requests      {self.requests}",
            f"kinds         {_listed(self.kinds)}",
            f"HTTP answers  {_listed(self.answers)}",
            f"connections   {_listed(self.connections)}",
            f"explained     {self.explained.total()}"
            + (f" ({_listed(self.explained)}), see docs/differences.md" if self.explained else ""),
            f"differences   {self.differences}",
        ]
        if self.unsteady:
            lines.append(f"unsteady      {self.unsteady} (differed once, not when asked again)")
        if self.refused:
            lines.append(f"not tried     {_listed(self.refused)}")
        return "\n".join(lines)


def _listed(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def kinds_of(probe: Probe, *, is_tcp: bool) -> Iterator[str]:
    """Yield the kinds of a request; it is of several."""
    yield "tcp" if is_tcp else "http"
    yield "ipv6" if is_ipv6(probe.source) else "ipv4"
    yield _peer_kind(probe.peer)
    if probe.sni:
        yield "sni"
    if probe.destination:
        yield "proxy-protocol"
    if probe.client:
        yield "proxied-client"
    if is_tcp:
        return
    if probe.scheme:
        yield "http2"
    if probe.tokens:
        yield "token" if not probe.tokens[0].get("fault") else "broken-token"
    names = [name.lower() for name, _ in probe.headers]
    if len(names) != len(set(names)):
        yield "repeated-header"
    if any(not value for _, value in probe.headers):
        yield "empty-header"
    if not probe.host:
        yield "no-host"


def _peer_kind(peer: str) -> str:
    if peer == PLAINTEXT:
        return "plaintext"
    if peer == NO_CERTIFICATE:
        return "tls-without-certificate"
    shape = CLIENTS[peer]
    if len(shape.uris) + len(shape.dns) > 1:
        return "mtls-several-names"
    is_spiffe = any(uri.startswith("spiffe://") for uri in shape.uris)
    return "mtls-spiffe" if is_spiffe else "mtls-other"

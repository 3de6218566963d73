"""What the services of one CA process share; made once by `ca.server`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from ca.authority import AuthorityKeeper
from ca.board import SecretBoard
from ca.books import Books
from ca.clock import Clock, ClockWatch
from ca.keys import KeyStore
from ca.metrics import CaMetrics
from ca.rotation import Rotation
from ca.settings import CaSettings
from ca.streams import OpenStreams
from ca.troubles import Probe, Trouble
from identity.jwks import Jwk
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import TrustBundle

Command: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Carries out one request of the command line; a CaError refuses it."""


@dataclass(slots=True, kw_only=True)
class RunningCa:
    """The parts of a CA that runs: a service takes what it needs and adds its own.

    A service adds its probe to `probes`, the requests it takes from the command line to `commands`,
    its streams to `streams`, what it has to say for `status` to `sections`, and learns of changed
    roots through `keeper.on_change` and, of other trust domains (`federated`), `on_federated`.
    `books` are there once `ca.records_service`, the first service, is entered.
    """

    settings: CaSettings
    keeper: AuthorityKeeper
    keys: KeyStore
    rotation: Rotation
    streams: OpenStreams
    metrics: CaMetrics
    clock: Clock
    clock_watch: ClockWatch
    started_at: datetime
    boards: list[SecretBoard] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    commands: dict[str, Command] = field(default_factory=dict)
    jwt_authorities: Callable[[], Sequence[Jwk]] = tuple
    federated: Callable[[], Mapping[TrustDomain, TrustBundle | None]] = dict
    on_federated: list[Callable[[], None]] = field(default_factory=list)
    sections: dict[str, Callable[[], Any]] = field(default_factory=dict)
    books: Books = field(init=False)

    def is_able(self) -> bool:
        """Return whether certificates can be issued and served now."""
        return not any(trouble.is_failing for trouble in self.troubles())

    def troubles(self) -> Iterator[Trouble]:
        """Yield everything that is wrong now."""
        for probe in self.probes:
            yield from probe()


Service: TypeAlias = Callable[[RunningCa], AbstractAsyncContextManager[object]]
"""Opens one more way to reach the CA, for as long as the context is entered."""

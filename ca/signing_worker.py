"""One signing worker, a process: Istio's certificate service, on a port that others listen on too.

Theory of operation. It attests and signs by itself. What it issues or refuses is recorded by the
process that started it, which also tells it of authorities and of whether anything can be signed.
The line between the two is its leash: when it is cut, the worker is done.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from threading import Lock
from typing import Final

from ca.books import policy_of
from ca.clock import Clock, utc_now
from ca.cores import keep_to
from ca.delivery_settings import SigningSettings
from ca.errors import StoreError
from ca.issuance import Issuance, IssuanceParts
from ca.limits import CallerLimit, RefusalLines
from ca.registry import Registry
from ca.remote_recorder import RemoteRecorder
from ca.settings import CaSettings
from ca.signing_service import SigningHouse, sign_over_the_network
from ca.store import Store
from ca.troubles import Probe
from ca.worker_authority import AuthorityCopy
from ca.worker_link import WorkerLink, open_link
from ca.worker_wire import Message

# BUDGET: how late the CA's process learns what a worker counted, and the worker of new entries
# that no issuance has met.
_TELL_SECONDS: Final = 1.0


async def work(settings: CaSettings, pair: socket.socket, *, clock: Clock = utc_now) -> None:
    """Sign until the other end of `pair` says so, or is gone.

    Raises:
        CaError: the ledger, a certificate or the address cannot be had.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # The process that holds the leash gets them too, and says when to stop.
        signal.signal(number, signal.SIG_IGN)
    store = Store(settings.records.ledger_url_in(settings.state_folder), clock=clock)
    try:
        await _Worker(settings, store, clock).run(pair)
    finally:
        store.close()


class _Worker:
    """The worker's parts; everything here happens on its event loop."""

    def __init__(self, settings: CaSettings, store: Store, clock: Clock) -> None:
        """Work on `store`; nothing is listened on yet."""
        self._settings = settings
        self._store = store
        self._clock = clock
        self._registry = Registry(store)
        self._authorities = AuthorityCopy(settings.domain, clock)
        self._counting = Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._probes: list[Probe] = []
        self._is_able = True
        self._listen = ""
        self._begun, self._stop = asyncio.Event(), asyncio.Event()
        self._link: WorkerLink
        self._recorder: RemoteRecorder

    async def run(self, pair: socket.socket) -> None:
        """Serve from the word `begin` to the word `stop`, or to the end of the line."""
        self._link = await open_link(pair, self._hear, self._lose)
        self._recorder = RemoteRecorder(asyncio.get_running_loop(), self._link.send)
        await self._begun.wait()
        if self._stop.is_set():
            return
        issuance = self._issuance()
        async with AsyncExitStack() as stack:
            house, settings = self._house(issuance), self._signing_settings()
            await stack.enter_async_context(sign_over_the_network(house, settings))
            self._link.send({"do": "ready"})
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _TELL_SECONDS)
                await self._keep_up(issuance)
        with suppress(StoreError):
            issuance.record_held_back(is_end=True)
        # What was recorded in this turn is sent before the line ends.
        await asyncio.sleep(0)
        self._tell()
        self._link.close()

    def _hear(self, message: Message) -> None:
        """Do what the CA's process says."""
        match message["do"]:
            case "recorded":
                self._recorder.settle(message)
            case "authorities":
                self._authorities.take(message)
            case "able":
                self._is_able = message["able"]
            case "registry":
                # WHY at once, on the loop: who asks after an operator's command was answered is
                # judged by what it changed.
                with suppress(StoreError):
                    self._registry.refresh()
            case "begin":
                self._listen = message["listen"]
                keep_to(message["core"])
                self._begun.set()
            case "stop":
                self._stop.set()
                self._begun.set()

    def _lose(self) -> None:
        """Stop: nothing that is signed from now on could be recorded."""
        self._recorder.lose()
        self._stop.set()
        self._begun.set()

    async def _keep_up(self, issuance: Issuance) -> None:
        """Take up what others changed, and tell what was counted."""
        with suppress(StoreError):
            # An issuance notices by itself; this is for answers that are kept.
            await asyncio.to_thread(self._registry.refresh_if_changed)
        with suppress(StoreError):
            issuance.record_held_back()
        self._tell()

    def _tell(self) -> None:
        """Tell what was counted since the last time, and what is wrong here."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        self._link.send(
            {
                "do": "told",
                "counts": [(name, label, number) for (name, label), number in counts.items()],
                "troubles": [asdict(each) for probe in self._probes for each in probe()],
            }
        )

    def _issuance(self) -> Issuance:
        """Return what issues here."""
        limits = self._settings.limits
        return Issuance(
            IssuanceParts(
                authority=self._authorities.current,
                registry=self._registry,
                recorder=self._recorder,
                policy=policy_of(self._settings),
                clock=self._clock,
                node=self._settings.records.node_name,
                limit=CallerLimit(limits.requests_per_second, limits.burst),
                refusal_lines=RefusalLines(limits.refusals_recorded_per_minute),
                count_issued=lambda kind: self._count("issued", kind),
                count_refused=lambda reason: self._count("refused", reason.value),
            )
        )

    def _house(self, issuance: Issuance) -> SigningHouse:
        """Return what the signing endpoints need of this process."""
        return SigningHouse(
            settings=self._settings,
            issuance=issuance,
            store=self._store,
            registry=self._registry,
            bundle=self._authorities.bundle,
            chain=self._authorities.chain,
            sequence=self._authorities.sequence,
            is_able=lambda: self._is_able,
            count_repeated=lambda: self._count("repeated", ""),
            add_probe=self._probes.append,
            clock=self._clock,
            shares_port=True,
        )

    def _signing_settings(self) -> SigningSettings:
        """Return what is listened on here: Istio's service alone, on the port that was named."""
        settings = self._settings.signing or SigningSettings(istio_listen=self._listen)
        return settings.model_copy(update={"istio_listen": self._listen, "rest_listen": None})

    def _count(self, name: str, label: str) -> None:
        """Count something; any thread may."""
        with self._counting:
            self._counts[name, label] += 1

"""`ca serve --workers N`: processes that sign for Istio's service, beside the one that records.

Theory of operation. Every worker listens on the same port (SO_REUSEPORT), and the kernel deals
connections out. This process holds the state, the ledger and the audit chain, and serves everything
else; for each worker a thread attends to what it has to record, and starts another one when it ends
unasked. A worker is told of every change of the authorities, and of whether anything can be signed.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from ca.cores import core_of
from ca.errors import CaError, ListenError
from ca.running import RunningCa, Service
from ca.signing_endpoints import bind_to
from ca.troubles import Trouble
from ca.worker_authority import authorities_message
from ca.worker_desk import WorkerDesk
from ca.worker_wire import Message

_log = structlog.get_logger(__name__)
_READY_SECONDS: Final = 60.0
# BUDGET: how long a worker may take to finish what it began; longer than its own drain.
_DRAIN_SECONDS: Final = 10.0
# BUDGET: a worker that keeps ending is started again this often, and no more.
_PAUSE_SECONDS: Final = 1.0
# BUDGET: how late a worker learns that nothing can be signed, or again can.
_TELL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How many workers, on which address; `start` runs one with an end of a socket pair."""

    count: int
    listen: str
    start: Callable[[socket.socket], subprocess.Popen[bytes]]


def signing_workers(plan: WorkerPlan) -> Service:
    """Return the service that keeps workers running after `plan`."""

    @asynccontextmanager
    async def service(ca: RunningCa) -> AsyncIterator[None]:
        # Holds the port, whatever becomes of a worker, and takes no connection itself.
        with bind_to(plan.listen, shares_port=True) as held:
            port = held.getsockname()[1]
            workers = _Workers(ca, plan, f"{plan.listen.rpartition(':')[0]}:{port}")
            keeping = asyncio.create_task(workers.keep_told())
            try:
                await asyncio.to_thread(workers.wait_until_ready)
                _log.info("istio_signing_ready", port=port, workers=plan.count)
                yield
            finally:
                keeping.cancel()
                await asyncio.to_thread(workers.stop)

    return service


class _Workers:
    """The seats of all workers."""

    def __init__(self, ca: RunningCa, plan: WorkerPlan, listen: str) -> None:
        """Start every worker, to listen on `listen`."""
        self._ca = ca
        self._seats = [_Seat(number + 1, ca, plan, listen) for number in range(plan.count)]
        ca.books.recorder.after_group += (self._flush,)
        ca.keeper.on_change(self._tell_authorities)
        ca.books.registry.on_change(lambda: self._send({"do": "registry"}))
        ca.probes.append(self._troubles)
        for seat in self._seats:
            seat.thread.start()

    def wait_until_ready(self) -> None:
        """Return once every worker listens.

        Raises:
            ListenError: one does not; it said why in the log.
        """
        for seat in self._seats:
            if not seat.ready.wait(_READY_SECONDS):
                raise ListenError(f"signing worker {seat.number} does not come to listen")

    async def keep_told(self) -> None:
        """Tell the workers every second whether anything can be signed; runs until cancelled."""
        while True:
            message = {"do": "able", "able": self._ca.is_able()}
            await asyncio.to_thread(self._send, message)
            await asyncio.sleep(_TELL_SECONDS)

    def stop(self) -> None:
        """Drain every worker, and return when they have ended."""
        for seat in self._seats:
            seat.stop()
        for seat in self._seats:
            seat.thread.join()

    def _tell_authorities(self) -> None:
        """Tell every worker what signs now."""
        try:
            self._send(authorities_message(self._ca.keeper))
        except CaError as exc:
            # They sign with what they have as long as it is in force, and see that by themselves.
            _log.error("workers_not_told", error=str(exc), code=exc.code)

    def _send(self, message: Message) -> None:
        """Send a message to every worker."""
        for seat in self._seats:
            seat.send(message)

    def _flush(self) -> None:
        """Send what the recorder has done."""
        for seat in self._seats:
            seat.flush()

    def _troubles(self) -> Iterator[Trouble]:
        """Yield what is wrong with the workers."""
        for seat in self._seats:
            yield from seat.troubles
            if not seat.ready.is_set():
                yield Trouble(
                    code="worker", subject=f"worker {seat.number}", message="it does not listen"
                )


class _Seat:
    """The place of one worker, and the thread that attends to whoever has it."""

    def __init__(self, number: int, ca: RunningCa, plan: WorkerPlan, listen: str) -> None:
        """Prepare the seat; its thread is not started yet."""
        self.number = number
        self.ready = threading.Event()
        self.troubles: tuple[Trouble, ...] = ()
        self.thread = threading.Thread(target=self._run, name=f"worker-{number}", daemon=True)
        self._ca = ca
        self._plan = plan
        self._listen = listen
        self._stopping = threading.Event()
        self._desk: WorkerDesk | None = None

    def send(self, message: Message) -> None:
        """Tell the worker something, if there is one."""
        desk = self._desk
        if desk is not None:
            desk.send(message)

    def flush(self) -> None:
        """Send the worker its answers."""
        desk = self._desk
        if desk is not None:
            desk.flush()

    def stop(self) -> None:
        """Have the worker finish what it began, and nobody take its place."""
        self._stopping.set()
        self.send({"do": "stop"})

    def _run(self) -> None:
        """Keep the seat taken until it is to stop; the thread's top."""
        while not self._stopping.is_set():
            try:
                self._seat_one()
            except (OSError, CaError) as exc:
                _log.error("worker_not_started", worker=self.number, error=str(exc))
            except Exception:
                # The thread must outlive whatever a worker sends, or nobody would take its place.
                _log.exception("worker_not_understood", worker=self.number)
            self.ready.clear()
            if not self._stopping.is_set():
                _log.error("worker_ended", worker=self.number)
                self._stopping.wait(_PAUSE_SECONDS)

    def _seat_one(self) -> None:
        """Start a worker and attend to it until it is gone."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = self._plan.start(theirs)
            try:
                self._desk = desk = WorkerDesk(ours, self._ca.books.recorder, self._hear)
                # Asked for only now: who changes them from here on tells the desk.
                desk.send(authorities_message(self._ca.keeper))
                core = core_of(self.number - 1, self._plan.count)
                desk.send({"do": "begin", "listen": self._listen, "core": core})
                if self._stopping.is_set():
                    desk.send({"do": "stop"})
                desk.attend()
            finally:
                self._desk, self.troubles = None, ()
                ours.shutdown(socket.SHUT_RDWR)
                _end(process)

    def _hear(self, message: Message) -> None:
        """Do what the worker says."""
        if message["do"] == "ready":
            self.ready.set()
            return
        metrics = self._ca.metrics
        for name, label, number in message["counts"]:
            match name:
                case "issued":
                    metrics.issued.labels(kind=label).inc(number)
                case "refused":
                    metrics.refused.labels(reason=label).inc(number)
                case "repeated":
                    metrics.repeated.inc(number)
        self.troubles = tuple(Trouble(**each) for each in message["troubles"])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a worker that has hung up; one that stays all the same is killed."""
    try:
        process.wait(_DRAIN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

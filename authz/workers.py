"""`serve --workers N`: one server of several processes, nothing shared between them but files.

Theory of operation. Every worker listens on the same port (SO_REUSEPORT), and the kernel
deals connections out. This process answers no checks: it starts the workers, starts one
again that ends unasked, adds up what they tell, and passes signals on. SIGHUP replaces the
workers one by one, the new one first, so that somebody always listens; a worker that goes
says so to its clients (GOAWAY) and finishes what it began.
Each worker has a log of its own in the audit folder; a worker and the one that replaces it
have different names, for both write a while.
A server inside Envoy is looked after in the same way when it is alone; it has no name then,
no port to share, and its own HTTP endpoints.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Final

import structlog

from authz.errors import ListenError
from authz.http_endpoints import HttpEndpoints
from authz.settings import Settings
from authz.worker_metrics import merge_metrics
from authz.worker_process import StartWorker, WorkerProcess
from authz.worker_start import python_worker

_log = structlog.get_logger(__name__)
_STOP, _REPLACE = "stop", "replace"
_ENDING_SECONDS: Final = 30.0
# BUDGET: a worker that keeps ending is started again this often a minute, and no more.
_PAUSE_SECONDS: Final = 1.0

_Event = str | WorkerProcess


def serve_with_workers(settings: Settings, config: Path, count: int) -> None:
    """Serve with so many processes until SIGTERM or SIGINT.

    Raises:
        ListenError: an address cannot be bound, or a worker does not come to listen.
    """
    if settings.listen.grpc.startswith("unix://"):
        raise ListenError("workers share a port: `listen.grpc` must be `host:port` for them")
    if settings.listen.grpc.endswith(":0"):
        raise ListenError("workers share a port: `listen.grpc` must name it")
    with ExitStack() as stack:
        stack.enter_context(_reserve(settings.listen.grpc))
        if settings.listen.server == "envoy":
            start = _open_envoy(settings, config, stack, shares_port=True)
        else:
            start = python_worker(config)
        _Workers(settings, start, [str(number + 1) for number in range(count)]).run()
    _log.info("stopped")


def serve_inside_envoy(settings: Settings, config: Path) -> None:
    """Serve with one process, which is an Envoy's, until SIGTERM or SIGINT.

    Raises:
        ListenError: a part is missing, the address cannot be bound, or it does not come to listen.
    """
    with ExitStack() as stack:
        start = _open_envoy(settings, config, stack, shares_port=False)
        _Workers(settings, start, [""]).run()


def _open_envoy(
    settings: Settings, config: Path, stack: ExitStack, *, shares_port: bool
) -> StartWorker:
    # WHY here: the Envoy message classes take longer to import than all the rest.
    from authz.envoy_launch import envoy_worker  # noqa: PLC0415

    folder = stack.enter_context(TemporaryDirectory(prefix="meshwarden-"))
    return envoy_worker(settings, config, Path(folder), shares_port=shares_port)


class _Workers:
    """The workers by their seats; each seat has two names, for taking turns.

    A worker without a name is alone, and asked for nothing.
    """

    def __init__(self, settings: Settings, start: StartWorker, names: Sequence[str]) -> None:
        self._settings = settings
        self._start_process = start
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._seats: list[WorkerProcess] = []
        self._names = names
        self._stopping = threading.Event()

    def run(self) -> None:
        """Start them, look after them, and drain them in the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(_STOP))
        with ExitStack() as stack:
            if any(self._names):
                signal.signal(signal.SIGHUP, lambda *_: self._events.put(_REPLACE))
                stack.callback(self._open_http().close)
            stack.callback(self._end)
            for name in self._names:
                self._seats.append(self._start(name))
            for worker in self._seats:
                worker.wait_until_it_listens()
            if any(self._names):
                _log.info("serving", workers=len(self._names), grpc=self._settings.listen.grpc)
            self._look_after()

    def _end(self) -> None:
        self._stopping.set()
        for worker in self._seats:
            worker.drain()
        for worker in self._seats:
            worker.wait(self._settings.listen.drain_seconds + _ENDING_SECONDS)

    def _open_http(self) -> HttpEndpoints:
        address = self._settings.listen.http
        host, _, port = address.rpartition(":")
        try:
            return HttpEndpoints(
                host.strip("[]"), int(port), ready=self._ready, metrics=self._metrics
            )
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise ListenError(f"`{address}` cannot be listened on: {why}") from exc

    def _look_after(self) -> None:
        """Do what signals and ends of workers ask for, until it is to stop."""
        while (event := self._events.get()) != _STOP:
            if event == _REPLACE:
                for seat in range(len(self._seats)):
                    self._replace(seat)
            elif isinstance(event, WorkerProcess):
                self._start_again(event)

    def _start(self, name: str) -> WorkerProcess:
        return WorkerProcess(name, self._start_process, self._note_end)

    def _note_end(self, worker: WorkerProcess, code: int) -> None:
        """Hear, in a thread, of a worker that ended."""
        if not worker.is_expected_to_end:
            _log.error("worker_ended", worker=worker.name, code=code)
            self._events.put(worker)

    def _start_again(self, ended: WorkerProcess) -> None:
        """Put another one in the seat of a worker that ended by itself."""
        if ended not in self._seats:
            return
        seat = self._seats.index(ended)
        ended.wait(0)
        self._stopping.wait(_PAUSE_SECONDS)
        try:
            self._seats[seat] = worker = self._start(ended.name)
            worker.wait_until_it_listens()
        except ListenError as exc:
            _log.error("worker_not_started", worker=ended.name, error=str(exc))
            self._events.put(self._seats[seat])

    def _replace(self, seat: int) -> None:
        """Have another one take a seat, and then let the one before go."""
        before = self._seats[seat]
        worker = self._start(_other_name(before.name))
        try:
            worker.wait_until_it_listens()
        except ListenError as exc:
            _log.error("worker_not_replaced", worker=before.name, error=str(exc))
            worker.wait(_ENDING_SECONDS)
            return
        self._seats[seat] = worker
        before.drain()
        before.wait(self._settings.listen.drain_seconds + _ENDING_SECONDS)
        _log.info("worker_replaced", worker=before.name, by=worker.name)

    def _ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether any worker is ready, and what each of them says."""
        told: dict[str, Any] = {}
        for worker in tuple(self._seats):
            answer = worker.ask("/readyz")
            told[worker.name] = None if answer is None else answer.json()
        return readiness_of(told, is_stopping=self._stopping.is_set())

    def _metrics(self) -> bytes:
        answers = {worker.name: worker.ask("/metrics") for worker in tuple(self._seats)}
        texts = {name: each.text for name, each in answers.items() if each is not None}
        return merge_metrics(texts)


def readiness_of(
    told: Mapping[str, Mapping[str, Any] | None], *, is_stopping: bool
) -> tuple[bool, Mapping[str, Any]]:
    """Return whether a server is ready, and what it says, from its workers' `/readyz` by name.

    One that did not answer is None. `same_revision` is false while some of those that answered
    decide by another set than others: for a moment after an edit, and for as long as one of them
    refuses what another took.
    """
    answers = [each for each in told.values() if each is not None]
    is_ready = any(each["ready"] for each in answers) and not is_stopping
    same = len({each["revision"] for each in answers}) <= 1
    return is_ready, {"ready": is_ready, "same_revision": same, "workers": told}


def _other_name(name: str) -> str:
    return name.removesuffix("b") if name.endswith("b") else f"{name}b"


def _reserve(address: str) -> socket.socket:
    """Return a socket that holds the port for the workers, and takes no connection itself.

    Raises:
        ListenError: somebody else listens there.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # WHY twice: with SO_REUSEPORT it would bind beside a server that is there already.
        socket.create_server((host, int(port)), family=family).close()
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, int(port)))
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ListenError(f"`{address}` cannot be listened on: {why}") from exc
    return held

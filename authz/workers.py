"""`serve --workers N`: one server of several processes, nothing shared between them but files.

Theory of operation. Every worker listens on the same port (SO_REUSEPORT), and the kernel
deals connections out. This process answers no checks: it starts the workers, starts one
again that ends unasked, adds up what they tell, and passes signals on. SIGHUP replaces the
workers one by one, the new one first, so that somebody always listens, and is dealt what comes
new; a worker that goes says so to its clients (GOAWAY) and finishes what it began.
Each worker has a log of its own in the audit folder; a worker and the one that replaces it
have different names, for both write a while.
A server inside Envoy is looked after in the same way when it is alone; it has no name then,
no port to share, and its own HTTP endpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from authz.errors import ListenError
from authz.plain_log import PlainLog
from authz.ports import cannot_listen
from authz.supervisor_plan import HEARD, SupervisorPlan
from authz.worker_process import StartWorker, WorkerProcess

if TYPE_CHECKING:
    from authz.http_endpoints import HttpEndpoints

_STOP, _REPLACE, _REAP = "stop", "replace", "reap"
_ENDING_SECONDS: Final = 30.0
# BUDGET: a worker that keeps ending is started again this often a minute, and no more.
_PAUSE_SECONDS: Final = 1.0
# BUDGET: until what was dealt to a worker before has come there whole and was taken.
_HANDSHAKE_SECONDS: Final = 0.5

_Event = str | WorkerProcess


class Workers:
    """The workers by their seats; each seat has two names, for taking turns.

    A worker without a name is alone, and asked for nothing.
    """

    def __init__(self, plan: SupervisorPlan, log: PlainLog) -> None:
        """Nobody is there yet, and no signal is heard."""
        self._plan = plan
        self._log = log
        self._is_named = any(plan.names)
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._seats: list[WorkerProcess] = []
        self._started: list[WorkerProcess] = []
        self._stopping = threading.Event()

    def hear_signals(self) -> None:
        """Act on signals from now on, on those first that were held back until now."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._events.put(_STOP))
        signal.signal(signal.SIGCHLD, lambda *_: self._events.put(_REAP))
        if self._is_named:
            signal.signal(signal.SIGHUP, lambda *_: self._events.put(_REPLACE))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        # Of who ended before this nothing was heard.
        self._events.put(_REAP)

    def run(self, start: StartWorker, helper: subprocess.Popen[bytes] | None) -> None:
        """Start them, look after them, and drain them in the end.

        `helper` is a process that the caller waits for.

        Raises:
            ListenError: an address cannot be bound, or a worker does not come to listen.
        """
        self._start_process, self._helper = start, helper
        with ExitStack() as stack:
            if self._is_named:
                stack.callback(self._open_http().close)
            stack.callback(self._end)
            for name in self._plan.names:
                self._seats.append(self._start(name))
            for worker in self._seats:
                worker.wait_until_it_listens()
            if self._is_named:
                self._log.info("serving", workers=len(self._seats), grpc=self._plan.grpc)
            self._look_after()

    def _end(self) -> None:
        self._stopping.set()
        for worker in self._seats:
            worker.drain()
        for worker in self._seats:
            worker.wait(self._plan.drain_seconds + _ENDING_SECONDS)

    def _open_http(self) -> HttpEndpoints:
        # WHY here, and where metrics are added up: one that is alone is never asked.
        from authz.http_endpoints import HttpEndpoints  # noqa: PLC0415

        address = self._plan.http
        host, _, port = address.rpartition(":")
        try:
            return HttpEndpoints(
                host.strip("[]"),
                int(port),
                ready=self._ready,
                metrics=self._metrics,
                on_defect=lambda exc: self._log.error("http_request_failed", error=repr(exc)),
            )
        except OSError as exc:
            raise cannot_listen(address, exc) from exc

    def _look_after(self) -> None:
        """Do what signals and ends of workers ask for, until it is to stop."""
        while (event := self._events.get()) != _STOP:
            if event == _REPLACE:
                for seat in range(len(self._seats)):
                    self._replace(seat)
            elif event == _REAP:
                self._reap_strangers()
            elif isinstance(event, WorkerProcess):
                self._start_again(event)

    def _start(self, name: str) -> WorkerProcess:
        worker = WorkerProcess(name, self._start_process, self._note_end)
        self._started.append(worker)
        return worker

    def _note_end(self, worker: WorkerProcess, code: int) -> None:
        """Hear, in a thread, of a worker that ended."""
        if not worker.is_expected_to_end:
            self._log.error("worker_ended", worker=worker.name, code=code)
            self._events.put(worker)
        # Until now it may have stood before others that ended.
        self._events.put(_REAP)

    def _reap_strangers(self) -> None:
        """Let go of ended processes that nobody here started or waits for.

        Spec: pid_namespaces(7): orphans become children of the namespace's first process, which a
        server in a container is: of those that Rego runs in, say, when their parent was killed.
        """
        self._started = [each for each in self._started if not each.has_ended]
        own = {each.pid for each in self._started}
        if self._helper is not None and self._helper.poll() is None:
            own.add(self._helper.pid)
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in own:
                    return
                os.waitpid(ended.si_pid, 0)

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
            if self._is_named:
                # The one that ended may have been dealt everything, which nobody took back.
                worker.deal_to_all()
        except ListenError as exc:
            self._log.error("worker_not_started", worker=ended.name, error=str(exc))
            self._events.put(self._seats[seat])

    def _replace(self, seat: int) -> None:
        """Have another one take a seat, and then let the one before go."""
        before = self._seats[seat]
        worker = self._start(_other_name(before.name))
        try:
            worker.wait_until_it_listens()
        except ListenError as exc:
            self._log.error("worker_not_replaced", worker=before.name, error=str(exc))
            worker.wait(_ENDING_SECONDS)
            return
        self._seats[seat] = worker
        with self._new_connections_to(worker):
            before.drain()
            before.wait(self._plan.drain_seconds + _ENDING_SECONDS)
        self._log.info("worker_replaced", worker=before.name, by=worker.name)

    @contextlib.contextmanager
    def _new_connections_to(self, worker: WorkerProcess) -> Iterator[None]:
        """Keep new connections from all others meanwhile, so that none is lost with one that goes.

        Where that is not to be had, one that comes in the moment of its end is reset.
        """
        if worker.take_new_connections(others=len(self._seats)):
            self._stopping.wait(_HANDSHAKE_SECONDS)
        else:
            self._log.error("connections_not_dealt", worker=worker.name)
        yield
        # Order counts, not the answer: one that took too long to say so may have taken them since.
        worker.deal_to_all()

    def _ready(self) -> tuple[bool, Mapping[str, Any]]:
        """Return whether any worker is ready, and what each of them says."""
        told: dict[str, Any] = {}
        for worker in tuple(self._seats):
            answer = worker.ask("/readyz")
            told[worker.name] = None if answer is None else json.loads(answer)
        return readiness_of(told, is_stopping=self._stopping.is_set())

    def _metrics(self) -> bytes:
        from authz.worker_metrics import merge_metrics  # noqa: PLC0415 - as above

        answers = {worker.name: worker.ask("/metrics") for worker in tuple(self._seats)}
        texts = {name: each.decode() for name, each in answers.items() if each is not None}
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

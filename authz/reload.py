"""Edits on disk to a new serving state, or a report of why not; the last good one serves on.

Theory of operation. A thread looks at the watched files at a steady interval. An
edit counts once two looks in a row saw the same fingerprint, so that a file that
is still being written is not loaded; then everything is built anew, and one
reference is swapped. A build that fails swaps nothing, and is tried again after a while: what
was missing may have been a file descriptor, and the edit must not be lost for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from authz.serving_state import ServingState
from policies.diagnostic import Diagnostic, LoadError, Location
from policies.files import walk_once

_log = structlog.get_logger(__name__)

# BUDGET: a large set takes a second of a core, and what is wrong with a text stays wrong. So the
# pauses double.
_RETRY_SECONDS: Final = 30.0
_LONGEST_RETRY_SECONDS: Final = 600.0

Fingerprint = frozenset[tuple[str, int, int, int, int]]
"""Name, size, times of modification and of change (ns) and inode of every watched file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A state that serves since a reload, as it is told of.

    WHY not the state: it may wait for long to be heard, and would keep processes and memory.
    """

    revision: str
    policies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadStatus:
    """How the serving state came about. `problems` are those of a newer load that failed."""

    revision: str
    loaded_at: float
    problems: tuple[Diagnostic, ...] = ()


def _at_once(before: ServingState, after: ServingState) -> None:
    """Let the new state serve as it is."""


class StateKeeper:
    """Holds the serving state and keeps it up with the files."""

    def __init__(
        self,
        build: Callable[[], ServingState],
        watched: Sequence[Path],
        *,
        interval_seconds: float,
        on_reload: Callable[[Loaded | None, Sequence[Diagnostic]], None],
        hand_over: Callable[[ServingState, ServingState], None] = _at_once,
        let_go: Callable[[list[object]], None] = list.clear,
    ) -> None:
        """Build the first state. An `on_reload` that raises is called again at the next look.

        `hand_over` hears of the state that serves and the one that is about to, which does not
        serve if that raises; `let_go` gets the parts of the one that served.

        Raises:
            LoadError: the first state cannot be built; there is no last good one.
        """
        self._build = build
        self._watched = tuple(watched)
        self._interval = interval_seconds
        self._on_reload = on_reload
        self._hand_over = hand_over
        self._let_go = let_go
        self._retry_seconds = self._pause = _RETRY_SECONDS
        self._retry_at = math.inf
        self._tried = fingerprint(self._watched)
        self._state = build()
        self._status = ReloadStatus(revision=self._state.revision, loaded_at=time.time())
        self._stop = threading.Event()
        # One build at a time: what is swapped last was also built last.
        self._lock = threading.Lock()
        self._untold: list[tuple[Loaded | None, Sequence[Diagnostic]]] = []
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; what served last is told of, unless who hears of it fails."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._tell()
        except Exception:
            # WHY so wide: nothing after this may stay open because a listener is out of order.
            _log.exception("watch_failed")

    def current(self) -> ServingState:
        """Return the serving state: one read of one reference."""
        return self._state

    def status(self) -> ReloadStatus:
        """Return how the serving state came about."""
        return self._status

    def adopt(
        self, build: Callable[[], ServingState], keep: Callable[[], None]
    ) -> tuple[Diagnostic, ...]:
        """Build a state at somebody else's word and serve it; return why not, or nothing.

        `keep` is called before anything else is built, and only if this state serves. A refusal
        is told of, and leaves both the state and its status as they are.
        """
        with self._lock:
            if fingerprint(self._watched) != self._tried:
                return (_unsettled(self._watched),)
            try:
                state = build()
            except LoadError as exc:
                self._untold.append((None, exc.diagnostics))
                return exc.diagnostics
            self._hand_over(self._state, state)
            keep()
            self._swap(state)
        return ()

    def _run(self) -> None:
        seen, fault = self._tried, ""
        while not self._stop.wait(self._interval):
            try:
                seen = self._look(seen)
                # WHY after that: an outage of whoever hears of reloads holds none up.
                self._tell()
                fault = ""
            except Exception as exc:
                # WHY so wide: whoever ends this thread freezes the policies for good.
                if fault != repr(exc):
                    _log.exception("watch_failed")
                fault = repr(exc)

    def _look(self, seen: Fingerprint) -> Fingerprint:
        """Reload what two looks in a row saw alike; return what this look saw."""
        now = fingerprint(self._watched)
        is_edit = now != self._tried
        if now == seen and (is_edit or time.monotonic() >= self._retry_at):
            self._tried = now
            with self._lock:
                self._reload(is_edit=is_edit)
        return now

    def _reload(self, *, is_edit: bool) -> None:
        """Build what is on disk and serve it, or note why not."""
        self._pause = self._retry_seconds if is_edit else self._pause * 2
        self._retry_at = time.monotonic() + min(self._pause, _LONGEST_RETRY_SECONDS)
        try:
            state = self._build()
            # WHY here: what fails on the way to serve is told of as a load that failed.
            self._hand_over(self._state, state)
        except LoadError as exc:
            self._keep(exc.diagnostics, is_edit=is_edit)
            return
        except Exception as exc:
            # WHY so wide: a defect in loading must not end the watching.
            problems = _unexpected(exc, self._watched)
            if is_edit or problems != self._status.problems:
                _log.exception("reload_failed")
            self._keep(problems, is_edit=is_edit)
            return
        self._swap(state)

    def _swap(self, state: ServingState) -> None:
        """Let a state serve from now on."""
        parts, known = self._state.parts(), set(self._state.warnings)
        self._state, self._retry_at = state, math.inf
        self._status = ReloadStatus(revision=state.revision, loaded_at=time.time())
        # WHY only new ones: of a set of thousands, those that stand would hide them.
        for warning in state.warnings:
            if warning not in known:
                _log.warning("policy_warning", finding=str(warning))
        loaded = Loaded(revision=state.revision, policies=len(state.snapshot.policies))
        _log.info("reloaded", revision=loaded.revision, policies=loaded.policies)
        self._untold.append((loaded, ()))
        # WHY last: bit by bit it takes seconds, and the state serves already.
        self._let_go(parts)

    def _tell(self) -> None:
        """Hand over what was not heard yet; a listener that fails hears it again, in order."""
        while self._untold:
            self._on_reload(*self._untold[0])
            del self._untold[0]

    def _keep(self, problems: Sequence[Diagnostic], *, is_edit: bool) -> None:
        """Note why the newer files were refused; nothing else changes."""
        if not is_edit and tuple(problems) == self._status.problems:
            return  # told already
        self._status = ReloadStatus(
            revision=self._status.revision,
            loaded_at=self._status.loaded_at,
            problems=tuple(problems),
        )
        for problem in problems:
            _log.error("policy_refused", finding=str(problem), serving=self._status.revision)
        self._untold.append((None, problems))


def fingerprint(watched: Iterable[Path]) -> Fingerprint:
    """Return what the files below `watched` look like from outside."""
    found: set[tuple[str, int, int, int, int]] = set()
    for path in watched:
        names = [path]
        if path.is_dir():
            names = [Path(folder, name) for folder, _, files in walk_once(path) for name in files]
        for name in names:
            try:
                info = name.stat()
            except OSError:
                found.add((str(name), -1, 0, 0, 0))
                continue
            # A copy in place may keep size and modification time; the time of change it cannot.
            times = info.st_mtime_ns, info.st_ctime_ns
            found.add((str(name), info.st_size, *times, info.st_ino))
    return frozenset(found)


def _unsettled(watched: Sequence[Path]) -> Diagnostic:
    return Diagnostic(
        code="unsettled",
        message="files are being edited; it is tried again when they are whole",
        location=Location(str(watched[0]) if watched else ""),
    )


def _unexpected(exc: Exception, watched: Sequence[Path]) -> tuple[Diagnostic, ...]:
    return (
        Diagnostic(
            code="internal",
            message=f"loading failed with {type(exc).__name__}",
            location=Location(str(watched[0]) if watched else ""),
            help="the process log has the details",
        ),
    )

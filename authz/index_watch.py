"""`meshwarden audit index -f`: columns of segments as they are sealed.

Theory of operation. Most of the time there is nothing to do but to look whether another segment
was sealed. So this process only looks; what makes columns, with its engine for Parquet, is
`audit index` in a process of its own for a few segments, and all that it took goes with it.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import click

from audit.column_store import ColumnStore, Segment, forget_columns, segments_of
from audit.errors import AuditReadError
from audit.logs import find_all_logs

_LOOK_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 60.0  # BUDGET: to try costs the start of a process
_AT_ONCE: Final = 16  # BUDGET: the stop waits for so many segments, a second each at most
# It ends by itself soon, and is not to leave a file half written.
_KEPT_FROM_MAKER: Final = {signal.SIGTERM, signal.SIGINT}


def follow(logs: Sequence[Path], cache: Path | None, stop: threading.Event) -> None:
    """Make columns as segments are sealed, until the stop; what cannot be read now may be later.

    Columns are kept in `cache`, else beside the segments.
    """
    with closing(ColumnStore(folder=cache)) as store:
        _follow(_Watch(logs, store), stop)


def _follow(watch: _Watch, stop: threading.Event) -> None:
    told, seconds = "", 0.0
    # WHY looking: no event of the standard library tells that another process made a file.
    while not stop.wait(seconds):
        fault, seconds = "", _LOOK_SECONDS
        try:
            while watch.look() and not stop.is_set():
                pass
        except AuditReadError as exc:
            fault = str(exc)
        except _NotMadeError as exc:
            fault, seconds = str(exc), _AGAIN_SECONDS
        if fault and fault != told:
            click.echo(f"waiting: {fault}", err=True)
        told = fault


class _NotMadeError(Exception):
    """Columns of some segments could not be made."""


class _Watch:
    """What is known of some logs' segments."""

    def __init__(self, logs: Sequence[Path], store: ColumnStore) -> None:
        self._logs = logs
        self._store = store
        self._known: set[Path] = set()

    def look(self) -> bool:
        """Make columns of some segments that have none, forget those of segments that are gone.

        Return whether that was done, so that there may be more of them.

        Raises:
            AuditReadError: there is no log.
            _NotMadeError: columns could not be made.
        """
        there, sealed = set[Path](), list[Segment]()
        for log in find_all_logs(self._logs):
            every = segments_of(log)
            there.update(each.path for each in every)
            sealed += (each for each in every if each.is_sealed)
            forget_columns(log, self._store)
        self._known &= there
        wanted = [each.path for each in sealed if each.path not in self._known][:_AT_ONCE]
        return bool(wanted) and self._make(wanted)

    def _make(self, segments: Sequence[Path]) -> bool:
        command = [sys.executable, "-P", "-m", "authz", "audit", "index"]
        if self._store.folder is not None:
            command += ["--cache", str(self._store.folder)]
        command += ["--", *map(str, segments)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT_FROM_MAKER)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _, said = process.communicate()
        if not process.returncode:
            self._known.update(segments)
            return True
        if all(each.exists() or each.is_symlink() for each in segments):
            text = said.decode("utf-8", "replace").strip().removeprefix("error: ")
            raise _NotMadeError(text or f"`audit index` ended with {process.returncode}")
        # One of them was compressed or let go of meanwhile: the next look tells.
        return False

"""The ledger's write-ahead log, brought into the database beside those who commit.

Theory of operation. SQLite writes each commit to a log, and whoever makes the log long enough has
to bring it into the database: that commit, and all that wait for it, take ten times as long. Here a
thread does so once a second, on a connection of its own, while commits go on. The log begins anew
only where nobody wrote meanwhile; where it has grown for long, the thread has writers wait.
What is brought in is synced before, so this also bounds what a loss of power takes.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Final

import structlog

from ca.errors import StoreError
from ca.store import Store

_log = structlog.get_logger(__name__)
_EVERY_SECONDS: Final = 1.0
# BUDGET: pages of 4 KiB after which writers wait for the log to begin anew, some milliseconds.
_LONG_LOG: Final = 8_000


class Checkpoints:
    """The thread, while the context is entered; nothing for a ledger that is not SQLite's."""

    def __init__(self, store: Store) -> None:
        """Look after the log of `store`; `fault` says why it could not be brought in last time."""
        self.fault = ""
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ca-checkpoints", daemon=True)

    def __enter__(self) -> Checkpoints:
        """Begin, where there is such a log."""
        if not self._store.is_shared:
            self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """End, and wait for what is under way."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        """Bring the log in, again and again; the thread's top."""
        while not self._stop.wait(_EVERY_SECONDS):
            try:
                if self._store.checkpoint() > _LONG_LOG:
                    self._store.checkpoint(is_restart=True)
                self.fault = ""
            except StoreError as exc:
                # Issuances are committed without a sync, so nobody else may have noticed.
                self.fault = str(exc)
                _log.warning("checkpoint_failed", error=self.fault)

"""A folder that one process at a time publishes in, as long as it runs.

Theory of operation. The lock is on the folder itself: nothing lies about that could be left behind,
and it falls with the process, however that ends. Who puts another folder in the place of one that
is held, as `rm -r` and `mkdir` do, has the new one locked before the next set is written.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

import structlog

from ca.errors import FolderHeldError, StateError

_log = structlog.get_logger(__name__)
_MODE: Final = 0o755


class FolderHold:
    """The hold of one writer on a folder; `close` it when done."""

    def __init__(self, folder: Path) -> None:
        """Hold nothing yet; there need not be a folder."""
        self._folder = folder
        self._descriptor: int | None = None

    def take(self) -> None:
        """Make the folder where it is missing and hold it; again and again is once.

        A file system that knows no locks is written to all the same, with a warning.

        Raises:
            FolderHeldError: another process holds it.
            StateError: it cannot be made or opened.
        """
        try:
            self._folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
            if self._descriptor is None or not self._is_there(self._descriptor):
                self.close()
                self._descriptor = self._locked()
        except OSError as exc:
            raise StateError(
                f"files in `{self._folder}` cannot be written: {exc.strerror}"
            ) from exc

    def close(self) -> None:
        """Leave the folder to others. Twice is once."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        """Return whether the folder that is held is the one of this name still."""
        return os.path.samestat(os.fstat(descriptor), self._folder.stat())

    def _locked(self) -> int:
        """Return the descriptor that holds the lock."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno == errno.EWOULDBLOCK:
                os.close(descriptor)
                raise FolderHeldError(
                    f"another process keeps the files in `{self._folder}`",
                    help="give each agent a folder of its own, or end the other one",
                ) from exc
            _log.warning("folder_not_locked", folder=str(self._folder), why=exc.strerror)
        return descriptor

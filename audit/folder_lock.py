"""One folder, one writer: an advisory lock that the kernel drops with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from audit.errors import AuditLockedError

LOCK_NAME: Final = "audit.lock"


class FolderLock:
    """The held lock of an audit folder."""

    def __init__(self, folder: Path, name: str = LOCK_NAME) -> None:
        """Take the lock; another `name` is that of another thing that one does at a time.

        Raises:
            AuditLockedError: another process, or another writer in this one, holds it.
            OSError: the lock file cannot be made.
        """
        self._fd = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise AuditLockedError(str(folder), "another process writes there") from exc

    def release(self) -> None:
        """Drop the lock, once. The file stays: removing it would let two writers in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_being_written(folder: Path) -> bool:
    """Whether a live writer holds the folder's lock."""
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)

"""The private folder of a server that runs Envoys; those that killed servers left are removed.

Theory of operation. What lies in the folder goes when the server ends, but one that is killed
leaves it, with the key of its listener. So the folder is locked by the server and by each Envoy,
which ends later where it drains: the lock is of a descriptor that all of them have, and falls with
the last. Whoever starts next removes what nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PREFIX: Final = "meshwarden-serve-"
# BUDGET: how long after a folder is made it may be without its lock, some microseconds.
_YOUNG_SECONDS: Final = 60
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """A folder, and the descriptor that holds it: for each process that needs it to inherit."""

    path: Path
    descriptor: int


@contextmanager
def server_folder() -> Iterator[ServerFolder]:
    """Yield a folder of this server's own, gone when the block has ended.

    Raises:
        OSError: there is no room for one.
    """
    remove_left_behind(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        descriptor = os.open(name, _OPEN)
        try:
            _lock(descriptor)
            yield ServerFolder(Path(name), descriptor)
        finally:
            os.close(descriptor)


def remove_left_behind(parent: Path) -> None:
    """Remove the folders of servers of this user that have ended; what cannot be is left."""
    for path in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(path, _OPEN)
            try:
                if _is_old_and_ours(os.fstat(descriptor)) and _lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _is_old_and_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and time.time() - status.st_ctime > _YOUNG_SECONDS


def _lock(descriptor: int) -> bool:
    """Lock a folder; return whether nobody else has, which a disk without locks cannot tell."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

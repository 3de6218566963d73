"""What a process that holds authorities' keys asks of the kernel; called once, at its start."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from typing import Final

# <sys/prctl.h>
_PR_SET_DUMPABLE: Final = 4


def guard_process() -> None:
    """Keep keys out of core files and other processes' reach, and leave room for connections.

    A proxy takes a connection, and the usual limit of 1024 open files is soon reached. Where the
    kernel says no, the process runs all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Then no other process of the same user may look into our memory (ptrace, /proc/PID/mem).
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

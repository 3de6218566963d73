"""As many open files as a process may have: each connection is one."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_as_many_as_there_may_be() -> None:
    """Raise this process's soft limit of open files to the hard one, if the kernel lets it.

    WHY: the usual soft limit is 1024, for the sake of `select`, which nothing here uses. Beyond it
    connections are neither taken nor refused, and who listens is told of them without end.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

"""Columns of sealed segments, made beside a running server by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from audit.settings import AuditSettings

_END_SECONDS: Final = 10.0  # BUDGET: what it makes of one segment takes a second


@contextmanager
def indexing(settings: AuditSettings) -> Iterator[None]:
    """Run `audit index -f` while the block lasts, where the settings want it.

    Its standard input is its leash: it ends when this process does, however that ends.
    """
    if not settings.columns:
        yield
        return
    command = [sys.executable, "-P", "-m", "authz", "audit", "index", "-f", "--leashed"]
    process = subprocess.Popen([*command, str(settings.folder)], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

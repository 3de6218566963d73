"""Columns of sealed segments, made beside a running server by a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_END_SECONDS: Final = 10.0  # BUDGET: what it makes of one segment takes a second


@contextmanager
def indexing(folder: Path | None) -> Iterator[subprocess.Popen[bytes] | None]:
    """Run `audit index -f` on an audit folder while the block lasts, and give the process.

    Its standard input is its leash: it ends when this process does, however that ends.
    """
    if folder is None:
        yield None
        return
    command = [sys.executable, "-P", "-m", "authz", "audit", "index", "-f", "--leashed"]
    process = subprocess.Popen([*command, str(folder)], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""Policy files read in a process of its own: YAML is most of a load, and none of it is shared.

Theory of operation. The texts go in whole, what was read comes back in small pieces, so
that taking one in holds the interpreter no longer than a check may wait. The process is
started for one reload and ends with it. If it cannot do its work, or not in time, the caller does.

Both directions are pickles of our own making; the other end is `authz.read_policies`.
"""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import IO, Final

import structlog

from policies.load import Inspected
from policies.pace import Pace
from policies.packing import LENGTH, unpack
from policies.set_memory import Texts, read_here

_log = structlog.get_logger(__name__)
# BUDGET: 10,000 policies take some seconds, and as many times longer as the machine is busy.
_PATIENCE_SECONDS: Final = 120.0
# BUDGET: characters for which no process is worth its start.
_FEW: Final = 64 * 1024


def read_apart(texts: Texts, pace: Pace) -> Iterable[Inspected]:
    """Read files as `read_here` does, in another process where that is worth it."""
    if sum(len(text) for _, text, _ in texts) <= _FEW:
        return list(read_here(texts, pace))
    try:
        return _read_in_process(texts, pace)
    except (OSError, EOFError, pickle.UnpicklingError, struct.error) as exc:
        _log.warning("reading_process_failed", error=type(exc).__name__)
        return list(read_here(texts, pace))


def _read_in_process(texts: Texts, pace: Pace) -> list[Inspected]:
    # WHY -P: what lies in the folder that the server was started in is nobody's module.
    command = [sys.executable, "-P", "-m", "authz.read_policies"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # WHY: one that is stopped says nothing, and would keep every later edit from counting.
        watch = threading.Timer(_PATIENCE_SECONDS, process.kill)
        watch.start()
        try:
            pickle.dump(list(texts), process.stdin)
            process.stdin.close()
            found = list(_taken_in(process.stdout, len(texts), pace))
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
    return found


def _taken_in(stream: IO[bytes], files: int, pace: Pace) -> Iterator[Inspected]:
    """Yield what each file holds, put together from its pieces.

    Raises:
        EOFError: the stream ended before the last file did.
    """
    for _ in range(files):
        pieces: list[Inspected] = []
        while (piece := _read_piece(stream)) is not None:
            pieces.append(piece)
            pace()
        yield Inspected(
            resources=tuple(each for piece in pieces for each in piece.resources),
            findings=tuple(each for piece in pieces for each in piece.findings),
            nodes=sum(piece.nodes for piece in pieces),
        )


def _read_piece(stream: IO[bytes]) -> Inspected | None:
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(header)
    if not length:
        return None
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return unpack(data)

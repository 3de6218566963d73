"""Which logs stand under a path: a log is a folder of segments with one chain and one writer.

Several workers of one instance write a log each, in folders `worker-NAME` of the configured
one. Whoever reads the record reads all of them, merged by time: within a chain the order
is the chain's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from audit.chain import list_segments
from audit.errors import AuditReadError

COLUMNS: Final = "columns"
"""The folder beside the segments that holds what was made of them for questions."""
_WORKER: Final = re.compile(r"worker-[0-9A-Za-z-]{1,64}", re.ASCII)


def worker_folder(folder: Path, worker: str) -> Path:
    """Return the folder of a worker's own log."""
    name = f"worker-{worker}"
    if not _WORKER.fullmatch(name):
        raise ValueError(f"`{worker}` is no name for a worker: letters, digits and `-`")
    return folder / name


def worker_of(folder: Path) -> str:
    """Return the worker whose log a folder is, empty where it is nobody's own."""
    found = _WORKER.fullmatch(folder.absolute().name)
    return found[0].removeprefix("worker-") if found else ""


def find_logs(path: Path) -> tuple[Path, ...]:
    """Return the logs under a path: itself (a folder of segments, or one segment), its workers'.

    Raises:
        AuditReadError: there is none, or the path cannot be read.
    """
    try:
        if path.is_file():
            return (path,)
        if not path.is_dir():
            raise AuditReadError(f"`{path}` is no file and no folder")
        found = [each for each in (path, *_workers(path)) if list_segments(each)]
    except OSError as exc:
        raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc
    if not found:
        raise AuditReadError(f"`{path}` holds no audit log: no file `audit-00000001.jsonl`")
    return tuple(found)


def find_all_logs(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the logs under several paths, each once.

    Raises:
        AuditReadError: one of them holds none.
    """
    return tuple(dict.fromkeys(log for path in paths for log in find_logs(path)))


def _workers(folder: Path) -> list[Path]:
    found = (each for each in folder.iterdir() if _WORKER.fullmatch(each.name) and each.is_dir())
    return sorted(found, key=lambda each: (len(each.name), each.name))

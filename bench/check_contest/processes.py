"""The processes of a group, as Linux tells of them: their CPU time and their memory."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KILOBYTES_PER_MEGABYTE: Final = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """Megabytes at one time (monotonic seconds): of all processes, and of the first of them.

    `proportional` counts a page that several processes share once in all, `resident` for each;
    `own` and `main` leave out what files hold, which is the system's to drop.
    """

    at: float
    proportional: float
    own: float
    resident: float
    main: float
    processes: int


def members(group: int) -> Iterator[Path]:
    """Give the folder below /proc of each process of the group."""
    for folder in Path("/proc").iterdir():
        values = _stat(folder) if folder.name.isdigit() else []
        if values and int(values[2]) == group:
            yield folder


def cpu_seconds(group: int) -> float:
    """Return the CPU time that the processes of the group have taken so far."""
    every = [values for folder in members(group) if (values := _stat(folder))]
    ticks = sum(int(values[11]) + int(values[12]) for values in every)
    return ticks / os.sysconf("SC_CLK_TCK")


def take_sample(group: int) -> Sample:
    """Return the memory of a process group now; its first process is the group's own."""
    proportional = own = resident = main = 0.0
    count = 0
    for folder in members(group):
        try:
            text = (folder / "smaps_rollup").read_text("utf-8")
        except OSError:
            continue  # it ended meanwhile
        lines = (line.split() for line in text.splitlines()[1:])
        told = {row[0]: int(row[1]) / _KILOBYTES_PER_MEGABYTE for row in lines}
        count += 1
        proportional += told["Pss:"]
        without_files = told["Pss_Anon:"] + told["Pss_Shmem:"]
        own += without_files
        resident += told["Rss:"]
        if folder.name == str(group):
            main = without_files
    return Sample(time.monotonic(), proportional, own, resident, main, count)


def _stat(folder: Path) -> list[str]:
    """Return what stands behind the name: state, parent, process group; empty when it ended.

    Spec: proc(5), `/proc/pid/stat`.
    """
    try:
        return (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return []

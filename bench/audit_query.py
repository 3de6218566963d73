"""What do questions to a month of 5 million decisions cost, and what does a record take on disk?

The log is written once into a scratch folder (about 10 GB) and kept for the next run. Columns are
made anew each time, as `meshwarden audit index` makes them; then a person's commands are timed as
they are typed, with the start of Python in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from audit.chain import list_segments
from audit.logs import COLUMNS
from audit.signed_note import load_signer, new_private_key
from bench.audit_month.writing import POLICY, write_month

_RECORDS: Final = int(os.environ.get("MESHWARDEN_BENCH_RECORDS", "5000000"))
_ROOM: Final = 2600  # BUDGET: bytes of disk for a record, its columns and an export
_ORIGIN: Final = "bench"
_QUERY_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 30.0
_YESTERDAY: Final = ("--since", "2026-10-29", "--until", "2026-10-30")
_MONTH: Final = ("--since", "2026-10-01", "--until", "2026-11-01")


def main() -> int:
    """Measure, print; 1 when a goal is missed."""
    console = Console()
    scratch = Path(os.environ.get("MESHWARDEN_BENCH_FOLDER", tempfile.gettempdir()))
    base = scratch / f"meshwarden-bench-{_RECORDS}"
    log, key = base / "log", base / "key.pem"
    if not (base / "whole").exists():
        if shutil.disk_usage(scratch).free < _RECORDS * _ROOM:
            console.print(f"not run: {_RECORDS * _ROOM / 1e9:.0f} GB are needed in {scratch}")
            return 0
        _write(base, log, key)
    shutil.rmtree(log / COLUMNS, ignore_errors=True)
    verifier = str(load_signer(key, _ORIGIN).verifier)
    page = base / "report.html"
    index = _seconds("index", log)
    query = min(_seconds("query", log, *_asked()) for _ in range(3))
    report = _seconds("export", log, "--format", "html", "--key", verifier, *_MONTH, "-o", page)
    table = Table(title=f"{_RECORDS:,} decisions of a month", title_justify="left")
    for heading in ("what", "seconds", "limit", "verdict"):
        table.add_column(heading)
    table.add_row("columns, made once (`audit index`)", f"{index:.1f}", "", "")
    for what, seconds, limit in (
        (f"denied by {POLICY} yesterday, by peer", query, _QUERY_SECONDS),
        ("report of the month as a page", report, _REPORT_SECONDS),
    ):
        verdict = "met" if seconds < limit else "[bold red]MISSED[/]"
        table.add_row(what, f"{seconds:.1f}", f"< {limit:.0f}", verdict)
    console.print(table)
    segments = _bytes(path for _, path in list_segments(log))
    columns = _bytes((log / COLUMNS).iterdir())
    console.print(
        f"disk bytes a record: {segments / _RECORDS:.0f} in segments, "
        f"{columns / _RECORDS:.0f} in columns; the page has {page.stat().st_size:,}"
    )
    return 0 if query < _QUERY_SECONDS and report < _REPORT_SECONDS else 1


def _asked() -> Sequence[str]:
    return ("--decision", "deny", "--policy", POLICY, *_YESTERDAY, "--by", "peer")


def _write(base: Path, log: Path, key: Path) -> None:
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    key.write_bytes(new_private_key())
    with Progress(transient=True) as bars:
        task = bars.add_task("writing the month", total=_RECORDS)

        def tell(done: int) -> None:
            bars.update(task, completed=done)

        write_month(log, _RECORDS, load_signer(key, _ORIGIN), tell=tell)
    (base / "whole").touch()


def _seconds(*arguments: object) -> float:
    """Return how long a command takes; it must end well."""
    command = [sys.executable, "-m", "authz.cli", "audit", *map(str, arguments)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    sys.exit(main())

"""`meshwarden audit index`: columns of sealed segments, made before anybody asks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import click

from audit.column_store import ColumnStore, forget_columns, segments_of
from audit.logs import find_all_logs
from authz.commands.failing import clear_errors
from authz.index_watch import follow

_KIND = 10  # how much the machine's other work goes before it


@click.command("index", short_help="Make the columns that questions are asked of.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on as segments are sealed.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to keep columns in, one's own; else `columns` beside the segments.",
)
@click.option("--leashed", is_flag=True, hidden=True, help="End when standard input does.")
def index_command(
    logs: tuple[Path, ...], is_following: bool, cache: Path | None, leashed: bool
) -> None:
    """Make the columns that questions are asked of, for each sealed segment that has none.

    Without it the first question makes them. Columns of segments that are gone or were changed
    are removed. With -f it gives way to other work of the machine.
    """
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    def hold() -> None:
        sys.stdin.buffer.read()
        stop.set()

    with clear_errors():
        if leashed:
            threading.Thread(target=hold, name="leash", daemon=True).start()
        if not is_following:
            _index(logs, cache)
            return
        os.nice(_KIND)
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        follow(logs, cache, stop)


def _index(logs: tuple[Path, ...], cache: Path | None) -> None:
    """Make what is missing, forget what is gone, and tell how many segments have columns now."""
    # WHY here: following takes none of it.
    from audit.column_files import open_columns  # noqa: PLC0415
    from authz.commands.progress import showing_progress  # noqa: PLC0415

    store, count = ColumnStore(folder=cache), 0
    try:
        with showing_progress() as stage:
            progress = stage("making columns")
            for log in find_all_logs(logs):
                sealed = [each for each in segments_of(log) if each.is_sealed]
                open_columns(sealed, store, progress=progress)
                forget_columns(log, store)
                count += len(sealed)
    finally:
        store.close()
    click.echo(f"{count} sealed segments have columns", err=True)

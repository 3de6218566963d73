"""`meshwarden audit index`: columns of sealed segments, made before anybody asks."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from audit.column_files import (
    ColumnStore,
    Progress,
    forget_columns,
    let_go_of_engine,
    open_columns,
    segments_of,
)
from audit.errors import AuditReadError
from audit.logs import find_all_logs
from authz.commands.failing import clear_errors
from authz.commands.progress import showing_progress
from authz.interpreter import give_memory_back

_LOOK_SECONDS = 5.0
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
        if is_following:
            os.nice(_KIND)
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGTERM, end)
        store, known = ColumnStore(folder=cache), set[Path]()
        try:
            if is_following:
                _follow(logs, store, known, stop)
                return
            with showing_progress() as stage:
                _index(logs, store, known, stage("making columns"))
            click.echo(f"{len(known)} sealed segments have columns", err=True)
        finally:
            store.close()


def _follow(
    logs: Sequence[Path], store: ColumnStore, known: set[Path], stop: threading.Event
) -> None:
    """Make columns as segments are sealed, until the stop; what cannot be read now may be later."""
    told = ""
    # WHY looking: no event of the standard library tells that another process made a file.
    while True:
        fault = ""
        try:
            if _index(logs, store, known, None):
                # Until the next segment nobody needs what was taken for this one.
                let_go_of_engine()
                give_memory_back()
        except AuditReadError as exc:
            fault = str(exc)
        if fault and fault != told:
            click.echo(f"waiting: {fault}", err=True)
        told = fault
        if stop.wait(_LOOK_SECONDS):
            return


def _index(
    logs: Sequence[Path], store: ColumnStore, known: set[Path], progress: Progress | None
) -> bool:
    """Make what is missing for segments that are not known yet, and forget what is gone.

    Return whether there were such segments.
    """
    is_any, there = False, set[Path]()
    for log in find_all_logs(logs):
        every = segments_of(log)
        there.update(each.path for each in every)
        sealed = [each for each in every if each.is_sealed and each.path not in known]
        open_columns(sealed, store, progress=progress)
        known.update(each.path for each in sealed)
        is_any = is_any or bool(sealed)
        forget_columns(log, store)
    known &= there
    return is_any

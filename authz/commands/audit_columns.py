"""Options that say where the columns of segments are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from audit.column_store import ColumnStore


def column_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--no-cache` and `--cache`; it takes a `store`."""

    @click.option("--no-cache", is_flag=True, help="Read every segment anew, and keep nothing.")
    @click.option(
        "--cache",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder to keep columns in, one's own; else `columns` beside the segments.",
    )
    @functools.wraps(command)
    def with_store(*, no_cache: bool, cache: Path | None, **arguments: Any) -> None:
        if no_cache and cache is not None:
            raise click.UsageError("`--cache` and `--no-cache` exclude each other")
        command(store=ColumnStore(is_kept=not no_cache, folder=cache), **arguments)

    return with_store

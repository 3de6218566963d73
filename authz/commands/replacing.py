"""Files that take an older one's place only when they were written to their end."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write, which becomes `path` when the block ends well; else an older stays."""
    if path.exists() and not path.is_file():
        # A pipe or a device is written as it stands.
        yield path
        return
    target = path.resolve()  # what a link names, such as that of `/dev/stdout`
    part = target.with_name(f".{target.name}.part")
    try:
        part.touch()  # what cannot be written is told before the work, not after it
    except OSError as exc:
        exc.filename = str(path)  # the file that was asked for, not the one beside it
        raise
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Replace a file's text whole or not at all, its mode kept; a link stays one."""
    target = path.resolve()
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(text.encode("utf-8"))
        part.chmod(target.stat().st_mode & 0o7777)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def unified_diff(before: str, after: str, file: str) -> str:
    """Return what changed in a file, as `diff -u` shows it."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), file, file
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)

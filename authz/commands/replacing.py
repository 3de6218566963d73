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
    part = path.with_name(f".{path.name}.part")
    try:
        part.touch()  # what cannot be written is told before the work, not after it
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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

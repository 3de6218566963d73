"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MODE: Final = 0o640


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and force it to the disk.

    Raises:
        OSError: it could not be written; the one before still stands.
    """
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries to the disk, so that new files keep their names.

    Raises:
        OSError: the disk did not take them.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

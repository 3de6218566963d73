"""Files that change together: a folder in which readers find all of the old set or all of the new.

Theory of operation, as kubelets do it. Each set is a folder of its own (`..<moment>`), complete and
on the disk before anything points at it. `..data` is a link to the set in force and is renamed into
place, which no reader can see half-way; the names that readers use are links through `..data`.
Envoy's `watched_directory` waits for exactly this rename. The set before stays until the next
change, for readers that have followed the link already.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ca.errors import StateError
from ca.files import sync_folder

DATA_LINK: Final = "..data"
_NEW_LINK: Final = "..data_tmp"
_FOLDER_MODE: Final = 0o755
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """The content of one file and its mode; a private key's is 0600."""

    content: bytes = field(repr=False)
    mode: int = 0o644


def publish_files(folder: Path, files: Mapping[str, PublishedFile], *, now: datetime) -> Path:
    """Put `files` in force in `folder`, all at once, and return the set's own folder.

    Raises:
        StateError: the disk refused; the set before is in force still.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        made = _new_set(folder, now)
        before = _in_force(folder)
        try:
            _write_set(made, files)
            _swap(folder, made)
        except OSError:
            # Or a disk that is full would get a half-written set more at each attempt.
            shutil.rmtree(made, ignore_errors=True)
            raise
        _link_names(folder, files)
        _sweep(folder, keep={made.name, before})
        sync_folder(folder)
    except OSError as exc:
        raise StateError(f"files in `{folder}` cannot be written: {exc.strerror}") from exc
    return made


def _new_set(folder: Path, now: datetime) -> Path:
    """Return a new folder for a set."""
    moment = now.astimezone(UTC).strftime("%Y_%m_%d_%H_%M_%S")
    # WHY more than the moment: two changes may fall into one second, and clocks go back.
    made = folder / f"..{moment}.{os.urandom(5).hex()}"
    made.mkdir(mode=_FOLDER_MODE)
    return made


def _write_set(made: Path, files: Mapping[str, PublishedFile]) -> None:
    """Write the files of a set, each of them on the disk at the end."""
    for name, file in files.items():
        with os.fdopen(os.open(made / name, _WRITE, file.mode), "wb") as out:
            os.fchmod(out.fileno(), file.mode)
            out.write(file.content)
            out.flush()
            os.fsync(out.fileno())
    sync_folder(made)


def _in_force(folder: Path) -> str:
    """Return the name of the set in force, empty when there is none."""
    try:
        return str((folder / DATA_LINK).readlink())
    except OSError:
        return ""


def _swap(folder: Path, made: Path) -> None:
    """Let `..data` lead to another set, in one step."""
    new = folder / _NEW_LINK
    new.unlink(missing_ok=True)
    new.symlink_to(made.name)
    new.rename(folder / DATA_LINK)


def _link_names(folder: Path, files: Mapping[str, PublishedFile]) -> None:
    """Let the names that readers use lead through `..data`; a file in the way is an error."""
    for name in files:
        link, target = folder / name, f"{DATA_LINK}/{name}"
        if not link.is_symlink():
            link.symlink_to(target)
        elif str(link.readlink()) != target:
            raise FileExistsError(0, f"`{link}` leads elsewhere")


def _sweep(folder: Path, *, keep: set[str]) -> None:
    """Remove the sets of before, those too that a killed writer left."""
    for path in folder.glob("..[0-9]*"):
        if path.name not in keep and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)

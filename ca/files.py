"""Private files: written whole or not at all, read only when nobody else could have written them.

Theory of operation. A file is written under a temporary name beside its own, synced, renamed over
the old one, and the folder is synced: after `kill -9` or power loss there is the old content or the
new, never a mixture. Leftover temporary files begin with `.tmp-` and are swept at the next start.
"""

from __future__ import annotations

import glob
import os
import stat
from pathlib import Path

from ca.errors import StateError

_TEMPORARY = ".tmp-"
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700
_OTHERS = 0o077
_EVERYONE = 0o007
# BUDGET: the largest file here is the manifest, two certificates of about 1 KiB each.
_MAX_BYTES = 1 << 20


def make_private_folder(folder: Path) -> None:
    """Make `folder` with mode 0700 where it is missing, and refuse one that others can enter.

    Raises:
        StateError: it cannot be made, is no folder, is another user's, or is wider than 0700.
    """
    try:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as exc:
        raise StateError(f"folder `{folder}` cannot be made: {exc.strerror}") from exc
    _check_private(folder, status, help=f"run chmod 700 {folder}, as the user who runs the CA")


def sweep_temporary_files(folder: Path, name: str = "") -> None:
    """Remove what a killed writer left behind in `folder`, of one file alone where it has a `name`.

    Only for whom nobody else writes there, or that file.
    """
    for path in folder.glob(
        f"{_TEMPORARY}[0-9]*-{glob.escape(name)}" if name else f"{_TEMPORARY}*"
    ):
        path.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """Return the name beside `path` under which this process writes what is to replace it."""
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")


def write_private_file(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write `content` to `path` with mode 0600, durably and atomically.

    Raises:
        StateError: the disk refused, or `path` exists and `replace` is false.
    """
    temporary = temporary_name(path)
    try:
        _write_synced(temporary, content)
        if replace:
            temporary.replace(path)
        else:
            # `link` fails where the name is taken, which `rename` would silently take over.
            path.hardlink_to(temporary)
            temporary.unlink()
        sync_folder(path.parent)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise StateError(f"file `{path}` cannot be written: {exc.strerror}") from exc


def read_private_file(path: Path) -> bytes | None:
    """Return the content of `path`, or None when there is no such file.

    Raises:
        StateError: it cannot be read, is a link or no file, another user's, or open to others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"file `{path}` cannot be opened: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StateError(f"`{path}` is not a regular file")
        _check_private(path, status, help=f"run chmod 600 {path}, then think who may have read it")
        return file.read(_MAX_BYTES)


def read_file(path: Path, *, is_secret: bool = False) -> bytes | None:
    """Return the content of a file that others wrote, or None when there is no such file.

    Links are followed, for a Kubernetes volume is made of them; a secret must not be open to all.

    Raises:
        StateError: it cannot be read, or is a secret that every user may read or write.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if is_secret and mode & _EVERYONE:
                raise StateError(
                    f"`{path}` has mode {mode:04o}, open to all users",
                    help="chmod o= it; in a Kubernetes volume, set defaultMode 0440",
                )
            return file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StateError(f"file `{path}` cannot be read: {exc.strerror}") from exc


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_synced(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600 and wait until the disk has it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, flags, _FILE_MODE), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _check_private(path: Path, status: os.stat_result, *, help: str) -> None:
    """Refuse what another user owns or may touch."""
    if status.st_uid != os.geteuid():
        raise StateError(f"`{path}` belongs to user {status.st_uid}, expected {os.geteuid()}")
    if status.st_mode & _OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise StateError(f"`{path}` has mode {mode:04o}, open to other users", help=help)

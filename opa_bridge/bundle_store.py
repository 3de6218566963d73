"""The last good copy of each bundle from a service, kept for a start without the service.

Theory of operation. One file a bundle: a line of JSON about it, then the archive as it came.
It is written beside, synced and renamed, so that after a kill there is the old copy or the new.
A copy is verified like one that was just fetched; without a signature only the file's owner
stands for it, so one that others could have written is not taken.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from opa_bridge.errors import PolicyBundleError

_FORMAT: Final = 1
_HEAD_BYTES: Final = 8192
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_FIELDS: Final = ("url", "etag", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBundle:
    """A copy: the archive, its URL and ETag, and when it was fetched (Unix time)."""

    raw: bytes
    url: str
    etag: str
    fetched_at: float


class BundleStore:
    """A folder of copies; one thread a bundle."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing.

        Raises:
            PolicyBundleError: it cannot be made.
        """
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise _refused(folder, f"cannot be made: {exc.strerror}") from exc

    def save(self, name: str, copy: StoredBundle) -> None:
        """Keep a copy in place of the one before, whole or not at all.

        Raises:
            PolicyBundleError: the disk refused; the copy before is still there.
        """
        head = {
            "format": _FORMAT,
            "url": copy.url,
            "etag": copy.etag,
            "fetched_at": copy.fetched_at,
            "sha256": hashlib.sha256(copy.raw).hexdigest(),
        }
        path = self._path(name)
        beside = path.with_suffix(".new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + copy.raw)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            self._sync_folder()
        except OSError as exc:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise _refused(path, f"cannot be written: {exc.strerror}") from exc

    def load(self, name: str, url: str, max_bytes: int) -> StoredBundle | None:
        """Return the copy that was fetched from `url`, or None where there is none.

        Raises:
            PolicyBundleError: there is one that cannot be trusted or read.
        """
        path = self._path(name)
        try:
            # O_NONBLOCK: a pipe in its place must not hold up the start.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(path, flags)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise _refused(path, f"cannot be opened: {exc.strerror}") from exc
        try:
            _check_owner(path, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                head, raw = file.readline(_HEAD_BYTES), file.read(max_bytes + 1)
        except OSError as exc:
            raise _refused(path, f"cannot be read: {exc.strerror}") from exc
        finally:
            os.close(descriptor)
        copy = _read(path, head, raw)
        return copy if copy.url == url else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bundle"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_owner(path: Path, found: os.stat_result) -> None:
    """Refuse a copy that somebody else could have written."""
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), 0):
        raise _refused(path, "is no file of this user")
    if found.st_mode & _OTHERS_WRITE:
        raise _refused(path, "can be written by others")


def _read(path: Path, line: bytes, raw: bytes) -> StoredBundle:
    try:
        head: Any = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise _refused(path, "is damaged") from exc
    if (
        not isinstance(head, dict)
        or head.get("format") != _FORMAT
        or not all(isinstance(head.get(key), str) for key in _FIELDS)
        or not isinstance(head.get("fetched_at"), float)
        or head["sha256"] != hashlib.sha256(raw).hexdigest()
    ):
        raise _refused(path, "is damaged or of another version")
    return StoredBundle(raw=raw, url=head["url"], etag=head["etag"], fetched_at=head["fetched_at"])


def _refused(path: Path, why: str) -> PolicyBundleError:
    return PolicyBundleError("bundle.store", f"the kept copy `{path}` {why}")

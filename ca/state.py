"""The state folder: one manifest that names the authority in force, one lock, the keys.

Theory of operation. Keys are stored first, each under a name never used before; the manifest that
names them and holds the certificates is renamed into place last. So a CA killed at any moment has
the authority it had before or the new one, and a key nobody names at worst. Only one process may
hold a state folder: the lock falls with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ca.errors import StateError
from ca.files import (
    make_private_folder,
    read_private_file,
    sweep_temporary_files,
    write_private_file,
)

_MANIFEST = "authority.json"
_LOCK = "lock"
_BUNDLE = "bundle.pem"
_KEYS = "keys"


class AuthorityEntry(BaseModel):
    """One authority in the manifest: its certificate (PEM) and the name of its key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    certificate: str


class Manifest(BaseModel):
    """What the state folder says is in force; the whole of it is replaced at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    trust_domain: str
    root: AuthorityEntry
    intermediate: AuthorityEntry


class StateFolder:
    """A locked state folder; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Make or check the folder and take its lock.

        Raises:
            StateError: it cannot be made, is open to others, or another process holds it.
        """
        make_private_folder(folder)
        self._folder = folder
        self._lock = self._take_lock()
        sweep_temporary_files(folder)

    @property
    def keys_folder(self) -> Path:
        """Where the file key store of this state lives."""
        return self._folder / _KEYS

    def load_manifest(self) -> Manifest | None:
        """Return the manifest, or None before the first start.

        Raises:
            StateError: it is there and cannot be believed; it is never replaced by a new one.
        """
        path = self._folder / _MANIFEST
        content = read_private_file(path)
        if content is None:
            return None
        try:
            return Manifest.model_validate_json(content)
        except ValidationError as exc:
            place = ".".join(str(part) for part in exc.errors()[0]["loc"]) or "the whole"
            raise StateError(
                f"manifest `{path}` cannot be read at `{place}`",
                help="restore it from a backup; a new root would be trusted by no workload",
            ) from None

    def store_manifest(self, manifest: Manifest) -> None:
        """Put `manifest` in force, durably."""
        content = manifest.model_dump_json(indent=2).encode()
        write_private_file(self._folder / _MANIFEST, content + b"\n")

    def publish_bundle(self, pem: str) -> None:
        """Write the trusted roots beside the manifest, for people and openssl; never read back."""
        write_private_file(self._folder / _BUNDLE, pem.encode())

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        """Return the folder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.close()

    def _take_lock(self) -> int:
        """Return the descriptor that holds the lock."""
        path = self._folder / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StateError(f"lock `{path}` cannot be opened: {exc.strerror}") from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            raise StateError(
                f"state folder `{self._folder}` is held by another process",
                help="one CA process per state folder; stop the other one first",
            ) from exc
        return descriptor

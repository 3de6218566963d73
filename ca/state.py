"""The state folder: one manifest that names the authorities in their slots, one lock, the keys.

Theory of operation. Keys are stored first, each under a name never used before; the manifest that
names them and holds the certificates is renamed into place last. So a CA killed at any moment has
the authority it had before or the new one, and a key nobody names at worst. Only one process may
hold a state folder: the lock falls with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError, model_validator

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
_FIRST_VERSION = re.compile(rb'^\s*\{\s*"version":\s*1\b')


class Phase(StrEnum):
    """Where in its life an authority is; all three are trusted, one signs."""

    PREPARED = "prepared"
    ACTIVE = "active"
    RETIRED = "retired"


class AuthorityEntry(BaseModel):
    """One certificate (PEM) and the name of its key; a root that is offline has no key here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str | None
    certificate: str


class SlotEntry(BaseModel):
    """One authority: what peers trust, what signs leaves, and what leads from one to the other.

    `since` is when the slot was entered; `sequence` is the first of the trust bundle that had its
    roots. `trusted_until` is set on retiring, to the end of the last leaf that
    the authority can have signed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    phase: Phase
    since: AwareDatetime
    sequence: int = 1
    root: AuthorityEntry
    intermediate: AuthorityEntry
    between: tuple[str, ...] = ()
    more_roots: tuple[str, ...] = ()
    trusted_until: AwareDatetime | None = None


class Manifest(BaseModel):
    """What the state says is in force; the whole of it is replaced at once.

    `sequence` rises with every change of the trusted roots and never falls.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[2] = 2
    trust_domain: str
    sequence: int = 1
    last_number: int = 1
    slots: tuple[SlotEntry, ...]

    @model_validator(mode="after")
    def _check_slots(self) -> Self:
        """Refuse a manifest without an active authority, or with two in one slot."""
        phases = [slot.phase for slot in self.slots]
        if phases.count(Phase.ACTIVE) != 1 or len(set(phases)) != len(phases):
            raise ValueError("expected one active authority, and one a slot")
        return self

    def in_phase(self, phase: Phase) -> SlotEntry | None:
        """Return the authority in a slot, or None."""
        return next((slot for slot in self.slots if slot.phase is phase), None)


class _FirstManifest(BaseModel):
    """What was written before there were slots: one root, one intermediate, no age."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    trust_domain: str
    root: AuthorityEntry
    intermediate: AuthorityEntry

    def with_slots(self) -> Manifest:
        """Return the same authority in the active slot."""
        slot = SlotEntry(
            number=1,
            phase=Phase.ACTIVE,
            since=datetime.fromtimestamp(0, UTC),
            root=self.root,
            intermediate=self.intermediate,
        )
        return Manifest(trust_domain=self.trust_domain, slots=(slot,))


class ManifestStore(Protocol):
    """Where the manifest lives: a folder here, or a database that several replicas share."""

    def exclusively(self) -> AbstractContextManager[object]:
        """Keep every other writer of the manifest out while the block runs."""

    def load_manifest(self) -> Manifest | None:
        """Return what is in force, or None before the first start."""

    def store_manifest(self, manifest: Manifest) -> None:
        """Put `manifest` in force, durably and as a whole."""

    def publish_bundle(self, pem: str) -> None:
        """Show the trusted roots to people and tools; never read back."""


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

    def exclusively(self) -> AbstractContextManager[object]:
        """Keep nobody out: the folder's lock already does, for as long as it is held."""
        return nullcontext()

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
            if _FIRST_VERSION.search(content[:200]):
                return _FirstManifest.model_validate_json(content).with_slots()
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

"""Authorities that several replicas share: slots and encrypted keys in the ledger's database.

Theory of operation. The manifest is one row with a revision; it is replaced only as of the revision
that was read, so of two replicas that change it at once, one fails and nothing is lost. A key is
stored before the manifest names it, as on disk. Each replica says from time to time which bundle
all its streams have acknowledged. One that fell silent may have lost the database alone, and serve
its streams with the roots of before; so it holds an activation up until the stated wait is over,
and counts no more when nothing was heard of it for a day. Nobody's clock has to be exact for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError
from sqlalchemy import delete, insert, select, update

from ca.clock import Clock
from ca.errors import KeyFileError, StateError, StoreError
from ca.files import write_private_file
from ca.key_kinds import PrivateKey
from ca.keys import read_private_key
from ca.ledger import from_microseconds, to_microseconds
from ca.shared_schema import AUTHORITIES, AUTHORITY_KEY, REPLICA
from ca.state import Manifest
from ca.store import Store

# BUDGET: a replica reports every second; one that was not heard of for so long is gone for good.
_GONE_AFTER = timedelta(days=1)


class SharedManifest:
    """The manifest in the ledger's database; fills the seam `ManifestStore`."""

    def __init__(self, store: Store, bundle_file: Path) -> None:
        """Keep the manifest in `store`, and show the bundle in `bundle_file`."""
        self._store = store
        self._bundle_file = bundle_file
        self._revision = 0

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the lock of key rotation while the block runs.

        Raises:
            StateError: another replica holds it for long, or the database is away.
        """
        with _as_state_error(), self._store.rotation_turn():
            yield

    def load_manifest(self) -> Manifest | None:
        """Return what is in force, or None before the first start.

        Raises:
            StateError: it cannot be read or believed.
        """
        with _as_state_error(), self._store.read() as connection:
            row = connection.execute(select(AUTHORITIES)).one_or_none()
        if row is None:
            return None
        try:
            manifest = Manifest.model_validate_json(row.manifest)
        except ValidationError:
            raise StateError("the authorities in the ledger's database cannot be read") from None
        self._revision = row.revision
        return manifest

    def store_manifest(self, manifest: Manifest) -> None:
        """Put `manifest` in force, if nobody has replaced the one that was read last.

        Raises:
            StateError: somebody has, or the database is away.
        """
        content, before = manifest.model_dump_json(), self._revision
        values = {"manifest": content, "revision": before + 1}
        changed = update(AUTHORITIES).where(AUTHORITIES.c.revision == before).values(values)
        with _as_state_error(), self._store.write() as connection:
            if before == 0:
                connection.execute(insert(AUTHORITIES).values(id=1, **values))
            elif connection.execute(changed).rowcount != 1:
                raise StateError("another replica has changed the authorities", help="try again")
        self._revision = before + 1

    def publish_bundle(self, pem: str) -> None:
        """Write the trusted roots into this replica's state folder."""
        write_private_file(self._bundle_file, pem.encode())


class SharedKeyStore:
    """Keys in the ledger's database, each encrypted with the passphrase that replicas share."""

    def __init__(self, store: Store, passphrase: bytes) -> None:
        """Keep keys in `store`, encrypted (PBES2, AES-256) with `passphrase`."""
        self._store = store
        self._passphrase = passphrase

    def load_key(self, name: str) -> PrivateKey | None:
        """Return the key called `name`, or None when there is none.

        Raises:
            KeyFileError: it cannot be read or decrypted.
        """
        query = select(AUTHORITY_KEY.c.pem).where(AUTHORITY_KEY.c.name == name)
        with _as_key_error(), self._store.read() as connection:
            pem = connection.scalar(query)
        if pem is None:
            return None
        return read_private_key(bytes(pem), self._passphrase, f"key `{name}` of the database")

    def store_key(self, name: str, key: PrivateKey) -> None:
        """Keep `key` durably under the new name `name`.

        Raises:
            KeyFileError: the name is taken, or the database is away.
        """
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(self._passphrase),
        )
        with _as_key_error(), self._store.write() as connection:
            connection.execute(insert(AUTHORITY_KEY).values(name=name, pem=pem))

    def remove_key(self, name: str) -> None:
        """Forget the key called `name`, if there is one."""
        with _as_key_error(), self._store.write() as connection:
            connection.execute(delete(AUTHORITY_KEY).where(AUTHORITY_KEY.c.name == name))

    def key_names(self) -> frozenset[str]:
        """Return what the keys are called that the database holds.

        Raises:
            KeyFileError: the database is away.
        """
        with _as_key_error(), self._store.read() as connection:
            return frozenset(connection.scalars(select(AUTHORITY_KEY.c.name)))


class Replicas:
    """What the other replicas' streams have acknowledged."""

    def __init__(self, store: Store, node: str, clock: Clock) -> None:
        """Speak for the replica called `node`."""
        self._store = store
        self._node = node
        self._clock = clock

    def report(self, acknowledged: int) -> None:
        """Say that every stream here has acknowledged bundle `acknowledged`.

        Raises:
            StoreError: the database is away.
        """
        values = {"seen_at": to_microseconds(self._clock()), "acknowledged": acknowledged}
        mine = update(REPLICA).where(REPLICA.c.node == self._node).values(values)
        with self._store.write() as connection:
            if connection.execute(mine).rowcount == 0:
                connection.execute(insert(REPLICA).values(node=self._node, **values))

    def lagging(self, sequence: int) -> tuple[str, ...]:
        """Return the other replicas with streams that may not have bundle `sequence` yet.

        Raises:
            StoreError: the database is away.
        """
        with self._store.read() as connection:
            rows = connection.execute(select(REPLICA).where(REPLICA.c.node != self._node)).all()
        now: datetime = self._clock()
        return tuple(
            row.node
            for row in rows
            if row.acknowledged < sequence and now - from_microseconds(row.seen_at) < _GONE_AFTER
        )


@contextmanager
def _as_state_error() -> Iterator[None]:
    """Turn the database's errors into the manifest's."""
    try:
        yield
    except StoreError as exc:
        raise StateError(str(exc), help=exc.help) from exc


@contextmanager
def _as_key_error() -> Iterator[None]:
    """Turn the database's errors into the key store's."""
    try:
        yield
    except StoreError as exc:
        raise KeyFileError(str(exc), help=exc.help) from exc

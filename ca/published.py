"""What the CA publishes of its denials: the deny list for authorizers, a CRL for everyone else.

Both are files that are replaced as a whole and may be read by everybody: they hold no secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.authority import Authority
from ca.crl import build_crl
from ca.errors import StateError
from ca.files import sync_folder
from ca.ledger import LedgerFilter, LedgerRow, find_rows
from ca.registry import RegistryState
from ca.revocations import DeniedKind, Revocation, encode_deny_list
from ca.store import Store, bump
from ca.store_schema import CRL_NUMBER

_MODE = 0o644
_FOLDER_MODE = 0o755
# BUDGET: certificates in force on one list; a CA with more revoked ones has to rotate instead.
_MAX_REVOKED = 100_000


def publish_deny_list(path: Path, state: RegistryState, *, now: datetime) -> None:
    """Write the deny list.

    Raises:
        StateError: it cannot be written.
    """
    content = encode_deny_list(state.denied.values(), revision=state.revision, now=now)
    _replace(path, content)


def publish_crl(
    path: Path, authority: Authority, store: Store, state: RegistryState, *, now: datetime
) -> x509.CertificateRevocationList:
    """Write the revocation list of the authority that signs now, with a new number.

    Raises:
        StoreError: the ledger cannot be asked.
        StateError: it cannot be written.
    """
    with store.write() as connection:
        number = bump(connection, CRL_NUMBER)
    issuer = authority.intermediate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    revoked = [
        (row, revocation)
        for row, revocation in revoked_rows(store, state, now=now)
        if row.authority == identifier.digest.hex()
    ]
    crl = build_crl(issuer, authority.key, revoked, number=number, now=now)
    _replace(path, crl.public_bytes(serialization.Encoding.PEM))
    return crl


def revoked_rows(
    store: Store, state: RegistryState, *, now: datetime
) -> Iterator[tuple[LedgerRow, Revocation]]:
    """Yield each certificate in force that is denied, by its serial, key or ID, once.

    Raises:
        StoreError: the ledger cannot be asked.
    """
    found: dict[str, tuple[LedgerRow, Revocation]] = {}
    with store.read() as connection:
        for revocation in state.denied.values():
            if not revocation.is_in_force(now):
                continue
            wanted = _filter_of(revocation, now)
            for row in find_rows(connection, wanted):
                if row.kind == "x509":
                    found.setdefault(row.serial, (row, revocation))
    yield from found.values()


def _filter_of(revocation: Revocation, now: datetime) -> LedgerFilter:
    """Return which rows a denial takes down."""
    match revocation.kind:
        case DeniedKind.SERIAL:
            return LedgerFilter(serial=revocation.value, is_in_force_at=now)
        case DeniedKind.KEY:
            return LedgerFilter(
                spki_sha256=revocation.value, is_in_force_at=now, limit=_MAX_REVOKED
            )
        case DeniedKind.SPIFFE_ID:
            return LedgerFilter(spiffe_id=revocation.value, is_in_force_at=now, limit=_MAX_REVOKED)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path` as a whole, readable by everybody."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_MODE)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as exc:
        raise StateError(f"file `{path}` cannot be written: {exc.strerror}") from exc

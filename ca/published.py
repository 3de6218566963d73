"""What the CA publishes of its denials: the deny list for authorizers, CRLs for everyone else.

Both are files that are replaced as a whole and may be read by everybody: they hold no secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.crl import ListIssuer, build_crl
from ca.errors import StateError
from ca.files import sweep_temporary_files, sync_folder, temporary_name
from ca.key_kinds import check_public_key
from ca.ledger import AUTHORITY_KIND, LedgerFilter, LedgerRow, find_rows
from ca.profile import key_identifier
from ca.registry import RegistryState
from ca.revocations import DeniedKind, Revocation, encode_deny_list
from ca.store import Store, bump, raise_to
from ca.store_schema import CRL_NUMBER

_MODE = 0o644
_FOLDER_MODE = 0o755
_PEM_END = b"-----END X509 CRL-----\n"
# BUDGET: certificates in force on one list; a CA with more revoked ones has to rotate instead.
_MAX_REVOKED = 100_000


def publish_deny_list(path: Path, state: RegistryState, *, now: datetime) -> None:
    """Write the deny list.

    Raises:
        StateError: it cannot be written.
    """
    content = encode_deny_list(state.denied.values(), revision=state.revision, now=now)
    _replace(path, content)


def publish_crls(
    path: Path, issuers: Sequence[ListIssuer], store: Store, state: RegistryState, *, now: datetime
) -> tuple[x509.CertificateRevocationList, ...]:
    """Write the revocation lists of `issuers`, each with a new number; return them.

    Of an issuer whose key is not here the list of before stays, as long as it is good.

    Raises:
        StoreError: the ledger cannot be asked.
        StateError: it cannot be written.
    """
    revoked, before = list(revoked_rows(store, state, now=now)), _read_crls(path)
    lists = []
    for issuer in issuers:
        if issuer.key is None:
            lists += [each for each in before if _is_good(each, issuer.certificate, now)][-1:]
            continue
        with store.write() as connection:
            # RFC 5280 §5.2.3: "monotonically increasing", which an older ledger has forgotten.
            raise_to(connection, CRL_NUMBER, _last_number(before, issuer.certificate))
            number = bump(connection, CRL_NUMBER)
        identifier = key_identifier(issuer.certificate).hex()
        mine = [found for found in revoked if found[0].authority == identifier]
        lists.append(build_crl(issuer, mine, number=number, now=now))
    _replace(path, b"".join(each.public_bytes(serialization.Encoding.PEM) for each in lists))
    return tuple(lists)


def sweep_unpublished(*paths: Path) -> None:
    """Remove what a CA that was killed left of files that it was to publish; what stays harms not.

    Only for the process that publishes them.
    """
    for path in paths:
        with suppress(OSError):
            sweep_temporary_files(path.parent, path.name)


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
            # Who denies the trust domain's own ID does not mean its authorities.
            is_of_id = revocation.kind is DeniedKind.SPIFFE_ID
            kinds = ("x509",) if is_of_id else ("x509", AUTHORITY_KIND)
            for row in find_rows(connection, wanted):
                if row.kind in kinds:
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


def _read_crls(path: Path) -> list[x509.CertificateRevocationList]:
    """Return the lists that stand in a file; none where it cannot be read."""
    try:
        parts = path.read_bytes().split(_PEM_END)
        return [x509.load_pem_x509_crl(part + _PEM_END) for part in parts if part.strip()]
    except (OSError, ValueError):
        return []


def _last_number(lists: Sequence[x509.CertificateRevocationList], issuer: x509.Certificate) -> int:
    """Return the greatest number of the lists of `issuer`, 0 without one."""
    numbers = [0]
    for crl in lists:
        with suppress(ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
            if _is_of(crl, issuer):
                found = crl.extensions.get_extension_for_class(x509.CRLNumber)
                numbers.append(found.value.crl_number)
    return max(numbers)


def _is_of(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """Return whether `issuer` signed a list."""
    if crl.issuer != issuer.subject:
        return False
    return crl.is_signature_valid(check_public_key(issuer.public_key()))


def _is_good(crl: x509.CertificateRevocationList, issuer: x509.Certificate, now: datetime) -> bool:
    """Return whether `issuer` signed a list that is good still."""
    ends_at = crl.next_update_utc
    return ends_at is not None and ends_at >= now and _is_of(crl, issuer)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path` as a whole, readable by everybody."""
    temporary = temporary_name(path)
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
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(f"file `{path}` cannot be written: {exc.strerror}") from exc

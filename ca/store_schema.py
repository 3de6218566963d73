"""The tables of the ledger, and the migrations that bring an older ledger up to them.

Times are whole numbers since the epoch, UTC: seconds where X.509 keeps seconds, microseconds where
the order of events counts. So both databases compare and sort them alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
)

from ca.shared_schema import make_shared_tables

_TABLES: Final = MetaData()

SCHEMA_VERSION: Final = Table(
    "schema_version",
    _TABLES,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", BigInteger, nullable=False),
)
"""One row for each migration that was applied."""

COUNTER: Final = Table(
    "counter",
    _TABLES,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""Named numbers that only grow: the registry's revision, the CRL's number."""

ISSUANCE: Final = Table(
    "issuance",
    _TABLES,
    # RFC 5280 §4.1.2.2: up to 20 octets, so text: 40 lower-case hex digits.
    Column("serial", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("authority", Text, nullable=False),
    Column("entry_id", Text, nullable=False),
    Column("spki_sha256", Text, nullable=False),
    Column("der_sha256", Text, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("csr_sha256", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("node", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Index("issuance_by_id", "spiffe_id", "issued_at"),
    Index("issuance_by_key", "spki_sha256"),
    Index("issuance_by_time", "issued_at"),
)
"""Every certificate that was ever signed and could have left; rows are never changed."""

ENTRY: Final = Table(
    "entry",
    _TABLES,
    Column("entry_id", Text, primary_key=True),
    Column("spiffe_id", Text, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("lifetime_seconds", BigInteger, nullable=False),
    Column("dns_names", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""Registration entries; lists are JSON arrays of texts, an `expires_at` of 0 is never."""

JOIN_TOKEN: Final = Table(
    "join_token",
    _TABLES,
    Column("token_sha256", Text, primary_key=True),
    Column("spiffe_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
)
"""Join tokens by their digest; a `used_at` of 0 is not yet. The token itself is nowhere."""

REVOCATION: Final = Table(
    "revocation",
    _TABLES,
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("revoked_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
"""What is denied: a serial number, a key (SPKI digest) or a SPIFFE ID; 0 never expires."""

REGISTRY_REVISION: Final = "registry_revision"
"""The counter that moves with every change of entries and revocations."""

CRL_NUMBER: Final = "crl_number"
"""The counter of revocation lists (RFC 5280 §5.2.3)."""

Migration = Callable[[Connection], None]
"""Brings a ledger from one version to the next, within one transaction."""


def _first_tables(connection: Connection) -> None:
    """Version 1: the ledger, entries, join tokens, revocations.

    WHY from the live tables: they are this version. A migration that changes one freezes what
    this one made in a copy of its own first.
    """
    _TABLES.create_all(connection)
    for name in (REGISTRY_REVISION, CRL_NUMBER):
        connection.execute(insert(COUNTER).values(name=name, value=0))


MIGRATIONS: Final[tuple[Migration, ...]] = (_first_tables, make_shared_tables)
"""The migrations in order; the n-th makes version n."""

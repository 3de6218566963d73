"""The tables by which replicas share authorities: slots, keys, and who has acknowledged what."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, MetaData, Table, Text

_TABLES: Final = MetaData()

AUTHORITIES: Final = Table(
    "authorities",
    _TABLES,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
    Column("manifest", Text, nullable=False),
)
"""One row: the manifest of the slots, and how often it was replaced."""

AUTHORITY_KEY: Final = Table(
    "authority_key",
    _TABLES,
    Column("name", Text, primary_key=True),
    Column("pem", LargeBinary, nullable=False),
)
"""The authorities' private keys, encrypted: the database alone signs nothing."""

REPLICA: Final = Table(
    "replica",
    _TABLES,
    Column("node", Text, primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
    Column("acknowledged", BigInteger, nullable=False),
)
"""What each replica's streams have acknowledged of the trust bundle, and when it said so."""


def make_shared_tables(connection: Connection) -> None:
    """Make the tables, within the migration's transaction."""
    _TABLES.create_all(connection)

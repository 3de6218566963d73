"""The acts of operators, counted, so that a ledger which lacks one is known by its count.

Theory of operation. Each act that counts adds one to its node's counter within its own transaction,
and its line on the audit chain holds the number. A ledger whose counter is below a number on the
chain is of before that act, whatever other replicas have done to it since; and where the counter is
not below, the act was there, even if another replica has undone it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, insert, select, update

from ca.store import counter_value, raise_to
from ca.store_schema import COUNTER

ACT: Final = "act"
"""What the number is called in the details of a line."""

_PREFIX: Final = "acts:"


def count_act(connection: Connection, node: str) -> int:
    """Count an act of `node` within the caller's transaction; return its number, from 1 on."""
    name = _PREFIX + node
    more = update(COUNTER).where(COUNTER.c.name == name).values(value=COUNTER.c.value + 1)
    if connection.execute(more).rowcount == 0:
        connection.execute(insert(COUNTER).values(name=name, value=1))
    return counter_value(connection, name)


def counted_acts(connection: Connection) -> Mapping[str, int]:
    """Return how many acts of each node the ledger has counted, by the node's name."""
    query = select(COUNTER.c.name, COUNTER.c.value).where(COUNTER.c.name.startswith(_PREFIX))
    return {name.removeprefix(_PREFIX): int(value) for name, value in connection.execute(query)}


def count_up_to(connection: Connection, node: str, number: int) -> None:
    """Let the next act of `node` have a greater number, within the caller's transaction."""
    if node in counted_acts(connection):
        raise_to(connection, _PREFIX + node, number)
    else:
        connection.execute(insert(COUNTER).values(name=_PREFIX + node, value=number))

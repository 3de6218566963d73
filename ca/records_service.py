"""The records as the first service of a running CA: opened before anything is issued."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from ca.books import Books, open_books
from ca.clock import Clock
from ca.crl import CRL_LIFETIME
from ca.record_commands import record_commands
from ca.running import RunningCa

# BUDGET: how long what another replica changed may go unnoticed by those who only look; an
# issuance looks for itself.
_REFRESH_SECONDS = 1.0
_REPUBLISH = CRL_LIFETIME / 2


@asynccontextmanager
async def keep_records(ca: RunningCa) -> AsyncIterator[None]:
    """Keep the records while the context is entered.

    Raises:
        StoreError: ledger or audit chain cannot be opened.
    """
    with open_books(
        ca.settings,
        ca.keeper.current,
        ca.clock,
        count_issued=lambda kind: ca.metrics.issued.labels(kind=kind).inc(),
        count_refused=lambda reason: ca.metrics.refused.labels(reason=reason.value).inc(),
    ) as books:
        ca.books = books
        ca.probes.append(books.troubles)
        ca.commands |= record_commands(books, ca.clock)
        books.publish()
        keeping = asyncio.create_task(_keep_fresh(books, ca.clock))
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping


async def _keep_fresh(books: Books, clock: Clock) -> None:
    """Take up what other replicas changed, and publish anew what grows old."""
    published_at: datetime = clock()
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        await asyncio.to_thread(books.refresh)
        if clock() - published_at >= _REPUBLISH or books.publish_error:
            await asyncio.to_thread(books.publish)
            published_at = clock()

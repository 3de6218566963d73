"""The records as the first service of a running CA: opened before anything is issued."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from ca.books import Books, open_books
from ca.crl import CRL_LIFETIME
from ca.errors import StoreError
from ca.record_commands import record_commands
from ca.running import RunningCa

# BUDGET: how long what another replica changed may go unnoticed by those who only look; an
# issuance looks for itself.
_REFRESH_SECONDS = 1.0
_REPUBLISH = CRL_LIFETIME / 2
_SWEEP = timedelta(hours=1)


@asynccontextmanager
async def keep_records(ca: RunningCa) -> AsyncIterator[None]:
    """Keep the records while the context is entered.

    Raises:
        StoreError: ledger or audit chain cannot be opened.
    """
    with open_books(
        ca.settings,
        ca.keeper,
        ca.clock,
        count_issued=lambda kind: ca.metrics.issued.labels(kind=kind).inc(),
        count_refused=lambda reason: ca.metrics.refused.labels(reason=reason.value).inc(),
    ) as books:
        ca.books = books
        ca.probes.append(books.troubles)
        ca.commands |= record_commands(books, ca.clock)
        books.publish()
        keeping = asyncio.create_task(_keep_fresh(ca, books))
        try:
            yield
        finally:
            keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeping


async def _keep_fresh(ca: RunningCa, books: Books) -> None:
    """Take up what others changed, put new authorities on record, publish what grows old."""
    published_at, slots = ca.clock(), ca.keeper.slots
    swept_at = published_at
    while True:
        await asyncio.sleep(_REFRESH_SECONDS)
        await asyncio.to_thread(books.refresh)
        is_other = ca.keeper.slots is not slots
        if is_other:
            newest = ca.keeper.slots
            # What could not be recorded is tried again at the next look.
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(books.record_intermediates)
                slots = newest
        if is_other or ca.clock() - published_at >= _REPUBLISH or books.publish_error:
            await asyncio.to_thread(books.publish)
            published_at = ca.clock()
        if ca.clock() - swept_at >= _SWEEP:
            with contextlib.suppress(StoreError):
                kept_since = ca.settings.records.kept_since(ca.clock())
                await asyncio.to_thread(books.forget_ended, kept_since)
            swept_at = ca.clock()

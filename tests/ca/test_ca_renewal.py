"""Renewal: in time, after a failure, and whatever the wall clock does."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from ca.board import SecretBoard
from ca.errors import StateError
from ca.issue import SvidRequest
from ca.renewal import Renewal, RenewalParts, renew_at
from identity.spiffe_id import SpiffeId

ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
HOUR = timedelta(hours=1)


class Records:
    """Keeps what was issued, and fails on demand."""

    def __init__(self):
        """Start empty and willing."""
        self.serials, self.is_full = [], False
        self.attempted = asyncio.Event()

    def __call__(self, svid):
        """Record one issuance."""
        self.attempted.set()
        if self.is_full:
            raise StateError("the disk is full")
        self.serials.append(svid.leaf.serial_number)


@pytest.fixture
def renewing(authority, clock, monkeypatch):
    """Run one workload's renewal: `async with renewing() as (board, records)`."""
    monkeypatch.setattr("ca.renewal._MAX_WAIT_SECONDS", 0.01)

    @asynccontextmanager
    async def _renewing():
        board, records, stop = SecretBoard(ID, clock), Records(), asyncio.Event()
        board.publish_trust(authority.roots)
        parts = RenewalParts(
            authority=lambda: authority, record=records, clock=clock, random=lambda: 0.5
        )
        renewal = Renewal(board, SvidRequest(spiffe_id=ID, lifetime=HOUR), parts)
        task = asyncio.create_task(renewal.run(renewal.issue(), stop))
        try:
            yield board, records
        finally:
            stop.set()
            await task

    return _renewing


async def _next(records):
    records.attempted.clear()
    async with asyncio.timeout(5):
        await records.attempted.wait()


@pytest.mark.parametrize("jump", [HOUR / 2, HOUR * 20, -timedelta(seconds=30) - HOUR / 2])
def test_clock_moves(renewing, clock, jump):
    """At half-life, after a jump ahead and after one back, a certificate of that moment is up."""
    clock.now += HOUR

    async def run():
        async with renewing() as (board, records):
            first = board.svid
            clock.now += jump
            await _next(records)
            assert board.svid.is_valid_at(clock.now)
            assert board.svid.leaf != first.leaf

    asyncio.run(run())


def test_unrecorded_certificates_do_not_leave(renewing, clock):
    """While no record can be kept the old certificate stays up, and a retry heals it."""

    async def run():
        async with renewing() as (board, records):
            first, records.is_full = board.svid, True
            clock.now += HOUR / 2
            await _next(records)
            assert board.svid is first
            records.is_full = False
            clock.now += timedelta(seconds=1)
            await _next(records)
            assert board.svid.leaf.serial_number == records.serials[-1] != first.leaf.serial_number

    asyncio.run(run())


def test_a_hopeless_clock_is_not_hammered(renewing, clock):
    """With an expired certificate and no way to issue, renewal waits between attempts."""

    async def run():
        async with renewing() as (board, records):
            records.is_full = True
            clock.now += 2 * HOUR
            await _next(records)
            records.attempted.clear()
            await asyncio.sleep(0.1)
            assert not records.attempted.is_set()
            assert board.look(["default"]) == ()

    asyncio.run(run())


@pytest.mark.parametrize(("fraction", "minutes"), [(0.0, 27), (0.5, 30), (1.0, 33)])
def test_renewal_moment(clock, fraction, minutes):
    """Renewal falls within a tenth around the half-life."""
    due_at = renew_at(clock.now, clock.now + HOUR, fraction)
    assert due_at == clock.now + timedelta(minutes=minutes)

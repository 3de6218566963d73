"""One workload's certificate, kept fresh: issued at the start, renewed about half-way.

Theory of operation. The next renewal is a moment of the wall clock, because certificates live by
it; the wait is bounded, so that a clock set forward is noticed within seconds. A renewal that fails
is tried again, and the old certificate serves as long as it holds; the board shows none after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from ca.authority import Authority
from ca.board import SecretBoard
from ca.clock import Clock
from ca.errors import CaError
from ca.issue import SvidRequest, issue_x509_svid
from ca.key_kinds import PrivateKey, generate_key
from ca.svid import X509Svid

_log = structlog.get_logger(__name__)
_JITTER = 0.1
# BUDGET: the longest a jump of the wall clock goes unnoticed.
_MAX_WAIT_SECONDS = 5.0
_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 60.0

RecordIssuance = Callable[[X509Svid], None]
"""Keeps a durable record of an SVID before it leaves the CA; raises a CaError to hold it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalParts:
    """What a renewal needs from outside; `random` returns a float in [0, 1)."""

    authority: Callable[[], Authority]
    record: RecordIssuance
    clock: Clock
    random: Callable[[], float]
    new_key: Callable[[], PrivateKey] = generate_key
    count_issued: Callable[[], None] = lambda: None
    count_late: Callable[[], None] = lambda: None


class Renewal:
    """Keeps the SVID of one board in force."""

    def __init__(self, board: SecretBoard, request: SvidRequest, parts: RenewalParts) -> None:
        """Plan to renew `request` on `board`; nothing is issued yet."""
        self._board = board
        self._request = request
        self._parts = parts
        self._due_at: datetime | None = None
        self.error = ""

    @property
    def board(self) -> SecretBoard:
        """Where the SVID is put up."""
        return self._board

    def issue(self) -> datetime:
        """Issue an SVID now, put it up, and return when to renew it.

        Raises:
            CaError: it could not be issued or recorded; the board keeps what it had.
        """
        now = self._parts.clock()
        authority = self._parts.authority()
        svid = issue_x509_svid(self._request, authority, now=now, new_key=self._parts.new_key)
        self._parts.record(svid)
        self._board.publish_svid(svid)
        self._parts.count_issued()
        self.error = ""
        _log.info(
            "svid_issued",
            spiffe_id=str(svid.spiffe_id),
            serial=f"{svid.leaf.serial_number:x}",
            expires_at=svid.expires_at.isoformat(),
        )
        self._due_at = renew_at(now, svid.expires_at, self._parts.random())
        return self._due_at

    def renew_early(self) -> None:
        """Renew now, for the authority has changed; a failure is tried again when it is due."""
        try:
            self.issue()
        except CaError as exc:
            self._note_failure(exc)
            self._due_at = self._parts.clock()

    async def run(self, due_at: datetime, stop: asyncio.Event) -> None:
        """Renew at `due_at` and ever after, until `stop` is set."""
        self._due_at = due_at
        retry_seconds = _FIRST_RETRY_SECONDS
        is_retry = False
        while not await self._is_stopped_before(stop, is_retry=is_retry):
            try:
                self.issue()
                retry_seconds, is_retry = _FIRST_RETRY_SECONDS, False
            except CaError as exc:
                self._note_failure(exc)
                self._due_at = self._parts.clock() + timedelta(seconds=retry_seconds)
                is_retry = True
                retry_seconds = min(2 * retry_seconds, _LAST_RETRY_SECONDS)

    def _note_failure(self, error: CaError) -> None:
        """Log, count and show a renewal that failed."""
        self.error = str(error)
        self._parts.count_late()
        _log.error(
            "svid_renewal_failed",
            spiffe_id=str(self._board.spiffe_id),
            error=str(error),
            code=error.code,
        )

    async def _is_stopped_before(self, stop: asyncio.Event, *, is_retry: bool) -> bool:
        """Wait until the SVID is due or `stop` is set; return whether it was `stop`."""
        while not stop.is_set():
            svid, now = self._board.svid, self._parts.clock()
            # A clock set back before the certificate's start makes it useless: renew at once,
            # but only once, for that may fail too.
            is_early = not is_retry and svid is not None and not svid.is_valid_at(now)
            # Read anew each time: an early renewal moves it.
            left_seconds = ((self._due_at or now) - now).total_seconds()
            if left_seconds <= 0 or is_early:
                return False
            try:
                await asyncio.wait_for(stop.wait(), min(left_seconds, _MAX_WAIT_SECONDS))
            except TimeoutError:
                continue
        return True


def renew_at(issued_at: datetime, expires_at: datetime, fraction: float) -> datetime:
    """Return the half-life of a certificate, moved by up to a tenth of it either way.

    `fraction` in [0, 1) places it in that window, so that many workloads do not renew at once.

    >>> from datetime import UTC, datetime
    >>> start, end = datetime(2026, 1, 1, 0, tzinfo=UTC), datetime(2026, 1, 1, 2, tzinfo=UTC)
    >>> renew_at(start, end, 0.0).isoformat(), renew_at(start, end, 0.5).isoformat()
    ('2026-01-01T00:54:00+00:00', '2026-01-01T01:00:00+00:00')
    """
    half_life = (expires_at - issued_at) / 2
    return issued_at + half_life * (1 + _JITTER * (2 * fraction - 1))

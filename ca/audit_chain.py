"""The CA's own audit chain: each batch of lines is on the disk before anything leaves.

The authorizer's `AuditWriter` accepts first and writes soon after. A certificate may not leave
before its line is durable, so here the caller waits: `append` returns when the disk has the lines.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from audit.document import EventDocument, document_from_event, format_time
from audit.errors import AuditFolderError
from audit.record import AuditEvent, EventName
from audit.redact import Redactor
from audit.segments import SegmentFolder
from ca.clock import Clock
from ca.errors import StoreError

# BUDGET: 64 MiB hold about 40,000 issuances.
_MAX_SEGMENT_BYTES = 64 * 1024 * 1024


class AuditChain:
    """The open chain of one folder; not thread-safe, one process writes one folder."""

    def __init__(self, folder: Path, *, node: str, clock: Clock) -> None:
        """Open the folder, go on where the chain ended, and write `start`.

        Raises:
            StoreError: the folder cannot be used, or another process writes it.
        """
        self._node = node
        self._clock = clock
        self._redactor = Redactor(headers=(), claims=(), secret_headers=(), secret_parameters=())
        self._has_failed = False
        try:
            self._segments = SegmentFolder(
                folder,
                max_bytes=_MAX_SEGMENT_BYTES,
                node=node,
                clock=lambda: clock().timestamp(),
                new_id=lambda: uuid.uuid4().hex,
            )
        except AuditFolderError as exc:
            raise StoreError(f"the audit log cannot be opened: {exc}") from exc
        events = [self.event(EventName.START, {"of": "ca"})]
        if self._segments.resumed:
            events.insert(0, self.event(EventName.RESUME, dict(self._segments.resumed)))
        try:
            self.append(events)
        except StoreError:
            self._segments.close()
            raise

    def event(self, name: EventName, details: dict[str, object]) -> AuditEvent:
        """Return an event of this moment."""
        return AuditEvent(event=name, at=self._clock().timestamp(), details=details)

    def append(self, events: Sequence[AuditEvent]) -> None:
        """Write `events` at the end of the chain; they are on the disk when this returns.

        Raises:
            StoreError: not all of them are; those that are stay.
        """
        documents = [self._document(event) for event in events]
        try:
            if self._has_failed:
                self._segments.reopen()
                self._has_failed = False
            while documents:
                del documents[: self._segments.append(documents, sync=True)]
        except OSError as exc:
            self._has_failed = True
            raise StoreError(f"the audit log cannot be written: {exc.strerror}") from exc
        except AuditFolderError as exc:
            self._has_failed = True
            raise StoreError(f"the audit log cannot be written: {exc.why}") from exc

    def _document(self, event: AuditEvent) -> EventDocument:
        """Return the written form of an event.

        WHY issuances are not masked: a row's columns hold no secret and no caller's own words, and
        masking each of them took longer than all else together. A refusal quotes its caller.
        """
        if event.event is not EventName.SVID_ISSUED:
            return document_from_event(event, node=self._node, redactor=self._redactor)
        return {
            "kind": "event",
            "schema": 1,
            "event": "svid_issued",
            "at": format_time(event.at),
            "node": self._node,
            "details": dict(event.details),
        }

    def close(self) -> None:
        """Write `stop` where the disk takes it, and leave the folder to others."""
        try:
            self.append([self.event(EventName.STOP, {"of": "ca"})])
        except StoreError:
            # The chain is whole without it; the next start says that it was missing.
            pass
        finally:
            self._segments.close()

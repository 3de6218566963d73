"""One record in the mode `strict`: whoever offered it waits to hear what became of it."""

from __future__ import annotations

from audit.mould import RepeatedRecord
from audit.record import AuditEvent, AuditRecord


class Ticket:
    """A record and what became of it. Changed under the writer's lock only.

    `is_durable`: it is on the disk; `is_refused`: the writer could not write it and keeps
    it no longer; `is_given_up`: whoever offered it has answered without it.
    """

    __slots__ = ("is_durable", "is_given_up", "is_refused", "record")

    def __init__(self, record: AuditRecord | RepeatedRecord | AuditEvent) -> None:
        """Begin with nothing known."""
        self.record = record
        self.is_durable = False
        self.is_refused = False
        self.is_given_up = False

"""Signing is ended by a word that is signed itself, so that nobody else can say it."""

from __future__ import annotations

import time
from pathlib import Path

from audit.errors import AuditReadError
from audit.logs import find_logs, worker_of
from audit.record import AuditEvent, EventName
from audit.settings import AuditSettings
from audit.writer import AuditWriter


def end_signing(folder: Path, key_file: Path, origin: str, *, node: str) -> list[Path]:
    """Put `signing_ended` on record in a log, or in that of each worker, and sign up to there.

    Returns the logs. What is written there later by a process without a key is told by
    `audit verify` to be unsigned since then.

    Raises:
        AuditReadError: there is no log, or it was never signed.
        AuditFolderError: a log cannot be written (AuditLockedError: a process writes it).
        AuditKeyError: the key or the name cannot be used.
        AuditUnavailable: the event did not reach the disk.
    """
    if not folder.is_dir():
        raise AuditReadError(f"`{folder}` is no folder of a log")
    logs = find_logs(folder)
    for log in logs:
        if not any(log.glob("audit-*.checkpoint")):
            raise AuditReadError(f"`{log}` was never signed: it has no checkpoint")
    for log in logs:
        worker = worker_of(log)
        settings = AuditSettings(
            folder=log,
            checkpoint_key_file=key_file,
            checkpoint_origin=f"{origin}/{worker}" if worker else origin,
        )
        details = {"command": "audit end-signing"}
        writer = AuditWriter(settings, node=node, start_details=details)
        try:
            event = AuditEvent(event=EventName.SIGNING_ENDED, at=time.time(), details={})
            writer.offer_durably(event)
        finally:
            writer.close()
    return list(logs)

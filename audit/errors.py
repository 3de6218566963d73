"""What can go wrong with the record.

AuditError
├── AuditUnavailable     a record cannot be accepted now; the caller must deny
├── AuditFolderError     the folder cannot be used (the operator's fault)
│   └── AuditLockedError another process writes there
├── AuditReadError       a path holds no audit log, or cannot be read
│   └── DamagedLineError one line does not hold what it says
├── AuditKeyError        a key that signs checkpoints, or checks them, cannot be used
├── CheckpointError      a checkpoint or a proof does not hold what it says
│   └── UnknownSignerError  nobody signed it whose key is known
└── AuditQueryError      a question about the record cannot be understood
"""

from __future__ import annotations


class AuditError(Exception):
    """The root of this package's errors; never raised itself."""

    code = "audit.error"


class AuditUnavailable(AuditError):
    """A record was not accepted: the queue is full, the writer failed or is closed."""

    code = "audit.unavailable"


class AuditFolderError(AuditError):
    """The audit folder cannot be used."""

    code = "audit.folder"

    def __init__(self, folder: str, why: str) -> None:
        """Keep the folder and the one clause that says why."""
        super().__init__(f"audit folder `{folder}`: {why}")
        self.folder = folder
        self.why = why


class AuditLockedError(AuditFolderError):
    """Another process holds the folder's lock: one folder, one writer."""

    code = "audit.locked"


class AuditReadError(AuditError):
    """A path holds no audit log, or it cannot be read."""

    code = "audit.read"


class DamagedLineError(AuditReadError):
    """One line does not hold what it says; `why` is one clause without the line's text."""

    code = "audit.damaged_line"

    def __init__(self, why: str) -> None:
        """Keep the one clause that says what is wrong with the line."""
        super().__init__(why)
        self.why = why


class AuditKeyError(AuditError):
    """A key file or a verifier key is not what it must be."""

    code = "audit.key"


class CheckpointError(AuditError):
    """A checkpoint or an inclusion proof is malformed, or its signature is not good."""

    code = "audit.checkpoint"


class UnknownSignerError(CheckpointError):
    """A signed note bears no signature of a key that was given: of others it is not judged."""

    code = "audit.unknown_signer"


class AuditQueryError(AuditError):
    """A time, a format or another part of a question cannot be understood."""

    code = "audit.query"

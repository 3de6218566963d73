"""What can go wrong in the CA, by who has to act.

CaError
├── SdsRequestError          the asking side named what it may not have, or sent nonsense
├── IssueRefusedError        a request for an SVID breaks a rule of issuance; has a named reason
│   └── AttestationError     the caller could not prove who it is
├── KeyRefusedError          a key is of a kind or strength that this house does not take
├── RotationRefusedError     a step of a rotation would break traffic, or its slot is not free
├── OperatorError            something on this machine must be put right by its operator
│   ├── StateError           the state folder cannot be believed, read or written
│   │   └── FolderHeldError  another process publishes in this folder
│   ├── KeyFileError         a key file is missing, unreadable or open to others
│   ├── PluggedCaError       an existing CA to sign with cannot be read, or may not sign here
│   ├── ControlError         the CA process cannot be asked over its control socket
│   ├── SocketError          a workload socket cannot be bound safely
│   ├── ListenError          an address cannot be listened on, or its certificate not served
│   ├── WorkloadApiError     the other side does not speak the Workload API, or refuses for good
│   ├── StoreError           the ledger cannot be reached, read or written
│   │   └── DuplicateSerialError  the ledger holds a certificate of this serial number
│   └── AuthorityExpiredError  an authority is expired, or too near to it to sign
└── SvidInvalidError         we made, or were about to hand out, an SVID that breaks the standard
"""

from __future__ import annotations

from ca.refusal import Refusal


class CaError(Exception):
    """The root of this package's errors; never raised itself.

    The message is one clause; `help` is what to do about it, empty when there is
    nothing to advise. Neither ever holds key material.
    """

    code = "ca.error"

    def __init__(self, message: str, *, help: str = "") -> None:
        """Keep the message and the advice apart."""
        super().__init__(message)
        self.help = help


class SdsRequestError(CaError):
    """A secret discovery request cannot be answered; answered INVALID_ARGUMENT."""

    code = "ca.sds_request"


class IssueRefusedError(CaError):
    """An SVID was asked for that this authority must not issue; `reason` is the named cause."""

    code = "ca.issue_refused"

    def __init__(
        self, message: str, *, help: str = "", reason: Refusal = Refusal.BAD_REQUEST
    ) -> None:
        """Keep the message, the advice and the named reason apart."""
        super().__init__(message, help=help)
        self.reason = reason


class AttestationError(IssueRefusedError):
    """The caller could not prove who it is; told to it without detail, recorded with it."""

    code = "ca.attestation"


class KeyRefusedError(CaError):
    """A key is of a kind or strength that this house does not take."""

    code = "ca.key_refused"


class RotationRefusedError(CaError):
    """A step of a rotation would break traffic, or its slot is not free."""

    code = "ca.rotation_refused"


class OperatorError(CaError):
    """Something on this machine must be put right by its operator; never raised itself."""

    code = "ca.operator"


class StateError(OperatorError):
    """The state folder cannot be believed, read or written."""

    code = "ca.state"


class FolderHeldError(StateError):
    """Another process publishes in this folder."""

    code = "ca.folder_held"


class KeyFileError(OperatorError):
    """A key file is missing, unreadable or open to others."""

    code = "ca.key_file"


class PluggedCaError(OperatorError):
    """An existing CA to sign with cannot be read, or may not sign here."""

    code = "ca.plugged"


class ControlError(OperatorError):
    """The CA process cannot be asked over its control socket, or gave no answer."""

    code = "ca.control"


class SocketError(OperatorError):
    """A workload socket cannot be bound safely."""

    code = "ca.socket"


class ListenError(OperatorError):
    """An address cannot be listened on, or its certificate not served."""

    code = "ca.listen"


class WorkloadApiError(OperatorError):
    """The other side does not speak the Workload API, or refuses for good."""

    code = "ca.workload_api"


class StoreError(OperatorError):
    """The ledger cannot be reached, read or written; nothing is issued without it."""

    code = "ca.store"


class DuplicateSerialError(StoreError):
    """The ledger holds a certificate of this serial number already."""

    code = "ca.duplicate_serial"


class AuthorityExpiredError(OperatorError):
    """An authority is expired, or too near to its end to sign."""

    code = "ca.authority_expired"


class SvidInvalidError(CaError):
    """An SVID breaks the X.509-SVID standard; it must not leave this process."""

    code = "ca.svid_invalid"

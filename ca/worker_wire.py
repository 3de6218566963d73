"""What passes between the CA's process and its signing workers: JSON objects, one a line.

The pair of sockets is made by the process that starts the worker, and nobody else can reach it.
Each message names in `do` what it is about.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from audit.record import AuditEvent, EventName
from ca.errors import CaError, DuplicateSerialError, StoreError
from ca.ledger import DER_AT, LedgerValues
from ca.recorder import Recording, StaleRegistryError

Message = Mapping[str, Any]
"""One object on the wire."""

_KINDS: Final = {each.code: each for each in (StaleRegistryError, DuplicateSerialError, StoreError)}


def encode(message: Message) -> bytes:
    """Return a message as its line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def encode_recording(number: int, recording: Recording) -> Sequence[Any]:
    """Return what the message `record` says of one recording."""
    event, values = recording.event, recording.row
    return (
        number,
        (event.event.value, event.at, event.details),
        None if values is None else _with_der(values, lambda der: base64.b64encode(der).decode()),
        recording.revision,
    )


def read_recording(said: Sequence[Any]) -> Recording:
    """Return what is to be made durable; its number stands before it."""
    _number, (name, at, details), values, revision = said
    return Recording(
        event=AuditEvent(event=EventName(name), at=at, details=details),
        row=None if values is None else _with_der(values, base64.b64decode),
        revision=revision,
    )


def _with_der(values: Sequence[Any], turn: Any) -> LedgerValues:
    """Return the values of a row, the certificate turned to bytes or from them."""
    return (*values[:DER_AT], turn(values[DER_AT]), *values[DER_AT + 1 :])


def outcome(number: int, error: BaseException | None) -> tuple[int, tuple[str, str, str] | None]:
    """Return what the message `recorded` says of a recording that is done."""
    if error is None:
        return number, None
    if isinstance(error, CaError):
        return number, (error.code, str(error), error.help)
    return number, (StoreError.code, "not recorded", "")


def read_error(said: tuple[str, str, str]) -> CaError:
    """Return the error that a recording ended with."""
    code, message, advice = said
    return _KINDS.get(code, StoreError)(message, help=advice)

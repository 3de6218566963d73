"""What the audit lines of refusals say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ca.errors import AuthorityExpiredError, CaError, IssueRefusedError, SvidInvalidError
from ca.limits import HeldBack
from ca.refusal import Refusal

_MAX_EVIDENCE: Final = 512


def reason_of(error: CaError) -> Refusal:
    """Return the named reason of what kept a certificate back."""
    match error:
        case IssueRefusedError():
            return error.reason
        case AuthorityExpiredError():
            return Refusal.AUTHORITY_UNAVAILABLE
        case SvidInvalidError():
            return Refusal.RESULT_INVALID
        case _:
            return Refusal.RECORD_UNAVAILABLE


def trimmed(evidence: Mapping[str, str]) -> dict[str, str]:
    """Return evidence at a length that fits every record: some of it is the caller's own words."""
    return {name: value[:_MAX_EVIDENCE] for name, value in evidence.items()}


def held_back_details(held: HeldBack) -> dict[str, object]:
    """Return the one line of many refusals that got none of their own."""
    return {
        "reason": held.reason.value,
        "why": "refused again and again within a minute",
        "count": held.count,
        "method": held.caller.method.value,
        "evidence": trimmed(held.caller.evidence),
    }

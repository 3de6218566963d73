"""Verified claims: what a token says after its signature, times and audience held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VerifiedClaims:
    """The payload of a verified token. Only `identity.token_outputs` makes one.

    `payload` is the JSON object after space-delimited claims were split (Istio
    reference section 3.10), so a `scope` is a list here.
    """

    payload: Mapping[str, Any]

    @property
    def issuer(self) -> str | None:
        """The `iss` claim when it is a string (RFC 7519 §4.1.1)."""
        value = self.payload.get("iss")
        return value if isinstance(value, str) else None

    @property
    def subject(self) -> str | None:
        """The `sub` claim when it is a string (RFC 7519 §4.1.2)."""
        value = self.payload.get("sub")
        return value if isinstance(value, str) else None

    @property
    def request_principal(self) -> str | None:
        """Istio's `<iss>/<sub>`, or None unless both are strings."""
        if self.issuer is None or self.subject is None:
            return None
        return f"{self.issuer}/{self.subject}"

"""What can be wrong with an SVID: one code for each requirement, with a detail beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SvidFault(StrEnum):
    """Why a certificate chain or a token is not the SVID of anyone."""

    CHAIN_EMPTY = "chain_empty"
    CHAIN_TOO_LONG = "chain_too_long"
    MALFORMED = "malformed"
    URI_SAN_COUNT = "uri_san_count"
    SPIFFE_ID = "spiffe_id"
    NO_PATH = "no_path"
    CA_AS_LEAF = "ca_as_leaf"
    KEY_USAGE = "key_usage"
    EXTENDED_KEY_USAGE = "extended_key_usage"
    SAN_NOT_CRITICAL = "san_not_critical"
    SERIAL_NUMBER = "serial_number"
    ALGORITHM = "algorithm"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    NO_BUNDLE = "no_bundle"
    NO_AUTHORITY = "no_authority"
    SIGNING_CERTIFICATE = "signing_certificate"
    CRITICAL_EXTENSION = "critical_extension"
    NAME_CONSTRAINT = "name_constraint"
    POLICY_CONSTRAINT = "policy_constraint"
    UNTRUSTED = "untrusted"
    TOKEN_FORMAT = "token_format"  # noqa: S105 (a code, no secret)
    TOKEN_HEADER = "token_header"  # noqa: S105 (a code, no secret)
    AUDIENCE = "audience"
    NO_EXPIRY = "no_expiry"
    KEY_UNKNOWN = "key_unknown"
    SIGNATURE = "signature"


@dataclass(frozen=True, slots=True)
class SvidRefusal:
    """Why an SVID is not believed: a code, and one printable clause for the record."""

    fault: SvidFault
    detail: str

    def __str__(self) -> str:
        """Return code and clause."""
        return f"{self.fault}: {self.detail}"

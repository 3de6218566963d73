"""Why an SVID is not issued: a closed list of words, for records, metrics and callers alike."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """The named reasons; the value is what stands in the audit record and in the metrics."""

    BAD_REQUEST = "bad_request"
    CSR_MALFORMED = "csr_malformed"
    CSR_TOO_LARGE = "csr_too_large"
    PROOF_OF_POSSESSION = "proof_of_possession"
    KEY_WEAK = "key_weak"
    KEY_UNSUPPORTED = "key_unsupported"
    KEY_OF_ANOTHER = "key_of_another"
    CA_ASKED = "ca_asked"
    ID_MALFORMED = "id_malformed"
    ID_OF_OTHER_TRUST_DOMAIN = "id_of_other_trust_domain"
    ID_NOT_ALLOWED = "id_not_allowed"
    ID_AMBIGUOUS = "id_ambiguous"
    LIFETIME = "lifetime"
    DENIED = "denied"
    CALLER_UNKNOWN = "caller_unknown"
    RATE_LIMITED = "rate_limited"
    CALLER_REVOKED = "caller_revoked"
    SVID_INVALID = "svid_invalid"
    SVID_UNKNOWN = "svid_unknown"
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105 - the name of a reason
    TOKEN_USED = "token_used"  # noqa: S105 - the name of a reason
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - the name of a reason
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - the name of a reason
    AUTHORITY_UNAVAILABLE = "authority_unavailable"
    RECORD_UNAVAILABLE = "record_unavailable"
    RESULT_INVALID = "result_invalid"

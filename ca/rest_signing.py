"""`POST /v1/sign`: a CSR in, a certificate out, for callers with curl and a token.

The request is JSON: `csr` (PEM), and where wanted `spiffe_id` and `lifetime_seconds`; the token is
in `Authorization: Bearer`, or the client shows a certificate of ours to renew it. The answer is
JSON: `certificate` (the leaf and what is between, PEM), `bundle` (the roots, PEM), `spiffe_id`,
`serial` and `expires_at`; or `error` with the named reason.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Final

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ca.errors import AttestationError, CaError, IssueRefusedError
from ca.front import Asked, Credentials, Front
from ca.https_server import Answer, HttpAnswer, HttpRequest
from ca.issued import SigningRequest
from ca.refusal import Refusal
from ca.svid import to_pem
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_log = structlog.get_logger(__name__)
SIGN_PATH: Final = "/v1/sign"
"""Where CSRs are signed."""

_MAX_SECONDS: Final = 10 * 366 * 86_400
_FORBIDDEN: Final = frozenset(
    {Refusal.CALLER_UNKNOWN, Refusal.CALLER_REVOKED, Refusal.DENIED, Refusal.ID_NOT_ALLOWED}
)


class _Body(BaseModel):
    """The request's JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    csr: str
    spiffe_id: str | None = None
    lifetime_seconds: int | None = Field(default=None, ge=1, le=_MAX_SECONDS)


def signing_routes(front: Front) -> dict[tuple[str, str], Answer]:
    """Return the route that signs by `front`."""

    def answer(request: HttpRequest) -> HttpAnswer:
        try:
            credentials = Credentials(
                authorization=request.headers.get("authorization", ""),
                chain=request.chain,
                address=request.address,
            )
            asked = Asked(request.body, lambda: _signing_request(request.body))
            issued = front.sign(asked, credentials)
        except CaError as exc:
            return _refusal(exc)
        return _json(
            200,
            {
                "spiffe_id": str(issued.spiffe_id),
                "serial": issued.serial,
                "expires_at": issued.expires_at.isoformat(),
                "certificate": issued.chain_pem().decode(),
                "bundle": to_pem(issued.roots).decode(),
            },
        )

    return {("POST", SIGN_PATH): answer}


def _signing_request(body: bytes) -> SigningRequest:
    """Return what is asked for.

    Raises:
        IssueRefusedError: the body is not the JSON that this takes.
    """
    try:
        read = _Body.model_validate_json(body)
        spiffe_id = SpiffeId.parse(read.spiffe_id) if read.spiffe_id is not None else None
    except ValidationError as exc:
        place = ".".join(str(part) for part in exc.errors()[0]["loc"]) or "the whole"
        raise IssueRefusedError(f"the request cannot be read at `{place}`") from None
    except SpiffeIdError as exc:
        raise IssueRefusedError(str(exc), reason=Refusal.ID_MALFORMED) from exc
    lifetime = read.lifetime_seconds
    return SigningRequest(
        csr=read.csr.encode(),
        spiffe_id=spiffe_id,
        lifetime=None if lifetime is None else timedelta(seconds=lifetime),
    )


def _refusal(error: CaError) -> HttpAnswer:
    """Return the answer to a request that got no certificate."""
    match error:
        case AttestationError():
            # RFC 6750 §3: a 401 says which scheme is expected; why is on record, not here.
            headers = {"www-authenticate": "Bearer"}
            return _json(401, {"error": "unauthenticated"}, headers)
        case IssueRefusedError() if error.reason in _FORBIDDEN:
            return _json(403, {"error": "forbidden"})
        case IssueRefusedError(reason=Refusal.RATE_LIMITED):
            # RFC 6585 §4: 429, with when to come back.
            return _json(429, {"error": error.reason.value}, {"retry-after": "1"})
        case IssueRefusedError():
            return _json(400, {"error": error.reason.value, "message": str(error)})
    _log.error("signing_failed", error=str(error), code=error.code)
    return _json(503, {"error": "unavailable"}, {"retry-after": "5"})


def _json(
    status: int, document: dict[str, str], headers: dict[str, str] | None = None
) -> HttpAnswer:
    """Return an answer in JSON."""
    body = json.dumps(document, indent=2).encode() + b"\n"
    return HttpAnswer(status=status, body=body, headers=headers or {})

"""`istio.v1.auth.IstioCertificateService`: istio-agents and ztunnels get certificates here.

The ID is the caller's by its entries, never what the CSR says alone. ztunnel asks for the IDs of
its node's pods by `ImpersonatedIdentity`: an entry for ztunnel's own account has to give each.

Spec: istio.v1.auth `ca.proto`; what agents make of statuses: INVALID_ARGUMENT, UNAUTHENTICATED and
PERMISSION_DENIED are final, UNAVAILABLE and INTERNAL are tried again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

import structlog
from cryptography import x509
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from ca.by_identity import by_identity
from ca.errors import AttestationError, CaError, IssueRefusedError, SvidInvalidError
from ca.front import Asked, Credentials, SigningFront
from ca.issued import IssuedSvid, SigningRequest
from ca.refusal import Refusal
from ca.svid import der_to_pem, to_pem
from ca.tls import peer_chain
from ca.whole_answers import send_answer
from ca.wire_messages import ISTIO_CA
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_log = structlog.get_logger(__name__)
_PATH: Final = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
_IMPERSONATED: Final = "ImpersonatedIdentity"
_NOT_THEIRS: Final = frozenset(
    {Refusal.CALLER_UNKNOWN, Refusal.CALLER_REVOKED, Refusal.DENIED, Refusal.ID_NOT_ALLOWED}
)


class IstioCertificateService:
    """The service as grpclib serves it."""

    def __init__(self, front: SigningFront) -> None:
        """Sign by `front`."""
        self._front = front

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return the one method by its path."""
        return {
            _PATH: Handler(
                self._create_certificate,
                Cardinality.UNARY_UNARY,
                ISTIO_CA["IstioCertificateRequest"],
                ISTIO_CA["IstioCertificateResponse"],
            )
        }

    async def _create_certificate(self, stream: Any) -> None:
        """Answer with a chain: the leaf, what is between, and at last the roots together."""
        request = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.INVALID_ARGUMENT, "the request is missing")
        try:
            content = request.SerializeToString(deterministic=True)
            asked = Asked(content, lambda: _signing_request(request))
            issued = await self._front.sign_async(asked, _credentials(stream))
        except CaError as exc:
            raise _as_status(exc) from exc
        response = ISTIO_CA["IstioCertificateResponse"](cert_chain=encode_chain(issued))
        await send_answer(stream, response)


def encode_chain(issued: IssuedSvid) -> list[str]:
    """Return one PEM an element, leaf first; the last element holds every root."""
    leaf, *above = issued.chain
    first = der_to_pem(issued.leaf_der) if issued.leaf_der else to_pem((leaf,)).decode()
    return [first, *map(_pem, above), _pem(*issued.roots)]


@by_identity
@lru_cache(maxsize=64)
def _pem(*authorities: x509.Certificate) -> str:
    """Return the PEM of authorities, which are the same for thousands of leaves."""
    return to_pem(authorities).decode()


def _signing_request(request: Any) -> SigningRequest:
    """Return what is asked for.

    Raises:
        IssueRefusedError: it cannot be read.
    """
    seconds = request.validity_duration
    fields = request.metadata.fields
    impersonated = fields[_IMPERSONATED].string_value if _IMPERSONATED in fields else ""
    try:
        spiffe_id = SpiffeId.parse(impersonated) if impersonated else None
        # Istio takes 0 and less for "as long as you think".
        lifetime = timedelta(seconds=seconds) if seconds > 0 else None
    except SpiffeIdError as exc:
        raise IssueRefusedError(str(exc), reason=Refusal.ID_MALFORMED) from exc
    except OverflowError as exc:
        raise IssueRefusedError("the lifetime is beyond all time", reason=Refusal.LIFETIME) from exc
    return SigningRequest(csr=request.csr.encode(), spiffe_id=spiffe_id, lifetime=lifetime)


def _credentials(stream: Any) -> Credentials:
    """Return what a call came with."""
    # WHY a private name: grpclib shows a peer's certificate parsed, which loses the chain.
    transport = stream.peer._transport
    found = stream.metadata.getall("authorization", [])
    # Of two tokens neither is believed.
    authorization = found[0] if len(found) == 1 else " " * len(found)
    address = stream.peer.addr()
    return Credentials(
        authorization=authorization,
        chain=peer_chain(transport.get_extra_info("ssl_object")),
        address=str(address[0]) if isinstance(address, tuple) else "",
    )


def _as_status(error: CaError) -> GRPCError:
    """Return the status that makes a client do the right thing; why is on record, not here."""
    match error:
        case AttestationError():
            return GRPCError(Status.UNAUTHENTICATED, "the caller is not authenticated")
        case IssueRefusedError() if error.reason in _NOT_THEIRS:
            return GRPCError(Status.PERMISSION_DENIED, "no such identity for this caller")
        case IssueRefusedError(reason=Refusal.RATE_LIMITED):
            # Tried again by agents, after a while.
            return GRPCError(Status.RESOURCE_EXHAUSTED, "the caller asks too often")
        case IssueRefusedError():
            return GRPCError(Status.INVALID_ARGUMENT, f"{error.reason}: {error}")
        case SvidInvalidError():
            _log.error("signing_failed", error=str(error), code=error.code)
            return GRPCError(Status.INTERNAL, "the certificate could not be made")
    _log.error("signing_failed", error=str(error), code=error.code)
    return GRPCError(Status.UNAVAILABLE, "the CA cannot sign now")

"""The SPIFFE Workload API: who asks is told by the kernel, what they get by registration entries.

Theory of operation. A stream sends the whole state at once, and again whenever it changes: roots,
entries, or the certificate itself, which is renewed about half-way. Before each of these the
caller is attested anew. A stream sees a change as a wake-up and looks what is there then, so a slow
reader skips what it was too slow for; one that does not read at all is ended.

Spec: SPIFFE Workload Endpoint §4-§6, SPIFFE Workload API §5-§6.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf.json_format import ParseDict, ParseError
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from ca.caller import Attest, Caller, Method
from ca.changes import Changes
from ca.clock import Clock
from ca.errors import AttestationError, CaError, IssueRefusedError, StoreError
from ca.held_svids import HeldSvids, HoldingParts, unique_hints
from ca.issuance import Issuance
from ca.jwt_issue import TokenDesk
from ca.refusal import Refusal
from ca.registry import Registry
from ca.revocations import DeniedKind
from ca.streams import OpenStreams
from ca.unix_peer import UnixPeer
from ca.wire_messages import WORKLOAD_API
from identity.bundle_document import encode_bundle
from identity.errors import SpiffeIdError
from identity.jwt_svid import JwtSvid, verify_jwt_svid
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import BundleError, BundleSet, TrustBundle

_log = structlog.get_logger(__name__)
_SERVICE: Final = "SpiffeWorkloadAPI"
_SECURITY_HEADER: Final = "workload.spiffe.io"
# BUDGET: the longest a jump of the wall clock goes unnoticed.
_MAX_WAIT_SECONDS: Final = 5.0
DEFAULT_WRITE_SECONDS: Final = 30.0
"""How long a stream's other side may leave a response unread."""

# RFC 7519 §4.1, the claims whose meaning the standard itself fixes.
_KNOWN_CLAIMS: Final = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})

_Look = Callable[[Caller], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadApiParts:
    """What the Workload API needs from the rest of the CA.

    `bundles` returns what is handed out: the bundle of `trust_domain`, and those it is federated
    with; `crls` the revocation lists of the trust domain's authorities (DER).
    """

    trust_domain: TrustDomain
    issuance: Issuance
    registry: Registry
    tokens: TokenDesk
    bundles: Callable[[], BundleSet]
    attest: Attest[UnixPeer]
    changes: Changes
    streams: OpenStreams
    holding: HoldingParts
    clock: Clock
    crls: Callable[[], tuple[bytes, ...]] = tuple
    is_able: Callable[[], bool] = lambda: True
    write_seconds: float = DEFAULT_WRITE_SECONDS


class WorkloadApi:
    """The service as grpclib serves it, bound to sockets that accept with `PeerSocket`."""

    def __init__(self, parts: WorkloadApiParts) -> None:
        """Answer from `parts`."""
        self._parts = parts

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return every method by its path; what is missing (WIT) is answered UNIMPLEMENTED."""
        one, many = Cardinality.UNARY_UNARY, Cardinality.UNARY_STREAM
        methods = {
            "FetchX509SVID": (self._fetch_x509_svid, many, "X509SVID"),
            "FetchX509Bundles": (self._fetch_x509_bundles, many, "X509Bundles"),
            "FetchJWTSVID": (self._fetch_jwt_svid, one, "JWTSVID"),
            "FetchJWTBundles": (self._fetch_jwt_bundles, many, "JWTBundles"),
            "ValidateJWTSVID": (self._validate_jwt_svid, one, "ValidateJWTSVID"),
        }
        return {
            f"/{_SERVICE}/{name}": Handler(
                method, kind, WORKLOAD_API[f"{of}Request"], WORKLOAD_API[f"{of}Response"]
            )
            for name, (method, kind, of) in methods.items()
        }

    async def _fetch_x509_svid(self, stream: Any) -> None:
        """Stream the caller's X.509-SVIDs with the bundles they are judged by."""
        parts, held = self._parts, HeldSvids(self._parts.holding)

        async def look(caller: Caller) -> Any:
            bundles = parts.bundles()
            roots = _roots_of(bundles, parts.trust_domain)
            await held.update(caller, parts.registry.state, roots)
            response = _x509_response(held, bundles, parts.trust_domain)
            response.crl.extend(parts.crls())
            return response

        await self._stream_states(stream, "workload_x509", look, held.seconds_left)

    async def _fetch_x509_bundles(self, stream: Any) -> None:
        """Stream every bundle's X.509 roots."""

        async def look(_: Caller) -> Any:
            response = WORKLOAD_API["X509BundlesResponse"](crl=self._parts.crls())
            for bundle in self._parts.bundles():
                # Workload API §5.1: what is left out of a message is trusted no more.
                if bundle.x509_authorities:
                    response.bundles[_key(bundle)] = _der(bundle.x509_authorities)
            return response

        await self._stream_states(stream, "workload_x509_bundles", look)

    async def _fetch_jwt_bundles(self, stream: Any) -> None:
        """Stream every bundle's JWT keys, as JWK sets."""

        async def look(_: Caller) -> Any:
            response = WORKLOAD_API["JWTBundlesResponse"]()
            for bundle in self._parts.bundles():
                # Workload API §6.2.2: "JWKS documents", of the keys for JWT-SVIDs alone.
                alone = replace(bundle, x509_authorities=(), intermediates=())
                response.bundles[_key(bundle)] = encode_bundle(alone)
            return response

        await self._stream_states(stream, "workload_jwt_bundles", look)

    async def _fetch_jwt_svid(self, stream: Any) -> None:
        """Answer with a JWT-SVID for each ID of the caller, or for the one that is named."""
        with _as_status():
            request = await _receive(stream)
            wanted = _parsed_id(request.spiffe_id) if request.spiffe_id else None
            caller = await self._attested(stream)
            issued = await self._parts.tokens.issue(caller, tuple(request.audience), wanted)
            response = WORKLOAD_API["JWTSVIDResponse"]()
            used: set[str] = set()
            for token in issued:
                hint = "" if token.hint in used else token.hint
                used.add(hint)
                response.svids.add(spiffe_id=str(token.spiffe_id), svid=token.text, hint=hint)
            await stream.send_message(response)

    async def _validate_jwt_svid(self, stream: Any) -> None:
        """Answer whose token it is, for a caller who may hold an identity."""
        with _as_status():
            request = await _receive(stream)
            await self._entitled(stream)
            if not request.audience or not request.svid:
                raise GRPCError(Status.INVALID_ARGUMENT, "audience and svid are required")
            parts = self._parts
            found = verify_jwt_svid(
                request.svid, (request.audience,), parts.bundles(), parts.clock()
            )
            if not isinstance(found, JwtSvid):
                raise GRPCError(Status.INVALID_ARGUMENT, f"the token is not valid: {found}")
            denied = parts.registry.state.denial(
                DeniedKind.SPIFFE_ID, str(found.spiffe_id), parts.clock()
            )
            if denied is not None:
                raise GRPCError(Status.INVALID_ARGUMENT, "the token's holder is denied")
            response = WORKLOAD_API["ValidateJWTSVIDResponse"](spiffe_id=str(found.spiffe_id))
            try:
                ParseDict(_told_claims(found, parts.trust_domain), response.claims)
            except ParseError as exc:
                raise GRPCError(Status.INVALID_ARGUMENT, "the token's claims nest") from exc
            await stream.send_message(response)

    async def _stream_states(
        self,
        stream: Any,
        kind: str,
        look: _Look,
        seconds_left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Send what `look` returns, at once and whenever it has become something else."""
        parts, changed = self._parts, asyncio.Event()
        with _as_status():
            await _receive(stream)
            with parts.changes.watch(changed), parts.streams.opened(kind, "") as state:
                # It never acknowledges: a rotation waits the stated time for it.
                state.carries_roots = True
                last: Any = None
                while not parts.changes.is_closed:
                    changed.clear()
                    caller, state.spiffe_id = await self._entitled(stream)
                    response = await look(caller)
                    if response != last:
                        state.unanswered_since = parts.clock()
                        await self._send(stream, response)
                        last, state.unanswered_since = response, None
                    await _wait(changed, seconds_left)
            raise GRPCError(Status.UNAVAILABLE, "the CA stops")

    async def _send(self, stream: Any, response: Any) -> None:
        """Send one message, or end the stream of a reader that is stuck."""
        try:
            await asyncio.wait_for(stream.send_message(response), self._parts.write_seconds)
        except TimeoutError:
            _log.warning("workload_reader_stuck", peer=str(stream.peer.addr()))
            await stream.cancel()
            raise

    async def _entitled(self, stream: Any) -> tuple[Caller, str]:
        """Return the caller and its first ID.

        Raises:
            IssueRefusedError: it may hold none; recorded.
        """
        caller = await self._attested(stream)
        grants = self._parts.registry.state.grants(caller, self._parts.clock())
        if not grants:
            error = IssueRefusedError(
                "no registration entry fits the caller", reason=Refusal.CALLER_UNKNOWN
            )
            await self._record(error, caller.evidence)
            raise error
        return caller, str(grants[0][0])

    async def _attested(self, stream: Any) -> Caller:
        """Return who is at the other end of the stream's socket, at this moment.

        Raises:
            AttestationError: nobody that can be named; recorded.
        """
        peer = stream.peer.addr()
        if not isinstance(peer, UnixPeer):
            raise AttestationError("the connection did not come over a Unix socket")
        try:
            return await asyncio.to_thread(self._parts.attest, peer)
        except AttestationError as exc:
            await self._record(exc, {"pid": str(peer.pid), "uid": str(peer.uid)})
            raise

    async def _record(self, error: IssueRefusedError, evidence: Mapping[str, str]) -> None:
        """Put a refusal on record; where that fails, it is a refusal all the same."""
        with suppress(StoreError):
            refused = self._parts.issuance.refuse(error, Method.UNIX, evidence)
            await asyncio.wrap_future(refused)


async def _receive(stream: Any) -> Any:
    """Return a call's one request, when it comes with the security header.

    Raises:
        GRPCError: the header is missing, for such a request may have been forged through a
            workload that fetches what others name.
    """
    # Workload Endpoint §6.1: "the metadata key `workload.spiffe.io` [with] a value of `true`.
    # Requests [without it] MUST be rejected"; §6.2: with INVALID_ARGUMENT.
    if stream.metadata.getall(_SECURITY_HEADER, []) != ["true"]:
        raise GRPCError(Status.INVALID_ARGUMENT, f"the header {_SECURITY_HEADER} is missing")
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the request is missing")
    return request


@contextmanager
def _as_status() -> Iterator[None]:
    """Turn our errors into the statuses of the standard; the caller is told no detail."""
    try:
        yield
    # Workload Endpoint §6.2: PERMISSION_DENIED is "no identity"; UNAVAILABLE, try again later.
    except AttestationError as exc:
        raise GRPCError(Status.UNAVAILABLE, "the caller cannot be told apart") from exc
    except IssueRefusedError as exc:
        if exc.reason is Refusal.BAD_REQUEST:
            raise GRPCError(Status.INVALID_ARGUMENT, str(exc)) from exc
        if exc.reason is Refusal.RATE_LIMITED:
            # Workload Endpoint §6.2: UNAVAILABLE is to be tried again, with a backoff.
            raise GRPCError(Status.UNAVAILABLE, "the caller asks too often") from exc
        raise GRPCError(Status.PERMISSION_DENIED, "no identity issued") from exc
    except (CaError, BundleError) as exc:
        _log.error("workload_request_failed", error=str(exc), code=exc.code)
        raise GRPCError(Status.UNAVAILABLE, "the CA cannot answer now") from exc


async def _wait(changed: asyncio.Event, seconds_left: Callable[[], float]) -> None:
    """Return when something has changed or is due; the wall clock is asked every few seconds."""
    while not changed.is_set() and (left := seconds_left()) > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), min(left, _MAX_WAIT_SECONDS))


def _told_claims(token: JwtSvid, own: TrustDomain) -> dict[str, Any]:
    """Return the claims that a caller is told: of another trust domain's token the known ones.

    JWT-SVID §3 leaves other claims to whoever issues; here nobody has agreed what theirs mean.
    """
    if token.spiffe_id.trust_domain == own:
        return dict(token.claims)
    return {name: value for name, value in token.claims.items() if name in _KNOWN_CLAIMS}


def _x509_response(held: HeldSvids, bundles: BundleSet, own: TrustDomain) -> Any:
    """Return everything that a caller holds, with the bundles."""
    response = WORKLOAD_API["X509SVIDResponse"]()
    hints = unique_hints([each.entry for each in held.svids])
    for each in held.svids:
        response.svids.add(
            spiffe_id=str(each.svid.spiffe_id),
            x509_svid=_der(each.svid.chain),
            x509_svid_key=each.svid.key.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            bundle=_der(_roots_of(bundles, own)),
            hint=hints[each.entry.entry_id],
        )
    for bundle in bundles:
        if bundle.trust_domain != own and bundle.x509_authorities:
            response.federated_bundles[_key(bundle)] = _der(bundle.x509_authorities)
    return response


def _roots_of(bundles: BundleSet, own: TrustDomain) -> tuple[x509.Certificate, ...]:
    """Return the X.509 roots of the trust domain itself."""
    bundle = bundles.bundle_for(own)
    return bundle.x509_authorities if bundle is not None else ()


def _key(bundle: TrustBundle) -> str:
    """Return what a bundle is filed under: the SPIFFE ID of its trust domain."""
    return f"spiffe://{bundle.trust_domain}"


def _der(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Return certificates as DER, one after the other."""
    return b"".join(each.public_bytes(serialization.Encoding.DER) for each in certificates)


def _parsed_id(text: str) -> SpiffeId:
    """Return the ID that a request names."""
    try:
        return SpiffeId.parse(text)
    except SpiffeIdError as exc:
        raise IssueRefusedError(f"`{text[:256]}` is not a SPIFFE ID") from exc

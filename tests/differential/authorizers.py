"""Our side: the real Authorizer behind the real gRPC listener, in this process.

And the servers that either side talks to: the CUSTOM providers and a TCP echo.
"""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.rpc import code_pb2

from audit.record import AuditRecord
from authz.custom import CustomTerms
from authz.decision_memory import DecisionMemory
from authz.grpc_server import GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwks_cache import JwksCache
from policies.decision import Effect, Mutations, ProviderVerdict
from policies.request import Request, Workload
from policies.snapshot import Snapshot
from tests.differential.model import WORKLOAD_LABELS, WORKLOAD_NAMESPACE

WORKLOAD = Workload(namespace=WORKLOAD_NAMESPACE, labels=WORKLOAD_LABELS)
_ALLOW_HEADERS = {"checker": "x-custom", "second": "x-second"}
_ALLOW_VALUE = "yes"
# What the providers make of a request that they allow: `name: value` is set, `-name` removed.
_LEAVE_HEADER = "x-leave"
_ALLOWED_PORT = 8080
# The third time a question comes, it is answered from memory.
_ASKED_AGAIN = 3
_ID_HEADER = "x-meshwarden-decision-id"


class LastRecord:
    """A recorder that keeps the last record only, for people to read."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.record: AuditRecord | None = None

    def offer(self, record: AuditRecord) -> None:
        """Keep the record."""
        self.record = record

    def why(self) -> str:
        """Return in one clause what we decided last."""
        if self.record is None:
            return "was not asked"
        decision = self.record.decision
        parts = (decision.reason, decision.policy, decision.detail)
        return " ".join(str(part) for part in parts if part)


class HeaderProvider:
    """A provider as we ask it: its header says `yes`, or a connection is to port 8080.

    The header `x-leave` says what it makes of the request.
    """

    def __init__(self, name: str) -> None:
        """Look at the header of the provider of this name."""
        self._header = _ALLOW_HEADERS[name]

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Return the verdict."""
        mutations = Mutations()
        if request.is_http:
            is_allowed = request.header(self._header) == _ALLOW_VALUE
            is_set, is_removed = _left(request.header(_LEAVE_HEADER) or "")
            mutations = Mutations(set_request_headers=is_set, remove_request_headers=is_removed)
        else:
            is_allowed = request.destination_port == _ALLOWED_PORT
        if not is_allowed:
            return ProviderVerdict(effect=Effect.DENY)
        return ProviderVerdict(effect=Effect.ALLOW, mutations=mutations)


def _left(wish: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return what is to be set, and what removed."""
    if wish.startswith("-"):
        return (), (wish[1:],)
    name, sign, value = wish.partition(": ")
    return ((name, value),) if sign else (), ()


def _provider_check(name: str) -> Callable[[bytes], bytes]:
    """Return what answers the same question when Envoy asks it."""

    def check(message: bytes) -> bytes:
        attributes = CheckRequest.FromString(message).attributes
        if attributes.request.HasField("http"):
            headers = attributes.request.http.headers
            is_allowed = headers.get(_ALLOW_HEADERS[name]) == _ALLOW_VALUE
        else:
            port = attributes.destination.address.socket_address.port_value
            is_allowed = port == _ALLOWED_PORT
        answer = CheckResponse()
        answer.status.code = code_pb2.OK if is_allowed else code_pb2.PERMISSION_DENIED
        if is_allowed and attributes.request.HasField("http"):
            is_set, is_removed = _left(attributes.request.http.headers.get(_LEAVE_HEADER, ""))
            for key, value in is_set:
                answer.ok_response.headers.add().header.MergeFrom(HeaderValue(key=key, value=value))
            answer.ok_response.headers_to_remove.extend(is_removed)
        return bytes(answer.SerializeToString())

    return check


class MemoryDiffersError(Exception):
    """An authorizer that remembers answered otherwise than one that does not."""


def _verdict(answer: bytes) -> CheckResponse:
    """Return an answer without what differs each time: the decision's id."""
    found = CheckResponse.FromString(answer)
    found.dynamic_metadata.fields.pop("decision_id", None)
    allowed, denied = found.ok_response, found.denied_response
    for headers in (denied.headers, allowed.headers, allowed.response_headers_to_add):
        for each in headers:
            if each.header.key == _ID_HEADER:
                each.header.ClearField("value")
    return found


class OurSide:
    """The running servers. `serve` chooses the policy set that is asked about from now on."""

    def __init__(self) -> None:
        """Start them."""
        self.last = LastRecord()
        self._keys = JwksCache()
        self._state: ServingState | None = None
        self._authorizer = Authorizer(
            state=self._current,
            around=Surroundings(keys=self._keys, static_workload=WORKLOAD),
            recorder=self.last,
            metrics=Metrics(),
        )
        self._remembering = replace(
            self._authorizer, recorder=LastRecord(), memory=DecisionMemory()
        )
        self._server = GrpcServer("127.0.0.1:0", 2, self._check)
        self._providers = {
            name: GrpcServer("127.0.0.1:0", 1, _provider_check(name)) for name in _ALLOW_HEADERS
        }
        self._echo = _EchoServer(("127.0.0.1", 0), _Echo)
        threading.Thread(target=self._echo.serve_forever, name="echo", daemon=True).start()

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports by the names that the bootstrap asks for."""
        return {
            "authorizer": self._server.port,
            **{name: server.port for name, server in self._providers.items()},
            "echo": self._echo.server_address[1],
        }

    def serve(self, snapshot: Snapshot, terms: CustomTerms) -> None:
        """Answer from this snapshot from now on; the terms are always the same for it."""
        if self._state is not None and self._state.snapshot is snapshot:
            return
        self._keys.prepare(snapshot.jwt_rules)
        self._state = ServingState(
            snapshot=snapshot,
            providers={name: HeaderProvider(name) for name in _ALLOW_HEADERS},
            revision=snapshot.revision,
            terms=terms,
        )

    def close(self) -> None:
        """Stop everything."""
        self._server.stop(0)
        for provider in self._providers.values():
            provider.stop(0)
        self._echo.shutdown()
        self._echo.server_close()
        self._keys.close()

    def _check(self, message: bytes, *others: Any) -> bytes:
        """Return the answer of a whole walk; one that memory answers otherwise gets no answer."""
        walked = self._authorizer.check(message, *others)
        for _ in range(_ASKED_AGAIN):
            recalled = self._remembering.check(message, *others)
            if _verdict(recalled) != _verdict(walked):
                raise MemoryDiffersError(_verdict(walked), _verdict(recalled))
        return walked

    def _current(self) -> ServingState:
        assert self._state is not None
        return self._state


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Echo(socketserver.BaseRequestHandler):
    """Send back what comes first."""

    request: Any

    def handle(self) -> None:
        """Echo once."""
        got = self.request.recv(64)
        if got:
            self.request.sendall(got)

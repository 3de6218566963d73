"""The conversation of one secret discovery stream, without any network: state of the world, delta.

Theory of operation. A session is told every request (`receive`) and asked for what to send next
(`next_response`, None when there is nothing). Content is compared by digest, so the same bytes are
never sent twice: a refused (NACKed) version is thereby held until the content changes, which is
what Envoy expects, for it would refuse the same bytes again. Only the newest content is ever sent:
a slow reader skips what it was too slow for. A request whose nonce is not that of the last response
is stale and changes no subscription.

Spec: Envoy xDS protocol, "ACK/NACK and resource type instance version", "Incremental xDS".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)

from ca.board import SecretBoard
from ca.errors import SdsRequestError
from ca.sds_answers import Answers
from ca.secrets import SDS_TYPE_URL, VersionedSecret
from ca.streams import OpenStream

_WILDCARD = "*"


class SotwSession:
    """One `StreamSecrets` stream: every request states the whole subscription."""

    def __init__(self, board: SecretBoard, stream: OpenStream | None = None) -> None:
        """Start a conversation in which nothing was said yet."""
        self._board = board
        self._answers = Answers(board, stream)
        self._names: tuple[str, ...] | None = None
        self._must_answer = False
        self._version = ""

    @property
    def is_owed(self) -> bool:
        """Whether nothing more is sent until the other side answers."""
        return self._answers.is_owed

    def receive(self, request: DiscoveryRequest) -> None:
        """Take in one request: a subscription, and an answer to the last response.

        Raises:
            SdsRequestError: it asks for another type or for a name that is not this workload's.
        """
        _check_type(request.type_url)
        names = self._board.check_names(request.resource_names)
        last = self._answers.last_nonce
        self._answers.take(request)
        if last and request.response_nonce != last:
            return
        if names != self._names:
            self._names = names
            self._must_answer = True
            self._answers.note_names(names)

    def next_response(self) -> DiscoveryResponse | None:
        """Return what to send now, or None while the other side has the newest content."""
        if self._names is None or self.is_owed:
            return None
        secrets = self._board.look(self._names)
        if not secrets:
            return None
        version = digest_versions(secrets)
        if version == self._version and not self._must_answer:
            return None
        self._must_answer = False
        self._version = version
        return encode_response(secrets, version, self._answers.note_sent(secrets, version))


class DeltaSession:
    """One `DeltaSecrets` stream: requests add and remove names."""

    def __init__(self, board: SecretBoard, stream: OpenStream | None = None) -> None:
        """Start a conversation in which nothing was said yet."""
        self._board = board
        self._answers = Answers(board, stream)
        # The names subscribed to, each with the version last sent; empty means: answer anyway.
        self._versions: dict[str, str] = {}
        self._is_first = True

    @property
    def is_owed(self) -> bool:
        """Whether nothing more is sent until the other side answers."""
        return self._answers.is_owed

    def receive(self, request: DeltaDiscoveryRequest) -> None:
        """Take in one request: changes of the subscription, and an answer to the last response.

        `initial_resource_versions` is not believed to be held: every name asked for is answered,
        for Envoy waits for an answer to each name after a reconnect.

        Raises:
            SdsRequestError: it asks for another type or for a name that is not this workload's.
        """
        _check_type(request.type_url)
        asked = list(request.resource_names_subscribe)
        # A first request without names, like the name `*`, subscribes to everything.
        if _WILDCARD in asked or (self._is_first and not asked):
            asked = list(self._board.names)
        subscribed = self._board.check_names(asked) if asked else ()
        self._is_first = False
        self._answers.take(request)
        for name in request.resource_names_unsubscribe:
            self._versions.pop(name, None)
        self._versions |= dict.fromkeys(subscribed, "")
        self._answers.note_names(tuple(self._versions))

    def next_response(self) -> DeltaDiscoveryResponse | None:
        """Return what to send now, or None while the other side has the newest content."""
        if self.is_owed:
            return None
        in_order = [name for name in self._board.names if name in self._versions]
        changed = [s for s in self._board.look(in_order) if s.version != self._versions[s.name]]
        if not changed:
            return None
        self._versions |= {secret.name: secret.version for secret in changed}
        version = digest_versions(changed)
        return DeltaDiscoveryResponse(
            type_url=SDS_TYPE_URL,
            system_version_info=version,
            nonce=self._answers.note_sent(changed, version),
            resources=[
                Resource(name=s.name, version=s.version, resource=s.resource) for s in changed
            ],
        )


def encode_response(
    secrets: Iterable[VersionedSecret], version: str, nonce: str
) -> DiscoveryResponse:
    """Return a state-of-the-world response that carries `secrets`."""
    return DiscoveryResponse(
        version_info=version,
        type_url=SDS_TYPE_URL,
        nonce=nonce,
        resources=[secret.resource for secret in secrets],
    )


def digest_versions(secrets: Sequence[VersionedSecret]) -> str:
    """Return the version of several secrets together: of one, its own."""
    if len(secrets) == 1:
        return secrets[0].version
    joined = "".join(f"{secret.name}\0{secret.version}\0" for secret in secrets)
    return hashlib.sha256(joined.encode()).hexdigest()[: len(secrets[0].version)]


def _check_type(type_url: str) -> None:
    """Refuse a request for resources that are no secrets."""
    if type_url not in ("", SDS_TYPE_URL):
        raise SdsRequestError(f"type `{type_url[:256]}` is not served here, only secrets are")

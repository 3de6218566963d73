"""A small world for authorizers that remember: everything in it can change under way.

Two authorizers see the same world, one with a memory and one without. What the first says has
to be what the second says.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
import yaml
from cryptography.x509 import load_pem_x509_certificate
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from issuing_root import Authority

from audit.document import document_from_record
from audit.errors import AuditUnavailable
from audit.mould import RepeatedRecord, render_repeated
from audit.record import AuditRecord
from audit.redact import Redactor
from authz.decision_memory import DecisionMemory
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.deny_list import NOBODY_DENIED, DenyList
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.peer_finding import PeerRules
from identity.spiffe_id import TrustDomain
from identity.token_memory import TokenMemory
from identity.trust_bundle import BundleSet, TrustBundle
from policies.decision import Effect, ProviderVerdict
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import Snapshot, build_snapshot

ISSUERS = ("https://a.example", "https://b.example")
_SECRETS = (b"a" * 32, b"b" * 32)
_AUTHORITY = Authority()
_ROOT = load_pem_x509_certificate(_AUTHORITY.root_pem)
# The root is two hours old, and ends in one.
BEGIN = int(_ROOT.not_valid_before_utc.timestamp()) + 7200
# When the path of every certificate ends: the root, made first, with its leaves.
ENDS = int(_ROOT.not_valid_after_utc.timestamp())


def _jwks(secret: bytes) -> JwkSet:
    key = {"kty": "oct", "alg": "HS256", "k": jwt.utils.base64url_encode(secret).decode()}
    return parse_jwk_set(json.dumps({"keys": [key]}), is_inline=True)


def token(issuer: str = ISSUERS[0], secret: bytes = _SECRETS[0], **claims: Any) -> str:
    """Return a token; without other claims it expires 100 seconds after the beginning."""
    return jwt.encode({"iss": issuer, "sub": "alice", "exp": BEGIN + 100, **claims}, secret)


TOKENS = {
    "": "",
    "short": token(),
    "long": token(exp=BEGIN + 10_000),
    "later": token(nbf=BEGIN + 150, exp=BEGIN + 10_000),
    "other key": token(secret=_SECRETS[1], exp=BEGIN + 10_000),
    "other issuer": token(ISSUERS[1], exp=BEGIN + 10_000),
    "stranger": token("https://c.example", exp=BEGIN + 10_000),
    "noise": "a.b.c",
}
PEERS = ("web", "jobs", "")
CERTIFICATES = {
    peer: quote(_AUTHORITY.issue(f"spiffe://mesh.example/ns/shop/sa/{peer}")[0].decode())
    for peer in PEERS
    if peer
}


class Counting:
    """A provider that allows every second time: whoever skips it gets out of step."""

    def __init__(self) -> None:
        """Begin with an allow."""
        self._answers = itertools.cycle([Effect.ALLOW, Effect.DENY])

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Return the next answer."""
        return ProviderVerdict(effect=next(self._answers))


def policy(name: str, kind: str = "AuthorizationPolicy", **spec: Any) -> dict[str, Any]:
    """Return a resource of the namespace `shop` with a spec."""
    annotations = spec.pop("annotations", {})
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": spec,
    }


def to(*paths: str) -> list[dict[str, Any]]:
    """Return the part of a rule that names paths."""
    return [{"operation": {"paths": list(paths)}}]


_REDACTOR = Redactor()
DRY_RUN = {"istio.io/dry-run": "true"}
WEB = [{"source": {"principals": ["mesh.example/ns/shop/sa/web"]}}]
ALICE = [{"source": {"requestPrincipals": ["*"]}}]
_TRACED = [{"key": "request.headers[x-request-id]", "values": ["bad*"]}]
_TOKENS = [{"issuer": issuer, "jwksUri": f"{issuer}/keys"} for issuer in ISSUERS]
POLICIES = (
    [
        policy("allow", rules=[{"from": WEB, "to": to("/a*")}, {"from": ALICE}]),
        policy("deny", action="DENY", rules=[{"to": to("/no")}]),
        policy("tokens", "RequestAuthentication", jwtRules=_TOKENS),
    ],
    [
        policy("all", rules=[{}]),
        policy("traced", action="DENY", rules=[{"when": _TRACED}]),
        policy("tried", action="DENY", annotations=DRY_RUN, rules=[{"to": to("/a")}]),
        policy("tokens", "RequestAuthentication", jwtRules=_TOKENS[:1]),
        policy("audit", action="AUDIT", rules=[{"from": ALICE}]),
    ],
    [
        policy("asked", action="CUSTOM", provider={"name": "p"}, rules=[{"to": to("/a")}]),
        policy("all", rules=[{}]),
        policy("strict", "PeerAuthentication", mtls={"mode": "STRICT"}),
    ],
)


_SNAPSHOTS = [build_snapshot([("p.yaml", yaml.safe_dump_all(each))], Mesh()) for each in POLICIES]


def _state(index: int) -> ServingState:
    return state_of(_SNAPSHOTS[index], f"r{index}")


def state_of(snapshot: Snapshot, revision: str = "r") -> ServingState:
    """Return a serving state in which the provider `p` counts."""
    return ServingState(snapshot=snapshot, providers={"p": Counting()}, revision=revision)


def _bundles() -> BundleSet:
    domain = TrustDomain("mesh.example")
    return BundleSet.of(TrustBundle(trust_domain=domain, x509_authorities=(_ROOT,)))


@dataclass(slots=True)
class World:
    """What may change: the clock, keys, bundles, who is denied, and whether records are taken."""

    now: float = BEGIN
    keys: dict[str, JwkSet | None] = field(
        default_factory=lambda: {each: _jwks(_SECRETS[0]) for each in ISSUERS}
    )
    bundles: BundleSet = field(default_factory=BundleSet)
    denied: DenyList = NOBODY_DENIED
    is_full: bool = False

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return an issuer's keys."""
        return self.keys[rule.issuer]

    def rotate(self) -> None:
        """Change the keys of the first issuer."""
        current, first = self.keys[ISSUERS[0]], _jwks(_SECRETS[0])
        is_first = current is not None and current.revision == first.revision
        self.keys[ISSUERS[0]] = _jwks(_SECRETS[1]) if is_first else first

    def lose_keys(self) -> None:
        """Have no keys of the first issuer."""
        self.keys[ISSUERS[0]] = None

    def change_bundles(self) -> None:
        """Trust nobody where somebody was trusted, and the other way round."""
        self.bundles = BundleSet() if len(self.bundles) else _bundles()

    def deny(self, until: datetime | None) -> None:
        """Deny `web` until some time."""
        name = ("spiffe_id", "spiffe://mesh.example/ns/shop/sa/web")
        self.denied = DenyList(until={name: until})

    def allow(self) -> None:
        """Deny nobody."""
        self.denied = NOBODY_DENIED


class Keeper:
    """Takes the records of one authorizer, unless the world is full."""

    def __init__(self, world: World) -> None:
        """Begin with none."""
        self.records: list[AuditRecord | RepeatedRecord] = []
        self._world = world

    def offer(self, record: AuditRecord | RepeatedRecord) -> None:
        """Accept a record."""
        if self._world.is_full:
            raise AuditUnavailable("the queue is full")
        self.records.append(record)


class Side:
    """One authorizer in the world."""

    def __init__(self, world: World, memory: DecisionMemory | None) -> None:
        """Begin with the first policies."""
        self.keeper = Keeper(world)
        self.state = _state(0)
        # No generator: threads may ask at the same time.
        ids: Iterator[str] = map("{:032x}".format, itertools.count())
        self.authorizer = Authorizer(
            state=lambda: self.state,
            around=Surroundings(
                keys=world,
                now=lambda: world.now,
                wall_clock=lambda: world.now,
                verify_token=TokenMemory().verify,
                static_workload=Workload(namespace="shop"),
                bundles=lambda: world.bundles,
                peer_rules=PeerRules(denied=lambda: world.denied),
            ),
            recorder=self.keeper,
            metrics=Metrics(),
            new_id=lambda: next(ids),
            memory=memory,
        )

    def reload(self, index: int) -> None:
        """Serve other policies."""
        self.state = _state(index)


@dataclass(frozen=True, slots=True)
class Question:
    """What stays the same when a request comes again."""

    peer: str = "web"
    path: str = "/a"
    token: str = ""
    method: str = "GET"
    is_raw: bool = True
    has_certificate: bool = False
    trace_names: tuple[str, ...] = ("x-request-id",)
    is_measured: bool = False
    has_path_header: bool = True
    app: str = ""

    def message(self, number: int = 0, values: Sequence[str] = ("0",)) -> bytes:
        """Return a CheckRequest with times, ids, ports and trace headers of its own."""
        message = CheckRequest()
        attributes = message.attributes
        source = attributes.source
        if self.peer:
            source.principal = f"spiffe://mesh.example/ns/shop/sa/{self.peer}"
            source.certificate = CERTIFICATES[self.peer] if self.has_certificate else ""
        source.address.socket_address.address = "10.1.2.3"
        source.address.socket_address.port_value = 1024 + number
        if self.app:
            attributes.destination.labels["app"] = self.app
        attributes.request.time.seconds = BEGIN + number % 7
        http = attributes.request.http
        http.id, http.method, http.path, http.host = str(number), self.method, self.path, "shop"
        headers = {":path": self.path} if self.has_path_header else {}
        headers["accept"] = "*/*"
        if self.is_measured:
            http.size = number % 5 - 1
            headers["content-length"] = str(http.size)
        headers |= dict(zip(self.trace_names, itertools.cycle(values), strict=False))
        if self.token:
            headers["authorization"] = f"Bearer {TOKENS[self.token]}"
        for name, value in headers.items():
            if self.is_raw:
                http.header_map.headers.add(key=name, raw_value=value.encode())
            else:
                http.headers[name] = value
        return message.SerializeToString()


def told(record: AuditRecord | RepeatedRecord, redactor: Redactor) -> dict[str, Any]:
    """Return what a record says, without how long the decision took."""
    if isinstance(record, RepeatedRecord):
        rendered = render_repeated(record, "n", redactor)
        record = record.whole()
        if rendered is not None:
            return _without_times(json.loads("{" + rendered.text + "}"))
    return _without_times(dict(document_from_record(record, node="n", redactor=redactor)))


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in document.items()
        if name not in ("duration_microseconds", "phases_microseconds")
    }


class Twins:
    """The two sides, asked the same in turn."""

    def __init__(self, max_decisions: int = 1024, redactor: Redactor = _REDACTOR) -> None:
        """Begin in a new world; `redactor` is that of the records that are compared."""
        self.redactor = redactor
        self.world = World()
        self.memory = DecisionMemory(max_decisions)
        self.sides = [Side(self.world, self.memory), Side(self.world, None)]
        self._number = 0

    def ask(self, question: Question, value: str = "0") -> bytes:
        """Ask both; hold that answers and records are the same."""
        self._number += 1
        message = question.message(self._number, (value,))
        kept = [len(side.keeper.records) for side in self.sides]
        one, other = (side.authorizer.check(message) for side in self.sides)
        assert one == other
        records = [
            [told(each, self.redactor) for each in side.keeper.records[count:]]
            for side, count in zip(self.sides, kept, strict=True)
        ]
        assert records[0] == records[1]
        return one

    def is_recalled(self, question: Question) -> bool:
        """Ask three times, and return whether the last answer was remembered."""
        for _ in range(3):
            self.ask(question)
        return isinstance(self.sides[0].keeper.records[-1], RepeatedRecord)


def until(world: World, seconds: float) -> datetime:
    """Return a moment so many seconds from now."""
    return datetime.fromtimestamp(world.now + seconds, UTC)


def other_peer(question: Question) -> Question:
    """Return the question of somebody else."""
    return replace(question, peer="jobs" if question.peer == "web" else "web")

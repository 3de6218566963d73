"""A small mesh whose decisions are recorded as the server records them, then replayed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import yaml
from checking import MemoryRecorder
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from audit.document import LINE_ADAPTER, document_from_record
from audit.record import AuditRecord
from audit.redact import Redactor
from audit.settings import AuditSettings, FsyncPolicy
from audit.writer import AuditWriter
from authz.custom import CustomTerms
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.replay_parts import candidate_set
from authz.serving_state import ServingState
from authz.walk import Surroundings
from dryrun.replay import Replayed, Replayer
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from policies.decision import Provider
from policies.mesh import Mesh
from policies.request import Workload
from policies.snapshot import build_snapshot

ISSUERS = ("https://one.test", "https://two.test")
NOW = 1_800_000_000.0
_KEY = ec.generate_private_key(ec.SECP256R1())


class InlineKeys:
    """Finds the keys in the rule itself."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the inline key set."""
        return parse_jwk_set(rule.jwks, is_inline=True) if rule.jwks else None


@cache
def key_set() -> str:
    """Return the public key as an inline key set."""
    numbers = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key()))
    return json.dumps({"keys": [{**numbers, "kid": "k", "alg": "ES256", "use": "sig"}]})


@cache
def token(claims: str) -> str:
    """Return a token of claims, which are JSON text."""
    payload = {"exp": NOW + 3600, **json.loads(claims)}
    return jwt.encode(payload, _KEY, algorithm="ES256", headers={"kid": "k"})


def jwt_rule(issuer: str, **more: Any) -> dict[str, Any]:
    """Return a rule of a RequestAuthentication."""
    return {"issuer": issuer, "jwks": key_set(), **more}


def state_of(
    specs: Iterable[dict[str, Any]],
    providers: dict[str, Provider] | None = None,
    revisions: dict[str, str] | None = None,
    default: str = "",
    mesh: Mesh | None = None,
) -> ServingState:
    """Return the state of policies p0, p1, ... in namespace shop; `kind` and `name` win."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": spec.pop("kind", "AuthorizationPolicy"),
            "metadata": {
                "name": spec.pop("name", f"p{index}"),
                "namespace": "shop",
                "annotations": spec.pop("annotations", {}),
            },
            "spec": spec,
        }
        for index, spec in enumerate(dict(spec) for spec in specs)
    ]
    return ServingState(
        snapshot=build_snapshot([("p.yaml", yaml.safe_dump_all(documents))], mesh or Mesh()),
        providers=providers or {},
        revision="r",
        provider_revisions=revisions or {},
        terms=CustomTerms(default=default),
    )


def facts_of(state: ServingState, messages: Sequence[CheckRequest]) -> list[AuditRecord]:
    """Return the records of checks before they are written."""
    recorder = MemoryRecorder()
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(
            keys=InlineKeys(),
            now=lambda: NOW,
            wall_clock=lambda: NOW,
            static_workload=Workload(namespace="shop", service_account="orders"),
        ),
        recorder=recorder,
        metrics=Metrics(),
    )
    for message in messages:
        authorizer.check(message.SerializeToString())
    return recorder.records


def write_log(folder: Path, found: Iterable[AuditRecord]) -> Path:
    """Write a log with the server's own writer and return its folder."""
    settings = AuditSettings(folder=folder, fsync=FsyncPolicy.NEVER, queue_wait_milliseconds=60_000)
    writer = AuditWriter(settings, node="n")
    for record in found:
        writer.offer(record)
    writer.close()
    return folder


def recorded(
    state: ServingState, messages: Sequence[CheckRequest], redactor: Redactor | None = None
) -> list[dict[str, Any]]:
    """Return the records of checks as the log holds them, each valid by the schema."""
    chained = {"seq": 1, "prev": "0" * 64, "hash": "0" * 64}
    lines = []
    for record in facts_of(state, messages):
        document = document_from_record(record, node="n", redactor=redactor or Redactor())
        lines.append(json.loads(json.dumps(document)))
        LINE_ADAPTER.validate_python({**lines[-1], **chained})
    return lines


def replayed(state: ServingState, documents: Iterable[dict[str, Any]]) -> list[Replayed]:
    """Return what the documents come to under another state, whose Rego nobody gave."""
    bare = ServingState(snapshot=state.snapshot, revision="", terms=state.terms)
    return list(Replayer(candidate_set(bare, {})).replay(documents))

"""A recorded decision as the request it was made on, with what the record does not hold.

Theory of operation. The record shows a request to people, masked, and its `replay` part adds
what policies looked at. Put together they are the request again, but for values that are
secret or that nobody looked at: their names are known, so that each condition of a policy
either can be tried or is known to be unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Final

from identity.claims import VerifiedClaims
from identity.peer import MappedWorkload, Peer, PeerProof, WorkloadReading
from policies.decision import Effect
from policies.mesh import PathNormalization
from policies.needs import claim_of, header_of, metadata_of
from policies.request import Request, Service, Workload

_PEER_KEYS: Final = frozenset(
    {"source.principal", "source.namespace", "source.serviceAccount", "source.trustDomain"}
)
_FIELDS: Final = {
    "operation.methods": "/request/method",
    "operation.hosts": "/request/host",
}
# Where Envoy sends no such header, policies look at the field.
_PSEUDO: Final = {
    ":method": "/request/method",
    ":authority": "/request/host",
    ":path": "/request/path",
}
_MASK: Final = "***"
# What a provider changes where it changes these, and the field of a request that it changes.
TARGETS: Final = {
    "operation.methods": (":method",),
    "operation.paths": (":path",),
    "operation.hosts": (":authority", "host"),
}
_WRITTEN: Final = {":method": "method", ":path": "path", ":authority": "host", "host": "host"}


class NotReplayable(Exception):
    """A recorded request cannot be decided again for sure; the message says why, in one clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """What the record does not hold: names of headers, claims and metadata; whole parts.

    `rules_headers` are unknown as the DENY and ALLOW policies saw them, `rules_target` are those of
    method, path and host that a provider wrote. `places` are JSON pointers of texts that were
    masked.
    """

    headers: frozenset[str] = frozenset()
    rules_headers: frozenset[str] = frozenset()
    rules_target: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    is_peer_hidden: bool = False
    is_path_hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One recorded decision. `request` is as it came, `seen` as DENY and ALLOW rules saw it.

    `at` is the time of the decision as the record spells it. `rule` is the policy and rule
    that decided, or the reason. `asked` maps the providers that were asked to the revisions
    of their policies, in order. `changed` are the headers that token rules or providers changed,
    `gone` those of them that they took away. `revision` is that of the set that decided, `level`
    what it did to the path. Without `has_claims_of_then` the claims were taken away.
    """

    at: str
    decision_id: str
    effect: Effect
    reason: str
    layer: str
    rule: str
    http_status: int
    request: Request
    seen: Request
    hidden: Hidden
    token: str = "none"  # noqa: S105 - a state, no secret
    token_rules: str = ""
    token_rule: str = ""
    is_token_moved: bool = False
    asked: Mapping[str, str] = field(default_factory=dict)
    default_provider: str = ""
    changed: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    revision: str = ""
    level: PathNormalization = PathNormalization.AS_IS
    has_claims_of_then: bool = True

    def knows(self, key: str, *, is_custom: bool) -> bool:
        """Whether a condition on this key can be tried; `is_custom` is for CUSTOM policies."""
        hidden = self.hidden
        if not is_custom and not hidden.rules_target.isdisjoint(TARGETS.get(key, ())):
            return False
        if (known := self._knows_field(key)) is not None:
            return known
        if (name := header_of(key)) is not None:
            return _PSEUDO.get(name) not in hidden.places and (
                name not in (hidden.headers if is_custom else hidden.rules_headers)
            )
        if (path := claim_of(key)) is not None:
            return path[0] not in hidden.claims or self._holds_claim(path)
        if (found := metadata_of(key)) is not None:
            namespace, name = found
            section = self.request.filter_metadata.get(namespace, {})
            return namespace not in hidden.metadata or name in section
        return True

    def _knows_field(self, key: str) -> bool | None:
        """Return whether a whole field is known, or None for keys with a name in brackets."""
        hidden = self.hidden
        if key in _PEER_KEYS:
            return not hidden.is_peer_hidden
        if key in _FIELDS:
            return _FIELDS[key] not in hidden.places
        match key:
            case "operation.paths":
                return not hidden.is_path_hidden
            case "request.auth.principal":
                return not {"/subject/issuer", "/subject/sub"} & hidden.places
            case "connection.sni":
                return _MASK not in self.request.sni
        return None

    def _holds_claim(self, path: tuple[str, ...]) -> bool:
        found: Any = self.request.claims.payload if self.request.claims else {}
        for name in path:
            if not isinstance(found, Mapping) or name not in found:
                return False
            found = found[name]
        # A part of an object is not the object; what conditions match are texts and lists.
        return not isinstance(found, Mapping)


def read_past(document: Mapping[str, Any]) -> Past:
    """Return a recorded decision.

    Raises:
        NotReplayable: it was written without what a replay needs.
    """
    part = document.get("replay")
    if part is None:
        raise NotReplayable("the record holds nothing to replay it by")
    try:
        return _past(document, part)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise NotReplayable(f"the record is not of the known form: {type(exc).__name__}") from exc


def deciding_rule(decision: Mapping[str, Any]) -> str:
    """Return the rule of a recorded decision as people write it, or the reason for it."""
    policy, rule = decision.get("policy"), decision.get("rule")
    if not policy:
        return str(decision.get("reason", ""))
    return str(policy) if rule is None else f"{policy}#{rule}"


def _past(document: Mapping[str, Any], part: Mapping[str, Any]) -> Past:
    decision, shown = document["decision"], document["request"]
    hidden = _hidden(document, part)
    headers = {
        name: tuple(values)
        for name, values in {**shown["headers"], **part.get("headers", {})}.items()
        if name not in hidden.headers
    }
    destination = document["destination"] or {}
    request = Request(
        method=shown["method"],
        path=shown["path"],
        host=shown["host"],
        is_http=part["http"],
        scheme=part.get("scheme", ""),
        protocol=shown["protocol"],
        headers=headers,
        headers_merged=part.get("merged", False),
        source_ip=document["source"]["address"],
        destination_ip=part.get("destination", ""),
        destination_port=destination.get("port", 0),
        sni=part.get("sni", "") or "",
        sni_unknown=part.get("sni", "") is None,
        stream_id=shown["id"],
        size=shown["size"],
        filter_metadata=part.get("metadata", {}),
        workload=_workload(destination, part),
        peer=_peer(document["peer"], part),
        claims=_claims(document, part),
    )
    return Past(
        at=document["decided_at"],
        decision_id=document["decision_id"],
        effect=Effect(decision["effect"]),
        reason=decision["reason"],
        layer=decision["layer"],
        rule=deciding_rule(decision),
        http_status=decision["http_status"],
        request=request,
        seen=_seen(request, part),
        hidden=hidden,
        token=part.get("token", "none"),
        token_rules=part.get("token_rules", ""),
        token_rule=part.get("token_rule", ""),
        is_token_moved=part.get("token_moved", False),
        asked={each["provider"]: each["revision"] for each in part.get("asked", ())},
        default_provider=part.get("default_provider", ""),
        changed=frozenset((*part.get("rewritten", ()), *part.get("hidden_rewritten", ()))),
        gone=frozenset(name for name, left in part.get("rewritten", {}).items() if left is None),
        revision=document["revision"],
        level=PathNormalization(part["paths"]) if "paths" in part else PathNormalization.AS_IS,
    )


def _hidden(document: Mapping[str, Any], part: Mapping[str, Any]) -> Hidden:
    places = frozenset(document["masked"])
    headers = frozenset(part.get("hidden_headers", ()))
    rewritten = frozenset(part.get("rewritten", {}))
    changed = frozenset(part.get("hidden_rewritten", ()))
    path = str(document["request"]["path"])
    # Conditions look at the path without its query.
    bare = path.partition("?")[0].partition("#")[0]
    return Hidden(
        headers=headers,
        rules_headers=(headers - rewritten) | changed,
        rules_target=changed & _WRITTEN.keys(),
        claims=frozenset(part.get("hidden_claims", ())),
        metadata=frozenset(part.get("hidden_metadata", ())),
        places=places,
        is_peer_hidden=bool(part.get("peer_hidden")) or "/peer/principal" in places,
        is_path_hidden="/request/path" in places and _MASK in bare,
    )


def _workload(destination: Mapping[str, Any], part: Mapping[str, Any]) -> Workload | None:
    if not destination:
        return None
    service = part.get("service")
    return Workload(
        namespace=destination["namespace"],
        service_account=destination["service_account"],
        labels=destination["labels"],
        service=Service(**service) if service else None,
        has_told_labels=not part.get("labels_untold", False),
    )


def _peer(shown: Mapping[str, Any] | None, part: Mapping[str, Any]) -> Peer | None:
    if shown is None:
        return None
    names = tuple(part.get("peer_names", ()))
    peer = _named(shown["principal"], names, shown.get("proof", "tls"))
    if peer is not None and part.get("peer_plaintext"):
        peer = replace(peer, over_mtls=False)
    if peer is None or "peer_sure" not in part:
        return peer
    mapped = shown.get("mapped")
    reading = WorkloadReading(
        sure=tuple(part["peer_sure"]),
        possible=tuple(part.get("peer_possible", ())),
        workload=MappedWorkload(**mapped) if mapped else None,
    )
    return replace(peer, reading=reading)


@lru_cache(maxsize=4096)
def _named(principal: str, names: tuple[str, ...], proof: str) -> Peer | None:
    return Peer.from_principal(principal, names, PeerProof(proof))


def _claims(document: Mapping[str, Any], part: Mapping[str, Any]) -> VerifiedClaims | None:
    subject = document["subject"]
    if subject is None:
        return None
    hidden = frozenset(part.get("hidden_claims", ()))
    payload = {name: value for name, value in subject["claims"].items() if name not in hidden}
    payload |= part.get("claims", {})
    for name, value in (("iss", subject["issuer"]), ("sub", subject["sub"])):
        if value is not None:
            payload[name] = value
    return VerifiedClaims(payload)


def _seen(request: Request, part: Mapping[str, Any]) -> Request:
    """Return the request as the verification of tokens and the providers left it."""
    rewritten = part.get("rewritten", {})
    gone = {name for name, values in rewritten.items() if values is None}
    gone.update(part.get("hidden_rewritten", ()))
    if not (rewritten or gone):
        return request
    headers = {name: values for name, values in request.headers.items() if name not in gone}
    written = {name: tuple(values) for name, values in rewritten.items() if values is not None}
    # Where a provider may write where the request goes, the policies look at what it wrote.
    to = _WRITTEN if part.get("asked") else {}
    target = {to[name]: values[-1] for name, values in written.items() if name in to}
    return replace(request, headers=headers | written, **target)

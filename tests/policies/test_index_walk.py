"""The verdict by the index is that of a plain walk over all rules, in every mode and column."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st

from authz.decide import decide, decide_rules
from identity.claims import VerifiedClaims
from identity.peer import Peer
from policies.attachment import GATEWAY_NAME_LABEL, is_attached
from policies.columns import column_for
from policies.decision import Decision, Effect, ProviderVerdict, RuleRef
from policies.matchers import CompiledPolicy, compile_policy
from policies.mesh import ExtensionProvider, Mesh, MeshMode
from policies.model import Action
from policies.request import Request, Service, Workload
from policies.snapshot import Snapshot, build_snapshot

GATEWAY_GROUP = "gateway.networking.k8s.io"
VALUES: dict[str, list[str]] = {
    "principals": [
        "td/ns/a/sa/x", "old/ns/a/sa/x", "cluster.local/ns/b/sa/y", "*/sa/x", "td/ns/a/*", "*",
        "o*/ns/a/sa/x", "*d/ns/a/sa/x", "other/ns/a/sa/x", "*/ns/a/sa/x", "/ns/a/sa/x",
    ],
    "namespaces": ["a", "b", "ns", "sa", "*a", "a*", "*", "b/sa", "a.b"],
    "trustDomains": ["td", "old", "t*", "*", "other"],
    "requestPrincipals": ["*", "iss/*", "iss/me", "*/me", "iss*"],
    "ipBlocks": ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "::ffff:10.1.2.3"],
    "remoteIpBlocks": ["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "::/0", "::ffff:0:0/96"],
    "serviceAccounts": ["x", "b/y", "a/x", "ns/b"],
    "paths": [
        "/", "/a", "/a/*", "*.css", "/a/{*}", "/a/{**}/c", "*", "/a/b/*", "/A", "/{**}", "*a*", "a",
    ],
    "hosts": ["h.test", "*.test", "H.TEST", "*", "h.test:80", "h*", "\u0130.test"],
    "methods": ["GET", "P*", "*", "get", "*T"],
    "ports": ["80", "8080", "080", "0"],
}  # fmt: skip
CONDITIONS: dict[str, list[str]] = {
    "source.principal": VALUES["principals"],
    "source.namespace": VALUES["namespaces"],
    "source.trustDomain": VALUES["trustDomains"],
    "source.serviceAccount": VALUES["serviceAccounts"],
    "source.ip": VALUES["ipBlocks"],
    "remote.ip": VALUES["remoteIpBlocks"],
    "destination.ip": VALUES["ipBlocks"],
    "destination.port": VALUES["ports"],
    "connection.sni": ["a.test", "*.test", "*", "A.test"],
    "request.auth.principal": VALUES["requestPrincipals"],
    "request.auth.audiences": ["shop", "*"],
    "request.auth.claims[scope]": ["read", "*"],
    "request.headers[x-role]": ["admin", "*", "a*", "admin,user"],
    "request.headers[:path]": ["/a", "*b"],
    "request.headersX[y]": ["a"],
    "experimental.envoy.filters.x[k]": ["v", "[v]"],
}
PEER_FIELDS = ("principals", "namespaces", "trustDomains", "requestPrincipals")
PEER_KEYS = ("source.principal", "source.namespace", "source.trust", "source.service", "request.au")
L4_KEYS = ("source.principal", "source.namespace", "source.ip", "destination.port")


def some(chance: Random, values: list[str]) -> list[str]:
    """Return one to three of the values."""
    return chance.sample(values, min(len(values), chance.choice((1, 1, 2, 3))))


def fields(chance: Random, *names: str) -> dict[str, Any]:
    """Return one to three of the fields, positive or negated, with values."""
    found: dict[str, Any] = {}
    for name in chance.sample(names, chance.choice((1, 1, 2, 3)) if len(names) > 2 else 1):
        is_negated = chance.random() < 0.25
        found[f"not{name[0].upper()}{name[1:]}" if is_negated else name] = some(
            chance, VALUES[name]
        )
    return found


def condition(chance: Random, key: str) -> dict[str, Any]:
    """Return a condition on a key."""
    kinds = chance.choice((("values",), ("values",), ("notValues",), ("values", "notValues")))
    return {"key": key, **{kind: some(chance, CONDITIONS[key]) for kind in kinds}}


def source(chance: Random, kind: str) -> dict[str, Any]:
    """Return a source of a rule of that kind."""
    if kind == "custom":
        return fields(chance, "ipBlocks", "remoteIpBlocks")
    if chance.random() < 0.2:
        return {"serviceAccounts": some(chance, VALUES["serviceAccounts"])}
    if kind == "l4":
        return fields(chance, "principals", "namespaces", "ipBlocks")
    return fields(chance, *PEER_FIELDS, "ipBlocks", "remoteIpBlocks")


def rule(chance: Random, kind: str) -> dict[str, Any]:
    """Return a rule: of kind `l4` for ztunnel and connections, `custom` asks for no identity."""
    keys = list(CONDITIONS)
    if kind == "custom":
        keys = [key for key in keys if not key.startswith(PEER_KEYS)]
    if kind == "l4":
        keys = list(L4_KEYS)
    names = ("ports",) if kind == "l4" else ("paths", "hosts", "methods", "ports")
    found: dict[str, Any] = {}
    if chance.random() < 0.6:
        sources = [source(chance, kind) for _ in range(chance.choice((0, 1, 1, 2)))]
        found["from"] = [{"source": each} for each in sources]
    if chance.random() < 0.5:
        operations = [fields(chance, *names) for _ in range(chance.choice((0, 1, 1, 2)))]
        found["to"] = [{"operation": each} for each in operations]
    if chance.random() < 0.4:
        found["when"] = [condition(chance, key) for key in some(chance, keys)]
    return found


PLACES: list[dict[str, Any]] = [
    {},
    {},
    {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "gw"}]},
    {"targetRefs": [{"kind": "Service", "name": "web"}]},
    {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "GatewayClass", "name": "istio-waypoint"}]},
    {"selector": {"matchLabels": {"app": "web"}}},
    {"selector": {"matchLabels": {"app": "other"}}},
    {"selector": {}},
]


def policy(chance: Random, number: int) -> dict[str, Any]:
    """Return a policy; most are attached to the workload in some mode."""
    action = chance.choice(("ALLOW", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"))
    kind = "custom" if action == "CUSTOM" else chance.choice(("l4", "any"))
    found = [rule(chance, kind) for _ in range(chance.choice((1, 2, 3)))]
    spec: dict[str, Any] = {"action": action, "rules": found, **chance.choice(PLACES)}
    if action == "CUSTOM":
        spec["provider"] = {"name": chance.choice(("yes", "no", "web", "unknown"))}
    metadata: dict[str, Any] = {"name": f"p{number:03}"}
    metadata["namespace"] = chance.choice(("a", "a", "a", "istio-system", "b"))
    if action in ("ALLOW", "DENY") and chance.random() < 0.2:
        metadata["annotations"] = {"istio.io/dry-run": "true"}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def random_mesh(chance: Random) -> Mesh:
    """Return settings that change what policies mean."""
    web = ExtensionProvider(name="web", kind="envoyExtAuthzHttp", service="w.example", port=80)
    return Mesh(
        trust_domain="td",
        trust_domain_aliases=chance.choice(((), ("old",))),
        trusted_proxy_hops=chance.choice((None, 0, 1)),
        mode=chance.choice(list(MeshMode)),
        envoy_version=chance.choice(((1, 37), (1, 40))),
        extension_providers=(web,),
    )


PEERS = [
    "", "", "spiffe://td/ns/a/sa/x", "spiffe://td/ns/a/sa/x", "spiffe://old/ns/a/sa/x",
    "spiffe://old/ns/b/sa/y", "spiffe://td/ns/ns/sa/x", "spiffe://td/ns/ns/ns/b/sa/y",
    "spiffe://td/ns/a/p/sa/x/y", "spiffe://cluster.local/ns/b/sa/y", "CN=x", "https://h/ns/a/sa/x",
    "spiffe://td/ns/a/sa/x\n",
]  # fmt: skip
NAMES: list[tuple[str, ...]] = [(), ("spiffe://td/ns/b/sa/y",), ("host.test", "CN=x")]
ADDRESSES = ["10.1.2.3", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8::1", "", "::1"]
PATHS = ["/", "/a", "/a/b?x=.css", "/a/b/c", "/x.css", "/a/x/c", "", "/A", "a", "/a#/a/b"]
FORWARDED: list[dict[str, tuple[str, ...]]] = [
    {}, {"x-forwarded-for": ("10.1.2.3",)}, {"x-forwarded-for": ("10.1.2.3, 192.0.2.9",)},
    {"x-forwarded-for": ("::ffff:10.1.2.3", "odd")}, {"x-forwarded-for": ("",)},
]  # fmt: skip
ROLES: list[dict[str, tuple[str, ...]]] = [
    {}, {"x-role": ("",)}, {"x-role": ("admin",)}, {"x-role": ("user", "admin")},
    {"x-role": ("admin,user",)}, {":authority": ("",)},
]  # fmt: skip
CLAIMS: list[dict[str, Any] | None] = [
    None, {"iss": "iss", "sub": "me", "aud": ["x", "shop"], "scope": ["read", "write"]},
    {"iss": "iss"}, {"iss": "iss", "sub": "", "scope": 5},
]  # fmt: skip
METADATA: list[dict[str, Any]] = [
    {}, {"envoy.filters.x": {"k": "v"}}, {"envoy.filters.x": {"k": ["v"]}}
]  # fmt: skip
WORKLOAD = Workload(
    namespace="a",
    labels={"app": "web", GATEWAY_NAME_LABEL: "gw"},
    service=Service(kind="Service", namespace="a", name="web"),
)


def random_request(chance: Random) -> Request:
    """Return a request or a connection."""
    connection = Request(
        is_http=False,
        source_ip=chance.choice(ADDRESSES),
        destination_ip=chance.choice(ADDRESSES),
        destination_port=chance.choice((80, 8080, 0)),
        sni=chance.choice(("", "a.test")),
        workload=WORKLOAD,
        peer=Peer.from_principal(chance.choice(PEERS), chance.choice(NAMES)),
        filter_metadata=chance.choice(METADATA),
    )
    if chance.random() < 0.3:
        return connection
    claims = chance.choice(CLAIMS)
    return replace(
        connection,
        is_http=True,
        method=chance.choice(("GET", "POST", "get", "")),
        path=chance.choice(PATHS),
        host=chance.choice(("h.test", "H.test", "h.test:80", "x", "", "\u0130.test")),
        headers={**chance.choice(FORWARDED), **chance.choice(ROLES)},
        headers_merged=chance.random() < 0.5,
        sni_unknown=chance.random() < 0.3,
        claims=None if claims is None else VerifiedClaims(claims),
    )


class Provider:
    """A provider that always gives the same verdict."""

    def __init__(self, effect: Effect) -> None:
        """Keep the effect."""
        self.effect = effect

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Return it."""
        return ProviderVerdict(effect=self.effect)


PROVIDERS = {
    "yes": Provider(Effect.ALLOW), "web": Provider(Effect.ALLOW), "no": Provider(Effect.DENY)
}  # fmt: skip


def load(policies: list[dict[str, Any]], mesh: Mesh) -> Snapshot:
    """Return the snapshot of generated policies."""
    return build_snapshot([("p.yaml", yaml.safe_dump_all(policies))], mesh)


Verdict = tuple[Effect, RuleRef | None, tuple[RuleRef, ...]]


def verdict_of(decision: Decision) -> Verdict:
    """Return what of a decision the plain walk gives as well."""
    return decision.effect, decision.rule, decision.audited_by


def attached(snapshot: Snapshot, request: Request) -> list[CompiledPolicy]:
    """Return every policy of the workload, compiled for the request's column, in order."""
    mesh = snapshot.mesh
    column = column_for(mesh, is_http=request.is_http)
    return [
        compile_policy(source, mesh, column)
        for source, _ in snapshot.policies
        if is_attached(source.metadata, source.attachment, WORKLOAD, mesh)
    ]


def matches(policies: list[CompiledPolicy], action: Action, request: Request) -> list[RuleRef]:
    """Return the first matching rule of each policy of an action."""
    found = (each.first_match(request) for each in policies if each.action is action)
    return [ref for ref in found if ref is not None]


def plain_rules(policies: list[CompiledPolicy], mesh: Mesh, request: Request) -> Verdict:
    """Return the verdict of AUDIT, DENY and ALLOW by trying every rule."""
    is_l4 = mesh.mode is MeshMode.ZTUNNEL
    audited = () if is_l4 else tuple(matches(policies, Action.AUDIT, request))
    denied = matches(policies, Action.DENY, request)
    if denied:
        return Effect.DENY, denied[0], audited
    if not any(each.action is Action.ALLOW for each in policies):
        return Effect.ALLOW, None, audited
    allowed = matches(policies, Action.ALLOW, request)
    return (Effect.ALLOW, allowed[0], audited) if allowed else (Effect.DENY, None, audited)


def plain_walk(policies: list[CompiledPolicy], mesh: Mesh, request: Request) -> Verdict:
    """Return the verdict by trying every rule of every policy."""
    names = sorted({each.provider for each in policies if each.provider})
    sent: RuleRef | None = None
    for name in names if mesh.mode is not MeshMode.ZTUNNEL else ():
        if name == "web" and not request.is_http:
            continue
        named = [each for each in policies if each.provider == name]
        triggered = matches(named, Action.CUSTOM, request)
        if triggered and name in ("no", "unknown"):
            return Effect.DENY, triggered[0], ()
        sent = triggered[0] if triggered else sent
    effect, rule, audited = plain_rules(policies, mesh, request)
    has_allow = any(each.action is Action.ALLOW for each in policies)
    return effect, sent if effect is Effect.ALLOW and not has_allow else rule, audited


@given(st.integers(0, 2**64))
@settings(max_examples=150, deadline=None)
def test_indexed_verdict_is_the_plain_one(seed: int) -> None:
    """Effect, rule and audits of the indexed decision are those of trying everything."""
    # WHY a seed: drawn piece by piece, such a set takes hypothesis longer than its test.
    chance = Random(seed)
    mesh = random_mesh(chance)
    snapshot = load([policy(chance, number) for number in range(chance.randint(1, 9))], mesh)
    for request in [random_request(chance) for _ in range(12)]:
        selected = snapshot.select(WORKLOAD, is_http=request.is_http)
        every = attached(snapshot, request)
        enforced = [each for each in every if not each.dry_run]

        got = decide(selected, request, PROVIDERS)

        assert plain_walk(enforced, mesh, request) == verdict_of(got)
        event(f"{mesh.mode} {got.reason}")
        # A dry-run policy, enforced beside the others: filed last, whatever its name.
        for shadow in selected.dry_run:
            grown = decide_rules(selected.with_enforced(shadow), request)
            assert plain_rules([*enforced, shadow], mesh, request) == verdict_of(grown)

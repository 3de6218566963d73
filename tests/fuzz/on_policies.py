"""YAML: a file is refused with places that exist, or loads and takes nothing away from a DENY."""

from __future__ import annotations

from authz.decide import decide
from policies.decision import Effect
from policies.diagnostic import LoadError
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot
from tests.fuzz.target import Target

_DENY_ALL = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: fuzz-deny-all, namespace: shop}
spec: {action: DENY, rules: [{}]}
"""
_WORKLOAD = Workload(namespace="shop", labels={"app": "orders"})
_REQUEST = Request(
    method="GET",
    path="/api/x?a=b",
    host="orders.shop",
    headers={"x-tier": ("gold", "silver")},
    source_ip="10.0.0.1",
    destination_ip="10.0.0.2",
    destination_port=8080,
)


def _run(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    lines = text.count("\n") + text.count("\r") + text.count("\u2028") + text.count("\u0085") + 2
    try:
        snapshot = build_snapshot([("fuzz.yaml", text), ("deny.yaml", _DENY_ALL)], Mesh())
    except LoadError as refused:
        assert refused.diagnostics, "a refusal says why"
        for found in refused.diagnostics:
            assert 0 <= found.location.line <= lines, found
            assert found.message
            assert found.code
        return
    for is_http in (True, False):
        policies = snapshot.select(_WORKLOAD, is_http=is_http)
        decision = decide(policies, _REQUEST.altered(is_http=is_http), {})
        assert decision.effect is Effect.DENY, "a DENY on everything was lost"


def _policy(spec: str, kind: str = "AuthorizationPolicy", group: str = "security") -> bytes:
    head = f"apiVersion: {group}.istio.io/v1\nkind: {kind}\n"
    return f"{head}metadata: {{name: a, namespace: shop}}\nspec:\n{spec}\n".encode()


def _seeds() -> list[bytes]:
    return [
        _policy(
            "  rules:\n  - from:\n    - source: {principals: ['*/sa/web'], notIpBlocks: [::1]}"
        ),
        _policy("  rules:\n  - to:\n    - operation: {paths: ['/a/{*}/b/{**}'], ports: ['80']}"),
        _policy(
            "  action: DENY\n  rules:\n  - when:\n    - {key: 'request.headers[x]', values: [a]}"
        ),
        _policy(
            "  selector: {matchLabels: {app: orders}}\n  mtls: {mode: STRICT}", "PeerAuthentication"
        ),
        _policy("  jwtRules: [{issuer: a, jwks: '{\"keys\": []}'}]", "RequestAuthentication"),
        _policy("  action: CUSTOM\n  provider: {name: p}\n  rules: [{}]"),
        b"a: &a [1]\nb: *a\n---\n<<: {}\n",
        b"",
    ]


_FIELDS = (
    *("apiVersion: ", "security.istio.io/v1", "kind: ", "AuthorizationPolicy", "metadata: "),
    *("rules: ", "from: ", "to: ", "when: ", "source: ", "operation: ", "principals: ", "paths: "),
    *("notPaths: ", "ipBlocks: ", "namespaces: ", "action: ", "ALLOW", "AUDIT", "targetRefs: "),
    *("requestPrincipals: ", "serviceAccounts: ", "hosts: ", "methods: ", "ports: ", "values: "),
    *("request.auth.claims[a][b]", "source.ip", "connection.sni", "&a ", "*a", "<<: ", "!!str "),
)
TARGET = Target(run=_run, seeds=_seeds, words=_FIELDS)

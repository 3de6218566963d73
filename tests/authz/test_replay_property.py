"""Replayed under the policies that they were made under, records show no change at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from checking import FixedProvider
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replaying import ISSUERS, jwt_rule, recorded, replayed, state_of, token

from dryrun.replay import Change
from policies.decision import Effect, Mutations, ProviderError, ProviderVerdict
from policies.mesh import Mesh

PATHS = ["/", "/a", "/a/b?x=1", "/token=abcdefgh/x", "/a;sid=1", "/a/../b", "/%zz", "*", "",
         "/é", "/a#b", "/?access_token=abc.def.ghi", "/?code=123",
         "/eyJhbGciOi.eyJzdWIi.sig"]  # fmt: skip
HEADERS = ["x-tier", "x-api-key", "cookie", "authorization", "referer", "x-forwarded-for",
           "x-out", "x-payload", "user-agent", "x-added", "host"]  # fmt: skip
VALUES = ["gold", "", "a,b", "Bearer abcdefgh1", "***", "10.1.2.3", "10.1.2.3, 10.9.9.9",
          "https://u:p@h/?token=x", "\x80\xff", "password=hunter22",
          "eyJhbGci.eyJzdWIi.c2ln"]  # fmt: skip
CLAIMS = [
    {"iss": ISSUERS[0], "sub": "alice", "groups": ["a", "b"], "deep": {"er": ["x"], "no": 1}},
    {"iss": ISSUERS[0], "sub": "token=abcdefghij", "aud": ["x", "y"], "secret": "s"},
    {"iss": ISSUERS[1], "sub": "bob", "scope": "read write", "azp": "cli", "deep": "flat"},
    {"iss": "https://unknown.test", "sub": "eve"},
    {"iss": ISSUERS[1]},
]
TOKENS = [*(f"Bearer {token(json.dumps(claims))}" for claims in CLAIMS), "Bearer broken", "Basic x"]
PEERS = ["", "spiffe://cluster.local/ns/shop/sa/web", "spiffe://td/ns/jobs/sa/token=abcdefgh",
         "CN=plain", "spiffe://td/x"]  # fmt: skip


def clause(name: str, values: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a field with values, or its negation."""
    chosen = st.lists(st.sampled_from(values), min_size=1, max_size=2)
    negative = "not" + name[0].upper() + name[1:]
    return st.builds(lambda key, found: {key: found}, st.sampled_from([name, negative]), chosen)


SOURCES = st.one_of(
    clause("principals", ["*", "cluster.local/ns/shop/sa/web", "*web"]),
    clause("namespaces", ["shop", "jobs"]),
    clause("ipBlocks", ["10.0.0.0/8", "10.1.2.3"]),
    clause("remoteIpBlocks", ["10.1.0.0/16", "10.9.9.9"]),
)
TOKEN_SOURCES = clause("requestPrincipals", ["*", f"{ISSUERS[0]}/alice", "*/bob"])
OPERATIONS = st.one_of(
    clause("methods", ["GET", "P*", "*"]),
    clause("paths", ["/a", "/a*", "/{*}/b", "*"]),
    clause("hosts", ["shop", "*"]),
    clause("ports", ["8080", "80"]),
)
KEYS = st.one_of(
    st.builds(lambda name: (f"request.headers[{name}]", ["gold", "*", "a", "10.1.2.3"]),
              st.sampled_from([*HEADERS, ":path", ":authority", ":scheme"])),
    st.sampled_from([
        ("source.ip", ["10.0.0.0/8"]), ("remote.ip", ["10.0.0.0/8"]), ("destination.port", ["80"]),
        ("connection.sni", ["shop", "*"]), ("destination.ip", ["10.0.0.2"]),
        ("experimental.envoy.filters.a.b[k]", ["v", "*"]),
        ("experimental.envoy.filters.a.b[m]", ["[v]"]),
    ]),
)  # fmt: skip
TOKEN_KEYS = st.sampled_from([
    ("request.auth.claims[groups]", ["a"]), ("request.auth.claims[deep][er]", ["x", "*"]),
    ("request.auth.claims[deep]", ["flat"]), ("request.auth.claims[secret]", ["s"]),
    ("request.auth.claims[iss]", ["*"]), ("request.auth.audiences", ["x"]),
    ("request.auth.presenter", ["cli"]), ("request.auth.principal", ["*"]),
])  # fmt: skip


def condition(found: tuple[str, list[str]], which: int, is_not: bool) -> dict[str, Any]:
    """Return one `when` entry."""
    key, values = found
    return {"key": key, "notValues" if is_not else "values": [values[which % len(values)]]}


def rules(*, custom: bool) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return rules; those of CUSTOM policies know no peer and no token."""
    keys = KEYS if custom else st.one_of(KEYS, TOKEN_KEYS)
    sources = st.one_of(clause("ipBlocks", ["10.0.0.0/8"]),
                        clause("remoteIpBlocks", ["10.1.0.0/16"])) if custom else st.one_of(
        SOURCES, TOKEN_SOURCES)  # fmt: skip
    parts = {
        "from": st.lists(st.builds(lambda found: {"source": found}, sources), min_size=1,
                         max_size=2),
        "to": st.lists(st.builds(lambda found: {"operation": found}, OPERATIONS), min_size=1,
                       max_size=2),
        "when": st.lists(st.builds(condition, keys, st.integers(0, 3), st.booleans()), min_size=1,
                         max_size=2),
    }  # fmt: skip
    rule = st.fixed_dictionaries({}, optional=parts)
    return st.lists(rule, min_size=1, max_size=2)


POLICIES = st.one_of(
    st.builds(lambda action, found: {"action": action, "rules": found},
              st.sampled_from(["ALLOW", "DENY", "AUDIT"]), rules(custom=False)),
    st.builds(lambda name, found: {"action": "CUSTOM", "provider": {"name": name}, "rules": found},
              st.sampled_from(["yes", "no", "fails", "changes", "missing"]), rules(custom=True)),
    st.builds(lambda found: {"kind": "RequestAuthentication", "jwtRules": found}, st.sampled_from([
        [jwt_rule(ISSUERS[0], outputPayloadToHeader="x-payload")],
        [jwt_rule(ISSUERS[1], outputClaimToHeaders=[{"header": "x-out", "claim": "azp"}])],
        [jwt_rule(ISSUERS[0], forwardOriginalToken=True), jwt_rule(ISSUERS[1])],
        [jwt_rule(ISSUERS[0], audiences=["x"], fromHeaders=[{"name": "x-tier"}])],
    ])),
    st.builds(lambda mode: {"kind": "PeerAuthentication", "mtls": {"mode": mode}},
              st.sampled_from(["STRICT", "PERMISSIVE"])),
)  # fmt: skip
POLICY_SETS = st.lists(POLICIES, min_size=1, max_size=5).filter(
    lambda found: sum(spec.get("kind") == "RequestAuthentication" for spec in found) < 2
)


@st.composite
def messages(draw: st.DrawFn) -> CheckRequest:
    """Return a check of any kind."""
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = draw(st.sampled_from(PEERS))
    source = draw(st.sampled_from(["10.1.2.3", "::ffff:10.1.2.3", "192.168.0.1"]))
    attributes.source.address.socket_address.address = source
    attributes.destination.address.socket_address.address = "10.0.0.2"
    port = draw(st.sampled_from([80, 8080, 0]))
    attributes.destination.address.socket_address.port_value = port
    if draw(st.booleans()):
        attributes.tls_session.sni = draw(st.sampled_from(["Shop", "", "token=abcdefgh"]))
    if draw(st.booleans()):
        section = attributes.metadata_context.filter_metadata["envoy.filters.a.b"]
        section.update(draw(st.sampled_from([
            {"k": "v"}, {"k": "password=hunter22"}, {"m": ["v"]}, {"k": 1, "z": "v"}
        ])))  # fmt: skip
    if draw(st.integers(0, 9)) == 0:
        return message
    http = attributes.request.http
    http.method = draw(st.sampled_from(["GET", "POST", "PATCH", ""]))
    http.path = draw(st.sampled_from(PATHS))
    http.host = draw(st.sampled_from(["shop", "token=abcdefgh", ""]))
    http.scheme = draw(st.sampled_from(["https", ""]))
    headers = draw(st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES)),
                            max_size=5))  # fmt: skip
    headers += draw(st.lists(st.tuples(st.sampled_from(["authorization", "x-tier"]),
                                       st.sampled_from(TOKENS)), max_size=2))  # fmt: skip
    if draw(st.booleans()):
        for name, value in headers:
            if "\x80" not in value:
                http.headers[name] = value
        return message
    http.header_map.headers.add(key=":path", raw_value=http.path.encode())
    for name, value in headers:
        http.header_map.headers.add(key=name, raw_value=value.encode("latin-1"))
    return message


ANSWERS = {
    "yes": FixedProvider(ProviderVerdict(effect=Effect.ALLOW)),
    "no": FixedProvider(ProviderVerdict(effect=Effect.DENY)),
    "fails": FixedProvider(ProviderError("no")),
    "changes": FixedProvider(
        ProviderVerdict(
            effect=Effect.ALLOW,
            mutations=Mutations(
                set_request_headers=(("x-added", "gold"), ("x-tier", "password=hunter22")),
                remove_request_headers=("referer", "user-agent"),
            ),
        )
    ),
}
MESHES = [
    Mesh(),
    Mesh(trusted_proxy_hops=0),
    Mesh(trusted_proxy_hops=1),
    Mesh(envoy_version=(1, 30)),
]


def assert_no_secret(documents: list[dict[str, Any]]) -> None:
    """No record holds a credential, nor the value of a header that is secret by name."""
    text = json.dumps(documents)
    for secret in ("hunter22", "eyJ", "abcdefgh", "c2ln", "u:p@"):
        assert secret not in text, secret
    for document in documents:
        part = document.get("replay", {})
        written = {**part.get("headers", {}), **part.get("rewritten", {})}
        assert not [name for name in ("cookie", "x-api-key", "authorization") if written.get(name)]


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    specs=POLICY_SETS,
    traffic=st.lists(messages(), min_size=1, max_size=6),
    default=st.sampled_from(["", "", "yes", "no", "changes"]),
    mesh=st.sampled_from(MESHES),
)
def test_same_policies_no_change(
    specs: list[dict[str, Any]], traffic: list[CheckRequest], default: str, mesh: Mesh
) -> None:
    """Whatever the policies and the traffic, nothing is newly denied or newly allowed."""
    state = state_of(specs, dict(ANSWERS), default=default, mesh=mesh)
    documents = recorded(state, traffic)
    assert_no_secret(documents)
    for result in replayed(state, documents):
        assert result.change in (Change.SAME, Change.UNKNOWN), (result.why, result.document)


@pytest.mark.parametrize("key", ["groups", "team"])
def test_what_policies_look_at_is_enough(key: str) -> None:
    """A claim or header that a policy names is recorded for it, and the replay is exact."""
    when = [{"key": f"request.auth.claims[{key}]", "values": ["a"]},
            {"key": "request.headers[x-tier]", "values": ["gold"]}]  # fmt: skip
    specs = [{"rules": [{"when": when}]},
             {"kind": "RequestAuthentication", "jwtRules": [jwt_rule(ISSUERS[0])]}]  # fmt: skip
    state = state_of(specs)
    traffic = []
    for tier, value in (("gold", "a"), ("gold", "b"), ("lead", "a")):
        message = CheckRequest()
        http = message.attributes.request.http
        http.method, http.path, http.host = "GET", "/", "h"
        claims = json.dumps({"iss": ISSUERS[0], "sub": "s", key: [value]})
        for name, text in (("x-tier", tier), ("authorization", f"Bearer {token(claims)}")):
            http.header_map.headers.add(key=name, raw_value=text.encode())
        traffic.append(message)
    documents = recorded(state, traffic)
    assert ["allow", "deny", "deny"] == [each["decision"]["effect"] for each in documents]
    assert [Change.SAME] * 3 == [result.change for result in replayed(state, documents)]
    assert "eyJ" not in json.dumps(documents)

"""The index answers as trying every rule in order would, only sooner."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.mapping import MappingSet, RuleTexts, make_mapping
from identity.peer import Peer
from identity.spiffe_id import TrustDomain
from policies.decision import RuleRef
from policies.index import PolicyIndex
from policies.matchers import CompiledPolicy
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

MESH = Mesh(trust_domain="td", trust_domain_aliases=("old",), trusted_proxy_hops=0)
PRINCIPALS = [
    "td/ns/a/sa/x",
    "cluster.local/ns/b/sa/y",
    "*/sa/x",
    "td/ns/a/*",
    "*",
    "other/ns/a/sa/x",
]
NAMESPACES = ["a", "b", "ns", "sa", "*a", "a*"]
PATHS = ["/", "/a", "/a/*", "*.css", "/a/{*}", "/a/{**}/c", "*", "/a/b/*", "/A"]
HOSTS = ["h.test", "*.test", "H.TEST", "*", "h.test:80", "h*"]
METHODS = ["GET", "P*", "*", "get"]
PORTS = ["80", "8080", "080"]
BLOCKS = ["10.0.0.0/8", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32", "10.1.0.0/16"]
SNIS = ["a.test", "*.test"]


def lists(values: list[str]) -> st.SearchStrategy[list[str]]:
    """Return lists of one to three of the values."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


def fields(**known: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings of one to three fields, positive or negated, to values."""
    choices = []
    for name, values in known.items():
        for spelled in (name, f"not{name[0].upper()}{name[1:]}"):
            choices.append(st.tuples(st.just(spelled), lists(values)))
    return st.lists(st.one_of(choices), min_size=1, max_size=3).map(dict)


SOURCES = st.one_of(
    fields(principals=PRINCIPALS, namespaces=NAMESPACES, ipBlocks=BLOCKS, remoteIpBlocks=BLOCKS),
    st.just({"serviceAccounts": ["x", "b/y", "b/y.dns"]}),
)
OPERATIONS = fields(paths=PATHS, hosts=HOSTS, methods=METHODS, ports=PORTS)
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"key": st.just("source.principal"), "values": lists(PRINCIPALS)}),
    st.fixed_dictionaries({"key": st.just("source.namespace"), "notValues": lists(NAMESPACES)}),
    st.fixed_dictionaries({"key": st.just("connection.sni"), "values": lists(SNIS)}),
    st.fixed_dictionaries({"key": st.just("destination.ip"), "values": lists(BLOCKS)}),
)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.lists(SOURCES.map(lambda source: {"source": source}), min_size=1, max_size=2),
        "to": st.lists(
            OPERATIONS.map(lambda operation: {"operation": operation}), min_size=1, max_size=2
        ),
        "when": st.lists(CONDITIONS, min_size=1, max_size=2),
    },
)
NAMES = [
    "spiffe://td/ns/a/sa/x",
    "spiffe://old/ns/b/sa/y",
    "spiffe://td/ns/ns/sa/x",
    "spiffe://td/ns/ns/ns/b/sa/y",
    "spiffe://team/b/x",
    "spiffe://team/ns/a/sa/x",
    "spiffe://TEAM/ns/a/sa/x",
    "y.b.dns.team",
    "CN=x",
    "O=/ns/b/,CN=x.a.dns.team",
    "https://h/ns/a/sa/x",
    "spiffe://td/ns/a/sa/x\n",
]
MAPPINGS = MappingSet(
    (
        make_mapping(
            "team",
            [TrustDomain("team")],
            [
                RuleTexts(
                    pattern="/{ns:label}/{sa:label}", namespace="{ns}", service_account="{sa}"
                ),
                RuleTexts(
                    pattern="{sa}.{ns}.dns.{trustDomain}",
                    namespace="{ns}",
                    service_account="{sa}.dns",
                    is_dns=True,
                ),
            ],
        ),
    )
)


def peer_of(names: list[str], is_mapped: bool) -> Peer | None:
    """Return the peer with these names, read by the mappings or not."""
    peer = Peer.from_principal(names[0] if names else "", tuple(names))
    reading = MAPPINGS.read(names) if is_mapped and peer is not None else None
    return peer if peer is None or reading is None else replace(peer, reading=reading)


PEERS = st.builds(peer_of, st.lists(st.sampled_from(NAMES), max_size=3, unique=True), st.booleans())
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT", "get", ""]),
    path=st.sampled_from(["/", "/a", "/a/b?x=.css", "/a/b/c", "/x.css", "/a/x/c", "", "/A"]),
    host=st.sampled_from(["h.test", "H.test", "h.test:80", "x", ""]),
    source_ip=st.sampled_from(["10.1.2.3", "192.0.2.1", "::ffff:10.1.2.3", "2001:db8::1", ""]),
    destination_ip=st.sampled_from(["10.1.2.3", "::1", ""]),
    destination_port=st.sampled_from([80, 8080, 0]),
    sni=st.sampled_from(["", "a.test"]),
    workload=st.just(Workload(namespace="a")),
    peer=PEERS,
    headers=st.sampled_from([{}, {"x-forwarded-for": ("10.1.2.3",)}]),
)


def load(rules: list[list[dict[str, Any]]], action: str) -> tuple[CompiledPolicy, ...]:
    """Return the compiled policies of these rule lists, all in namespace a."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{number:03}", "namespace": "a"},
            "spec": {"action": action, "rules": each},
        }
        for number, each in enumerate(rules)
    ]
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump_all(documents))], MESH)
    return tuple(compiled for _, compiled in snapshot.policies)


def linear(policies: tuple[CompiledPolicy, ...], request: Request) -> RuleRef | None:
    """Return the first match by trying all."""
    for policy in policies:
        found = policy.first_match(request)
        if found is not None:
            return found
    return None


@given(
    st.lists(st.lists(RULES, min_size=1, max_size=3), min_size=1, max_size=6),
    st.sampled_from(["ALLOW", "DENY"]),
    st.lists(REQUESTS, min_size=1, max_size=8),
)
@settings(max_examples=250, deadline=None)
def test_same_as_trying_all(
    rules: list[list[dict[str, Any]]], action: str, requests: list[Request]
) -> None:
    """First match and all matches are those of the plain loop; one more policy changes nothing."""
    policies = load(rules, action)
    whole = PolicyIndex(policies, MESH)
    grown = PolicyIndex(policies[:-1], MESH).with_policy(policies[-1])

    for request in requests:
        assert linear(policies, request) == whole.first_match(request)
        assert linear(policies, request) == grown.first_match(request)
        every = tuple(
            found for policy in policies if (found := policy.first_match(request)) is not None
        )
        assert every == whole.all_matches(request)
        assert every == grown.all_matches(request)


def test_looks_at_few() -> None:
    """Of a thousand rules that differ in one thing, one is a candidate."""
    policies = load(
        [[{"to": [{"operation": {"methods": ["GET"], "paths": [f"/p{n}"]}}]}] for n in range(1000)],
        "ALLOW",
    )
    index = PolicyIndex(policies, MESH)

    found = index._candidates(Request(method="GET", path="/p7?x", host="h"))

    assert [7] == list(found)


def test_near_rules_share_something() -> None:
    """When nothing matches, the rules that share most come first."""
    policies = load(
        [[{"to": [{"operation": {"paths": [f"/p{n}"], "methods": ["POST"]}}]}] for n in range(200)],
        "ALLOW",
    )
    index = PolicyIndex(policies, MESH)

    nearest = next(iter(index.near_rules(Request(method="GET", path="/p150", host="h"))))

    assert "a/p150#0" == nearest.ref.name


def _on_paths(count: int, prefix: str = "/p") -> list[list[dict[str, Any]]]:
    return [[{"to": [{"operation": {"paths": [f"{prefix}{n}"]}}]}] for n in range(count)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_where_nothing_is_shared_the_first_rules_are_near(count: int) -> None:
    """So that there is always something to tell, and never much: those that are always tried."""
    stranger = Request(method="GET", path="/x", host="h")
    index = PolicyIndex(load(_on_paths(count), "ALLOW"), MESH)
    names = [rule.ref.policy for rule in index.near_rules(stranger)]
    assert names == [f"p{n:03}" for n in range(min(count, 8))]

    anywhere = [[{"when": [{"key": "request.headers[x]", "values": ["a"]}]}] for _ in range(count)]
    index = PolicyIndex(load([*_on_paths(9), *anywhere], "ALLOW"), MESH)
    names = [rule.ref.policy for rule in index.near_rules(stranger)]
    assert names == [f"p{n:03}" for n in range(9, 9 + min(count, 8))]


@pytest.mark.parametrize(("count", "is_told"), [(63, True), (64, True), (65, False)])
def test_what_many_rules_share_tells_nothing(count: int, is_told: bool) -> None:
    """A method that so many ask for brings none of them near."""
    methods = [
        [{"to": [{"operation": {"paths": [f"/p{n}"], "methods": ["PUT"]}}]}] for n in range(count)
    ]
    index = PolicyIndex(load([*_on_paths(8, "/q"), *methods], "ALLOW"), MESH)
    near = index.near_rules(Request(method="PUT", path="/x", host="h"))
    assert [rule.ref.policy for rule in near] == [
        f"p{n:03}" for n in (range(8, 16) if is_told else range(8))
    ]


def test_the_first_rule_is_first_however_it_was_found() -> None:
    """One that is always tried and one that was looked up come in the authors' order."""
    anywhere = [{"when": [{"key": "request.headers[x]", "values": ["a"]}]}]
    for place in range(10):
        rules = _on_paths(9)
        rules.insert(place, anywhere)
        policies = load(rules, "ALLOW")
        index = PolicyIndex(policies, MESH)
        for number in range(9):
            request = Request(method="GET", path=f"/p{number}", host="h", headers={"x": ("a",)})
            every = sorted((f"p{place:03}", f"p{number + (number >= place):03}"))
            assert [ref.policy for ref in index.all_matches(request)] == every
            assert index.first_match(request) == linear(policies, request)


def test_an_index_that_grew_several_times() -> None:
    """Each policy that was added is tried, after those before it."""
    policies = load(_on_paths(5), "ALLOW")
    index = PolicyIndex(policies[:1], MESH)
    for policy in policies[1:]:
        index = index.with_policy(policy)
    assert tuple(index) == policies
    for number in range(6):
        request = Request(method="GET", path=f"/p{number}", host="h")
        found = linear(policies, request)
        assert index.first_match(request) == found
        assert index.all_matches(request) == (() if found is None else (found,))


def test_an_index_is_of_the_very_policies() -> None:
    """What is equal but not the same, in another order, in another mesh, or grown, is another."""
    policies, others = load(_on_paths(3), "ALLOW"), load(_on_paths(3), "ALLOW")
    index = PolicyIndex(policies, MESH)
    assert index.holds(policies, MESH)
    assert index.holds(list(policies), replace(MESH))
    for different in (policies[:2], policies[1:], (*policies, others[0]), policies[::-1], ()):
        assert not index.holds(different, MESH)
    assert not index.holds((*policies[:2], others[2]), MESH)
    assert not index.holds(policies, replace(MESH, trust_domain="other"))
    grown = PolicyIndex(policies[:2], MESH).with_policy(policies[2])
    assert tuple(grown) == policies
    assert not grown.holds(policies, MESH)
    assert not grown.holds(policies[:2], MESH)
    assert PolicyIndex((), MESH).holds((), MESH)


def test_empty_list_is_no_list() -> None:
    """No policies at all is not the same as policies that match nothing."""
    empty_allow = load([[]], "ALLOW")

    assert not PolicyIndex((), MESH)
    assert PolicyIndex(empty_allow, MESH)
    assert PolicyIndex().with_policy(empty_allow[0])

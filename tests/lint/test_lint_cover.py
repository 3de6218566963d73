"""What the linter proves about rules is what the evaluator does with them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.peer import Peer
from policies.columns import Column
from policies.diagnostic import Location
from policies.lint.cover import rule_covers
from policies.matchers import compile_policy
from policies.mesh import Mesh
from policies.model import (
    Action,
    Attachment,
    AuthorizationPolicy,
    Clause,
    Metadata,
    Rule,
    Value,
)
from policies.request import Request

HERE = Location("p.yaml", 1)
MESH = Mesh(trust_domain="td", trust_domain_aliases=("old",))
VALUES = {
    "operation.paths": ["/a", "/a/b", "/a/*", "/a*", "*b", "*/b", "*", "/{*}/b", "/{**}"],
    "operation.methods": ["GET", "G*", "*T", "*", "POST"],
    "operation.hosts": ["A.example", "a.example", "*.example", "a.*", "*"],
    "source.principal": ["td/ns/a/sa/b", "old/ns/a/sa/b", "cluster.local/ns/a/*",
                         "td/ns/a/sa/*", "td/*", "*/sa/b", "*", "cluster.local/ns/a/sa/b"],
    "source.namespace": ["a", "b", "*"],
    "destination.port": ["80", "90"],
    "source.ip": ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "::/0"],
    "request.headers[x]": ["1", "1*", "*1", "*"],
}  # fmt: skip
PATHS = ["/a", "/a/b", "/ab", "/c/b", "/"]
PEERS = ["td/ns/a/sa/b", "old/ns/a/sa/b", "td/ns/b/sa/b", "cluster.local/ns/a/sa/b"]


@st.composite
def _clauses(draw: st.DrawFn, *prefixes: str) -> tuple[Clause, ...]:
    keys = [key for key in VALUES if key.startswith(prefixes)]
    found = []
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True)):
        lists = st.lists(st.sampled_from(VALUES[key]), max_size=2, unique=True)
        yes = draw(lists)
        no = draw(lists) if yes else [draw(st.sampled_from(VALUES[key]))]
        found.append(
            Clause(
                key=key,
                spelled=key,
                values=tuple(Value(text, HERE) for text in yes),
                not_values=tuple(Value(text, HERE) for text in no),
                location=HERE,
            )
        )
    return tuple(found)


def _groups(*prefixes: str) -> st.SearchStrategy[tuple[tuple[Clause, ...], ...]]:
    return st.lists(_clauses(*prefixes), max_size=2).map(tuple)


RULES = st.builds(
    Rule,
    sources=_groups("source."),
    operations=_groups("operation.", "destination."),
    when=st.one_of(st.just(()), _clauses("request.", "source.", "destination.")),
    location=st.just(HERE),
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT"]),
    path=st.sampled_from(PATHS),
    host=st.sampled_from(["a.example", "A.Example", "b.example", "a.b"]),
    is_http=st.just(True),
    destination_port=st.sampled_from([80, 90]),
    source_ip=st.sampled_from(["10.1.2.3", "10.1.2.4", "10.2.0.1", "2001:db8::1", "192.0.2.1"]),
    headers=st.sampled_from([{}, {"x": ("1",)}, {"x": ("12",)}, {"x": ("21",)}]),
    peer=st.sampled_from([None, *PEERS]).map(
        lambda text: None if text is None else Peer.from_principal(f"spiffe://{text}")
    ),
)


def _policy(rule: Rule, action: Action) -> AuthorizationPolicy:
    meta = Metadata(namespace="shop", name="p", location=HERE)
    return AuthorizationPolicy(metadata=meta, attachment=Attachment(), action=action, rules=(rule,))


@pytest.mark.parametrize("column", [Column.HTTP, Column.TCP])
@settings(max_examples=60, deadline=None)
@given(
    wide=RULES,
    narrow=RULES,
    merge=st.booleans(),
    action=st.sampled_from([Action.ALLOW, Action.DENY]),
    requests=st.lists(REQUESTS, min_size=10, max_size=10),
)
def test_what_is_covered_is_matched(
    column: Column, wide: Rule, narrow: Rule, merge: bool, action: Action, requests: list[Request]
) -> None:
    """A request that a covered rule matches is matched by the rule that covers it."""
    if merge:
        # Most pairs have nothing in common; a rule with more conditions is covered more often.
        narrow = Rule(
            sources=narrow.sources or wide.sources,
            operations=wide.operations,
            when=(*wide.when, *narrow.when),
            location=HERE,
        )
    if not rule_covers(wide, narrow, action, MESH):
        return
    one, other = (compile_policy(_policy(each, action), MESH, column) for each in (wide, narrow))
    for request in requests:
        if other.first_match(request) is not None:
            assert one.first_match(request) is not None


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[Rule, Rule]:
    """Return two rules on one key, so that one often covers the other."""
    key = draw(st.sampled_from(sorted(VALUES)))
    first, second = draw(_clauses(key)), draw(_clauses(key))
    return Rule(when=first, location=HERE), Rule(when=second, location=HERE)


@settings(max_examples=500, deadline=None)
@given(
    pair=_pairs(),
    action=st.sampled_from([Action.ALLOW, Action.DENY]),
    requests=st.lists(REQUESTS, min_size=10, max_size=10),
)
def test_what_is_covered_is_matched_on_one_key(
    pair: tuple[Rule, Rule], action: Action, requests: list[Request]
) -> None:
    """The same where both rules are about one attribute."""
    wide, narrow = pair
    if not rule_covers(wide, narrow, action, MESH):
        return
    one, other = (compile_policy(_policy(each, action), MESH, Column.HTTP) for each in pair)
    for request in requests:
        assert other.first_match(request) is None or one.first_match(request) is not None


def _rule(key: str, *values: str) -> Rule:
    clause = Clause(
        key=key, spelled=key, values=tuple(Value(each, HERE) for each in values), location=HERE
    )
    return Rule(when=(clause,), location=HERE)


@pytest.mark.parametrize(
    ("key", "wide", "narrow", "expected"),
    [
        ("operation.paths", "/api/*", "/api/x", True),
        ("operation.paths", "/api/*", "/api/x/*", True),
        ("operation.paths", "/api/x", "/api/*", False),
        ("operation.paths", "*.css", "/a.css", True),
        ("operation.paths", "*.css", "/a.css*", False),
        ("operation.paths", "/a/*", "*/a/b", False),
        ("operation.paths", "/a/*", "/a/{*}", False),
        ("operation.hosts", "A.example", "a.EXAMPLE", True),
        ("source.principal", "td/ns/a/*", "td/ns/a/sa/b", False),
        ("source.principal", "*/sa/b", "td/ns/a/sa/b", True),
        ("source.serviceAccount", "front", "front", False),
        ("source.serviceAccount", "web/front", "web/front", True),
        ("source.ip", "10.0.0.0/8", "10.1.0.0/16", True),
        ("source.ip", "10.1.0.0/16", "10.0.0.0/8", False),
        ("remote.ip", "10.0.0.0/8", "10.0.0.7", True),
        ("source.ip", "0.0.0.0/0", "2001:db8::1", False),
    ],
)
def test_covering_values(key: str, wide: str, narrow: str, expected: bool) -> None:
    """Which value covers which; where the texts do not prove it, none does."""
    covers = rule_covers(_rule(key, wide), _rule(key, narrow), Action.ALLOW, MESH)
    assert expected is covers

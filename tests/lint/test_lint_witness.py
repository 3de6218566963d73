"""Witnesses: each is matched by its rule, and what the evaluator denies is never told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.lint_judge import LintJudge
from identity.jwt_rule import JwtRule
from policies.decision import Decision, Effect, Layer, Reason
from policies.lint.cover import rule_covers
from policies.lint.cover_index import CoverIndex
from policies.lint.facts import Facts, Known
from policies.lint.inventory import Inventory, KnownWorkload
from policies.lint.registry import RULES
from policies.lint.run import lint_texts
from policies.lint.witness import home_of, single_values, witnesses
from policies.matchers import compile_policy
from policies.mesh import Mesh, MeshMode
from policies.model import (
    Action,
    Attachment,
    AuthorizationPolicy,
    Clause,
    Metadata,
    RequestAuthentication,
    Resource,
    Rule,
    Value,
)
from policies.request import Request, Workload
from tests.lint.linting import TODAY, example, known_of
from tests.lint.test_lint_cover import HERE, REQUESTS
from tests.lint.test_lint_cover import RULES as SOME_RULES

MESH = Mesh(trust_domain="td", trust_domain_aliases=("old",))
ACTIONS = st.sampled_from([Action.ALLOW, Action.DENY])


def _policy(name: str, action: Action, *rules: Rule) -> AuthorizationPolicy:
    meta = Metadata(namespace="shop", name=name, location=HERE)
    return AuthorizationPolicy(metadata=meta, attachment=Attachment(), action=action, rules=rules)


@settings(max_examples=150, deadline=None)
@given(rule=SOME_RULES, action=ACTIONS)
def test_a_witness_is_matched(rule: Rule, action: Action) -> None:
    """Whatever the rule, a request that is made from it is one that it matches."""
    policy = _policy("p", action, rule)
    compiled = compile_policy(policy, MESH)
    for request in witnesses(policy, rule, MESH, home_of(policy)):
        assert compiled.first_match(request) is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source.principal", "td/ns/a/sa/b"), ("source.principal", "td/ns/a/*"),
        ("source.principal", "td/ns/pre*"), ("source.principal", "*/sa/b"),
        ("source.principal", "cluster.local/ns/a/sa/b"), ("source.principal", "*"),
        ("source.namespace", "a*b"), ("source.serviceAccount", "acc"),
        ("source.serviceAccount", "ns/acc"), ("source.trustDomain", "*.example"),
        ("source.ip", "10.1.0.0/16"), ("source.ip", "2001:db8::/32"),
        ("destination.ip", "10.9.9.9"), ("destination.port", "31"),
        ("operation.paths", "/a/{*}/b/{**}"), ("operation.paths", "*.css"),
        ("operation.hosts", "*.example"), ("operation.methods", "P*"),
        ("connection.sni", "a.*"), ("request.headers[x-a]", "pre*"),
        ("request.auth.principal", "https://idp.example/*"),
        ("request.auth.principal", "*/alice"), ("request.auth.claims[a][b]", "v*"),
        ("request.auth.audiences", "shop"), ("request.auth.presenter", "app"),
    ],
)  # fmt: skip
def test_every_kind_of_value_has_a_witness(key: str, value: str) -> None:
    """A single condition that can be met is met, and so is its exclusion."""
    asked = Clause(key=key, spelled=key, values=(Value(value, HERE),), location=HERE)
    excluded = replace(asked, values=(), not_values=asked.values)
    for clause in (asked, excluded):
        rule = Rule(when=(clause,), location=HERE)
        policy = _policy("p", Action.ALLOW, rule)
        assert witnesses(policy, rule, MESH, home_of(policy))


@settings(max_examples=60, deadline=None)
@given(rule=SOME_RULES)
def test_every_value_stands_in_a_part(rule: Rule) -> None:
    """The parts of a rule with single values have all its values between them."""
    parts = list(single_values(rule))
    texts = {value.text for part in parts for clause in part.when for value in clause.values}
    groups = (*rule.sources, *rule.operations, rule.when)
    assert texts == {value.text for group in groups for clause in group for value in clause.values}
    assert all(len(clause.values) <= 1 for part in parts for clause in part.when)


@settings(max_examples=60, deadline=None)
@given(rules=st.lists(SOME_RULES, min_size=2, max_size=8), action=ACTIONS)
def test_the_index_finds_what_all_pairs_find(rules: list[Rule], action: Action) -> None:
    """A cover is found by the index exactly where one is found by trying each rule."""
    policies = [_policy(f"p{place}", action, each) for place, each in enumerate(rules)]
    index = CoverIndex(policies, MESH)
    for policy in policies:
        (each,) = policy.rules
        others = [other for other in policies if other is not policy]
        expected = any(rule_covers(other.rules[0], each, action, MESH) for other in others)
        assert (index.covering(each, policy) is not None) is expected


@settings(max_examples=40, deadline=None)
@given(
    rules=st.lists(st.tuples(SOME_RULES, ACTIONS), min_size=2, max_size=6),
    requests=st.lists(REQUESTS, min_size=20, max_size=20),
)
def test_what_is_said_to_do_nothing_does_nothing(
    rules: list[tuple[Rule, Action]], requests: list[Request]
) -> None:
    """Without the policies that are told as shadows or doubles every decision is the same."""
    # Doubles and parts of rules, so that there are shadows.
    wide = [
        (replace(rule, when=(), sources=()), action) for rule, action in rules if rule.operations
    ]
    policies = tuple(
        _policy(f"p{place}", action, rule)
        for place, (rule, action) in enumerate([*rules, *wide, rules[0]])
    )
    judge = LintJudge()
    facts = Facts(policies, Known(mesh=MESH, judge=judge))
    told = {
        spot.resource.rpartition("/")[2]
        for code in ("MW0501", "MW0502", "MW0503")
        for spot in RULES[code](facts)
        if all(claim.is_confirmed(judge, MESH) for claim in spot.claims)
    }
    left = tuple(policy for policy in policies if policy.metadata.name not in told)
    if not any(policy.action is Action.ALLOW for policy in left):
        return
    for request in requests:
        asked = replace(request, workload=Workload(namespace="shop"))
        with_all, without = judge(policies, MESH, asked), judge(left, MESH, asked)
        assert with_all.effect is without.effect


@pytest.mark.parametrize(
    "code", ["MW0302", "MW0304", "MW0308", "MW0501", "MW0502", "MW0503", "MW0504", "MW0507"]
)
def test_what_the_evaluator_denies_is_not_told(code: str) -> None:
    """With an evaluator that answers otherwise there is no finding, and it is counted."""

    def contrary(resources: Sequence[Resource], mesh: Mesh, request: Request) -> Decision:
        answer = LintJudge()(resources, mesh, request)
        turned = Effect.DENY if answer.is_allowed else Effect.ALLOW
        return Decision(effect=turned, reason=Reason.INTERNAL_ERROR, layer=Layer.INTERNAL)

    texts, mesh, given_ = example(code, "bad.yaml")
    known = replace(known_of(texts, mesh, given_), judge=contrary)
    result = lint_texts(texts, known, TODAY)
    assert code not in {found.code for found in result.findings}
    assert result.refuted


def test_a_claim_reads_as_a_sentence() -> None:
    """A witness names the request, the workload, the caller and the answer."""
    texts, mesh, given_ = example("MW0504", "bad.yaml")
    result = lint_texts(texts, known_of(texts, mesh, given_), TODAY)
    (told,) = {str(found.witness) for found in result.findings}
    assert told.startswith("GET any.example/")
    assert told.endswith(": denied")


ATTACHMENTS = st.sampled_from([None, {"app": "cart"}, {"app": "cart", "v": "1"}, {"app": "web"}])


@st.composite
def _policies(draw: st.DrawFn) -> tuple[AuthorizationPolicy, ...]:
    """Return a few policies of every action and scope, some of them on trial."""
    found = []
    for place in range(draw(st.integers(1, 6))):
        action = draw(st.sampled_from(list(Action)))
        policy = _policy(f"p{place}", action, *draw(st.lists(SOME_RULES, min_size=1, max_size=3)))
        meta = replace(policy.metadata, namespace=draw(st.sampled_from(["shop", "istio-system"])))
        found.append(
            replace(
                policy,
                metadata=meta,
                attachment=Attachment(selector=draw(ATTACHMENTS)),
                provider="opa" if action is Action.CUSTOM else "",
                dry_run=draw(st.booleans()) and action in (Action.ALLOW, Action.DENY),
            )
        )
    return tuple(found)


WORKLOADS = tuple(
    KnownWorkload(
        kind="Deployment", namespace="shop", name=labels["app"], service_account="default",
        location=HERE, labels=labels,
    )
    for labels in ({"app": "cart", "v": "1"}, {"app": "web"})
)  # fmt: skip
AUTHENTICATION = RequestAuthentication(
    metadata=Metadata(namespace="shop", name="tokens", location=HERE),
    attachment=Attachment(),
    jwt_rules=(JwtRule(issuer="https://idp.example"),),
)


@settings(max_examples=40, deadline=None)
@given(
    now=_policies(),
    before=_policies(),
    listed=st.booleans(),
    mode=st.sampled_from(list(MeshMode)),
    federated=st.sampled_from([None, frozenset[str](), frozenset({"other.example"})]),
)
def test_no_set_of_policies_ends_the_rules(
    now: tuple[AuthorizationPolicy, ...],
    before: tuple[AuthorizationPolicy, ...],
    listed: bool,
    mode: MeshMode,
    federated: frozenset[str] | None,
) -> None:
    """Whatever the policies, every rule runs, and behind a proxy every proof is confirmed."""
    judge = LintJudge()
    known = Known(
        mesh=replace(MESH, mode=mode),
        judge=judge,
        inventory=Inventory(workloads=WORKLOADS if listed else ()),
        federated=federated,
        before=before,
    )
    facts = Facts((*now, AUTHENTICATION), known)
    for code, find in sorted(RULES.items()):
        for spot in find(facts):
            is_confirmed = all(claim.is_confirmed(judge, known.mesh) for claim in spot.claims)
            # Without `targetRefs` nothing applies at a waypoint, and ambient reads rules its way.
            assert is_confirmed or mode not in (MeshMode.SIDECAR, MeshMode.GATEWAY), code

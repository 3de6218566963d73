"""`--who-can` against everybody: whoever the walk lets in is of a kind that the answer lists."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

from commanding import resources
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from authz.evaluate import Evaluator
from authz.explain.ask import Question, to_document
from authz.explain.callers import Caller, Carried, caller_kind, token_kind
from authz.explain.story import applied_policies
from authz.explain.who_can import find_who_can
from authz.policytest.model import TokenFixture
from authz.policytest.tokens import TestIssuer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwt_rule import JwtRule
from policies.mesh import Mesh
from policies.request import Workload
from policies.snapshot import build_snapshot

ISSUER = "https://idp.test"
DOMAINS, HOMES, ACCOUNTS = ("cluster.local", "old.test"), ("a", "ab", "c"), ("web", "job", "x-web")
PRINCIPALS = [
    f"{domain}/ns/{home}/sa/{account}"
    for domain, home, account in itertools.product(DOMAINS, HOMES, ACCOUNTS)
]
CLAIMS = ({}, {"role": "admin"}, {"role": "user"}, {"team": "t"}, {"role": "admin", "team": "t"},
          {"role": "user", "team": "t"}, {"team": "u"})  # fmt: skip
TOKENS: list[tuple[str, dict[str, str]] | None] = [
    None,
    *itertools.product(("alice", "bob"), CLAIMS),
]
NOW = datetime(2026, 1, 15, 10, tzinfo=UTC)
IDP = {
    "kind": "RequestAuthentication",
    "name": "idp",
    "spec": {"jwtRules": [{"issuer": ISSUER, "jwksUri": f"{ISSUER}/keys"}]},
}

SOURCES = {
    "principals": ["cluster.local/ns/a/sa/web", "old.test/ns/ab/sa/job", "cluster.local/ns/a*",
                   "*/sa/web", "*web", "*"],
    "namespaces": ["a", "a*", "c"],
    "serviceAccounts": ["web", "a/job", "c/x-web"],
    "requestPrincipals": [f"{ISSUER}/alice", f"{ISSUER}/*", "*"],
}  # fmt: skip
WHENS = {
    "request.auth.claims[role]": ["admin", "user", "*"],
    "request.auth.claims[team]": ["t", "u*"],
    "source.trustDomain": ["cluster.local", "old*"],
}


def some(values: list[str]) -> st.SearchStrategy[list[str]]:
    """One or two of the values."""
    return st.lists(st.sampled_from(values), min_size=1, max_size=2, unique=True)


def negated(name: str) -> str:
    """The name of a field's other half."""
    return f"not{name[0].upper()}{name[1:]}"


@st.composite
def source(draw: st.DrawFn) -> dict[str, Any]:
    """One entry of `from`: one or two fields, each as it is or negated."""
    names = draw(st.lists(st.sampled_from(sorted(SOURCES)), min_size=1, max_size=2, unique=True))
    if {"serviceAccounts"} < set(names):
        # Admission takes accounts with neither principals nor namespaces.
        names = ["serviceAccounts"]
    fields: dict[str, list[str]] = {}
    for name in names:
        key = negated(name) if draw(st.booleans()) else name
        fields[key] = draw(some(SOURCES[name]))
    return {"source": fields}


@st.composite
def condition(draw: st.DrawFn) -> dict[str, Any]:
    """One entry of `when`."""
    key = draw(st.sampled_from(sorted(WHENS)))
    half = draw(st.sampled_from(["values", "notValues"]))
    return {"key": key, half: draw(some(WHENS[key]))}


@st.composite
def policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two or three policies, DENY among them."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        rules = [
            {
                "from": draw(st.lists(source(), min_size=1, max_size=2)),
                "when": draw(st.lists(condition(), max_size=2)),
            }
            for _ in range(draw(st.integers(1, 2)))
        ]
        rules = [{key: value for key, value in rule.items() if value} for rule in rules]
        action = draw(st.sampled_from(["ALLOW", "ALLOW", "DENY"]))
        found.append({"name": f"p{number}", "spec": {"action": action, "rules": rules}})
    return found


def minted(issuer: TestIssuer, token: tuple[str, dict[str, str]] | None) -> str:
    """The token as callers carry it."""
    if token is None:
        return ""
    fixture = TokenFixture(issuer=ISSUER, sub=token[0], claims=token[1])
    return issuer.mint("t", {"t": fixture}, NOW)


@given(policies())
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
def test_everybody_who_may_is_of_a_kind_that_is_listed(specs: list[dict[str, Any]]) -> None:
    """Each caller is tried by the walk; one that it lets in has a line, one that is listed may."""
    note(json.dumps(specs))
    snapshot = build_snapshot([("p.yaml", resources([*specs, IDP]))], Mesh())
    state = ServingState(snapshot=snapshot, revision="r")
    issuer = TestIssuer()
    around = Surroundings(
        keys=issuer, now=NOW.timestamp, static_workload=Workload(namespace="shop")
    )
    evaluator = Evaluator(state, around)
    question = Question(path="/x")
    found = find_who_can(question, state, around)
    [rule] = snapshot.jwt_rules
    probed = evaluator.outcome(json.dumps(to_document(question)).encode())
    assert probed.basis is not None
    every = applied_policies(probed.basis)
    listed = {
        (
            caller_kind(tried.caller, every),
            None if tried.carried is None else token_kind(tried.carried, every),
        )
        for tried in found.may
    }
    bare = {caller for caller, token in listed if token is None}
    wide = [
        (caller_kind(tried.caller, every), tried.carried)
        for tried in found.may
        if tried.carried is not None
    ]

    assert found.is_whole
    tokens = [(token, minted(issuer, token)) for token in TOKENS]
    for principal in [*PRINCIPALS, ""]:
        spiffe = f"spiffe://{principal}" if principal else ""
        kind = caller_kind(Caller(label="", principal=spiffe), every)
        for token, text in tokens:
            asked = Question(path="/x", caller=spiffe, token=text)
            document = {**to_document(asked), "at": NOW.isoformat()}
            outcome = evaluator.outcome(json.dumps(document).encode())
            carried = None if token is None else carry(token, rule)
            of_token = None if carried is None else token_kind(carried, every)
            if outcome.decision.is_allowed:
                assert (
                    (kind, of_token) in listed
                    or kind in bare
                    or any(kind == each and within(carried, by) for each, by in wide)
                ), (principal, token, outcome.decision.detail)
            else:
                assert (kind, of_token) not in listed, (principal, token)


def carry(token: tuple[str, dict[str, str]], rule: JwtRule) -> Carried:
    """A token as the answer tells of it."""
    return Carried(label="", rule=rule, subject=token[0], claims=token[1])


def within(narrow: Carried | None, wide: Carried) -> bool:
    """Whether a token is that of a subject, or of a kind, that may already, and says more."""
    return (
        narrow is not None
        and (wide.is_kind or narrow.subject == wide.subject)
        and all(name in narrow.claims for name in wide.claims)
    )

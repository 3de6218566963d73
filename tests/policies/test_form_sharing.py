"""What a policy shares with the one before it of that name, it would have been all the same."""

from __future__ import annotations

import operator
from dataclasses import replace

import pytest
from form_texts import BLOCK, CHANGES, FLOW, FORMED, KNOWING, assert_as_in_full, changed, knowing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from identity.peer import Peer
from policies.load import inspect_file
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy
from policies.request import Request
from policies.set_memory import SetMemory
from policies.snapshot import Snapshot, build_snapshot


def _policies(text: str, line: int) -> dict[tuple[str, str], AuthorizationPolicy]:
    """Return what a text holds, under every name that the forms have."""
    found = [
        each
        for each in inspect_file("p.yaml", text, line).resources
        if isinstance(each, AuthorizationPolicy)
    ]
    return {(each.metadata.namespace, each.metadata.name): each for each in found}


def _named(policy: AuthorizationPolicy, namespace: str, name: str) -> AuthorizationPolicy:
    metadata = replace(policy.metadata, namespace=namespace, name=name)
    return replace(policy, metadata=metadata)


@settings(max_examples=150)
@given(st.sampled_from(FORMED), CHANGES, CHANGES, st.sampled_from([1, 2]))
@example(BLOCK, [(19, "a")], [(19, "a")], 1)
def test_what_was_before_changes_nothing(
    text: str, once: list[tuple[int, str]], twice: list[tuple[int, str]], line: int
) -> None:
    """Whatever a policy was before, with the same name or by another, it is what it is now."""
    before = _policies(text, 1) | _policies(changed(text, once), 1)
    others = _policies(BLOCK, 1).values()
    # WHY as well under these: a policy that is another one altogether may have had the name.
    before |= {name: _named(policy, *name) for name in before for policy in others}
    other = changed(text, twice)

    for known in (before, _policies(text, 1)):
        assert_as_in_full(KNOWING.read("p.yaml", other, line, known), other, line)


def test_what_stays_is_shared() -> None:
    """Of a policy with one new value all other clauses are those of before, compiled ones too."""
    memory, texts = SetMemory(), [("p.yaml", "---\n".join([BLOCK, _block("pay"), _block("ship")]))]
    first = build_snapshot(texts, Mesh(), memory=memory)
    edited = [(file, text.replace("/api/v1/", "/api/v2/")) for file, text in texts]
    second = build_snapshot(edited, Mesh(), memory=memory)

    (was, was_compiled), (now, compiled) = first.policies[1], second.policies[1]
    assert now.metadata is was.metadata
    assert all(map(operator.is_, now.rules[0].sources[0], was.rules[0].sources[0]))
    assert now.rules[0].when[1] is was.rules[0].when[1]
    pairs = zip(now.rules[0].operations[0], was.rules[0].operations[0], strict=True)
    assert [True, True, False] == [one is other for one, other in pairs]
    assert compiled.rules[0].when[0] is was_compiled.rules[0].when[0]
    assert compiled.rules[0].ref is was_compiled.rules[0].ref
    assert compiled.rules[0].operations[0][2] is not was_compiled.rules[0].operations[0][2]


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ("rules:\n", "action: DENY\n  rules:\n"), ("  namespace: shop", "  namespace: bank"),
        ("name: orders", "name: other"), ('"true"', '"false"'), ("old", "new"),
        ("        notPaths:", "        notMethods: [PUT]\n        notPaths:"),
        ("# of the shop\n", "# of the shop\n# of all\n"), ("/api/v1/*", "/api/v2/*"),
        ("  rules:\n", "  rules:\n  - {}\n"), ("values: [admins]", "notValues: [admins]"),
        ("app: orders", "app: pay"), ("  rules:\n", "  # on another line\n  rules:\n"),
    ],
)  # fmt: skip
def test_what_is_taken_over_decides_as_what_is_made_anew(was: str, is_now: str) -> None:
    """Edit after edit, there and back, each rule matches what it matches when it is compiled."""
    memory = SetMemory()
    texts = [
        _block("pay"),
        BLOCK,
        BLOCK.replace(was, is_now),
        BLOCK,
        BLOCK.replace(was, is_now),
    ]

    for text in texts:
        built = build_snapshot([("p.yaml", text)], Mesh(), memory=memory)
        anew = build_snapshot([("p.yaml", text)], Mesh())
        assert _told(anew) == _told(built)


def _block(name: str) -> str:
    return BLOCK.replace("name: orders", f"name: {name}")


def _told(snapshot: Snapshot) -> object:
    """Return what a set is and what it answers."""
    names = ("td/ns/shop/sa/web", "td/ns/jobs/sa/x", "td/ns/b/sa/x")
    peers = [None, *(Peer.from_principal(f"spiffe://{each}") for each in names)]
    requests = [
        Request(path=path, method=method, source_ip=ip, peer=peer)
        for path in ("/api/v1/a", "/api/v2/a", "/ready", "/x")
        for method in ("GET", "PUT")
        for ip in ("10.1.1.1", "11.1.1.1")
        for peer in peers
    ]
    return [
        (repr(policy), compiled.ref, compiled.action, compiled.dry_run, compiled.provider)
        + tuple(
            (rule.ref, rule.failing(request), rule.matches(request))
            for rule in compiled.rules
            for request in requests
        )
        for policy, compiled in snapshot.policies
    ]


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ('"paths": ["/api/1/*"', '"paths":  ["/api/1/*"'), ('"methods":', '"paths":'),
        ('{ "paths": [', '{"paths":  ['), ('"to": [{"o', '"to":[ {"o'),
    ],
)  # fmt: skip
def test_what_is_taken_over_stands_where_it_stands_now(was: str, is_now: str) -> None:
    """A key that moved alone, or another key for the same values, is another clause."""
    text = FLOW.replace('{"paths"', '{ "paths"')
    texts = [text.replace(is_now, was), text.replace(was, is_now)]
    if '"methods":' in was:
        texts = [text.replace('"paths":', '"methods":').replace("/api/1/", "GET"),
                 text.replace('"paths":', '"hosts"  :').replace("/api/1/", "GET")]  # fmt: skip
    memory = knowing(*texts)

    for first, second in (texts, texts[::-1]):
        found = memory.read("p.yaml", second, 1, _policies(first, 1))
        assert_as_in_full(found, second, 1)


def test_another_action_compiles_anew() -> None:
    """In doubt a DENY matches and an ALLOW does not: the same clause is not the same predicate."""
    memory = SetMemory()
    denies = FLOW.replace('"action": "DENY"', '"action":  "DENY"')
    allows = FLOW.replace('"action": "DENY"', '"action": "ALLOW"')
    clauses = []
    for text in (denies, allows) * 3:
        both = [("p.yaml", text + "---\n" + text.replace("a-1", "a-2"))]
        ((policy, compiled), _) = build_snapshot(both, Mesh(), memory=memory).policies
        clauses.append((policy.rules[0].operations[0][0], compiled.rules[0].operations[0][0]))

    (denied, denied_compiled), (allowed, allowed_compiled) = clauses[-2:]
    assert allowed is denied
    assert allowed_compiled is not denied_compiled

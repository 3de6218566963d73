"""A path that never came before is answered and recorded as a walk would, recalled or not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from remembering import (
    ALICE,
    BEGIN,
    DRY_RUN,
    ISSUERS,
    PEERS,
    WEB,
    Question,
    Twins,
    policy,
    state_of,
    to,
    token,
)

from audit.keyed_hash import KeyedHash
from audit.mould import RepeatedRecord
from audit.redact import Redactor
from authz.decision_memory import volatile_headers
from authz.settings import IdentityHeaderSettings
from policies.mesh import Mesh, PathNormalization
from policies.snapshot import build_snapshot

_ISSUER = ISSUERS[0]
_KEYS = f"{_ISSUER}/keys"
_RULE = {"issuer": _ISSUER, "jwksUri": _KEYS}
_POLICIES: Mapping[str, list[dict[str, Any]]] = {
    "texts": [
        policy("api", rules=[{"from": WEB, "to": to("/api/*", "/exact", "*.css")}]),
        policy("alice", rules=[{"from": ALICE, "to": [{"operation": {"notPaths": ["/api/x*"]}}]}]),
        policy("deny", action="DENY", rules=[{"to": to("/api/no*", "*/private")}]),
        policy("watch", action="AUDIT", rules=[{"to": to("/api/a*")}]),
        policy("tokens", "RequestAuthentication", jwtRules=[_RULE]),
    ],
    "templates": [
        policy("one", rules=[{"to": to("/t/{*}/end", "/t/{**}/last")}]),
        policy("two", action="DENY", rules=[{"to": to("/t/x/{*}")}]),
    ],
    "dry runs": [
        policy("all", rules=[{}]),
        policy("a", action="DENY", annotations=DRY_RUN, rules=[{"to": to("/api/a*")}]),
        policy("b", annotations=DRY_RUN, rules=[{"from": WEB, "to": to("/exact")}]),
    ],
    "asked": [
        policy("some", action="CUSTOM", provider={"name": "p"}, rules=[{"to": to("/api/c*")}]),
        policy("all", rules=[{}]),
    ],
    "parameters": [
        policy("all", rules=[{"from": ALICE}]),
        policy(
            "t", "RequestAuthentication", jwtRules=[{**_RULE, "fromParams": ["t", "access_token"]}]
        ),
    ],
    "header": [
        policy("h", rules=[{"when": [{"key": "request.headers[:path]", "values": ["/api/*"]}]}]),
    ],
    "token in the path": [
        policy("all", rules=[{"from": ALICE}]),
        policy(
            "t",
            "RequestAuthentication",
            jwtRules=[{**_RULE, "fromHeaders": [{"name": ":path", "prefix": "/t/"}]}],
        ),
    ],
    "workloads": [
        policy("a", selector={"matchLabels": {"app": "a"}}, rules=[{"to": to("/api/*")}]),
        policy("b", selector={"matchLabels": {"app": "b"}}, rules=[{"to": to("/api/x*")}]),
        policy(
            "c", selector={"matchLabels": {"app": "b"}}, action="DENY", rules=[{"to": to("*/end")}]
        ),
    ],
    "nothing": [],
}
_LEVELS = (PathNormalization.BASE, PathNormalization.DECODE_AND_MERGE_SLASHES)
_STATES = {
    (name, level): state_of(
        build_snapshot([("p.yaml", yaml.safe_dump_all(found))], Mesh(path_normalization=level))
    )
    for name, found in _POLICIES.items()
    for level in _LEVELS
}
_REDACTORS = (
    Redactor(),
    Redactor(headers=(":path",), secret_parameters=("card",)),
    Redactor(headers=(":path",), hashing=KeyedHash(b"k" * 32, headers=(":path",))),
)
_LONG = token(exp=BEGIN + 10_000)
_HEADS = ("/api/", "/api/a", "/api/no", "/api/x", "/api/c", "/exact", "/t/", "/t/x/", "/", "//", "")
_TAILS = ("", "/end", "/last", "/private", ".css", "/../api/a", "%2Fb", "\n", "\u00e9", "#f")
_QUERIES = ("", "?page=1", f"?t={_LONG}", f"?access_token={_LONG}", "?card=4711", "?%74=x", "?a#b")
_paths = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(_HEADS),
        st.text("abx/%.", max_size=3),
        st.sampled_from(_TAILS),
        st.sampled_from(_QUERIES),
    ),
)


def _allows(answer: bytes) -> bool:
    return CheckResponse.FromString(answer).status.code == 0


def _twins(name: str, level: PathNormalization, redactor: Redactor) -> Twins:
    twins = Twins(redactor=redactor)
    for side in twins.sides:
        # Of its own: what a state's provider counts is not shared.
        side.state = state_of(_STATES[name, level].snapshot)
    return twins


_questions = st.builds(
    Question,
    peer=st.sampled_from(PEERS),
    token=st.sampled_from(["", "long", "short"]),
    is_raw=st.booleans(),
    is_measured=st.booleans(),
    has_path_header=st.booleans(),
    app=st.sampled_from(["", "a", "b"]),
)


@settings(max_examples=100)
@given(
    st.sampled_from(list(_STATES)),
    st.sampled_from(_REDACTORS),
    st.lists(_questions, min_size=1, max_size=2),
    st.lists(_paths, min_size=1, max_size=16),
)
def test_new_paths_are_answered_as_by_a_walk(
    state: tuple[str, PathNormalization],
    redactor: Redactor,
    questions: list[Question],
    paths: list[str],
) -> None:
    """Whatever the paths and the policies, answers and records are those of full walks."""
    twins = _twins(*state, redactor)
    for path, question in itertools.product([*paths, *paths], questions):
        twins.ask(replace(question, path=path))


@pytest.mark.parametrize("name", _POLICIES)
@pytest.mark.parametrize("redactor", _REDACTORS, ids=["plain", "shown", "hashed"])
def test_a_stream_of_new_paths(name: str, redactor: Redactor) -> None:
    """In a stream of which no path comes twice, much is recalled where it may be, and all alike."""
    chance = random.Random(name)
    twins = _twins(name, PathNormalization.BASE, redactor)
    for number in range(300):
        head, tail = chance.choice(_HEADS[:-2]), chance.choice(_TAILS[:5])
        path = f"{head}{number}{tail}?page={number}"
        twins.ask(Question(path=path, token=chance.choice(["", "long"])), f"{number:x}")
    recalled = sum(isinstance(each, RepeatedRecord) for each in twins.sides[0].keeper.records)
    want = {"header": 0, "token in the path": 0, "asked": 150}.get(name, 200)
    assert recalled >= want
    assert recalled == 0 or want


def test_a_recalled_path_stands_on_record() -> None:
    """The record of a path that was recalled by another has its own path, wherever it stands."""
    twins = _twins("texts", PathNormalization.BASE, _REDACTORS[1])
    for path in ("/api/1", "/api/2?x", "/api/3?card=4711&y=1"):
        twins.ask(Question(path=path))
    record = twins.sides[0].keeper.records[-1]
    assert isinstance(record, RepeatedRecord)
    whole = record.whole()
    assert whole.request.path == "/api/3?card=4711&y=1"
    assert whole.request.headers[":path"] == ("/api/3?card=4711&y=1",)
    assert whole.replay is not None
    assert whole.replay.rules_headers[":path"] == ("/api/3?card=4711&y=1",)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("/api/1", "/api/no/1"),
        ("/api/1", "/api/1/private"),
        ("/api/1", "/other"),
        ("/exact", "/exact/"),
        ("/api/1", "//api/1"),
        ("/api/1", "/api/../x"),
        ("/api/1", ""),
        ("/api/1", "/api/a1"),
        ("/api/1.css", "/api/1"),
    ],
)
def test_what_policies_tell_apart_is_not_recalled(known: str, asked: str) -> None:
    """A path of which policies see anything else is walked."""
    twins = _twins("texts", _LEVELS[1], _REDACTORS[0])
    assert twins.is_recalled(Question(path=known))
    twins.ask(Question(path=asked))
    assert not isinstance(twins.sides[0].keeper.records[-1], RepeatedRecord)


def test_each_workload_sees_paths_by_its_own_policies() -> None:
    """What the policies of one workload cannot tell apart, those of another may."""
    twins = _twins("workloads", PathNormalization.BASE, _REDACTORS[0])
    for app, path in (("a", "/api/x1"), ("b", "/api/x1")):
        assert twins.is_recalled(Question(app=app, path=path))
    answers = {
        (app, path): _allows(twins.ask(Question(app=app, path=path)))
        for app in "ab"
        for path in ("/api/x2", "/api/y", "/api/x3/end")
    }
    assert [path for (app, path), allowed in answers.items() if app == "a" and not allowed] == []
    assert [path for (app, path), allowed in answers.items() if app == "b" and allowed] == [
        "/api/x2"
    ]


@pytest.mark.parametrize("has_header", [True, False])
def test_no_path_is_no_other_path(has_header: bool) -> None:
    """What is known of a message without a path is nothing of the same one with a path."""
    twins = _twins("texts", PathNormalization.BASE, _REDACTORS[0])
    without, with_ = (Question(path=path, has_path_header=has_header) for path in ("", "/api/1"))
    assert twins.is_recalled(without)
    assert _allows(twins.ask(with_))
    assert twins.is_recalled(with_)
    assert not _allows(twins.ask(without))


@pytest.mark.parametrize("has_header", [True, False])
def test_a_path_that_is_rewritten_stands_on_record_as_it_was_matched(has_header: bool) -> None:
    """However often it comes, its record has the path that policies saw, as a walk's has."""
    twins = _twins("texts", _LEVELS[1], _REDACTORS[1])
    for _ in range(4):
        twins.ask(Question(path="//api/%2e/1", has_path_header=has_header))
    record = twins.sides[0].keeper.records[-1]
    whole = record.whole() if isinstance(record, RepeatedRecord) else record
    assert whole.request.path == "/api/1"


def test_a_token_in_the_query_is_never_recalled_for_another() -> None:
    """Who puts a token into the query is judged by it, whatever was known of the path."""
    twins = _twins("parameters", PathNormalization.BASE, _REDACTORS[0])
    assert twins.is_recalled(Question(path="/a?x=1"))
    assert not _allows(twins.ask(Question(path="/a?x=2")))
    assert _allows(twins.ask(Question(path=f"/a?x=3&t={_LONG}")))
    assert b"token_invalid" in twins.ask(Question(path="/a?x=4&t=a.b.c"))
    assert b"token_invalid" in twins.ask(Question(path="/a?x=5&%74=a.b.c"))
    assert not _allows(twins.ask(Question(path="/a?x=6")))


def test_what_is_known_of_paths_ends_with_the_policies() -> None:
    """A path that was like another under one set is judged anew under the next."""
    twins = _twins("texts", PathNormalization.BASE, _REDACTORS[0])
    assert twins.is_recalled(Question(path="/api/1"))
    for side in twins.sides:
        side.state = state_of(_STATES["asked", PathNormalization.BASE].snapshot)
    assert _allows(twins.ask(Question(path="/api/2")))
    assert not isinstance(twins.sides[0].keeper.records[-1], RepeatedRecord)
    first, second = (twins.ask(Question(path="/api/c")) for _ in range(2))
    assert (b"allow" in first, b"custom_denied" in second) == (True, True)


def test_the_path_counts_where_its_header_is_looked_at() -> None:
    """Where a condition or a rule of tokens names `:path`, it stays a header like any other."""
    for name in ("header", "token in the path"):
        state = _STATES[name, PathNormalization.BASE]
        assert ":path" not in volatile_headers(state, IdentityHeaderSettings())
    state = _STATES["texts", PathNormalization.BASE]
    assert ":path" in volatile_headers(state, IdentityHeaderSettings())


def test_a_flood_of_callers_and_paths_is_bounded() -> None:
    """However many callers come with paths of their own, what is kept stays within its bounds."""
    twins = Twins(4)
    for number in range(60):
        for turn in range(3):
            twins.ask(Question(method=f"M{number}", path=f"/a/{number}/{turn}"))
        assert len(twins.memory) <= 4
    shelf = twins.memory._shelf
    assert shelf is not None
    assert 4 < len(shelf.views) <= 16

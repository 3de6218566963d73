"""Paths that are seen alike are decided alike, whatever the policies are."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.peer import Peer
from policies.anchors import DIMENSIONS
from policies.attributes import Scope, attribute_for, known_keys
from policies.mesh import Mesh, MeshMode, PathNormalization
from policies.path_view import PathView, sees_path
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies, build_snapshot

_PIECES = (
    "second0",
    "second7",
    ".rule",
    "/",
    "/a",
    "/ab",
    "/b",
    "a",
    "x",
    ".css",
    "//",
    "*",
    "%2F",
    "é",
    "/a/b",
)
_OPERATORS = ("/{*}", "/{**}", "/a/{*}/b", "/{*}/b/{**}", "/a/{**}")
_QUERIES = ("", "?", "?x=1", "?access_token=1", "?access%5Ftoken=1", "?a/b", "#f")
_plain = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=3).map("".join)
_values = st.one_of(
    _plain,
    _plain.map(lambda text: f"{text}*"),
    _plain.map(lambda text: f"*{text}"),
    st.sampled_from(_OPERATORS),
    st.just("*"),
).filter(lambda value: not (set("{}") & set(value)) or value in _OPERATORS)
_paths = st.builds(
    "".join,
    st.tuples(
        st.just("/"), _plain, st.sampled_from(["", "c", "d", "\n"]), st.sampled_from(_QUERIES)
    ),
)
_EVERY_KEY = (
    *known_keys(),
    *("operation.hosts", "operation.methods", "source.principal", "source.namespace"),
    *("request.headers[x-a]", "request.headers[host]", "request.headers[:method]"),
    *("request.auth.claims[a][b]", "experimental.envoy.filters.a.b[c]"),
)
_TEXTS = {"source.ip": "10.0.0.0/8", "remote.ip": "10.0.0.0/8", "destination.ip": "10.0.0.1"}


def _policies(
    operations: Iterable[Mapping[str, Any]], mesh: Mesh | None = None, *, when: str = ""
) -> WorkloadPolicies:
    """Return policies of every kind, each with some of the operations in turn."""
    kinds: tuple[dict[str, Any], ...] = (
        {"action": "ALLOW"},
        {"action": "DENY"},
        {"action": "AUDIT"},
        {"action": "CUSTOM", "provider": {"name": "p"}},
        {"action": "ALLOW", "dry": True},
        {"action": "DENY", "dry": True},
    )
    documents = []
    for number, (kind, operation) in enumerate(zip(itertools.cycle(kinds), operations)):
        spec = {name: value for name, value in kind.items() if name != "dry"}
        # The second entry, and the second rule, name paths of their own.
        entries = [operation, {"paths": [f"/second{number}*"]}]
        rule: dict[str, Any] = {"to": [{"operation": each} for each in entries]}
        if when:
            rule["when"] = [{"key": when, "values": ["/a"]}]
        metadata: dict[str, Any] = {"name": f"p{number}", "namespace": "shop"}
        if "dry" in kind:
            metadata["annotations"] = {"istio.io/dry-run": "true"}
        documents.append(
            {
                "apiVersion": "security.istio.io/v1",
                "kind": "AuthorizationPolicy",
                "metadata": metadata,
                "spec": {**spec, "rules": [rule, {"to": [{"operation": {"paths": ["*.rule"]}}]}]},
            }
        )
    text = yaml.safe_dump_all(documents)
    snapshot = build_snapshot([("p.yaml", text)], mesh or Mesh())
    return snapshot.select(Workload(namespace="shop"))


def _found(policies: WorkloadPolicies, path: str) -> object:
    """Return everything that policies find out about a path."""
    request = Request(method="GET", path=path, headers={":path": (path,)})
    rules = [rule for index in policies.indexes() for policy in index for rule in policy.rules]
    rules += [rule for policy in policies.dry_run for rule in policy.rules]
    return (
        [rule.matches(request) for rule in rules],
        [rule.failing(request) for rule in rules],
        [index.first_match(request) for index in policies.indexes()],
        [index.all_matches(request) for index in policies.indexes()],
        [index.near_rules(request) for index in policies.indexes()],
        [policies.with_all_enforced().deny.first_match(request)],
    )


@settings(max_examples=150)
@given(
    st.lists(st.lists(_values, min_size=1, max_size=3), min_size=6, max_size=12),
    st.lists(st.lists(_values, min_size=1, max_size=2), max_size=3),
    st.lists(_paths, min_size=6, max_size=14),
    st.sampled_from(list(PathNormalization)),
)
def test_alike_paths_are_decided_alike(
    wanted: list[list[str]], unwanted: list[list[str]], paths: list[str], level: PathNormalization
) -> None:
    """Where two paths are seen alike, no rule, index or near miss tells them apart."""
    operations = [{"paths": each} for each in wanted] + [{"notPaths": each} for each in unwanted]
    policies = _policies(operations)
    view = PathView(policies, level)
    groups: dict[object, list[str]] = {}
    for path in paths:
        seen = view.seen(path)
        if seen is not None:
            groups.setdefault(seen, []).append(path)
    for first, *others in groups.values():
        for other in others:
            assert _found(policies, first) == _found(policies, other), (first, other)


def test_new_paths_are_seen_as_known_ones() -> None:
    """What tells paths apart is what policies ask, and nothing else."""
    policies = _policies(
        [{"paths": ["/api/*", "/exact"]}, {"paths": ["*.css"]}, {"notPaths": ["/t/{*}/end"]}]
    )
    view = PathView(policies, PathNormalization.BASE)
    alike = (
        ("/api/1", "/api/2?page=3", "/api/"),
        ("/exact", "/exact?x"),
        ("/a.css", "/b/c.css"),
        ("/api/a.css", "/api/b.css"),
        ("/t/1/end", "/t/2/end?q"),
        ("/t/1/2", "/t/x"),
        ("/none", "/other/none"),
    )
    seen = [[view.seen(path) for path in group] for group in alike]
    assert all(len(set(group)) == 1 and group[0] is not None for group in seen)
    assert len({group[0] for group in seen}) == len(alike)


@pytest.mark.parametrize("path", ["", "?x=1", "/a#f", "/a?x#f", "/a\nb", "/a/../b", "//a", "/%61"])
def test_paths_that_are_not_what_they_say(path: str) -> None:
    """What is missing, cut or rewritten before it is matched is never seen as another path."""
    policies = _policies([{"paths": ["*"]}])
    assert PathView(policies, PathNormalization.MERGE_SLASHES).seen(path) is None


_SMALL_PATHS = [
    f"/{''.join(letters)}" for size in range(5) for letters in itertools.product("/ab", repeat=size)
]
_SMALL_VALUES = ("/a", "/ab*", "*ab", "/a/{*}", "/{**}/b", "/a/{*}/b", "/a*", "*", "*b/a", "/a/*")


@pytest.mark.parametrize("field", ["paths", "notPaths"])
@pytest.mark.parametrize(
    "values",
    [
        *([each] for each in _SMALL_VALUES),
        ["/{*}", "/{*}/b"],
        _SMALL_VALUES,
        _SMALL_VALUES[::-1],
    ],
    ids=len,
)
@pytest.mark.parametrize("level", [PathNormalization.AS_IS, PathNormalization.BASE])
def test_of_all_short_paths_none_is_taken_for_another(
    values: list[str], field: str, level: PathNormalization
) -> None:
    """Of each kind of value, and of all together: what a rule tells apart is seen apart."""
    policies = _policies([{field: [value]} for value in values])
    view = PathView(policies, level)
    rules = [rule for index in policies.indexes() for policy in index for rule in policy.rules]
    rules += [rule for policy in policies.dry_run for rule in policy.rules]
    found: dict[object, set[tuple[bool, ...]]] = {}
    for path in _SMALL_PATHS:
        seen = view.seen(path)
        assert seen is not None
        request = Request(method="GET", path=path)
        found.setdefault(seen, set()).add(tuple(rule.matches(request) for rule in rules))
    assert all(len(answers) == 1 for answers in found.values())


@pytest.mark.parametrize(
    ("level", "path", "want"),
    [
        (PathNormalization.AS_IS, "/a%20b/\u00e9//x/../y", True),
        (PathNormalization.AS_IS, "a", True),
        (PathNormalization.AS_IS, "/a\nb", False),
        (PathNormalization.AS_IS, "\n", False),
        (PathNormalization.AS_IS, "", False),
        (PathNormalization.AS_IS, "?", False),
        (PathNormalization.AS_IS, "?x", False),
        (PathNormalization.AS_IS, "/a?b\nc", True),
        (PathNormalization.BASE, "/a%20b?c", True),
        (PathNormalization.BASE, "/a//b", True),
        (PathNormalization.MERGE_SLASHES, "/a//b", False),
        (PathNormalization.BASE, "/a%2fb", True),
        (PathNormalization.DECODE_AND_MERGE_SLASHES, "/a%2fb", False),
        (PathNormalization.BASE, "/a/./b", False),
        (PathNormalization.BASE, "a", False),
    ],
)
def test_what_is_matched_as_it_is_written_is_seen(
    level: PathNormalization, path: str, want: bool
) -> None:
    """Which paths are those is a matter of the level; what `*` does not find is none of them."""
    view = PathView(_policies([{"paths": ["*", "/a/*"]}]), level)
    assert (view.seen(path) is not None) is want


@pytest.mark.parametrize(
    ("rule", "path", "want"),
    [
        ({}, "/a?x=1", True),
        ({}, "/a?access_token=1", False),
        ({}, "/a?x&access_token", False),
        ({}, "/a?access%5Ftoken=1", False),
        ({}, "/a?x=%20", True),
        ({}, "/a?my_access_token=1", True),
        ({}, "/access_token", True),
        ({"fromParams": ["t"]}, "/a?t=1", False),
        ({"fromParams": ["t"]}, "/a?access_token=1", True),
        ({"fromHeaders": [{"name": "x-t"}]}, "/a?access_token=1", True),
        ({"fromCookies": ["access_token"]}, "/a?access_token=1", True),
    ],
    ids=str,
)
def test_a_path_that_may_hold_a_token(rule: dict[str, Any], path: str, want: bool) -> None:
    """Where a token may stand in a query, that query is never seen as another."""
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "t", "namespace": "shop"},
        "spec": {"jwtRules": [{"issuer": "i", "jwks": '{"keys":[]}', **rule}]},
    }
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump(document))], Mesh())
    policies = snapshot.select(Workload(namespace="shop"))
    assert policies.jwt_rules
    seen = PathView(policies, PathNormalization.BASE).seen(path)
    assert (seen is not None) is want


def test_a_condition_on_the_header_of_the_path_blinds() -> None:
    """A policy that reads the path by its header sees more than its texts."""
    for when in ("request.headers[:path]", "request.headers[:PATH]"):
        policies = _policies([{"methods": ["GET"]}], when=when)
        assert PathView(policies, PathNormalization.BASE).seen("/a") is None
    policies = _policies([{"methods": ["GET"]}], when="request.headers[x-path]")
    assert PathView(policies, PathNormalization.BASE).seen("/a") == ()


def test_too_many_lengths_or_templates_blind() -> None:
    """Where to look would cost what the rules cost, every path counts for itself."""
    # One more length is that of `*.rule`.
    for count, want in ((63, True), (64, False)):
        operations = [{"paths": [f"/{'x' * number}*" for number in range(count)]}]
        seen = PathView(_policies(operations), PathNormalization.BASE).seen("/y")
        assert (seen is not None) is want
    for count, want in ((16, True), (17, False)):
        operations = [{"paths": [f"/a/{{*}}/{number}" for number in range(count)]}]
        seen = PathView(_policies(operations), PathNormalization.BASE).seen("/y")
        assert (seen is not None) is want


class _NoPath(dict[str, tuple[str, ...]]):
    """Headers of which the path is not to be asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header; not the path."""
        assert name != ":path"
        return super().get(name, default)

    def __getitem__(self, name: str) -> tuple[str, ...]:
        """Return a header; not the path."""
        assert name != ":path"
        return super().__getitem__(name)


class _Pathless(Request):
    """A request whose path is not to be asked for."""

    def __getattribute__(self, name: str) -> Any:
        """Return a field; not the path."""
        assert name not in ("path", "path_only")
        return super().__getattribute__(name)


def _pathless() -> Request:
    return _Pathless(
        method="GET",
        host="shop",
        scheme="https",
        headers=_NoPath({"x-a": ("1", "2"), "x-forwarded-for": ("10.0.0.1",)}),
        headers_merged=True,
        source_ip="10.0.0.1",
        destination_ip="10.0.0.1",
        destination_port=80,
        sni="shop",
        filter_metadata={"envoy.filters.a.b": {"c": "d"}},
        workload=Workload(namespace="shop"),
        peer=Peer.from_principal("spiffe://cluster.local/ns/shop/sa/web"),
    )


@pytest.mark.parametrize("key", sorted(set(_EVERY_KEY)))
@pytest.mark.parametrize("mode", list(MeshMode))
def test_who_sees_no_path_asks_for_none(key: str, mode: MeshMode) -> None:
    """No condition that is said to look elsewhere reads the path, in any reading."""
    key = key.replace("[...]", "[x]")
    assert not sees_path(key)
    attribute = attribute_for(key)
    assert attribute is not None
    value = _TEXTS.get(key, "1" if key == "destination.port" else "a")
    for wide, text in itertools.product((True, False), {value, "*"} if value == "a" else {value}):
        if attribute.problem(text):
            continue
        mesh = replace(Mesh(), mode=mode, trusted_proxy_hops=0)
        attribute.test(text, Scope(mesh=mesh, namespace="shop", wide=wide))(_pathless())


def test_only_one_dimension_of_the_index_asks_for_the_path() -> None:
    """The other dimensions file and find rules by other things."""
    for dimension in DIMENSIONS:
        if dimension.keys != {"operation.paths"}:
            list(dimension.of_request(_pathless(), Mesh()))


@pytest.mark.parametrize(
    "key",
    ["operation.paths", "request.headers[:path]", "request.headers[:Path]", "new", "path", ""],
)
def test_an_unknown_condition_may_see_the_path(key: str) -> None:
    """What nobody declared to look elsewhere is taken to look at the path."""
    assert sees_path(key)


def test_every_part_of_what_applies_is_known() -> None:
    """Who adds to what applies to a workload has to say what of it sees the path."""
    assert {each.name for each in fields(WorkloadPolicies)} == {
        *("custom", "deny", "allow", "audit", "dry_run"),  # looked through
        *("jwt_rules", "token_digest", "issuer_digests"),  # see parameters, by `token_params`
        *("peer", "needs"),  # see the connection; name what conditions see
    }

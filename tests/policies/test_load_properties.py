"""Whatever becomes of a good file, it loads or is refused with places; never anything else."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.diagnostic import LoadError, Severity
from policies.files import read_policy_files
from policies.load import Loaded, read_resources
from policies.mesh import Mesh
from policies.snapshot import build_snapshot

POLICY: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {
        "name": "p",
        "namespace": "shop",
        "labels": {"a": "b"},
        "annotations": {"istio.io/dry-run": "true"},
        "creationTimestamp": "2026-01-31T12:00:00Z",
    },
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "action": "DENY",
        "rules": [
            {
                "from": [
                    {
                        "source": {
                            "principals": ["td/ns/a/sa/b", "*/sa/b"],
                            "notNamespaces": ["team-*"],
                            "trustDomains": ["*.test"],
                            "ipBlocks": ["10.0.0.0/8", "::1"],
                            "requestPrincipals": ["https://issuer.test/*"],
                        }
                    },
                    {"source": {"serviceAccounts": ["a/b"]}},
                ],
                "to": [
                    {
                        "operation": {
                            "hosts": ["shop.test"],
                            "ports": ["8080"],
                            "methods": ["GET"],
                            "paths": ["/a/{*}/b/{**}", "/c*"],
                        }
                    }
                ],
                "when": [
                    {"key": "request.headers[x-a]", "values": ["b"]},
                    {"key": "request.auth.claims[a][b]", "notValues": ["c"]},
                    {"key": "destination.port", "values": ["80"]},
                ],
            }
        ],
    },
}
TOKENS: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "RequestAuthentication",
    "metadata": {"name": "r", "namespace": "shop"},
    "spec": {
        "targetRefs": [{"kind": "Service", "group": "", "name": "s"}],
        "jwtRules": [
            {
                "issuer": "https://issuer.test",
                "audiences": ["shop"],
                "jwksUri": "https://issuer.test/keys",
                "fromHeaders": [{"name": "x-token", "prefix": "Token "}],
                "fromParams": ["token"],
                "fromCookies": ["session"],
                "outputPayloadToHeader": "x-payload",
                "outputClaimToHeaders": [{"header": "x-sub", "claim": "sub"}],
                "forwardOriginalToken": True,
                "spaceDelimitedClaims": ["roles"],
                "timeout": "5s",
                "presence": "OPTIONAL",
            },
            {"issuer": "b", "jwks": '{"keys": []}'},
        ],
    },
}
PEERS: dict[str, Any] = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "m", "namespace": "shop"},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "mtls": {"mode": "STRICT"},
        "portLevelMtls": {"8080": {"mode": "DISABLE"}},
    },
}
RESOURCES = (POLICY, TOKENS, PEERS)
JUNK = st.one_of(
    st.sampled_from(
        ["", "*", "**", "/", "a/b/c", "{*}", "[", "]", "request.headers[", "\x00", "\n", "\u00fc",
         "-1", "99999999999999999999", "spiffe://", ".", "istio.io/dry-run", "<<", "on", "1.5ms"]
    ),
    st.text(max_size=12),
    st.integers(), st.booleans(), st.none(), st.floats(),
    st.just([]), st.just({}), st.just([None]), st.just({"a": {}}), st.just([["a"]]),
)  # fmt: skip


def places_in(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every key and item below a node."""
    keys = (
        list(node) if isinstance(node, dict) else range(len(node) if isinstance(node, list) else 0)
    )
    found = [(*path, key) for key in keys]
    return found + [deeper for key in keys for deeper in places_in(node[key], (*path, key))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Return a good resource with a few of its parts replaced, removed, renamed or doubled."""
    resource = copy.deepcopy(draw(st.sampled_from(RESOURCES)))
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(places_in(resource)))
        parent: Any = resource
        for key in above:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "remove", "rename", "double"])):
            case "replace":
                parent[last] = copy.deepcopy(draw(JUNK))
            case "remove":
                del parent[last]
            case "rename" if isinstance(parent, dict):
                parent[str(draw(JUNK))] = parent.pop(last)
            case "double" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[last]))
        if not places_in(resource):
            break
    return resource


def load(text: str) -> Loaded | LoadError:
    """Return what a text loads as, or its refusal; nothing else may be raised."""
    try:
        return read_resources([("f.yaml", text)], Mesh(root_namespace="shop"))
    except LoadError as refusal:
        return refusal


def check_findings(found: Loaded | LoadError) -> None:
    """Check that a refusal has an error, and that each finding has a place and fits a line."""
    findings = found.warnings if isinstance(found, Loaded) else found.diagnostics
    if isinstance(found, LoadError):
        assert any(each.severity is Severity.ERROR for each in findings)
    for each in findings:
        assert each.location.line > 0, each
        assert each.location.column > 0, each
        assert each.code, each
        assert each.message, each
        assert each.path in each.message, each
        assert str(each).isprintable(), each


@given(mutated())
@settings(max_examples=300, deadline=None)
def test_a_mutated_resource(resource: dict[str, Any]) -> None:
    """A good resource with parts that are wrong loads or is refused with places."""
    found = load(json.dumps(resource))
    check_findings(found)
    if isinstance(found, Loaded):
        build_snapshot([("f.yaml", json.dumps(resource))], Mesh())


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_mutated_text(data: st.DataObject) -> None:
    """A good text with characters taken out, put in or swapped loads or is refused with places."""
    text = yaml.safe_dump_all(RESOURCES)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 8))
        put = data.draw(
            st.text(st.sampled_from("ab:-[]{}&*!|>'\"#,?% \n\t\r0\x00\ufeff\u2028"), max_size=4)
        )
        text = text[:start] + put + text[start + length :]
    check_findings(load(text))


@given(mutated(), mutated())
@settings(max_examples=50, deadline=None)
def test_loading_is_deterministic(first: dict[str, Any], second: dict[str, Any]) -> None:
    """The same texts give the same resources and the same findings, in the same order."""
    text = json.dumps(first) + "\n---\n" + json.dumps(second)

    one, two = load(text), load(text)

    if isinstance(one, LoadError):
        assert isinstance(two, LoadError)
        assert one.diagnostics == two.diagnostics
    else:
        assert one == two


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
@example(b"\xef\xbb\xbf")
@example(b"\xef\xbb\xbf\xef\xbb\xbfa: b")
@example(b"%YAML 9.9\n---\na: b")
@example(b"\x85\xe2\x80\xa8: \xc2\x85")
@example(b"- &a\n- *a\n-\t- b")
def test_any_bytes(content: bytes) -> None:
    """Whatever a file holds, it is read and loads, or is refused."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "f.yaml")
        path.write_bytes(content)
        try:
            texts = read_policy_files([path])
        except LoadError as refusal:
            assert 1 == len(refusal.diagnostics)
            return
    check_findings(load(texts[0][1]))


@given(st.text(st.characters(codec=None), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
@example("a\x00b")
@example("\ud800")
@example("a" * 5000)
def test_any_path(name: str) -> None:
    """Whatever a path is called, it is read or refused."""
    try:
        read_policy_files([Path(os.devnull, name)])
    except LoadError as refusal:
        assert refusal.diagnostics

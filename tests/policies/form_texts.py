"""Policies that have forms, texts that are nearly like them, and both readings compared."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from policies.form import split
from policies.form_memory import FormMemory
from policies.load import Inspected, inspect_file

BLOCK = """\
# of the shop
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: orders
  namespace: shop
  annotations: {istio.io/dry-run: "true", note: 'old'}
  creationTimestamp: 2026-01-31T12:00:00Z
spec:
  selector:
    matchLabels: {app: orders, version: "2"}
  rules:
  - from:
    - source: {principals: [td/ns/shop/sa/web, "td/ns/shop/sa/*"], notNamespaces: [jobs]}
    - source: {ipBlocks: [10.0.0.0/8]}
    to:
    - operation:
        methods: [GET, HEAD]
        paths:
        - /api/v1/*  # all
        - "/ready"
        notPaths: ['*/private']
        ports: ["8080"]
    when:
    - {key: "request.headers[x-team]", values: [red, blue]}
    - key: request.auth.claims[groups]
      values: [admins]
"""
FLOW = (
    '{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name":'
    ' "a-1", "namespace": "shop"}, "spec": {"action": "DENY", "selector": {"matchLabels": {"app":'
    ' "app-1"}}, "rules": [{"to": [{"operation": {"paths": ["/api/1/*", "*"]}}]}]}}\n'
)
TARGETS = """\
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: at}
spec:
  targetRefs: [{kind: Service, name: orders}]
  action: CUSTOM
  provider: {name: rego}
  rules: [{to: [{operation: {methods: [PUT]}}]}, {when: []}]
"""
FORMED = [BLOCK, FLOW, TARGETS]
OTHER_WORDS = [
    "a", "a-1", "A.b", "b-", "c.", "shop", "Shop", "sa", "true", "Off", "no", "null", "Null", "y",
    "0", "1", "08", "0x1f", "1_000", "1.5", "1e3", "9/8", "8080", "80800", "10.0.0.1", "10.0.0.1/8",
    "10.0.0.1/33", "2026-01-31", "x" * 64, "x" * 101, "x" * 254, "x" * 600, "x" * 1100, "/", "//",
    "/a//b", "/api/", "spiffe", "GET", "get", "DENY", "ALLOW", "AUDIT", "CUSTOM", "v1", "kind",
    "paths", "notPaths", "hosts", "ports", "name", "namespace", "rego", "_", "-", "*", "", " ", ":",
    "\n", "'", '"', "\\", "{", "}", "[]", "#", ",", "é", "&a", "!", "|", "- ", "a: b", "%", "{*}",
    "**", "---", "...", "\t", "\r", "\ufeff", "\x07",
]  # fmt: skip
CHANGES = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(OTHER_WORDS)), min_size=1, max_size=5
)


def changed(text: str, changes: Sequence[tuple[int, str]]) -> str:
    """Return a text with some of its parts exchanged."""
    parts = split(text)
    for number, word in changes:
        parts[number % len(parts)] = word
    return "".join(parts)


def knowing(*texts: str) -> FormMemory:
    """Return a memory that has met each text twice."""
    memory = FormMemory()
    for each in [*texts, *texts]:
        memory.read("first.yaml", each, 7)
    return memory


def assert_as_in_full(found: Inspected | None, text: str, line: int) -> None:
    """Hold what was found by a form against what the reader finds; None is not held."""
    if found is None:
        return
    whole = inspect_file("p.yaml", text, line)
    assert whole == found
    # Equal is not all: `True` equals `1`, and a value's place is a part of it.
    assert repr(whole) == repr(found)


KNOWING = knowing(*FORMED)

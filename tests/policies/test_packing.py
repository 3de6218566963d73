"""What goes to another process and back is what it was, places and all."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from form_texts import BLOCK, TARGETS

from policies.load import Inspected, inspect_file
from policies.packing import pack, unpack

_HERE = Path(__file__).parent
_FILES = sorted(
    {*_HERE.rglob("*.yaml"), *(_HERE.parent / "demo").rglob("*.yaml")}, key=lambda each: each.name
)
_MORE = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: odd, namespace: shop, annotations: {"n\\u00f6te": "\\U0001f512"}}
spec:
  action: DENY
  rules:
  - {}
  - when: [{key: "request.headers[x-a]", values: [b], notValues: [c, d]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: every}
spec: {selector: {matchLabels: {}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""
_EVERYTHING = "---\n".join([BLOCK, TARGETS, _MORE])


def test_everything_a_policy_may_hold_comes_back() -> None:
    """Every field, of every kind of resource, and every finding."""
    found = inspect_file("all.yaml", _EVERYTHING)

    assert 5 == len(found.resources)
    assert repr(found) == repr(unpack(pack(found)))


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.name)
def test_every_file_of_the_tests_comes_back(path: Path) -> None:
    """Files of policies, of other things, and of faults."""
    found = inspect_file(str(path), path.read_text("utf-8"))

    assert repr(found) == repr(unpack(pack(found)))


def test_what_was_not_packed_is_refused() -> None:
    """Bytes that are none of ours are an error, not a set without policies."""
    for data in (b"", b"\x80", pack(Inspected(resources=(), findings=()))[:-1]):
        with pytest.raises((pickle.UnpicklingError, EOFError)):
            unpack(data)

"""The fuzzer's targets without the fuzzer: kept inputs, random ones, and planted faults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.x509 import load_der_x509_certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.deny_list import DenyList, nobody_denied
from identity.jwt_verify import VerifiedToken, verify_token
from identity.peer_finding import find_peer
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import TrustBundle
from identity.xfcc import parse_xfcc
from opa_bridge.result import read_verdict
from policies.snapshot import build_snapshot
from tests.fuzz import (
    on_checks,
    on_csrs,
    on_deny_lists,
    on_forwarded_peers,
    on_peers,
    on_plain_tokens,
    on_policies,
    on_rego_results,
    on_spiffe_ids,
    on_tokens,
    on_trust_bundles,
)
from tests.fuzz.on_certificates import make_certificate
from tests.fuzz.target import NAMES, load

_CORPORA = Path(__file__).parent / "corpora"


@pytest.mark.parametrize("name", NAMES)
def test_every_kept_input_keeps_the_promises(name: str) -> None:
    """Seeds, and inputs that once reached something new, are run again."""
    target = load(name)
    kept = [path.read_bytes() for path in sorted(_CORPORA.glob(f"{name}/*"))]

    for data in [*target.seeds(), *kept]:
        target.run(data)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100)
@given(data=st.data())
def test_random_inputs_keep_the_promises(name: str, data: st.DataObject) -> None:
    """Bytes that nobody chose are decided or refused like any others."""
    load(name).run(data.draw(st.binary(max_size=400)))


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault: `name` in the module of a target replaced by `fault`, to be seen with `data`."""

    module: Any
    name: str
    fault: Any
    data: bytes


def _believe_all(_text: str, *_asking: object) -> VerifiedToken:
    return VerifiedToken.__new__(VerifiedToken)


_LAX = on_checks.make_check(on_checks._recorder, on_checks._POLICIES.replace("GET", "POST"))
_LEAF = load_der_x509_certificate(make_certificate())
_BUNDLE_OF_A_LEAF = TrustBundle(trust_domain=TrustDomain("example.org"), x509_authorities=(_LEAF,))
_PLANTED = {
    "an allow that no policy gives": Planted(on_checks, "_check", _LAX, b"\x00\x00\x00\x00\x01"),
    "a forged token": Planted(on_tokens, "verify_token", _believe_all, b"\x00a.b.c"),
    "a request for a CA": Planted(
        on_csrs, "read_csr", lambda _: on_csrs._requests()[0], b"\x00\x02"
    ),
    "elements in another order": Planted(
        on_forwarded_peers, "parse_xfcc", lambda text: parse_xfcc(text)[::-1], b"URI=a,URI=b"
    ),
    "a DENY policy lost": Planted(
        on_policies, "build_snapshot", lambda texts, mesh: build_snapshot(texts[:1], mesh), b""
    ),
    "an allow of `allowed: 1`": Planted(
        on_rego_results, "read_verdict", lambda *_: read_verdict(True), b'\x01{"allowed": 1}'
    ),
    "a token of another issuer": Planted(
        on_plain_tokens,
        "verify_token",
        lambda text, rule, *asked: verify_token(text, replace(rule, issuer=""), *asked),
        bytes(13) + b"\x06",
    ),
    "a leaf among the authorities": Planted(
        on_trust_bundles, "load_bundle", lambda *_: _BUNDLE_OF_A_LEAF, b"\x01{}"
    ),
    "a denied peer": Planted(
        on_peers,
        "find_peer",
        lambda told, rules, *rest: find_peer(told, replace(rules, denied=nobody_denied), *rest),
        b"\x03\x05\x01\x00\x07\x00",
    ),
    "a denial lost": Planted(on_deny_lists, "parse_deny_list", lambda _: DenyList(), b"\x00\x01"),
    "an ID with an odd letter": Planted(
        on_spiffe_ids, "SpiffeId", SimpleNamespace(parse=str), b"spiffe://A/b"
    ),
}


@pytest.mark.parametrize("fault", _PLANTED)
def test_targets_find_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that could not fail would prove nothing."""
    planted = _PLANTED[fault]
    planted.module.TARGET.run(planted.data)
    monkeypatch.setattr(planted.module, planted.name, planted.fault)

    with pytest.raises(AssertionError):
        planted.module.TARGET.run(planted.data)

"""The walk that waits for nobody: what it decides is what the whole walk decides, or nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from checking import FixedProvider, MemoryRecorder, make_authorizer

from authz.at_once import AtOnce
from authz.walk import walk_with_peer
from identity.jwt_rule import JwtRule
from identity.jwt_verify import TokenRefusal
from identity.token_status import TokenStatus
from policies.decision import Effect, ProviderVerdict
from policies.request import Request, Workload

CUSTOM = {"action": "CUSTOM", "provider": {"name": "rego"}}
SPECS: list[dict[str, Any]] = [
    {"rules": [{"to": [{"operation": {"methods": ["GET", "POST"]}}]}]},
    {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]},
    {**CUSTOM, "rules": [{"to": [{"operation": {"paths": ["/rego"]}}]}]},
    {**CUSTOM, "provider": {"name": "none"}, "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]},
    {"kind": "RequestAuthentication", "jwtRules": [{"issuer": "i", "jwksUri": "http://k/"}]},
]
PATHS = ("/", "/admin", "/orders/7?x=1", "/a/../admin", "/%zz", "/rego", "/x", "*", "")
HEADERS: tuple[dict[str, tuple[str, ...]], ...] = (
    {},
    {"authorization": ("Bearer a.b.c",)},
    {"authorization": ("x",)},
)
REQUESTS = [
    Request(method=method, path=path, host="h", headers=headers)
    for method, path, headers in itertools.product(("GET", "DELETE", ""), PATHS, HEADERS)
]


def nobody_waits() -> float | None:
    """Return that nobody waits."""
    return None


def test_it_decides_as_the_walk_does_or_not_at_all() -> None:
    """Every request is decided as ever, but for those that a provider would be asked about."""
    provider = FixedProvider(ProviderVerdict(effect=Effect.DENY))
    authorizer = make_authorizer(SPECS, MemoryRecorder(), {"rego": provider})
    state = authorizer.state()
    at_once = AtOnce(state, authorizer.around)
    left_open = 0
    for request in REQUESTS:
        before = provider.asked
        whole = walk_with_peer(request, state, authorizer.around, nobody_waits).decision
        is_asked, before = provider.asked > before, provider.asked
        found = at_once.decide(request, nobody_waits)
        assert before == provider.asked, request
        assert (None if is_asked else whole) == found, request
        left_open += found is None
    assert 0 < left_open < len(REQUESTS) / 2


def test_policies_are_not_sorted_on_the_way() -> None:
    """A workload that nobody asked about yet is left open, and is known once somebody did."""
    authorizer = make_authorizer(SPECS, MemoryRecorder(), {})
    around = replace(authorizer.around, static_workload=Workload(namespace="shop"))
    state, request = authorizer.state(), Request(method="GET", path="/", host="h")
    at_once = AtOnce(state, around)
    assert at_once.decide(request, nobody_waits) is None
    whole = walk_with_peer(request, state, around, nobody_waits).decision
    assert whole == at_once.decide(request, nobody_waits)


@pytest.mark.parametrize("status", list(TokenStatus))
def test_no_keys_are_fetched_on_the_way(status: TokenStatus) -> None:
    """A token that would have keys fetched is left open, any other is refused as ever."""
    heard: list[JwtRule] = []

    def hear(rule: JwtRule) -> bool:
        heard.append(rule)
        return False

    authorizer = make_authorizer(
        SPECS,
        MemoryRecorder(),
        {},
        on_unknown_key=hear,
        verify_token=lambda *_: TokenRefusal(status, "no", "no"),
    )
    headers = {"authorization": ("Bearer a.b.c",)}
    request = Request(method="GET", path="/", host="h", headers=headers)
    state, around = authorizer.state(), authorizer.around
    whole = walk_with_peer(request, state, around, nobody_waits).decision
    before = len(heard)
    found = AtOnce(state, around).decide(request, nobody_waits)
    assert (None if before else whole) == found
    assert before == len(heard)

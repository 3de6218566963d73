"""The enforced answer, bit by bit, with and without shadows that throw, sleep and deny."""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from checking import WEB, FixedProvider, MemoryRecorder, make_authorizer
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from audit.record import AuditRecord
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import walk_with_peer
from dryrun.candidate import CandidateShadow, SecondsLeft
from policies.decision import (
    Decision,
    Effect,
    Mutations,
    ProviderVerdict,
)
from policies.matchers import CompiledPolicy
from policies.request import Request

REQUESTS = 50_000
# Every so often, so that the run ends: what hangs costs its budget.
_SLEEPS_EVERY = 997
BUDGET_SECONDS = 0.002
PATHS = ("/", "/admin", "/orders/7", "/orders/7?x=1", "/a/../admin", "/%zz", "/rego", "*", "")
PEERS = ("", WEB, "spiffe://cluster.local/ns/jobs/sa/cron", "spiffe://other/x", "CN=plain")
ENFORCED: list[dict[str, Any]] = [
    {"rules": [{"to": [{"operation": {"methods": ["GET", "POST"]}}]}]},
    {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]},
    {"action": "AUDIT", "rules": [{}]},
    {
        "action": "CUSTOM",
        "provider": {"name": "rego"},
        "rules": [{"to": [{"operation": {"paths": ["/rego"]}}]}],
    },
    {"kind": "RequestAuthentication", "jwtRules": [{"issuer": "i", "jwksUri": "http://k/"}]},
]
DRY_RUN = {"istio.io/dry-run": "true"}
SHADOWED: list[dict[str, Any]] = [
    {"annotations": DRY_RUN, "action": "DENY", "rules": [{}]},
    {"annotations": DRY_RUN, "action": "DENY", "rules": [{"when": [
        {"key": "source.principal", "values": ["cluster.local/ns/shop/sa/web"]}]}]},
    {"annotations": DRY_RUN, "rules": [{"to": [{"operation": {"paths": ["/orders/*"]}}]}]},
]  # fmt: skip
PASSED = ProviderVerdict(
    effect=Effect.ALLOW,
    mutations=Mutations(
        set_request_headers=(("x-by", "rego"),), dynamic_metadata={"seen": "rego", "shadowed": 1}
    ),
)


class Tally(MemoryRecorder):
    """Counts outcomes instead of keeping records."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def offer(self, record: AuditRecord) -> None:
        """Count a record's shadows."""
        self.outcomes.update((each.policy, str(each.outcome)) for each in record.shadow)


def messages(count: int) -> list[bytes]:
    """Return generated requests, the odd ones among them."""
    chance = random.Random(7)
    found = []
    for _ in range(count):
        message = CheckRequest()
        message.attributes.source.principal = chance.choice(PEERS)
        http = message.attributes.request.http
        http.method = chance.choice(("GET", "POST", "DELETE", "CONNECT", ""))
        http.path, http.host = chance.choice(PATHS), chance.choice(("shop", "SHOP:80", ""))
        headers = http.header_map.headers
        if chance.random() < 0.1:
            headers.add(key="authorization", raw_value=chance.choice((b"Bearer a.b.c", b"x")))
        if chance.random() < 0.1:
            headers.add(key="x-meshwarden-peer", raw_value=b"forged\xff")
        found.append(message.SerializeToString())
    return found


class Rotten:
    """A candidate that throws, sleeps and denies, one after the other."""

    def __init__(self, state: ServingState, authorizer: Authorizer) -> None:
        self.state, self.around, self.asked = state, authorizer.around, 0
        self.never = threading.Event()

    def judge(self, request: Request, left: SecondsLeft) -> Decision:
        """Return, raise or hang."""
        self.asked += 1
        if self.asked % _SLEEPS_EVERY == 0:
            self.never.wait(BUDGET_SECONDS * 3)
        if self.asked % 3 == 0:
            raise RecursionError(request.path)
        return walk_with_peer(request, self.state, self.around, left).decision


@cache
def stripped(answer: bytes) -> bytes:
    """Return an answer without what it tells of shadows, in one spelling."""
    response = CheckResponse.FromString(answer)
    fields = response.dynamic_metadata.fields
    for key in list(fields):
        if key == "shadow" or key.startswith("istio_dry_run_"):
            del fields[key]
    return bytes(response.SerializeToString(deterministic=True))


def make(specs: list[dict[str, Any]], recorder: MemoryRecorder) -> Authorizer:
    """Return an authorizer whose provider lets pass."""
    return make_authorizer(specs, recorder, {"rego": FixedProvider(PASSED)})


def test_the_answer_is_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 answers are the same bytes; a tenth of the dry-run evaluations throws as well."""
    plain, tally = make(ENFORCED, MemoryRecorder()), Tally()
    shadowed = make([*ENFORCED, *SHADOWED], tally)
    rotten = Rotten(make([{"action": "DENY", "rules": [{}]}], MemoryRecorder()).state(), plain)
    candidate = CandidateShadow(
        rotten.judge, budget_seconds=BUDGET_SECONDS, threads=2, revision=lambda: "c"
    )
    shadowed = replace(shadowed, around=replace(shadowed.around, candidate=candidate.verdict))
    chance, first_match = random.Random(3), CompiledPolicy.first_match

    def sometimes(self: CompiledPolicy, request: Request) -> Any:
        if self.dry_run and chance.random() < 0.1:
            raise RuntimeError
        return first_match(self, request)

    monkeypatch.setattr(CompiledPolicy, "first_match", sometimes)
    # Without shadows, the same bytes get the same answer: one asking of each is enough.
    expected = cache(lambda message: stripped(plain.check(message)))
    for message in messages(REQUESTS):
        assert expected(message) == stripped(shadowed.check(message)), message
    rotten.never.set()
    candidate.close()

    assert 0 == len([key for key in tally.outcomes if key[1] not in (
        "same", "would_deny", "would_allow", "error")])  # fmt: skip
    for policy in ("candidate", "together", "shop/p5"):
        for outcome in ("same", "would_deny", "error"):
            assert tally.outcomes[policy, outcome] > 100, (policy, outcome, tally.outcomes)
    assert tally.outcomes["candidate", "error"] > rotten.asked / 3

"""Records for the audit tests, and how they wait."""

from __future__ import annotations

from typing import Any

from audit.record import (
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
    SubjectFacts,
)


def make_record(number: int = 1, **changes: Any) -> AuditRecord:
    """Return a full record whose decision id tells `number`."""
    facts: dict[str, Any] = {
        "decision_id": f"{number:032x}",
        "received_at": 1_700_000_000.0 + number,
        "decided_at": 1_700_000_000.5 + number,
        "revision": "sha256:abc",
        "peer": PeerFacts(principal="spiffe://td/ns/a/sa/b", spiffe_id="spiffe://td/ns/a/sa/b"),
        "subject": SubjectFacts(issuer="https://issuer", sub="alice", claims={"groups": ["x"]}),
        "destination": DestinationFacts(namespace="shop", service_account="cart", port=8080),
        "source_address": "10.0.0.1",
        "request": RequestFacts(method="GET", host="shop", path=f"/orders/{number}"),
        "decision": DecisionFacts(
            effect="deny",
            reason="deny_rule_matched",
            layer="DENY",
            http_status=403,
            policy="shop/no-orders",
            rule=0,
            place="policies/shop.yaml:12",
        ),
        "shadow": (
            ShadowFacts(
                policy="shop/try", action="DENY", matched=None, effect="deny", outcome="same"
            ),
        ),
    }
    return AuditRecord(**(facts | changes))

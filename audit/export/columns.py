"""The columns of a table of decisions: each name with how it is taken from a record.

A record read back is JSON from a file: every part may be missing or of another
type, and a column is then empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

Pick = Callable[[Mapping[str, Any]], object]


def pick_at(*steps: str) -> Pick:
    """Return a function that takes the value at the end of the steps, or None."""

    def pick(record: Mapping[str, Any]) -> object:
        value: object = record
        for step in steps:
            value = value.get(step) if isinstance(value, Mapping) else None
        return value

    return pick


def name_subject(record: Mapping[str, Any]) -> str:
    """Return Istio's request principal, `<iss>/<sub>`, or nothing without a token."""
    subject = record.get("subject")
    if not isinstance(subject, Mapping):
        return ""
    return f"{subject.get('issuer') or ''}/{subject.get('sub') or ''}"


def name_peer(record: Mapping[str, Any]) -> str:
    """Return the peer's SPIFFE ID or principal, or nothing for an anonymous caller."""
    peer = record.get("peer")
    if not isinstance(peer, Mapping):
        return ""
    return str(peer.get("spiffe_id") or peer.get("principal") or "")


def name_destination(record: Mapping[str, Any]) -> str:
    """Return `namespace/service account` of the workload that was asked about."""
    place = record.get("destination")
    if not isinstance(place, Mapping):
        return ""
    account = place.get("service_account")
    return f"{place.get('namespace', '')}/{account}" if account else f"{place.get('namespace', '')}"


def name_rule(record: Mapping[str, Any]) -> str:
    """Return `namespace/policy#rule` of the deciding rule, or nothing."""
    decision = record.get("decision")
    if not isinstance(decision, Mapping) or not decision.get("policy"):
        return ""
    rule = decision.get("rule")
    return f"{decision['policy']}" + ("" if rule is None else f"#{rule}")


def name_shadow(record: Mapping[str, Any]) -> str:
    """Return the shadow verdicts that differ from the answer, as `policy: outcome`."""
    return ", ".join(
        f"{shadow.get('policy', '')}: {shadow.get('outcome', '')}"
        for shadow in differing_shadows(record)
    )


def differing_shadows(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the shadow verdicts that would have changed the answer, or failed."""
    shadows = record.get("shadow")
    found = shadows if isinstance(shadows, list) else []
    return [each for each in found if isinstance(each, Mapping) and each.get("outcome") != "same"]


def _joined(name: str) -> Pick:
    def pick(record: Mapping[str, Any]) -> object:
        value = record.get(name)
        return " ".join(map(str, value)) if isinstance(value, list) else None

    return pick


COLUMNS: Final[Mapping[str, Pick]] = MappingProxyType(
    {
        "seq": pick_at("seq"),
        "decided_at": pick_at("decided_at"),
        "decision_id": pick_at("decision_id"),
        "effect": pick_at("decision", "effect"),
        "reason": pick_at("decision", "reason"),
        "layer": pick_at("decision", "layer"),
        "http_status": pick_at("decision", "http_status"),
        "policy": pick_at("decision", "policy"),
        "rule": pick_at("decision", "rule"),
        "place": pick_at("decision", "place"),
        "detail": pick_at("decision", "detail"),
        "near_miss": pick_at("decision", "near_miss"),
        "peer": name_peer,
        "subject": name_subject,
        "source_address": pick_at("source", "address"),
        "destination": name_destination,
        "port": pick_at("destination", "port"),
        "method": pick_at("request", "method"),
        "host": pick_at("request", "host"),
        "path": pick_at("request", "path"),
        "protocol": pick_at("request", "protocol"),
        "request_id": pick_at("request", "id"),
        "shadow": name_shadow,
        "audited_by": _joined("audited_by"),
        "revision": pick_at("revision"),
        "node": pick_at("node"),
        "duration_microseconds": pick_at("duration_microseconds"),
        "received_at": pick_at("received_at"),
    }
)

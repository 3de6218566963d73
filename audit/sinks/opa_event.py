"""A decision on record in the shape of OPA's decision log, for services that take it.

What is masked in the record stays masked: an event is made of the line, never of the request.

Spec: OPA, "Decision Logs", the fields of an event.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

PATH: Final = "meshwarden/decision"
_RESULT: Final = (
    "reason", "layer", "http_status", "policy", "rule", "place", "detail", "near_miss"
)  # fmt: skip


def event_of(document: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the event of a decision's document; `labels` tell which instance it is of."""
    request = _part(document, "request")
    decision = _part(document, "decision")
    result = {name: decision[name] for name in _RESULT if decision.get(name) not in (None, "")}
    event: dict[str, Any] = {
        "labels": {"id": str(document.get("node", "")), **labels},
        "decision_id": document.get("decision_id", ""),
        "bundles": {"policies": {"revision": document.get("revision", "")}},
        "path": PATH,
        "input": {"attributes": _attributes(document, request)},
        "result": {"allowed": decision.get("effect") == "allow", **result},
        "timestamp": document.get("decided_at", ""),
        "metrics": {
            "timer_server_handler_ns": 1000 * int(document.get("duration_microseconds", 0))
        },
    }
    address = _part(document, "source").get("address")
    if address:
        event["requested_by"] = address
    if document.get("shadow"):
        event["result"]["shadow"] = document["shadow"]
    # By these the event is found in the record it was made of.
    event["result"]["record"] = {name: document.get(name) for name in ("seq", "prev")}
    return event


def too_large_event(document: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """Return what stands for an event that the service does not take for its size."""
    decision = _part(document, "decision")
    return {
        "labels": {"id": str(document.get("node", "")), **labels},
        "decision_id": document.get("decision_id", ""),
        "path": PATH,
        "result": {
            "allowed": decision.get("effect") == "allow",
            "record": {name: document.get(name) for name in ("seq", "prev")},
        },
        "erased": ["/input"],
        "timestamp": document.get("decided_at", ""),
    }


def to_bytes(event: Mapping[str, Any]) -> bytes:
    """Return an event as JSON."""
    return json.dumps(event, separators=(",", ":")).encode("ascii")


def _attributes(document: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record's facts where Envoy's input document has them."""
    peer, subject = _part(document, "peer"), _part(document, "subject")
    destination = _part(document, "destination")
    headers = _part(request, "headers")
    http: dict[str, Any] = {
        name: request[name] for name in ("method", "host", "path", "protocol", "id", "size")
        if name in request
    }  # fmt: skip
    http["headers"] = {name: ",".join(map(str, values)) for name, values in headers.items()}
    found: dict[str, Any] = {"request": {"http": http}}
    if peer:
        found["source"] = {"principal": peer.get("principal", "")}
    if destination:
        found["destination"] = dict(destination)
    if subject:
        found["metadataContext"] = {"subject": dict(subject)}
    return found


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}

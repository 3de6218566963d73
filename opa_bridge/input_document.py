"""A request as the input document of opa-envoy-plugin, and what that never had.

Spec: opa-envoy-plugin, `input` v3: the CheckRequest with camelCase names, where a field
that is empty, 0 or false is absent. Our one key beside it, `meshwarden`, holds who asks:
`peer`, `claims`, `request_principal` (all absent when unknown) and `workload`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from identity.peer import Peer
from opa_bridge.parsed_body import parse_body
from opa_bridge.parsed_path import parse_path, parse_query
from policies.request import Request

_NANOS = 1_000_000_000


def input_document(request: Request) -> dict[str, Any]:
    """Return the input document of a request.

    Raises:
        InputError: the path, query or body cannot be parsed.
    """
    document: dict[str, Any] = {
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "attributes": _attributes(request),
        "parsed_path": parse_path(request.path),
        "parsed_query": parse_query(request.path),
        "meshwarden": _meshwarden(request),
    }
    document["parsed_body"], document["truncated_body"] = parse_body(request)
    if request.peer is not None:
        document["source_principal"] = request.peer.principal
    return document


def _attributes(request: Request) -> dict[str, Any]:
    source_principal = request.peer.principal if request.peer else ""
    seconds, nanos = divmod(round(request.received_at * _NANOS), _NANOS)
    return _present(
        {
            "source": _present(
                {
                    "address": _address(request.source_ip, request.source_port),
                    "principal": source_principal,
                }
            ),
            "destination": _present(
                {
                    "address": _address(request.destination_ip, request.destination_port),
                    "principal": request.destination_principal,
                }
            ),
            "request": _present(
                {
                    "time": _present({"seconds": seconds, "nanos": nanos}),
                    "http": _http(request),
                }
            ),
            "contextExtensions": dict(request.context_extensions),
            "metadataContext": _present({"filterMetadata": dict(request.filter_metadata)}),
            "tlsSession": _present({"sni": request.sni}),
        }
    )


def _http(request: Request) -> dict[str, Any]:
    http = {
        "id": request.stream_id,
        "method": request.method,
        "headers": {name: ",".join(values) for name, values in request.headers.items()},
        "path": request.path,
        "host": request.host,
        "scheme": request.scheme,
        "size": request.size,
        "protocol": request.protocol,
    }
    try:
        http["body"] = request.body.decode("utf-8")
    except UnicodeDecodeError:
        http["rawBody"] = base64.b64encode(request.body).decode("ascii")
    return _present(http)


def _address(ip: str, port: int) -> dict[str, Any]:
    return _present({"socketAddress": _present({"address": ip, "portValue": port})})


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are set; a size of -1 means that Envoy knew none."""
    return {name: value for name, value in fields.items() if value and value != -1}


def _meshwarden(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if request.peer is not None:
        found["peer"] = _peer(request.peer)
    if request.claims is not None:
        found["claims"] = dict(request.claims.payload)
        if request.claims.request_principal is not None:
            found["request_principal"] = request.claims.request_principal
    if request.workload is not None:
        found["workload"] = {
            "namespace": request.workload.namespace,
            "service_account": request.workload.service_account,
            "labels": dict(request.workload.labels),
        }
    return found


def _peer(peer: Peer) -> dict[str, Any]:
    found: dict[str, Any] = {"principal": peer.principal, "proof": peer.proof.value}
    if peer.spiffe_id is not None:
        found["spiffe_id"] = str(peer.spiffe_id)
        found["trust_domain"] = peer.spiffe_id.trust_domain.name
    if peer.workload is not None:
        found["namespace"], found["service_account"] = peer.workload
    if peer.reading is not None and peer.reading.workload is not None:
        found["labels"] = dict(peer.reading.workload.labels)
        found["mapping"] = peer.reading.workload.mapping
    return found

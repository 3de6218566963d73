"""A request as the input document of opa-envoy-plugin, and what that never had.

Spec: opa-envoy-plugin, `input` v3: the CheckRequest with camelCase names, where a field
that is empty, 0 or false is absent. Two differences: headers that come unmerged are there
both as `headers` and as `headerMap`, and `source.service`, which is the client's own word,
never is. Our one key beside it, `meshwarden`, holds who asks:
`peer`, `claims`, `request_principal` (all absent when unknown) and `workload`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from identity.peer import Peer
from opa_bridge.grpc_bodies import GrpcBodies
from opa_bridge.parsed_body import parse_body
from opa_bridge.parsed_path import parse_path, parse_query
from policies.request import Request

_NANOS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What of a request is parsed, and how.

    `is_encoded_slash_taken`: see `Compatibility.encoded_slash`. Without `is_body_parsed`
    there is neither `parsed_body` nor `truncated_body`.
    """

    is_encoded_slash_taken: bool = False
    is_body_parsed: bool = True
    grpc_bodies: GrpcBodies | None = None


_USUAL: Final = InputOptions()


def input_document(request: Request, options: InputOptions = _USUAL) -> dict[str, Any]:
    """Return the input document of a request.

    Raises:
        InputError: the path, query or body cannot be parsed.
    """
    parsed_path = parse_path(request.path, is_encoded_slash_taken=options.is_encoded_slash_taken)
    document: dict[str, Any] = {
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "attributes": _attributes(request),
        "parsed_path": parsed_path,
        "parsed_query": parse_query(request.path),
        "meshwarden": _meshwarden(request),
    }
    if options.is_body_parsed:
        document["parsed_body"], document["truncated_body"] = parse_body(
            request, parsed_path, options.grpc_bodies
        )
    if request.peer is not None:
        document["source_principal"] = request.peer.principal
    return document


def _attributes(request: Request) -> dict[str, Any]:
    source_principal = request.peer.principal if request.peer else ""
    evidence = request.peer_evidence
    seconds, nanos = divmod(round(request.received_at * _NANOS), _NANOS)
    return _present(
        {
            "source": _present(
                {
                    "address": _address(request.source_ip, request.source_port),
                    "principal": source_principal,
                    "certificate": evidence.certificate if evidence else "",
                }
            ),
            "destination": _present(
                {
                    "address": _address(request.destination_ip, request.destination_port),
                    "principal": request.destination_principal,
                    "labels": dict(request.destination_labels),
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
            "routeMetadataContext": _present({"filterMetadata": dict(request.route_metadata)}),
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
    if not request.headers_merged:
        http["headerMap"] = _header_map(request)
    text = None if request.body_is_raw else _text(request.body)
    if text is None:
        http["rawBody"] = base64.b64encode(request.body).decode("ascii")
    else:
        http["body"] = text
    return _present(http)


def _text(body: bytes) -> str | None:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _header_map(request: Request) -> dict[str, Any]:
    """Return the headers as Envoy's `encode_raw_headers` spells them."""
    lines = [
        _present(
            {
                "key": name,
                "rawValue": base64.b64encode(value.encode("utf-8", "surrogateescape")).decode(),
            }
        )
        for name, values in request.headers.items()
        for value in values
    ]
    return _present({"headers": lines})


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

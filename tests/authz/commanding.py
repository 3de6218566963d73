"""What tests of the `policy` commands stand on: a run of the command, and resources as text."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from click.testing import CliRunner, Result

from authz.cli import policy_main

ANSWER_KEYS = ("decision", "status", "policy", "rule", "reason", "shadow", "audited")
"""How every line of `policy eval` begins."""


def run_policy(*arguments: object, stdin: bytes | None = None) -> Result:
    """Return what `policy ARGUMENTS` printed and its exit code; it must not raise."""
    result = CliRunner().invoke(policy_main, [str(each) for each in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def resources(shorts: Iterable[Mapping[str, Any]]) -> str:
    """Return the YAML of resources written short, one document and one line each piece."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": short.get("kind", "AuthorizationPolicy"),
            "metadata": {
                "name": short["name"],
                "namespace": short.get("namespace", "shop"),
                "annotations": short.get("annotations", {}),
            },
            "spec": short["spec"],
        }
        for short in shorts
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def line_of(short: dict[str, Any]) -> dict[str, Any]:
    """Return the CheckRequest that a short form stands for, as protobuf JSON."""
    source: dict[str, Any] = {"address": {"socketAddress": {"address": "10.0.0.1"}}}
    destination: dict[str, Any] = {
        "address": {"socketAddress": {"address": "10.0.0.2", "portValue": short.get("port", 8080)}},
        "principal": short.get("to", ""),
        "labels": short.get("labels", {}),
    }
    source["principal"] = short.get("peer", "")
    attributes: dict[str, Any] = {
        "source": source,
        "destination": destination,
        "contextExtensions": short.get("extensions", {}),
        "metadataContext": {"filterMetadata": short.get("metadata", {})},
    }
    if "sni" in short:
        attributes["tlsSession"] = {"sni": short["sni"]}
    if not short.get("tcp"):
        http = {"method": "GET", "path": "/", "host": "shop.test", **short.get("http", {})}
        headers = [
            {"key": name, "rawValue": base64.b64encode(value.encode()).decode()}
            for name, value in short.get("headers", [])
        ]
        attributes["request"] = {"http": {**http, "headerMap": {"headers": headers}}}
    return {"attributes": attributes}


def as_lines(*documents: dict[str, Any]) -> bytes:
    """Return documents as JSON lines."""
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)

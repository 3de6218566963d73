"""The same rules and requests to a real Envoy's `rbac` filter and to ours: same answers.

Each request goes through one Envoy: `ext_authz` first, which asks a real gRPC server that
keeps the decoded request and lets it pass, then `rbac` with what Istio makes of the rule.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.check_request import decode_check_request
from authz.check_response import encode_check_response
from authz.grpc_server import GrpcServer
from policies.decision import Decision, Effect, Layer, Reason
from policies.mesh import Mesh
from policies.request import Request
from policies.snapshot import build_snapshot
from tests.waiting import envoy_ports

pytestmark = pytest.mark.envoy

CASES: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("rbac_cases.yaml").read_text("utf-8")
)
PASS = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.DEFAULT)
CASE, NUMBER = "x-case", "x-number"
TYPES = "type.googleapis.com/envoy.extensions"
HTTP = f"{TYPES}.filters.http"


@dataclass(slots=True)
class Eavesdropper:
    """Lets every check pass and keeps its request by the number it carries."""

    heard: dict[str, Request] = field(default_factory=dict)

    def check(self, message: bytes) -> bytes:
        """Keep the request; answer OK."""
        request = decode_check_request(message)
        self.heard[request.headers[NUMBER][0]] = request
        return encode_check_response(PASS, {})


def address(port: int) -> dict[str, Any]:
    """Return a loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def route_of(index: int, case: dict[str, Any]) -> dict[str, Any]:
    """Return the route of a case, with its `rbac` rules."""
    policy = {
        "permissions": case.get("permissions", [{"any": True}]),
        "principals": case.get("principals", [{"any": True}]),
    }
    rbac = {"rules": {"action": "ALLOW", "policies": {"p": policy}}}
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": CASE, "string_match": {"exact": str(index)}}],
        },
        "direct_response": {"status": 200},
        "typed_per_filter_config": {
            "envoy.filters.http.rbac": {"@type": f"{HTTP}.rbac.v3.RBACPerRoute", "rbac": rbac}
        },
    }


def envoy_config(grpc_port: int) -> str:
    """Return the configuration: ext_authz, rbac by case, and an answer of Envoy's own."""
    options = {
        "explicit_http_config": {"http2_protocol_options": {}},
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    }
    cluster = {
        "name": "authorizer",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": "authorizer",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(grpc_port)}}]}],
        },
    }
    authz = {
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"},
        "transport_api_version": "V3",
        "encode_raw_headers": True,
    }
    filters = [
        ("ext_authz", "ext_authz.v3.ExtAuthz", authz),
        ("rbac", "rbac.v3.RBAC", {}),
        ("router", "router.v3.Router", {}),
    ]
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "normalize_path": True,
        "http_filters": [
            {
                "name": f"envoy.filters.http.{name}",
                "typed_config": {"@type": f"{HTTP}.{kind}", **body},
            }
            for name, kind, body in filters
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [route_of(index, case) for index, case in enumerate(CASES)],
                }
            ]
        },
    }
    network = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }
    listener = {"name": "main", "address": address(0), "filter_chains": [{"filters": [network]}]}
    resources = {"listeners": [listener], "clusters": [cluster]}
    return json.dumps({"admin": {"address": address(0)}, "static_resources": resources})


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Eavesdropper]]:
    """Return the port of a running Envoy and who hears its checks."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    folder, ear = tmp_path_factory.mktemp("rbac"), Eavesdropper()
    server = GrpcServer("127.0.0.1:0", 2, ear.check)
    (folder / "envoy.json").write_text(envoy_config(server.port))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--admin-address-path", str(folder / "admin"), "--log-path", "envoy.log"]
    process = subprocess.Popen(command, cwd=folder, text=True)
    try:
        yield envoy_ports(process, folder, ["main"])["main"], ear
    finally:
        process.terminate()
        process.wait(10)
        server.stop(1)


def send(port: int, index: int, number: str, request: dict[str, Any]) -> int:
    """Send a request to the byte as it is written, and return the status."""
    headers = [(CASE, str(index)), (NUMBER, number), *request.get("headers", [])]
    lines = [f"{request.get('method', 'GET')} {request.get('path', '/')} HTTP/1.1"]
    lines += [f"Host: {request.get('host', 'h.test')}", "Connection: close", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in headers]
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    "index", range(len(CASES)), ids=lambda index: f"{index}-{json.dumps(CASES[index]['rule'])[:60]}"
)
def test_rbac(envoy: tuple[int, Eavesdropper], index: int) -> None:
    """Our ALLOW rule matches exactly the requests that Envoy's `rbac` lets in."""
    port, ear = envoy
    case = CASES[index]
    document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": {"rules": [case["rule"]]},
    }
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump(document))], Mesh(**case.get("mesh", {})))
    theirs, ours = [], []
    for place, request in enumerate(case["requests"]):
        number = f"{index}.{place}"
        status = send(port, index, number, request)
        if number not in ear.heard:
            # Envoy itself refuses some requests; nobody is asked about those.
            assert status == 400, request
            continue
        assert status in (200, 403), request
        theirs.append((request, status == 200))
        matched = snapshot.policies[0][1].first_match(ear.heard[number])
        ours.append((request, matched is not None))

    assert theirs, "Envoy refused every request of the case"
    assert theirs == ours

"""Dry-run metadata in a real Envoy's access log: Istio's compiled filters beside ours.

For every policy set there are two listeners: one with the RBAC filters that Istio would
send, one with `ext_authz`, which asks the authorizer. Both get the same requests, and both
write the same keys into their access log, each under its own filter's name.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checking import MemoryRecorder, NoKeys

from authz.grpc_server import GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from authz.workload import NAMESPACE_EXTENSION
from policies.mesh import Mesh
from policies.rbac import compile_filters
from policies.request import Workload
from policies.snapshot import Snapshot, build_snapshot
from tests.waiting import envoy_ports

pytestmark = pytest.mark.envoy

SETS: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("dry_run_sets.yaml").read_text("utf-8")
)
REQUESTS = [
    ("GET", "/", {}), ("POST", "/", {}), ("GET", "/admin", {}), ("POST", "/admin", {}),
    ("GET", "/orders/1", {}), ("POST", "/orders/1?x=2", {}), ("GET", "/", {"x-tier": "gold"}),
    ("GET", "/admin", {"x-tier": "gold"}), ("DELETE", "/orders/", {"x-tier": "lead"}),
]  # fmt: skip
KEYS = [
    f"istio_dry_run_{action}_shadow_{what}"
    for action in ("allow", "deny")
    for what in ("engine_result", "effective_policy_id")
]
TYPES = "type.googleapis.com/envoy.extensions"
HTTP = f"{TYPES}.filters.http"
RBAC, OURS = "envoy.filters.http.rbac", "envoy.filters.http.ext_authz"


def snapshot_of_sets() -> Snapshot:
    """Return every set's policies, each set in a namespace of its name."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {
                "name": short["name"],
                "namespace": name,
                "annotations": {"istio.io/dry-run": "true"} if short.get("dry") else {},
            },
            "spec": short["spec"],
        }
        for name, policies in SETS.items()
        for short in policies
    ]
    return build_snapshot([("sets.yaml", yaml.safe_dump_all(documents))], Mesh())


def address(port: int) -> dict[str, Any]:
    """Return a loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def listener(name: str, log: Path, section: str, filters: list[Any], host: Any) -> dict[str, Any]:
    """Return a listener of its filters, with an access log of the keys of one section."""
    fields = {key: f"%DYNAMIC_METADATA({section}:{key})%" for key in KEYS}
    access_log = {
        "name": "log",
        "typed_config": {
            "@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": str(log / f"{name}.log"),
            "log_format": {
                "json_format": {
                    **fields,
                    "status": "%RESPONSE_CODE%",
                    "number": "%REQ(X-NUMBER)%",
                    "outcome": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:shadow)%",
                }
            },
        },
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "access_log": [access_log],
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{HTTP}.router.v3.Router"},
            },
        ],
        "route_config": {"virtual_hosts": [host]},
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": address(0), "filter_chains": [{"filters": [network]}]}


def virtual_host(namespace: str = "") -> dict[str, Any]:
    """Return the host that answers everything; for `ext_authz`, it names the workload."""
    host: dict[str, Any] = {
        "name": "all",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
    }
    if namespace:
        host["typed_per_filter_config"] = {
            OURS: {
                "@type": f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": {NAMESPACE_EXTENSION: namespace}},
            }
        }
    return host


def envoy_config(folder: Path, snapshot: Snapshot, grpc_port: int) -> str:
    """Return two listeners for each set."""
    upstream = f"{TYPES}.upstreams.http.v3.HttpProtocolOptions"
    cluster = {
        "name": "authorizer",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": upstream,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "authorizer",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(grpc_port)}}]}],
        },
    }
    asking = {
        "name": OURS,
        "typed_config": {
            "@type": f"{HTTP}.ext_authz.v3.ExtAuthz",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "10s"},
            "transport_api_version": "V3",
            "encode_raw_headers": True,
        },
    }
    listeners = []
    for name in SETS:
        compiled = compile_filters(
            [policy for policy, _ in snapshot.policies],
            Workload(namespace=name), snapshot.mesh, tcp=False,
        )  # fmt: skip
        listeners.append(listener(f"{name}-istio", folder, RBAC, compiled, virtual_host()))
        listeners.append(listener(f"{name}-ours", folder, OURS, [asking], virtual_host(name)))
    resources = {"listeners": listeners, "clusters": [cluster]}
    return json.dumps({"admin": {"address": address(0)}, "static_resources": resources})


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, int], Path]]:
    """Return the listeners' ports and the folder of their access logs."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    folder, snapshot = tmp_path_factory.mktemp("dry-run"), snapshot_of_sets()
    state = ServingState(snapshot=snapshot, revision="r")
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=NoKeys()),
        recorder=MemoryRecorder(),
        metrics=Metrics(),
    )
    server = GrpcServer("127.0.0.1:0", 2, authorizer.check)
    (folder / "envoy.json").write_text(envoy_config(folder, snapshot, server.port))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--file-flush-interval-msec", "20", "--log-path", "envoy.log"]
    command += ["--admin-address-path", str(folder / "admin")]
    process = subprocess.Popen(command, cwd=folder, text=True)
    try:
        names = [f"{name}-{side}" for name in SETS for side in ("istio", "ours")]
        yield envoy_ports(process, folder, names), folder
    finally:
        process.terminate()
        process.wait(10)
        server.stop(1)


def send(port: int, number: int, method: str, path: str, headers: dict[str, str]) -> None:
    """Send one request and read the head of its answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: shop.test", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"x-number: {number}", "Content-Length: 0", "", ""]
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall("\r\n".join(lines).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(65536)
            assert piece, "no answer"
            answer += piece


def logged(path: Path) -> list[dict[str, Any]]:
    """Return the access log's entries in the order of the requests, once all are there."""
    for _ in range(400):
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= len(REQUESTS):
            return sorted(map(json.loads, lines), key=lambda entry: int(entry["number"]))
        threading.Event().wait(0.05)
    raise AssertionError("the access log is not complete")


@pytest.mark.parametrize("name", SETS)
def test_the_access_log_shows_what_istio_would_write(
    envoy: tuple[dict[str, int], Path], name: str
) -> None:
    """Every key has the value that the compiled filter wrote, or is absent there and here."""
    ports, folder = envoy
    for number, (method, path, headers) in enumerate(REQUESTS):
        send(ports[f"{name}-istio"], number, method, path, headers)
        send(ports[f"{name}-ours"], number, method, path, headers)
    theirs, ours = logged(folder / f"{name}-istio.log"), logged(folder / f"{name}-ours.log")
    for request, their, our in zip(REQUESTS, theirs, ours, strict=True):
        shown = {key: our[key] for key in (*KEYS, "status")}
        assert {key: their[key] for key in (*KEYS, "status")} == shown, request
        assert all(policy in our["outcome"] for policy in dry_run_names(name)), request
    written = {key for entry in theirs for key in KEYS if entry[key] is not None}
    assert written, "the compiled filter wrote nothing"


def dry_run_names(name: str) -> list[str]:
    """Return the dry-run policies of a set."""
    return [f"{name}/{short['name']}" for short in SETS[name] if short.get("dry")]

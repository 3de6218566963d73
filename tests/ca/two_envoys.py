"""Two real Envoys that take their identity from a CA: bootstraps, processes, and a first look."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import httpx
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

CART = "spiffe://cluster.local/ns/shop/sa/cart"
PAY = "spiffe://cluster.local/ns/shop/sa/pay"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
_HCM = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
    "HttpConnectionManager"
)
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _secret(name, workload, api_type):
    source = {
        "api_type": api_type,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": f"sds-{workload}"}}],
    }
    sds = {"resource_api_version": "V3", "api_config_source": source}
    return {"name": name, "sds_config": sds}


def _tls(kind, workload, peer, api_type, names=("default", "ROOTCA")):
    """Return a transport socket whose certificate, roots and expected peer are `workload`'s."""
    svid_name, roots_name = names
    match = {"san_type": "URI", "matcher": {"exact": peer}}
    context = {
        "@type": f"{_TLS}{kind}TlsContext",
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [_secret(svid_name, workload, api_type)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": [match]},
                "validation_context_sds_secret_config": _secret(roots_name, workload, api_type),
            },
        },
    }
    if kind == "Downstream":
        context["require_client_certificate"] = True
        if peer is None:
            del context["common_tls_context"]["combined_validation_context"]
            context["common_tls_context"]["validation_context_sds_secret_config"] = _secret(
                roots_name, workload, api_type
            )
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _listener(name, route, socket=None):
    manager = {
        "@type": _HCM,
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}} | route],
                }
            ]
        },
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    if socket:
        chain["transport_socket"] = socket
    return {"name": name, "address": _loopback(0), "filter_chains": [chain]}


def _loopback(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name, address, **more):
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    } | more


def _sds_cluster(workload, folder):
    http2 = {"@type": _HTTP, "explicit_http_config": {"http2_protocol_options": {}}}
    return _cluster(
        f"sds-{workload}",
        {"pipe": {"path": str(folder / f"{workload}.sock")}},
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
        },
    )


def _short_connections(requests):
    options = {
        "@type": _HTTP,
        "common_http_protocol_options": {"max_requests_per_connection": requests},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}


def server_bootstrap(folder, api_type, names=("default", "ROOTCA")):
    """Pay's Envoy: an mTLS listener that answers with the peer it verified.

    `names` are those it asks its certificate and its roots by.
    """
    echo = {
        "direct_response": {"status": 200},
        "response_headers_to_add": [
            {"header": {"key": f"x-{name}", "value": f"%DOWNSTREAM_PEER_{value}%"}}
            for name, value in (("peer", "URI_SAN"), ("serial", "SERIAL"), ("issuer", "ISSUER"))
        ],
    }
    listener = _listener("mtls", echo, _tls("Downstream", "pay", None, api_type, names))
    return {"listeners": [listener], "clusters": [_sds_cluster("pay", folder)]}


def client_bootstrap(folder, api_type, port, *, requests_per_connection=None):
    """Cart's Envoy: plain listeners in front of mTLS to pay, and to one that is not there.

    With `requests_per_connection` a new handshake comes after so many, and none is resumed.
    """
    upstreams = {"right": PAY, "wrong": f"{PAY}s"}
    clusters = [
        _cluster(
            name,
            _loopback(port),
            transport_socket=_tls("Upstream", "cart", peer, api_type),
        )
        for name, peer in upstreams.items()
    ]
    if requests_per_connection:
        for each in clusters:
            each["typed_extension_protocol_options"] = _short_connections(requests_per_connection)
            each["transport_socket"]["typed_config"]["max_session_keys"] = 0
    listeners = [_listener(name, {"route": {"cluster": name}}) for name in upstreams]
    return {"listeners": listeners, "clusters": [*clusters, _sds_cluster("cart", folder)]}


async def until(probe, what):
    """Return the first truthy answer of `probe`; fail with `what` after a while."""
    end = asyncio.get_running_loop().time() + 45
    while asyncio.get_running_loop().time() < end:
        with suppress(OSError, httpx.HTTPError):
            if answer := await probe():
                return answer
        await asyncio.sleep(0.02)
    raise AssertionError(what)


class Envoy:
    """A running Envoy, asked through its admin page."""

    def __init__(self, admin):
        self.admin = httpx.AsyncClient(base_url=f"http://{admin}", trust_env=False)

    async def ports(self, count):
        """Return the ports of the listeners once all are open."""

        async def probe():
            page = (await self.admin.get("/listeners?format=json")).json()
            found = page.get("listener_statuses", [])
            ports = {s["name"]: s["local_address"]["socket_address"]["port_value"] for s in found}
            ready = (await self.admin.get("/ready")).text.strip() == "LIVE"
            return ports if ready and len(ports) == count and all(ports.values()) else None

        return await until(probe, "listeners")

    async def uris(self):
        """Return the URI SANs of the certificates on the `/certs` page."""
        page = (await self.admin.get("/certs")).json()
        chains = [c for entry in page["certificates"] for c in entry["cert_chain"]]
        return {san["uri"] for c in chains for san in c["subject_alt_names"] if "uri" in san}


@asynccontextmanager
async def envoy(folder, name, resources):
    """Run an Envoy while the block runs."""
    admin_file, config = folder / f"{name}.admin", folder / f"{name}.json"
    bootstrap = {
        "node": {"id": name, "cluster": "tests"},
        "admin": {"address": _loopback(0)},
        "static_resources": resources,
    }
    config.write_text(json.dumps(bootstrap))
    arguments = ["-c", config, "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    binary = Path(sys.executable).parent / "envoy"
    process = await asyncio.create_subprocess_exec(
        binary, *arguments, "--admin-address-path", admin_file
    )

    async def address():
        assert process.returncode is None, "envoy ended"
        return admin_file.exists() and admin_file.read_text()

    try:
        envoy = Envoy(await until(address, "admin address"))
        yield envoy
        await envoy.admin.aclose()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def client_context(socket_path, folder):
    """Return a TLS client context with the SVID that `socket_path` gives out."""
    async with grpc.aio.insecure_channel(f"unix:{socket_path}") as channel:
        stub = SecretDiscoveryServiceStub(channel)
        response = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
    secret = Secret()
    response.resources[0].Unpack(secret)
    path = folder / "client.pem"
    tls = secret.tls_certificate
    path.write_bytes(tls.private_key.inline_bytes + tls.certificate_chain.inline_bytes)
    context = ssl.create_default_context(cafile=folder / "state/bundle.pem")
    # A SPIFFE peer is known by its URI, which the ssl module does not match.
    context.check_hostname = False
    context.load_cert_chain(path)
    return context


async def handshake(port, context):
    """Return the server's certificate and the status line of one request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = (await reader.read()).decode()
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der), answer
    finally:
        writer.close()


def http():
    """Return an HTTP client that asks no proxy."""
    return httpx.AsyncClient(trust_env=False, timeout=10)

"""A real Envoy with every way in which it tells who calls, and clients of every shape.

Listeners: `main` takes TLS; `gateway` takes TLS and goes on to a sidecar over mTLS with
X-Forwarded-Client-Cert; `waypoint` ends TLS and hands the stream to an internal listener,
as Istio's waypoints do. All of them ask one authorizer, which keeps what it hears.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type

from authz.check_request import decode_check_request
from authz.check_response import encode_check_response
from authz.grpc_server import GrpcServer
from policies.decision import Decision, Effect, Layer, Reason
from policies.request import Request
from tests.waiting import envoy_ports

GATEWAY = "spiffe://td/ns/edge/sa/gateway"
SIDECAR = "spiffe://td/ns/shop/sa/orders"
PEER_KEY = "x-meshwarden-peer"
NUMBER, CASE = "x-number", "x-case"
_PASS = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.DEFAULT)
_TYPES = "type.googleapis.com/envoy.extensions"
_YEAR = dt.timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a certificate says of itself; `subject` is (OID, text, ASN.1 type or none) pieces."""

    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    subject: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class Authority:
    """One root and what it issues; files go to `folder`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    root: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        """Make the root."""
        self.root = self._sign(self.key.public_key(), Shape(uris=("spiffe://td",)), is_ca=True)
        (self.folder / "root.pem").write_bytes(_pem(self.root))

    def issue(self, shape: Shape) -> tuple[str, str]:
        """Return certificate and key as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _pem(self._sign(key.public_key(), shape)).decode(), private.decode()

    def context(self, shape: Shape | None) -> ssl.SSLContext:
        """Return the TLS context of a client, None for one without a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.folder / "root.pem")
        if shape is not None:
            path = self.folder / "client.pem"
            path.write_text("".join(self.issue(shape)))
            context.load_cert_chain(path)
        return context

    def _sign(
        self, public: ec.EllipticCurvePublicKey, shape: Shape, *, is_ca: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(issuer if is_ca else x509.Name(list(map(_attribute, shape.subject))))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _YEAR)
            .not_valid_after(now + _YEAR)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(_usage(is_ca=is_ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier._init_without_validation(each) for each in shape.uris
        ]
        names += [x509.DNSName._init_without_validation(each) for each in shape.dns]
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=not (shape.subject or is_ca)
            )
        return builder.sign(self.key, hashes.SHA256())


def _attribute(piece: tuple[str, str, str]) -> x509.NameAttribute[str]:
    oid, text, kind = piece
    wanted = _ASN1Type[kind] if kind else None
    return x509.NameAttribute(x509.ObjectIdentifier(oid), text, wanted, _validate=False)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    names = (
        "content_commitment key_encipherment data_encipherment key_agreement "
        "encipher_only decipher_only"
    )
    others = dict.fromkeys(names.split(), False)
    return x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **others)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(slots=True)
class Ear:
    """Lets every check pass and keeps its request by the number it carries."""

    heard: dict[str, Request] = field(default_factory=dict)

    def check(self, message: bytes, forwarded: tuple[str, ...] = ()) -> bytes:
        """Keep the request; answer OK."""
        request = decode_check_request(message, forwarded)
        self.heard[request.headers[NUMBER][0]] = request
        return encode_check_response(_PASS, {})


@dataclass(slots=True)
class Proxies:
    """The running Envoy: its ports by listener, who issues, and who heard."""

    authority: Authority
    ear: Ear
    ports: dict[str, int]
    sent: int = 0

    def ask(
        self, listener: str, shape: Shape | None, *cases: str, **headers: str
    ) -> list[tuple[int, Request]]:
        """Send one request for each case over one connection; return status and what was heard."""
        context = self.authority.context(shape)
        answers = []
        with httpx.Client(verify=context, trust_env=False) as client:
            for case in cases or ("",):
                self.sent += 1
                sent = {NUMBER: str(self.sent), CASE: case} | {
                    name.replace("_", "-"): value for name, value in headers.items()
                }
                url = f"https://127.0.0.1:{self.ports[listener]}/"
                answer = client.get(url, headers=sent)
                answers.append((answer.status_code, self.ear.heard[str(self.sent)]))
        return answers


@contextmanager
def running(folder: Path, routes: Sequence[dict[str, Any]]) -> Iterator[Proxies]:
    """Run Envoy; `routes` are those of `main`."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    authority, ear = Authority(folder), Ear()
    server = GrpcServer("127.0.0.1:0", 2, ear.check, metadata_key=PEER_KEY)
    (folder / "envoy.json").write_text(json.dumps(_bootstrap(authority, server.port, routes)))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--admin-address-path", str(folder / "admin"), "--log-path", "envoy.log"]
    process = subprocess.Popen(command, cwd=folder, text=True)
    try:
        ports = envoy_ports(process, folder, ("main", "gateway", "waypoint"))
        yield Proxies(authority, ear, ports)
    finally:
        process.terminate()
        process.wait(10)
        server.stop(1)


def _bootstrap(
    authority: Authority, grpc_port: int, routes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return Envoy's configuration: sidecar, gateway before it, waypoint with its tunnel."""
    gateway = authority.issue(Shape(uris=(GATEWAY,)))
    internal = f"{_TYPES}.bootstrap.internal_listener.v3.InternalListener"
    return {
        "admin": {"address": _address(0)},
        "bootstrap_extensions": [
            {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": internal}}
        ],
        "static_resources": {
            "listeners": _listeners(authority, gateway, routes),
            "clusters": _clusters(authority, gateway, grpc_port),
        },
    }


def _listeners(
    authority: Authority, gateway: tuple[str, str], routes: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    tls = _downstream_tls(authority, authority.issue(Shape(uris=(SIDECAR,))))
    onward = [{"match": {"prefix": "/"}, "route": {"cluster": "sidecar"}}]
    answer = [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    entry = _manager(onward, mode="SANITIZE_SET", asks=False)
    return [
        _listener("main", [_manager(routes)], tls),
        _listener("gateway", [entry], _downstream_tls(authority, gateway)),
        {**_listener("sidecar", [_manager(answer)], tls), "address": {"pipe": {"path": "s.sock"}}},
        _listener("waypoint", [_PEER_NOTED, _TUNNEL], tls),
        {
            "name": "inside",
            "internal_listener": {},
            "filter_chains": [{"filters": [_manager(answer)]}],
        },
    ]


def _clusters(
    authority: Authority, gateway: tuple[str, str], grpc_port: int
) -> list[dict[str, Any]]:
    inner = {"envoy_internal_address": {"server_listener_name": "inside"}}
    return [
        {**_cluster("authorizer", _address(grpc_port)), "typed_extension_protocol_options": _H2},
        {
            **_cluster("sidecar", {"pipe": {"path": "s.sock"}}),
            "transport_socket": _upstream_tls(authority, gateway),
        },
        {**_cluster("inside", inner), "transport_socket": _STATE_PASSED_ON},
    ]


# As at a waypoint: the peer of the outer connection is known in the inner one.
_PEER_NOTED = {
    "name": "envoy.filters.network.set_filter_state",
    "typed_config": {
        "@type": f"{_TYPES}.filters.network.set_filter_state.v3.Config",
        "on_downstream_tls_handshake": [
            {
                "object_key": "io.istio.peer_principal",
                "factory_key": "envoy.string",
                "format_string": {
                    "text_format_source": {"inline_string": "%DOWNSTREAM_PEER_URI_SAN%"}
                },
                "shared_with_upstream": "ONCE",
            }
        ],
    },
}
_TUNNEL = {
    "name": "envoy.filters.network.tcp_proxy",
    "typed_config": {
        "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t",
        "cluster": "inside",
        # Else the tunnel would begin before TLS has told who calls.
        "upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE",
        "max_early_data_bytes": 65536,
    },
}
_STATE_PASSED_ON = {
    "name": "envoy.transport_sockets.internal_upstream",
    "typed_config": {
        "@type": f"{_TYPES}.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "transport_socket": {
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": {"@type": f"{_TYPES}.transport_sockets.raw_buffer.v3.RawBuffer"},
        },
    },
}
_H2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def _listener(name: str, filters: list[dict[str, Any]], tls: dict[str, Any]) -> dict[str, Any]:
    chain = {"filters": filters, "transport_socket": tls}
    return {"name": name, "address": _address(0), "filter_chains": [chain]}


def _manager(
    routes: Sequence[dict[str, Any]], *, mode: str = "APPEND_FORWARD", asks: bool = True
) -> dict[str, Any]:
    """Return the HTTP connection manager; `asks` puts ext_authz and rbac into it."""
    authz = {
        "grpc_service": {
            "envoy_grpc": {"cluster_name": "authorizer"},
            "timeout": "5s",
            "initial_metadata": [
                {"key": PEER_KEY, "value": "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"}
            ],
        },
        "transport_api_version": "V3",
        "encode_raw_headers": True,
        "include_peer_certificate": True,
    }
    asking = [("ext_authz", "ext_authz.v3.ExtAuthz", authz), ("rbac", "rbac.v3.RBAC", {})]
    filters = [*(asking if asks else ()), ("router", "router.v3.Router", {})]
    config = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "forward_client_cert_details": mode,
        "set_current_client_cert_details": {
            "subject": True, "cert": True, "chain": True, "dns": True, "uri": True
        },
        "http_filters": [
            {
                "name": f"envoy.filters.http.{name}",
                "typed_config": {"@type": f"{_TYPES}.filters.http.{kind}", **body},
            }
            for name, kind, body in filters
        ],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": list(routes)}]
        },
    }  # fmt: skip
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _common_tls(authority: Authority, issued: tuple[str, str]) -> dict[str, Any]:
    chain, key = issued
    return {
        "tls_certificates": [
            {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
        ],
        "validation_context": {"trusted_ca": {"inline_string": _pem(authority.root).decode()}},
    }


def _downstream_tls(authority: Authority, issued: tuple[str, str]) -> dict[str, Any]:
    return _transport("Downstream", _common_tls(authority, issued))


def _upstream_tls(authority: Authority, issued: tuple[str, str]) -> dict[str, Any]:
    return _transport("Upstream", _common_tls(authority, issued))


def _transport(side: str, common: dict[str, Any]) -> dict[str, Any]:
    kind = f"{_TYPES}.transport_sockets.tls.v3.{side}TlsContext"
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {"@type": kind, "common_tls_context": common},
    }

"""What Envoy's users write in Rego, through a real Envoy, our server and each engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from opa_process import MISSING, RealOpa, opa_binary, running_opa

from audit.record import AuditRecord
from authz.grpc_server import GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from opa_bridge.compatibility import Compatibility
from opa_bridge.opa_address import OpaServer
from opa_bridge.provider import ProviderOptions, RegoProvider, connect_provider, load_provider
from policies.diagnostic import LoadError
from policies.mesh import Mesh
from policies.request import Workload
from policies.snapshot import build_snapshot
from tests.waiting import envoy_ports

pytestmark = pytest.mark.envoy

EXAMPLES: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("envoy_examples.yaml").read_text("utf-8")
)
NAMES = [example["note"] for example in EXAMPLES]
SECRET = "0123456789abcdef0123456789abcdef"
ISSUER = "https://issuer.test"
KEY = ec.generate_private_key(ec.SECP256R1())
TYPES = "type.googleapis.com/envoy.extensions"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# The policies of the mesh: everything goes to the provider; tokens are verified before.
CUSTOM = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rego, namespace: shop}
spec: {action: CUSTOM, provider: {name: rego}, rules: [{}]}
"""
TOKENS = f"""---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: shop}}
spec: {{jwtRules: [{{issuer: "{ISSUER}", jwksUri: "{ISSUER}/keys", forwardOriginalToken: true}}]}}
"""


class Keys:
    """The issuer's keys."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the one key."""
        public = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        keys = [{**public, "kid": "k", "alg": "ES256", "use": "sig"}]
        return parse_jwk_set(json.dumps({"keys": keys}), is_inline=False)


class Records:
    """Takes every record."""

    def offer(self, record: AuditRecord) -> None:
        """Take it."""


class Echo(BaseHTTPRequestHandler):
    """The upstream: answers with what reached it."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def address(port: int) -> dict[str, Any]:
    """Return a loopback address."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, version: str) -> dict[str, Any]:
    """Return a cluster of one endpoint that speaks one version of HTTP."""
    options = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {version: {}},
    }
    return {
        "name": name,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {OPTIONS: options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    }


def envoy_config(grpc_port: int, upstream_port: int, log: Path) -> str:
    """Return the configuration: ext_authz with bodies, an access log of its metadata."""
    authz = {
        "@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthz",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authorizer"}, "timeout": "5s"},
        "transport_api_version": "V3",
        "encode_raw_headers": True,
        "with_request_body": {"max_request_bytes": 8192, "allow_partial_message": True},
    }
    router = {"@type": f"{TYPES}.filters.http.router.v3.Router"}
    namespace = "envoy.filters.http.ext_authz"
    line = {"number": "%REQ(x-number)%", "metadata": f"%DYNAMIC_METADATA({namespace})%"}
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "normalize_path": True,
        "access_log": [
            {
                "name": "file",
                "typed_config": {
                    "@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog",
                    "path": str(log),
                    "log_format": {"json_format": line},
                },
            }
        ],
        "http_filters": [
            {"name": namespace, "typed_config": authz},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                }
            ]
        },
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    listener = {"name": "main", "address": address(0), "filter_chains": [{"filters": [network]}]}
    clusters = [
        cluster("authorizer", grpc_port, "http2_protocol_options"),
        cluster("upstream", upstream_port, "http_protocol_options"),
    ]
    resources = {"listeners": [listener], "clusters": clusters}
    return json.dumps({"admin": {"address": address(0)}, "static_resources": resources})


@dataclass(slots=True)
class Front:
    """A running Envoy before a server whose policies a test puts in."""

    port: int = 0
    log: Path = Path()
    state: list[ServingState] = field(default_factory=list)
    sent: int = 0

    def send(self, request: dict[str, Any]) -> tuple[httpx.Response, str]:
        """Send a request; return the answer and the request's number."""
        self.sent += 1
        headers = {**request.get("headers", {}), "x-number": str(self.sent)}
        answer = httpx.request(
            request.get("method", "GET"),
            f"http://127.0.0.1:{self.port}{request['path']}",
            headers={name: with_tokens(value) for name, value in headers.items()},
            content=request.get("body"),
            timeout=10,
        )
        return answer, headers["x-number"]

    def metadata(self, number: str) -> dict[str, Any]:
        """Return the dynamic metadata that a request's line in the access log tells."""
        for _ in range(200):
            for line in self.log.read_text("utf-8").splitlines():
                found = json.loads(line)
                if found["number"] == number:
                    return dict(found["metadata"] or {})
            threading.Event().wait(0.05)
        raise AssertionError("no line in the access log")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Yield Envoy, server and upstream."""
    binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    assert binary is not None, "envoy is not installed"
    folder, found = tmp_path_factory.mktemp("rego-envoy"), Front()
    found.log = folder / "access.log"
    found.log.touch()
    authorizer = Authorizer(
        state=lambda: found.state[-1],
        around=Surroundings(keys=Keys(), static_workload=Workload(namespace="shop")),
        recorder=Records(),
        metrics=Metrics(),
    )
    server = GrpcServer("127.0.0.1:0", 2, authorizer.check)
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    (folder / "envoy.json").write_text(envoy_config(server.port, upstream.server_port, found.log))
    command = [binary, "-c", "envoy.json", "--concurrency", "1", "--use-dynamic-base-id"]
    command += ["--admin-address-path", str(folder / "admin"), "--log-path", "envoy.log"]
    command += ["--file-flush-interval-msec", "50"]
    process = subprocess.Popen(command, cwd=folder)
    try:
        found.port = envoy_ports(process, folder, ["main"])["main"]
        yield found
    finally:
        process.terminate()
        process.wait(10)
        upstream.shutdown()
        upstream.server_close()
        server.stop(1)


@pytest.fixture(scope="module")
def opa() -> Iterator[RealOpa]:
    """Yield a real OPA server, or skip."""
    if opa_binary() is None:
        pytest.skip(MISSING)
    with running_opa() as found:
        yield found


def with_tokens(value: str) -> str:
    """Return a header value with its tokens signed: `{hs:NAME:ROLE}`, `{es:NAME:ROLE}`."""

    def signed(found: re.Match[str]) -> str:
        claims = {"iss": ISSUER, "sub": found[2], "roles": [found[3]]}
        if found[1] == "hs":
            return jwt.encode(claims, SECRET, "HS256")
        return jwt.encode(claims, KEY, "ES256", {"kid": "k"})

    return re.sub(r"\{(hs|es):(\w+):(\w+)\}", signed, value)


def options_of(example: dict[str, Any]) -> ProviderOptions:
    """Return the options that an example names."""
    return ProviderOptions(compatibility=Compatibility(**example.get("compatibility", {})))


def serve(front: Front, example: dict[str, Any], provider: RegoProvider) -> None:
    """Put an example's policies into the server."""
    text = CUSTOM + (TOKENS if example.get("is_token_verified") else "")
    snapshot = build_snapshot([("p.yaml", text)], Mesh())
    front.state.append(ServingState(snapshot=snapshot, providers={"rego": provider}, revision="r"))


def hold(front: Front, example: dict[str, Any]) -> None:
    """Send every request of an example and hold the answers against it."""
    for request in example["requests"]:
        want = request["want"]
        answer, number = front.send(request)
        assert answer.status_code == want["status"], request
        if "body" in want:
            assert answer.text == want["body"]
        for name, value in want.get("response", {}).items():
            assert answer.headers.get(name) == value
        if "upstream" in want:
            seen = answer.json()
            assert seen["path"] == want["upstream"]["path"]
            for name, value in want["upstream"]["headers"].items():
                assert seen["headers"].get(name) == value
        if "metadata" in want:
            told = front.metadata(number)
            assert {name: told[name] for name in want["metadata"]} == want["metadata"]
            assert re.fullmatch("[0-9a-f]{32}", told["decision_id"])


@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_embedded(example: dict[str, Any], front: Front, tmp_path: Path) -> None:
    """The example works unchanged, or is refused at load with what to do instead."""
    (tmp_path / "policy.rego").write_text(example["module"], "utf-8")
    (tmp_path / "data.json").write_text(json.dumps(example.get("data", {})), "utf-8")
    entrypoint = example.get("entrypoint", "envoy/authz/allow")
    paths = [tmp_path / "policy.rego"], entrypoint, [tmp_path / "data.json"]
    if refusal := example.get("embedded_refusal"):
        with pytest.raises(LoadError) as refused:
            load_provider("rego", *paths, options_of(example))
        found = {(each.code, each.help) for each in refused.value.diagnostics}
        assert (refusal["code"], refusal["help"]) in found
        return
    provider = load_provider("rego", *paths, options_of(example))
    serve(front, example, provider)
    hold(front, example)
    provider.engine.close()  # type: ignore[attr-defined]  # both engines have it


@pytest.mark.opa
@pytest.mark.parametrize("example", EXAMPLES, ids=NAMES)
def test_real_opa(example: dict[str, Any], front: Front, opa: RealOpa) -> None:
    """The example works unchanged on a real OPA server."""
    opa.load([example["module"]], example.get("data", {}))
    entrypoint = example.get("entrypoint", "envoy/authz/allow")
    server = OpaServer(url=opa.unix)
    provider = connect_provider("rego", server, entrypoint, options_of(example))
    serve(front, example, provider)
    hold(front, example)
    provider.engine.close()  # type: ignore[attr-defined]  # both engines have it

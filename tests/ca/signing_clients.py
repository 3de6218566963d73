"""What the tests of the signing endpoints share: a CA that listens, its clients, their tokens."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from delivering import served
from jwt.algorithms import ECAlgorithm
from structlog.testing import capture_logs

from ca.wire_messages import ISTIO_CA

CART = "spiffe://example.org/ns/shop/sa/cart"
PAY = "spiffe://example.org/ns/shop/sa/pay"
ISSUER = "https://kubernetes.default.svc"
KEY = ec.generate_private_key(ec.SECP256R1())
CREATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@dataclass
class SigningCa:
    """A CA that signs over the network."""

    command: Callable[..., str]
    roots: bytes
    istio_port: int
    rest_port: int
    folder: Path

    def create(self, token: str | None, csr: bytes, *, client=(None, None), **fields):
        """Call Istio's service; returns the chain."""
        request = ISTIO_CA["IstioCertificateRequest"](
            csr=csr.decode(), validity_duration=fields.pop("seconds", 0)
        )
        request.metadata.update({"CertSigner": ""} | fields)
        credentials = grpc.ssl_channel_credentials(self.roots, *client)
        metadata = [("clusterid", "main")]
        if token is not None:
            metadata.append(("authorization", f"Bearer {token}"))
        with grpc.secure_channel(f"localhost:{self.istio_port}", credentials) as channel:
            call = channel.unary_unary(
                CREATE,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=ISTIO_CA["IstioCertificateResponse"].FromString,
            )
            return list(call(request, metadata=metadata).cert_chain)

    def post(self, token: str | None, body, *, client=None) -> httpx.Response:
        """Call the REST endpoint."""
        context = ssl.create_default_context(cadata=self.roots.decode())
        if client is not None:
            context.load_cert_chain(*client)
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"https://localhost:{self.rest_port}/v1/sign"
        return httpx.post(url, content=content, headers=headers, verify=context)

    def refusals(self) -> list[dict[str, Any]]:
        """The refusals on the audit chain, in order."""
        lines = [
            json.loads(line)
            for path in sorted((self.folder / "state/audit").glob("audit-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return [line["details"] for line in lines if line.get("event") == "svid_refused"]

    def refused(self) -> list[str]:
        """The reasons on the audit chain, in order."""
        return [each["reason"] for each in self.refusals()]


@contextmanager
def signing_ca(folder: Path, **more: object) -> Iterator[SigningCa]:
    """A CA with a cluster whose keys are in a file, and an entry for every service account."""
    jwk = ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True) | {"kid": "one", "alg": "ES256"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    cluster = {"name": "main", "issuer": ISSUER, "audiences": ["istio-ca"]}
    changes = {
        "clusters": [cluster | {"jwksFile": "jwks.json"}],
        "signing": {"istioListen": "127.0.0.1:0", "restListen": "127.0.0.1:0"},
    } | more
    with capture_logs() as logs, served(folder, **changes) as command:
        ports = {log["event"]: log["port"] for log in logs if "port" in log}
        words = ("--spiffe-id", "spiffe://example.org/ns/{ns}/sa/{sa}")
        command("entries", "add", *words, "--selector", "k8s:cluster:main")
        yield SigningCa(
            command=command,
            roots=command("bundle", "export").encode(),
            istio_port=ports["istio_signing_ready"],
            rest_port=ports["rest_signing_ready"],
            folder=folder,
        )


def token_of(account: str = "cart", **changes) -> str:
    """A projected service-account token."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": ["istio-ca"],
        "sub": f"system:serviceaccount:shop:{account}",
        "exp": now + 3600,
        "iat": now,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": account}},
    }
    return jwt.encode(claims | changes, KEY, algorithm="ES256", headers={"kid": "one"})

"""A serving authorizer with trust bundles: an edit of the file decides who is believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import ParseDict

from tests.loopback import EAGER
from tests.serving_here import served_here

CART = "spiffe://cluster.local/ns/shop/sa/cart"
CONFIGURATION = """\
listen: {grpc: "unix:///GRPC", http: "127.0.0.1:0", drainSeconds: 0}
policies: {paths: [policies.yaml]}
workload: {namespace: shop}
identity:
  trustBundles:
    - {trustDomain: cluster.local, file: roots.pem, intermediates: between.pem}
  bundleRefresh: {fileSeconds: 0.1}
audit: {folder: audit}
"""
POLICIES = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/cart]}}]}]
"""


def certified(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, uri: str = ""
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate of that name with its key: an authority, or the leaf of a URI."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    bits = dict.fromkeys(
        [
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ],
        False,
    )
    usage = x509.KeyUsage(digital_signature=bool(uri), key_cert_sign=not uri, **bits)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=not uri, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextmanager
def serving(folder: Path) -> Iterator[grpc.Channel]:
    """Serve the configuration in a folder, in this process, over a Unix socket."""
    socket = folder / "grpc.sock"
    path = folder / "meshwarden.yaml"
    path.write_text(CONFIGURATION.replace("/GRPC", str(socket)))
    (folder / "policies.yaml").write_text(POLICIES)
    with served_here(path), grpc.insecure_channel(f"unix://{socket}", EAGER) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        yield channel


def status_of(channel: grpc.Channel, leaf: x509.Certificate) -> int:
    """The gRPC status that a check of this peer is answered with; 0 allows."""
    source = {"principal": CART, "certificate": quote(pem(leaf).decode())}
    http = {"method": "GET", "path": "/", "host": "shop", "scheme": "https"}
    request = ParseDict(
        {"attributes": {"source": source, "request": {"http": http}}}, CheckRequest()
    )
    call = channel.unary_unary(
        "/envoy.service.auth.v3.Authorization/Check",
        request_serializer=CheckRequest.SerializeToString,
        response_deserializer=CheckResponse.FromString,
    )
    return int(call(request, timeout=10).status.code)


def test_the_bundle_decides_who_is_believed(tmp_path: Path) -> None:
    """A peer is allowed while its authority is in the bundle, and denied once it is taken out."""
    root, other = certified("root", None), certified("other", None)
    between = certified("between", root)
    leaf, forged = certified("cart", between, CART)[0], certified("cart", other, CART)[0]
    (tmp_path / "roots.pem").write_bytes(pem(root[0]))
    (tmp_path / "between.pem").write_bytes(pem(between[0]))
    with serving(tmp_path) as channel:
        assert (0, 7) == (status_of(channel, leaf), status_of(channel, forged))

        (tmp_path / "roots.pem").write_bytes(pem(other[0]))
        end = time.monotonic() + 20
        while status_of(channel, leaf) == 0:
            assert time.monotonic() < end

        assert (7, 0) == (status_of(channel, leaf), status_of(channel, forged))

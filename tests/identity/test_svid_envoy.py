"""Our verdict on a peer's chain beside that of a real Envoy's SPIFFE validator.

Envoy takes much that the standard forbids; each such chain is marked in the corpus, and our
own reason to refuse it stands there. The other way round there is one: P-521, which the
standard allows and Envoy's default signature algorithms do not.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import certificate_making
import pytest
from certificate_making import Made, Mint
from test_x509_svid import CORPUS, IN_THE_MINT

from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleSet, TrustBundle
from identity.x509_svid import X509Svid, verify_svid

pytestmark = pytest.mark.envoy
_TYPE = "type.googleapis.com/envoy.extensions"
BUNDLES = {
    "example.org": (
        *("root", "plain-root", "rsa-root", "p384-root", "p521-root", "expired-root", "cross-a"),
    ),
    "other.org": ("other-root",),
}
# What is no chain that a TLS client could send, or not of this moment, or under other bundles.
ELSEWHERE = {"raw", "present", "at", "repeat", "suffix", "suffix_chain", "below_leaf", "bundle"}
CASES = [
    case
    for case in CORPUS["cases"]
    if not ELSEWHERE & case.keys() and case.get("leaf", {}).get("key") != "rsa16384"
]


@dataclass
class Gate:
    """A running Envoy that demands an X.509-SVID, and the authorities it believes."""

    mint: Mint
    port: int
    folder: Path

    def takes(self, leaf: Made, send: list[bytes]) -> bool | None:
        """Whether Envoy answers to this chain; None where the client cannot send it."""
        (self.folder / "chain.pem").write_bytes(_pem(leaf.der) + b"".join(map(_pem, send)))
        (self.folder / "key.pem").write_bytes(leaf.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("DEFAULT@SECLEVEL=0")
        try:
            context.load_cert_chain(self.folder / "chain.pem", self.folder / "key.pem")
        except ssl.SSLError:
            return None
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain:
            try:
                with context.wrap_socket(plain) as stream:
                    stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    return stream.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                return False


def _pem(der: bytes) -> bytes:
    """Any bytes as PEM, whether they are a certificate or not."""
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _config(mint: Mint) -> str:
    """An Envoy that answers 200 to whoever its SPIFFE validator takes."""
    server = mint.leaf({"uris": ["spiffe://example.org/envoy"]}, "root")
    domains = [
        {
            "name": name,
            "trust_bundle": {
                "inline_string": "".join(mint.authority(each).pem.decode() for each in roots)
            },
        }
        for name, roots in BUNDLES.items()
    ]
    validator = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
        "trust_domains": domains,
    }
    common = {
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": server.pem.decode()},
                "private_key": {"inline_string": server.key_pem.decode()},
            }
        ],
        "validation_context": {
            "custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": validator,
            }
        },
    }
    tls = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": common,
    }
    route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    http_name = "filters.network.http_connection_manager"
    manager = {
        "@type": f"{_TYPE}.{http_name}.v3.HttpConnectionManager",
        "stat_prefix": "t",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    loopback = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [{"name": f"envoy.{http_name}", "typed_config": manager}],
    }
    listener = {"name": "main", "address": loopback, "filter_chains": [chain]}
    return json.dumps(
        {"admin": {"address": loopback}, "static_resources": {"listeners": [listener]}}
    )


@pytest.fixture(scope="module")
def gate(run_envoy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """An Envoy with certificates of this very moment, for it knows no other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate_making, "NOW", datetime.now(UTC).replace(microsecond=0))
        mint = Mint(CORPUS["authorities"])
        port = int(run_envoy(_config(mint)).rpartition(":")[2])
        yield Gate(mint, port, tmp_path_factory.mktemp("client"))


def leaf_of(case: Mapping[str, Any], mint: Mint) -> Made:
    """The leaf that a case presents."""
    row = dict(case.get("leaf", {}))
    if "long_id" in case:
        start = "spiffe://example.org/"
        row["uris"] = [start + "a" * (case["long_id"] - len(start))]
    return mint.leaf(row, "stranger" if case.get("self_signed") else case.get("issuer", "root"))


@IN_THE_MINT
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"].replace(" ", "-"))
def test_beside_envoy(case: Mapping[str, Any], gate: Gate) -> None:
    """Envoy and we agree on a chain, or the corpus says how Envoy differs."""
    leaf = leaf_of(case, gate.mint)
    send = [gate.mint.authority(name).der for name in case.get("send", ())]
    bundles = BundleSet.of(
        *(
            TrustBundle(
                trust_domain=TrustDomain(name),
                x509_authorities=tuple(gate.mint.authority(each).certificate for each in roots),
            )
            for name, roots in BUNDLES.items()
        )
    )

    ours = isinstance(verify_svid([leaf.der, *send], bundles, datetime.now(UTC)), X509Svid)
    theirs = gate.takes(leaf, send)

    if theirs is None:
        assert not ours
    else:
        wanted = {True: "takes", False: "refuses"}[theirs]
        assert (wanted if theirs != ours else None) == case.get("envoy")

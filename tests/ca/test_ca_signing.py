"""The signing endpoints over real TLS: Istio's certificate service and REST."""

from __future__ import annotations

import json
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from issuing import make_csr
from signing_clients import CART, PAY, signing_ca, token_of


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """One CA for all."""
    with signing_ca(tmp_path_factory.mktemp("signing")) as running:
        yield running


def _id_of(pem: str) -> str:
    leaf = x509.load_pem_x509_certificate(pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def _client(folder: Path, certificate: str, key) -> tuple[Path, Path]:
    """A client's certificate and key as files."""
    files = folder / "client.pem", folder / "client.key"
    files[0].write_text(certificate)
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


class TestIstio:
    """`IstioCertificateService/CreateCertificate`, as istio-agent and ztunnel call it."""

    def test_the_chain(self, ca):
        """One certificate an element, leaf first; the last holds the roots."""
        chain = ca.create(token_of(), make_csr(CART), seconds=1800)
        assert len(chain) == 3
        assert all(pem.count("BEGIN CERTIFICATE") == 1 and pem.endswith("\n") for pem in chain)
        assert chain[-1].encode() == ca.roots
        assert _id_of(chain[0]) == CART
        leaf = x509.load_pem_x509_certificate(chain[0].encode())
        life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        assert life.total_seconds() == 1800 + 60
        [row] = json.loads(ca.command("list", "--json", "--serial", f"{leaf.serial_number:x}"))
        assert row["method"] == "k8s_service_account"
        assert row["evidence"]["subject"] == "system:serviceaccount:shop:cart"

    def test_the_id_comes_from_thetoken_of(self, ca):
        """A CSR without any name gets the caller's ID."""
        assert _id_of(ca.create(token_of("pay"), make_csr())[0]) == PAY

    def test_renewal_by_certificate(self, ca, tmp_path):
        """A client that shows its certificate renews it without a token."""
        key = ec.generate_private_key(ec.SECP256R1())
        chain = ca.create(token_of(), make_csr(CART, key=key))
        pem = "".join(chain[:-1])
        files = _client(tmp_path, pem, key)
        client = (files[1].read_bytes(), files[0].read_bytes())
        assert _id_of(ca.create(None, make_csr(CART), client=client)[0]) == CART
        with pytest.raises(grpc.RpcError) as caught:
            ca.create(None, make_csr(PAY), client=client)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    def test_impersonation_needs_an_entry(self, ca):
        """ztunnel gets a pod's ID only where an entry gives it to ztunnel's own account."""
        token = token_of("ztunnel")
        with pytest.raises(grpc.RpcError) as caught:
            ca.create(token, make_csr(CART), ImpersonatedIdentity=CART)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        words = ("entries", "add", "--spiffe-id", CART, "--entry-id", "z")
        ca.command(*words, "--selector", "k8s:ns:shop", "--selector", "k8s:sa:ztunnel")
        chain = ca.create(token, make_csr(CART), ImpersonatedIdentity=CART)
        ca.command("entries", "remove", "z")
        assert _id_of(chain[0]) == CART

    @pytest.mark.parametrize(
        ("token", "csr", "fields", "code", "reason"),
        [
            (None, make_csr(CART), {}, "UNAUTHENTICATED", "caller_unknown"),
            (token_of(aud=["vault"]), make_csr(CART), {}, "UNAUTHENTICATED", "token_invalid"),
            (token_of(exp=1), make_csr(CART), {}, "UNAUTHENTICATED", "token_expired"),
            ("x" * 40, make_csr(CART), {}, "UNAUTHENTICATED", "token_unknown"),
            (token_of(), make_csr(PAY), {}, "PERMISSION_DENIED", "id_not_allowed"),
            (token_of(), b"garbage", {}, "INVALID_ARGUMENT", "csr_malformed"),
            (token_of(), make_csr(CART), {"seconds": 10**9}, "INVALID_ARGUMENT", "lifetime"),
        ],
    )
    def test_refusals(self, ca, token, csr, fields, code, reason):
        """Final statuses for what is final, each with its reason on record."""
        with pytest.raises(grpc.RpcError) as caught:
            ca.create(token, csr, **fields)
        assert caught.value.code().name == code
        assert ca.refused()[-1] == reason

    @pytest.mark.parametrize("fields", [{"ImpersonatedIdentity": "cart"}, {"seconds": 2**62}])
    def test_requests_that_cannot_be_read(self, ca, fields):
        """A name that is no SPIFFE ID, and a span beyond all time, are INVALID_ARGUMENT."""
        with pytest.raises(grpc.RpcError) as caught:
            ca.create(token_of(), make_csr(CART), **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


class TestRest:
    """`POST /v1/sign`."""

    def test_a_service_accounts_token(self, ca):
        """A service account's token gets a certificate, in JSON."""
        body = {"csr": make_csr().decode(), "lifetime_seconds": 600}
        answer = ca.post(token_of(), body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["spiffe_id"] == CART == _id_of(found["certificate"])
        assert found["bundle"].encode() == ca.roots
        assert set(found) == {"spiffe_id", "serial", "expires_at", "certificate", "bundle"}

    def test_join_token_once_then_renewal(self, ca, tmp_path):
        """A join token works once; its holder renews with the certificate it got."""
        node = "spiffe://example.org/node/one"
        token = ca.command("token", "--spiffe-id", node).split()[0]
        key = ec.generate_private_key(ec.SECP256R1())
        body = {"csr": make_csr(key=key).decode()}
        first = ca.post(token, body)
        assert first.status_code == 200, first.text
        # The same request again: its answer may have been lost on the way.
        assert ca.post(token, body).json() == first.json()
        assert ca.post(token, {"csr": make_csr(key=key).decode()}).status_code == 401
        assert ca.refused()[-1] == "token_used"
        files = _client(tmp_path, first.json()["certificate"], key)
        renewed = ca.post(None, {"csr": make_csr().decode()}, client=files)
        assert renewed.json()["spiffe_id"] == node
        ca.command("revoke", "--kind", "serial", first.json()["serial"])
        again = ca.post(None, {"csr": make_csr().decode()}, client=files)
        assert (again.status_code, ca.refused()[-1]) == (401, "caller_revoked")

    @pytest.mark.parametrize(
        ("token", "body", "status", "error"),
        [
            (None, {"csr": make_csr().decode()}, 401, "unauthenticated"),
            (token_of(), {"csr": make_csr(PAY).decode()}, 403, "forbidden"),
            (token_of(), {"csr": "x"}, 400, "csr_malformed"),
            (token_of(), b"not json", 400, "bad_request"),
            (token_of(), {"csr": "x", "ca": True}, 400, "bad_request"),
            (token_of(), {"csr": "x", "lifetime_seconds": "1"}, 400, "bad_request"),
            (token_of(), {"csr": "x", "spiffe_id": "cart"}, 400, "id_malformed"),
            (token_of(), {"csr": make_csr().decode(), "lifetime_seconds": 10**8}, 400, "lifetime"),
        ],
    )
    def test_refusals(self, ca, token, body, status, error):
        """Each wrong request has its status and its named reason."""
        answer = ca.post(token, body)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        reason = {401: "caller_unknown", 403: "id_not_allowed"}.get(status, error)
        assert ca.refused()[-1] == reason


def test_the_endpoints_own_certificate(ca):
    """The endpoints show an SVID of our own with their DNS name, on record."""
    context = ssl.create_default_context(cadata=ca.roots.decode())
    pem = ssl.get_server_certificate(("127.0.0.1", ca.rest_port))
    assert _id_of(pem) == "spiffe://example.org/meshwarden/ca"
    serial = f"{x509.load_pem_x509_certificate(pem.encode()).serial_number:x}"
    [row] = json.loads(ca.command("list", "--json", "--serial", serial))
    assert row["evidence"] == {"for": "the signing endpoints"}
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_each_endpoint_takes_the_protocol_that_it_speaks(ca):
    """A client that offers HTTP/2 and HTTP/1.1, as curl does, is answered in what was agreed on."""
    agreed = []
    for port in (ca.rest_port, ca.istio_port):
        context = ssl.create_default_context(cadata=ca.roots.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection(("localhost", port), 10) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            agreed.append(secured.selected_alpn_protocol())
            if port == ca.rest_port:
                secured.sendall(b"POST /v1/sign HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
                assert secured.recv(100).startswith(b"HTTP/1.1 401 ")
    assert agreed == ["http/1.1", "h2"]

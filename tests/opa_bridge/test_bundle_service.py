"""One request to a bundle service: what is sent, and that nothing hangs or is half taken."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from pathlib import Path

import pytest
from bundling import FILES, packed
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from policy_bundle_server import bundle_server

from opa_bridge.bundle_service import MEDIA_TYPE, BundleClient, BundleService, check_bundle_url
from opa_bridge.errors import PolicyBundleError

RAW = packed(FILES)


def fetch(url: str, etag: str = "", wait: int | None = None, **more: object) -> object:
    """What one request brings."""
    return BundleClient(BundleService(url=url, **more)).fetch(etag, wait)  # type: ignore[arg-type]


def test_a_bundle_is_fetched_with_its_etag() -> None:
    """The first request has no ETag; the second names it and is told that nothing changed."""
    with bundle_server(RAW) as service:
        client = BundleClient(BundleService(url=service.url))
        first = client.fetch("")
        second = client.fetch(first.etag)

        assert (RAW, service.etag) == (first.raw, first.etag)
        assert second.raw is None
        assert ["/bundles/b"] * 2 == [seen.path for seen in service.seen]
        assert "if-none-match" not in service.seen[0].headers
        assert service.etag == service.seen[1].headers["if-none-match"]
        assert "modes=snapshot" == service.seen[0].headers["prefer"]


def test_a_long_poll_says_how_long_it_waits() -> None:
    """The wait stands in `Prefer`, and the answer's type says whether the service knows it."""
    with bundle_server(RAW, content_type=f"{MEDIA_TYPE}; v=1") as service:
        answer = BundleClient(BundleService(url=service.url)).fetch("", 7)

        assert answer.is_long_poll
        assert "modes=snapshot;wait=7" == service.seen[0].headers["prefer"]
        service.serve(content_type="application/gzip")
        assert not BundleClient(BundleService(url=service.url)).fetch("", 7).is_long_poll


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": 500}, "answered with status 500"),
        ({"status": 404}, "answered with status 404"),
        ({"status": 206}, "answered with status 206"),
        ({"mode": "drop"}, "could not be fetched: RemoteDisconnected|Connection reset"),
        ({"mode": "cut"}, "broke off|IncompleteRead"),
        ({"mode": "gzip-lie"}, "broke off|IncompleteRead"),
        ({"mode": "stall"}, "gave no whole answer in 0.3 s"),
        ({"mode": "drip"}, "gave no whole answer in 0.3 s"),
        ({"mode": "redirect", "target": "/bundles/b"}, "redirects more than 3 times"),
        ({"mode": "redirect", "target": "file:///etc/passwd"}, "not `http://host`"),
        ({"mode": "redirect", "target": "http://u:p@127.0.0.1/"}, "user, password"),
    ],
)
def test_a_service_that_fails_is_named_and_not_waited_for(
    changes: dict[str, object], why: str
) -> None:
    """Whatever a service does wrong, the request ends in time with a reason."""
    with bundle_server(RAW, **changes) as service:
        with pytest.raises(PolicyBundleError, match=why) as refusal:
            fetch(service.url, timeout_seconds=0.3)

        assert "bundle.fetch" == refusal.value.code


def test_nothing_larger_than_allowed_is_read() -> None:
    """The size limit holds for what comes, not for what is promised."""
    with bundle_server(bytes(5000)) as service:
        assert bytes(5000) == fetch(service.url, max_bytes=5000).raw  # type: ignore[attr-defined]
        with pytest.raises(PolicyBundleError, match="larger than 4999 bytes"):
            fetch(service.url, max_bytes=4999)


def test_nobody_there() -> None:
    """A port that nobody listens on is told as such."""
    with bundle_server(RAW) as service:
        url = service.url
    with pytest.raises(PolicyBundleError, match="refused"):
        fetch(url)


def test_the_token_goes_to_the_service_alone(tmp_path: Path) -> None:
    """The token is read anew for every request, and not sent to whom the service redirects."""
    file = tmp_path / "token"
    file.write_text("first\n")
    with bundle_server(RAW, token="first") as service, bundle_server(RAW) as other:
        client = BundleClient(BundleService(url=service.url, token_file=file))
        assert client.fetch("").raw == RAW
        file.write_text("second")
        with pytest.raises(PolicyBundleError, match="status 401"):
            client.fetch("")
        service.serve(token="second", mode="redirect", target=f"{other.url}/final")
        assert client.fetch("").raw == RAW

        assert "authorization" not in other.seen[0].headers
        file.write_text("two\nlines")
        with pytest.raises(PolicyBundleError, match="no bearer token") as refusal:
            client.fetch("")
        assert "two" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "has_token", "why"),
    [
        ("ftp://host/b", False, "not `http://host`"),
        ("http:///b", False, "not `http://host`"),
        ("https://user:secret@host/b", False, "user, password"),
        ("https://host/b#x", False, "fragment"),
        ("https://host:99999/b", False, "host and port"),
        ("https://höst/b", False, "printable ASCII"),
        ("https://host/a b", False, "printable ASCII"),
        ("http://host/b", True, "in the clear"),
    ],
)
def test_addresses_that_are_not_asked(url: str, has_token: bool, why: str) -> None:
    """An address with a password, or that a token would go to in the clear, is refused."""
    with pytest.raises(PolicyBundleError, match=why) as refusal:
        check_bundle_url(url, has_token=has_token)

    assert "secret" not in str(refusal.value)


def test_a_stop_ends_the_request_under_way() -> None:
    """A long poll that would wait for a minute ends when the watch is stopped."""
    with bundle_server(RAW, content_type=MEDIA_TYPE) as service:
        client = BundleClient(BundleService(url=service.url))
        failures: list[str] = []

        def poll() -> None:
            try:
                client.fetch(service.etag, 60)
            except PolicyBundleError as exc:
                failures.append(str(exc))

        thread = threading.Thread(target=poll)
        thread.start()
        service.wait_for_requests(1)
        client.stop()
        thread.join(10)

        assert ["stopped"] == failures
        with pytest.raises(PolicyBundleError, match="stopped"):
            client.fetch("")


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bundles")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "tls.crt", folder / "tls.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


def test_the_service_proves_itself_by_the_given_roots(tmp_path: Path) -> None:
    """With `ca_file` its certificate is judged by that file; without it is not believed."""
    public, private = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    with bundle_server(RAW, tls=context) as service:
        assert RAW == fetch(service.url, ca_file=public).raw  # type: ignore[attr-defined]
        with pytest.raises(PolicyBundleError, match="could not be fetched"):
            fetch(service.url)
        with pytest.raises(PolicyBundleError, match="gave no whole answer"):
            service.serve(mode="stall")
            fetch(service.url, ca_file=public, timeout_seconds=0.3)
        with bundle_server(RAW) as plain:
            service.serve(mode="redirect", target=plain.url)
            with pytest.raises(PolicyBundleError, match="from https to something else"):
                fetch(service.url, ca_file=public)

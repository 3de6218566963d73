"""The bundle endpoint over real TLS, and the small HTTPS server under it."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from delivering import delivering_ca, write_certificate
from structlog.testing import capture_logs

from ca.bundle_endpoint import bundle_routes
from ca.errors import KeyFileError, ListenError
from ca.https_server import MAX_BODY_BYTES, HttpAnswer, HttpsServer
from ca.tls import FileContext
from identity.bundle_document import parse_bundle
from identity.spiffe_id import TrustDomain

OWN = TrustDomain("example.org")


@pytest.fixture
def files(tmp_path):
    """Certificate and key of the endpoint."""
    return write_certificate(tmp_path)


def _trusting(certificate: Path) -> ssl.SSLContext:
    """A client's context that trusts just this certificate."""
    return ssl.create_default_context(cafile=str(certificate))


def _answer_with(text: bytes):
    return lambda _: HttpAnswer(status=200, body=text)


def _serve(files, routes=None):
    routes = routes or {("GET", "/"): _answer_with(b"hello"), ("POST", "/"): _answer_with(b"did")}
    return closing(HttpsServer("127.0.0.1:0", FileContext(*files), routes))


class TestBundle:
    """What other trust domains fetch."""

    @pytest.mark.parametrize("path", ["/", "/bundle.json", "/bundle.json?x=1"])
    def test_the_bundle(self, tmp_path, files, path):
        """The document parses to our roots and JWT keys, with sequence and hint; GET only."""
        with delivering_ca(tmp_path) as ca, _serve(files, bundle_routes(ca.keys.bundle)) as server:
            url = f"https://localhost:{server.port}{path}"
            with httpx.Client(verify=_trusting(files[0])) as client:
                answer = client.get(url)
                assert client.post(url, content=b"x").status_code == 405
                first = parse_bundle(OWN, answer.content)
                ca.keeper.prepare()
                second = parse_bundle(OWN, client.get(url).content)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "max-age=300"
        assert first.x509_authorities == second.x509_authorities[:1]
        assert [len(second.x509_authorities), len(second.jwt_authorities)] == [2, 2]
        assert (first.sequence, second.sequence) == (1, 2)
        assert first.refresh_hint_seconds == 300
        assert not first.notes
        # X509-SVID §6.1: no `kid`; JWT-SVID §5.1: always one.
        entries = json.loads(answer.content)["keys"]
        assert [("kid" in each, "x5c" in each) for each in entries] == [
            (False, True),
            (True, False),
        ]

    def test_no_bundle(self, files):
        """Where the keys cannot be had, the answer is 503, never a bundle without them."""

        def fail():
            raise KeyFileError("no key")

        with _serve(files, bundle_routes(fail)) as server:
            answer = httpx.get(f"https://localhost:{server.port}/", verify=_trusting(files[0]))
        assert answer.status_code == 503


class TestServer:
    """The HTTPS server under it."""

    def test_a_renewed_certificate(self, tmp_path, files):
        """New files serve the next connection; half of them leave the old ones in force."""
        with _serve(files) as server:
            url = f"https://localhost:{server.port}/"
            old = _trusting(files[0])
            assert httpx.get(url, verify=old).text == "hello"
            (tmp_path / "next").mkdir()
            renewed = write_certificate(tmp_path / "next")
            files[0].write_bytes(renewed[0].read_bytes())
            assert httpx.get(url, verify=old).text == "hello"
            files[1].write_bytes(renewed[1].read_bytes())
            assert httpx.get(url, verify=_trusting(renewed[0])).text == "hello"

    def test_a_fault_of_the_files_is_told_once(self, tmp_path, files):
        """Every connection looks at the files; the log has one line for each fault."""
        (tmp_path / "next").mkdir()
        renewed, whole = write_certificate(tmp_path / "next"), files[0].read_bytes()
        context = FileContext(*files)
        with capture_logs() as logs:
            for spoilt in (renewed[0].read_bytes(), b"", whole, b""):
                files[0].write_bytes(spoilt)
                for _ in range(3):
                    context()
        assert [each["event"] for each in logs] == 3 * ["certificate_not_reloaded"]

    @pytest.mark.parametrize("wrong", ["missing", "mismatch", "garbage", "encrypted"])
    def test_certificates_that_do_not_serve(self, tmp_path, files, wrong):
        """A certificate that cannot be served is an error at the start, with the file's name."""
        certificate, key = files
        match wrong:
            case "missing":
                key.unlink()
            case "mismatch":
                (tmp_path / "other").mkdir()
                key = write_certificate(tmp_path / "other")[1]
            case "garbage":
                certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n")
            case "encrypted":
                plain = serialization.load_pem_private_key(key.read_bytes(), None)
                key.write_bytes(
                    plain.private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.BestAvailableEncryption(b"secret"),
                    )
                )
        with pytest.raises(ListenError, match="tls"):
            FileContext(certificate, key)

    def test_an_address_that_is_taken(self, files):
        """The second listener of an address is told so."""
        with _serve(files) as server, pytest.raises(ListenError, match="cannot be listened on"):
            HttpsServer(f"127.0.0.1:{server.port}", FileContext(*files), {})

    @pytest.mark.parametrize(
        ("method", "path", "headers", "body", "status"),
        [
            ("GET", "/x", {}, b"", 404),
            ("POST", "/", {}, b"x", 200),
            ("POST", "/x", {}, b"x", 404),
            ("POST", "/", {"content-length": str(MAX_BODY_BYTES + 1)}, b"", 413),
            ("POST", "/", {"transfer-encoding": "chunked"}, b"1\r\nx\r\n0\r\n\r\n", 411),
            ("POST", "/", {"content-length": "-1"}, b"", 411),
            ("POST", "/", {"content-length": "9" * 5000}, b"", 413),
            ("POST", "/", {"content-length": "1\r\ncontent-length: 1"}, b"x", 400),
            ("POST", "/", {"authorization": "Bearer a\r\nAuthorization: Bearer b"}, b"x", 400),
            ("POST", "/", {"content-length": "1\r\ntransfer-encoding : chunked"}, b"x", 400),
            ("GET", "/", {"x y": "z"}, b"", 400),
            ("GET", "/", {"content-length": "5"}, b"GET /", 400),
            ("GET", "/", {"transfer-encoding": "chunked"}, b"0\r\n\r\n", 400),
            ("GET", "/", {"content-length": "0"}, b"", 200),
            ("DELETE", "/", {}, b"", 501),
        ],
    )
    def test_requests(self, files, method, path, headers, body, status):
        """Other methods, paths and lengths have their statuses."""
        if body and not {"transfer-encoding", "content-length"} & headers.keys():
            headers = {"content-length": str(len(body))} | headers
        lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with _serve(files) as server, _connect(server.port, files[0]) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            assert connection.recv(1000).split()[1] == str(status).encode()

    def test_what_follows_a_request_is_not_taken_for_another(self, files):
        """A body where none belongs is nobody's request: the connection ends after the refusal."""
        inner = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx"
        outer = f"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(inner)}\r\n\r\n"
        with _serve(files) as server, _connect(server.port, files[0]) as connection:
            connection.sendall((outer + inner).encode())
            said = b""
            while part := connection.recv(1000):
                said += part
        assert said.count(b"HTTP/1.1 ") == 1

    @pytest.mark.parametrize("is_told", [True, False])
    @pytest.mark.parametrize("sent", [0, 1, 99])
    def test_a_request_that_breaks_off(self, files, sent, is_told):
        """What ends before its length says is nobody's request: a token in it is not used up."""
        heard = []

        def answer(request) -> HttpAnswer:
            heard.append(request)
            return HttpAnswer(status=200, body=b"")

        with _serve(files, {("POST", "/"): answer}) as server:
            with _connect(server.port, files[0]) as connection:
                head = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n"
                connection.sendall(head.encode() + b"x" * sent)
                if is_told:
                    # The server hangs up without a word of its own.
                    with suppress(OSError):
                        connection.unwrap()
            url = f"https://localhost:{server.port}/"
            assert httpx.post(url, verify=_trusting(files[0]), content=b"whole").status_code == 200
        assert [request.body for request in heard] == [b"whole"]

    def test_plain_http_and_silence_harm_nobody(self, files):
        """A client that speaks no TLS, or nothing, keeps nobody else waiting."""
        with _serve(files) as server:
            address = ("127.0.0.1", server.port)
            with socket.create_connection(address), socket.create_connection(address) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                url = f"https://localhost:{server.port}/"
                assert httpx.get(url, verify=_trusting(files[0])).text == "hello"

    def test_who_dawdles_is_hung_up_on(self, files, monkeypatch):
        """A byte now and then keeps no place, in a handshake or a request; others are served."""
        monkeypatch.setattr("ca.https_server._REQUEST_SECONDS", 0.3)
        monkeypatch.setattr("ca.https_server._MAX_CONNECTIONS", 2)
        with _serve(files) as server:
            address = ("localhost", server.port)
            with (
                socket.create_connection(address) as plain,
                socket.create_connection(address) as other,
                _trusting(files[0]).wrap_socket(other, server_hostname="localhost") as secured,
            ):
                plain.sendall(b"\x16")
                secured.sendall(b"GET / HTTP/1.1\r\nx: ")
                ended = []
                for _ in range(200):
                    for each, part in ((plain, b"\x03"), (secured, b"x")):
                        if each in ended:
                            continue
                        each.settimeout(0.05)
                        try:
                            each.sendall(part)
                            if not each.recv(1):
                                ended.append(each)
                        except TimeoutError:
                            continue
                        except OSError:
                            ended.append(each)
                    if len(ended) == 2:
                        break
                assert len(ended) == 2
            # Of a busy machine even an honest handshake takes a while.
            monkeypatch.setattr("ca.https_server._REQUEST_SECONDS", 10.0)
            with httpx.Client(verify=_trusting(files[0])) as client:
                assert client.get(f"https://localhost:{server.port}/").text == "hello"

    def test_old_tls(self, files):
        """TLS 1.1 is not spoken."""
        context = _trusting(files[0])
        with _serve(files) as server, _connect(server.port, files[0]) as connection:
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
            context.set_ciphers("AES128-SHA")
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError), _connect(server.port, files[0], context):
                pass


def _connect(port: int, certificate: Path, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A TLS connection to the server."""
    plain = socket.create_connection(("127.0.0.1", port))
    try:
        context = context or _trusting(certificate)
        return context.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise

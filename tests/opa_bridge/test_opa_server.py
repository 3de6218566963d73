"""The `opa` engine before servers that are slow, hostile, restarting or choosy; no OPA needed."""

from __future__ import annotations

import datetime as dt
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from opa_bridge.errors import EngineError, EngineTimeout
from opa_bridge.opa_address import OpaServer, read_endpoint
from opa_bridge.opa_connections import RetryBudget
from opa_bridge.opa_server import OpaServerEngine
from policies.diagnostic import LoadError

# What a server does with one request that it read: it may answer on the socket, or close it.
Answer = Callable[[socket.socket, bytes], None]


def reply(body: str, status: str = "200 OK", head: str = "") -> Answer:
    """Return a server's ordinary answer."""
    content = body.encode()
    lines = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{head}\r\n".encode()
    return lambda channel, _: channel.sendall(lines + content)


def close(channel: socket.socket, _: bytes) -> None:
    """Close without a word."""
    channel.shutdown(socket.SHUT_RDWR)


class Scripted:
    """A server that gives one answer after the other, and the last one for ever."""

    def __init__(self, *answers: Answer, context: ssl.SSLContext | None = None) -> None:
        """Listen."""
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        """Close everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for channel in self._open:
            with suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for channel in self._open:
            channel.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                channel, _ = self._listener.accept()
                self.connections += 1
                self._open.append(channel)
                thread = threading.Thread(target=self._serve, args=(channel,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, channel: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                channel = self._context.wrap_socket(channel, server_side=True)
                self._open.append(channel)
            while request := _read_request(channel):
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                answer(channel, request)


def _read_request(channel: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (piece := channel.recv(65536)):
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ontent-Length" in line
    )
    while len(body) < length:
        body += channel.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def asked(*answers: Answer, **settings: Any) -> Iterator[tuple[OpaServerEngine, Scripted]]:
    """Yield an engine and the server that it asks."""
    scripted = Scripted(*answers, context=settings.pop("context", None))
    url = settings.pop("url", "http://127.0.0.1:{port}").format(port=scripted.port)
    engine = OpaServerEngine(OpaServer(url=url, **settings), "a b/r", budget_seconds=5)
    try:
        yield engine, scripted
    finally:
        engine.close()
        scripted.stop()


def test_connection_is_kept() -> None:
    """One connection serves call after call, and the path is spelled as a URL spells it."""
    with asked(reply('{"result": true}')) as (engine, server):
        assert [engine.evaluate({"n": n}) for n in range(5)] == [True] * 5
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST /v1/data/a%20b/r HTTP/1.1\r\n")
        assert server.requests[4].endswith(b'{"input": {"n": 4}}')


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply("{}"), "`a b/r` is undefined"),
        (reply('{"result": NaN}'), "OPA's answer is no JSON object that can be read"),
        (reply('{"result": 1e999}'), "OPA's answer is no JSON object that can be read"),
        (reply('{"result": 1, "result": 2}'), "OPA's answer is no JSON object that can be read"),
        (reply('{"result": true} x'), "OPA's answer is no JSON object that can be read"),
        (reply("[true]"), "OPA's answer is no JSON object that can be read"),
        (reply("true"), "OPA's answer is no JSON object that can be read"),
        (reply("<html>"), "OPA's answer is no JSON object that can be read"),
        (
            reply('{"result": ' + "[" * 130 + "]" * 130 + "}"),
            "OPA's answer is no JSON object that can be read",
        ),
        (reply("[" * 100_000), "OPA's answer is no JSON object that can be read"),
        (
            reply('{"code": "internal_error", "message": "secret"}', "500 Internal Server Error"),
            "OPA answered 500 (internal_error)",
        ),
        (
            reply(
                '{"code": "internal_error", "errors": [{"code": "eval_conflict_error"}]}',
                "500 Internal Server Error",
            ),
            "`a b/r` conflicts with itself or fails",
        ),
        (reply("secret", "502 Bad Gateway"), "OPA answered 502"),
        (reply('{"code": "Secret!"}', "404 Not Found"), "OPA answered 404"),
        (reply("", "302 Found", "Location: http://127.0.0.1:1/\r\n"), "OPA answered 302"),
        (
            reply('{"code": "unauthorized"}', "401 Unauthorized"),
            "OPA does not let us ask: 401 (unauthorized)",
        ),
        (reply("x" * 300_000), "OPA's answer is larger than `max_result_bytes`"),
        (
            lambda channel, _: channel.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000),
            "OPA's answer broke off: LineTooLong",
        ),
        (
            lambda channel, _: (
                channel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
                channel.shutdown(socket.SHUT_RDWR),
            ),
            "OPA's answer broke off: IncompleteRead",
        ),
        (
            lambda channel, _: channel.sendall(b"SSH-2.0-x\r\n"),
            "OPA's answer broke off: BadStatusLine",
        ),
    ],
)
def test_answers_that_are_none(answer: Answer, message: str) -> None:
    """Every answer but a good one is an error that tells codes and no texts."""
    with asked(answer, max_result_bytes=100_000) as (engine, _):
        with pytest.raises(EngineError) as failed:
            engine.evaluate({})
        assert str(failed.value) == message


def test_time_is_of_the_whole_call() -> None:
    """A server that sends a byte at a time within every socket's patience is cut off."""
    going = threading.Event()

    def drip(channel: socket.socket, _: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000:
            channel.sendall(bytes([byte]))
            if going.wait(0.01):
                return

    with asked(drip) as (engine, _):
        with pytest.raises(EngineTimeout, match="no verdict within 150 ms"):
            engine.evaluate({}, 0.15)
        with pytest.raises(EngineTimeout):
            engine.evaluate({}, 0)
        going.set()


def test_closed_connection_is_replaced() -> None:
    """A kept connection that the server closed meanwhile costs no request."""
    good = reply('{"result": true}', head="")
    with asked(good, close, good) as (engine, server):
        assert engine.evaluate({}) is True
        assert engine.evaluate({}) is True
        assert (server.connections, len(server.requests)) == (2, 3)


def test_retries_are_few() -> None:
    """A server that closes every connection is soon asked once a call, not twice."""
    with asked(close) as (engine, server):
        for _ in range(30):
            with pytest.raises(EngineError, match="cannot be reached"):
                engine.evaluate({})
        assert len(server.requests) < 30 + 14


def test_retry_budget() -> None:
    """Ten retries at once, then one for ten calls."""
    budget = RetryBudget()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(9):
        budget.earn()
    assert not budget.spend()
    for _ in range(2):
        budget.earn()
    assert budget.spend()


def test_answer_that_began_is_not_asked_for_again() -> None:
    """Once a byte of the answer has come the call is not repeated."""

    def half(channel: socket.socket, _: bytes) -> None:
        channel.sendall(b"HTTP/1.1 2")
        channel.shutdown(socket.SHUT_RDWR)

    with asked(half) as (engine, server):
        with pytest.raises(EngineError, match="broke off"):
            engine.evaluate({})
        assert len(server.requests) == 1


def test_stray_bytes_end_a_connection() -> None:
    """What came unasked while nobody waited is never read as the next answer."""
    stray = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"result":false}'
    answered = threading.Event()

    def twice(channel: socket.socket, request: bytes) -> None:
        reply('{"result": true}')(channel, request)
        answered.wait(5)
        channel.sendall(stray)

    with asked(twice) as (engine, server):
        for count in range(1, 4):
            answered.clear()
            assert engine.evaluate({}) is True
            assert server.connections == count
            answered.set()
            # Until the bytes are there.
            idle = engine._connections._idle[0]._channel
            assert select.select([idle], [], [], 5)[0]


def test_token_is_read_again_when_it_is_refused(tmp_path: Path) -> None:
    """The bearer token goes along; a refused one is looked up anew, once."""
    token = tmp_path / "token"
    token.write_text("one\n")
    no, yes = reply("{}", "401 Unauthorized"), reply('{"result": true}')
    with asked(yes, no, yes, no, token_file=token) as (engine, server):
        assert engine.evaluate({}) is True
        token.write_text("two")
        assert engine.evaluate({}) is True
        sent = [line for r in server.requests for line in r.split(b"\r\n") if b"Bearer" in line]
        assert sent == [b"Authorization: Bearer one"] * 2 + [b"Authorization: Bearer two"]
        with pytest.raises(EngineError, match="does not let us ask: 401"):
            engine.evaluate({})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("opa:8181", "not of a shape"),
        ("ftp://opa", "not of a shape"),
        ("http://", "not of a shape"),
        ("unix://relative/path", "not of a shape"),
        ("http://user:secret@opa", "more than scheme"),
        ("http://opa?x=1", "more than scheme"),
        ("http://opa:99999", "no URL"),
    ],
)
def test_addresses_that_are_none(url: str, message: str) -> None:
    """An address of another shape is refused at load, without what is secret in it."""
    with pytest.raises(LoadError) as refused:
        read_endpoint(OpaServer(url=url))
    found = refused.value.diagnostics[0]
    assert message in found.message
    assert "secret" not in repr(found)


def test_token_stays_out_of_the_clear(tmp_path: Path) -> None:
    """A token goes over TLS, or no further than this machine."""
    token = tmp_path / "token"
    for url in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "https://opa"):
        read_endpoint(OpaServer(url=url, token_file=token))
    with pytest.raises(LoadError, match="in the clear"):
        read_endpoint(OpaServer(url="http://opa:8181", token_file=token))


@pytest.mark.parametrize("text", ["", "two words", "a\r\nX: y", "é"])
def test_token_files_that_hold_none(text: str, tmp_path: Path) -> None:
    """A token file that could add a header is refused at load."""
    token = tmp_path / "token"
    token.write_text(text, "utf-8")
    with pytest.raises(LoadError, match="token file"):
        OpaServerEngine(OpaServer(url="http://127.0.0.1:1", token_file=token), "a/r")


def test_nobody_there(tmp_path: Path) -> None:
    """A server that is not there is told by the system's own words, at load and later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for url, why in (
        (f"http://127.0.0.1:{port}", "connection refused"),
        (f"unix://{tmp_path}/none.sock", "no such file or directory"),
    ):
        engine = OpaServerEngine(OpaServer(url=url), "a/r")
        with pytest.raises(EngineError, match=f"OPA cannot be reached: {why}"):
            engine.evaluate({})
        with pytest.raises(LoadError, match=f"OPA is not ready: .*{why}"):
            engine.check(0.2)


def test_check_waits_for_a_server_that_comes_up() -> None:
    """At load an unready server is asked again until it is ready; then its revision is told."""
    compiled = reply('{"result": {"queries": [[]]}}')
    told = reply('{"provenance": {"bundles": {"b": {"revision": "7"}, "a": {"revision": "1"}}}}')
    with asked(reply("{}", "500 Oops"), close, reply("{}"), compiled, told) as (engine, _):
        assert engine.check(5) == "a@1,b@7"
    policies = reply('{"result": [{"id": "x", "raw": "package a"}]}')
    with asked(reply("{}"), compiled, reply("{}"), policies) as (engine, _):
        assert len(engine.check(5)) == 64
    with (
        asked(reply("{}"), reply('{"result": {}}')) as (engine, _),
        pytest.raises(LoadError, match="no rule `a b/r`"),
    ):
        engine.check(5)


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a certificate for 127.0.0.1 that signed itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


def test_tls(tmp_path: Path) -> None:
    """Over TLS both sides show certificates; a server under another root is not asked."""
    server_files, client_files = certificate(tmp_path, "opa"), certificate(tmp_path, "client")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server_files)
    context.load_verify_locations(client_files[0])
    context.verify_mode = ssl.CERT_REQUIRED
    named = {"certificate_file": client_files[0], "key_file": client_files[1]}
    url, yes = "https://127.0.0.1:{port}", reply('{"result": true}')
    with asked(yes, url=url, context=context, ca_file=server_files[0], **named) as (engine, _):
        assert engine.evaluate({}) is True
    with asked(yes, url=url, context=context, ca_file=client_files[0], **named) as (engine, seen):
        with pytest.raises(EngineError, match="certificate is not accepted"):
            engine.evaluate({})
        assert seen.requests == []
    with asked(yes, url=url, context=context, ca_file=server_files[0]) as (engine, seen):
        with pytest.raises(EngineError):
            engine.evaluate({})
        assert seen.requests == []
    missing = tmp_path / "missing.pem"
    with (
        asked(yes, url=url, context=context, ca_file=missing) as (engine, _),
        pytest.raises(EngineError, match="TLS files for OPA cannot be read"),
    ):
        engine.evaluate({})


def test_many_threads_get_their_own_answers() -> None:
    """Answers are not mixed between threads that ask at once."""

    def echo(channel: socket.socket, request: bytes) -> None:
        number = request.rpartition(b'"n": ')[2].rstrip(b"}").decode()
        reply(f'{{"result": {number}}}')(channel, request)

    with asked(echo) as (engine, server):
        wrong: list[int] = []

        def ask(start: int) -> None:
            for n in range(start, start + 50):
                if engine.evaluate({"n": n}) != n:
                    wrong.append(n)

        threads = [threading.Thread(target=ask, args=(index * 100,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert wrong == []
        assert len(server.requests) == 400
        assert server.connections <= 8

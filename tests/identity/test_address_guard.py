"""Which addresses are fetched from, however they are written and however a name leads there."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.address_guard import AddressRules, is_odd_ipv4
from identity.document_fetch import DocumentFetcher, fetch_document
from identity.errors import KeySourceError

OPEN = AddressRules(allow_loopback=True)
NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "nonsense",
    "",
]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"]
PRIVATE = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.0.0.1"]
PUBLIC = ["93.184.216.34", "2606:2800:220:1::1"]


@pytest.mark.parametrize("address", NEVER)
def test_never_fetched_from(address: str) -> None:
    """Link-local and metadata addresses are refused however they are written and configured."""
    assert OPEN.why_refused(address)
    fetcher = DocumentFetcher(addresses=OPEN, resolve=lambda _host, _port: ["127.0.0.1", address])
    with pytest.raises(KeySourceError, match="not fetched from"):
        fetcher.fetch("http://issuer.example/keys", timeout_seconds=5)


def test_loopback_and_private_by_configuration() -> None:
    """Loopback is refused unless configured, private addresses only when configured."""
    closed = AddressRules(allow_private=False)
    assert all(AddressRules().why_refused(each) == "it is loopback" for each in LOOPBACK)
    assert not any(OPEN.why_refused(each) for each in LOOPBACK + PRIVATE + PUBLIC)
    assert not any(AddressRules().why_refused(each) for each in PRIVATE + PUBLIC)
    assert all(closed.why_refused(each) == "it is private" for each in PRIVATE)
    assert not any(closed.why_refused(each) for each in PUBLIC)


def test_more_networks() -> None:
    """Networks can be added to those that are refused, and hold for mapped addresses too."""
    rules = AddressRules(refused=(ipaddress.ip_network("93.184.216.0/24"),))
    assert rules.why_refused("93.184.216.34")
    assert rules.why_refused("::ffff:93.184.216.34")
    assert not rules.why_refused("93.184.217.1")


@given(st.ip_addresses().map(str) | st.text(max_size=20))
def test_any_text_is_judged(text: str) -> None:
    """Every text is an address that is judged, or refused for being none."""
    assert isinstance(AddressRules().why_refused(text), str)


class Neighbour:
    """A server on loopback that counts who comes, and sends some of them on."""

    def __init__(self) -> None:
        """Listen on a free port."""
        self.asked = 0
        self.target = ""
        neighbour = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers, or redirects `/on` to the target."""

            def do_GET(self) -> None:
                """Answer one request."""
                neighbour.asked += 1
                self.send_response(302 if self.path == "/on" else 200)
                if self.path == "/on":
                    self.send_header("location", neighbour.target)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    """A server on loopback."""
    running = Neighbour()
    yield running
    running.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1",
     "[::ffff:127.0.0.1]", "0", "0.0.0.0", "127.0.0.1.", "[::]"],
)  # fmt: skip
def test_spellings_of_loopback(neighbour: Neighbour, host: str) -> None:
    """No spelling of the own host is connected to by default."""
    with pytest.raises(KeySourceError):
        fetch_document(f"http://{host}:{neighbour.port}/x", timeout_seconds=5)
    assert neighbour.asked == 0


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/", "http://[fe80::1]/", "http://2852039166/", "//0xa9fea9fe/",
     "http://[::ffff:169.254.169.254]/", "http://u:p@127.0.0.1/", "file:///etc/passwd",
     "gopher://127.0.0.1/", "http://0.0.0.0/", "http://["],
)  # fmt: skip
def test_redirects_are_checked_again(neighbour: Neighbour, target: str) -> None:
    """A good server cannot send us where we would not have gone ourselves."""
    neighbour.target = target
    with pytest.raises(KeySourceError):
        fetch_document(f"http://127.0.0.1:{neighbour.port}/on", timeout_seconds=5, addresses=OPEN)
    assert neighbour.asked == 1


def test_name_is_resolved_once(neighbour: Neighbour) -> None:
    """A name that answers otherwise the second time is not asked a second time (rebinding)."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    fetcher = DocumentFetcher(addresses=OPEN, resolve=lambda _host, _port: next(answers))
    url = f"http://issuer.example:{neighbour.port}/x"
    assert fetcher.fetch(url, timeout_seconds=5).body == b"ok"
    with pytest.raises(KeySourceError, match="link-local"):
        fetcher.fetch(url, timeout_seconds=5)
    assert neighbour.asked == 1


def test_address_that_swallows(neighbour: Neighbour) -> None:
    """An address that takes no connection leaves time for the next one of the name."""
    full = socket.socket()
    full.bind(("127.0.0.2", neighbour.port))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)
        each.connect_ex(("127.0.0.2", neighbour.port))
    fetcher = DocumentFetcher(
        addresses=OPEN, resolve=lambda _host, _port: ["127.0.0.2", "127.0.0.1"]
    )
    try:
        url = f"http://issuer.example:{neighbour.port}/x"
        assert fetcher.fetch(url, timeout_seconds=1).body == b"ok"
    finally:
        for each in (full, *waiting):
            each.close()


def test_odd_numbers() -> None:
    """Numbers that readers disagree about are told from addresses and from names."""
    odd = ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "1.2.3.4.", "1.2.3.256", "0x", "a.0x1"]
    plain = ["127.0.0.1", "issuer.example", "1.example", "::1", "a1", "x0"]
    assert all(map(is_odd_ipv4, odd))
    assert not any(map(is_odd_ipv4, plain))

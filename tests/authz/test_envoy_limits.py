"""What one client of `listen.server: envoy` does, and what the others notice of it: nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import h2.errors
import h2.events
import httpx
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy_serving import FRAMED, MESSAGE, Served, serving
from issuing_root import SERVER_NAME, Authority, write_pair
from raw_http2 import CHECK, Client

GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
CALLS = 16
MANY = 1000
MEGABYTE = 1024 * 1024
PING = b"\0\0\x08\x06\0\0\0\0\0" + b"x" * 8
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
PRIORITY = b"\0\0\x05\x02\0\0\0\0\x01" + b"\0\0\0\x03\x01"
EMPTY_DATA = b"\0\0\0\0\0\0\0\0\x01"
# As somebody would begin it whose limits are these.
PROGRAM = """import authz.envoy_limits as limits
{}
from authz.cli import main
main()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all who set no limits of their own."""
    with serving(tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that has little room for bodies, and asks soon whether clients are there still."""
    folder = tmp_path_factory.mktemp("narrow")
    with serving_with(folder, HEAP_BYTES=96 * MEGABYTE, ASK_SECONDS=2, SAY_SECONDS=2) as running:
        yield running


def serving_with(folder: Path, **limits: object) -> contextlib.AbstractContextManager[Served]:
    """Return a server with other limits, set before anything is started."""
    lines = "\n".join(f"limits._{key} = {value!r}" for key, value in limits.items())
    return serving(folder, program=(sys.executable, "-c", PROGRAM.format(lines)))


def told(served: Served) -> Mapping[str, int]:
    """Return the numbers that Envoy tells, by name."""
    command = Path(f"/proc/{served.envoy()}/cmdline").read_bytes().decode().split("\0")
    admin = json.loads(command[2])["admin"]["address"]["pipe"]["path"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=admin)) as client:
        rows = client.get("http://envoy/stats?format=json").json()["stats"]
    return {row["name"]: row["value"] for row in rows if "name" in row}


def break_off(client: Client, calls: int) -> int:
    """Break so many calls off that were never answered; return how many until one side ended it."""
    client.send(1, FRAMED)
    client.answer(1)
    for begun in range(0, calls, CALLS):
        streams = range(2 * begun + 3, 2 * (begun + CALLS) + 3, 2)
        for stream in streams:
            client.send(stream, FRAMED[:20], ends=False, at_once=False)
        for stream in streams:
            client.h2.reset_stream(stream)
        try:
            client.flush()
        except OSError:
            return begun
    return calls


def test_calls_that_time_out_do_not_end_a_connection(served: Served) -> None:
    """Many in a row are broken off, as by an Envoy's time-out; the next call is answered on it."""
    with Client(served.grpc) as client:
        assert 800 == break_off(client, 800)
        client.send(2001, FRAMED)

        assert "0" == client.answer(2001)[0]


def test_a_flood_of_calls_that_are_broken_off_ends_the_connection(served: Served) -> None:
    """Faster than any time-out would have it: that client is sent away, and nobody else."""
    before = told(served)["http.checks.downstream_rq_rx_reset"]
    with Client(served.grpc) as client, contextlib.suppress(OSError):
        break_off(client, 20_000)
        assert h2.errors.ErrorCodes.INTERNAL_ERROR == _why_it_ended(client)

    assert 0 == served.ask()
    assert told(served)["http.checks.downstream_rq_rx_reset"] - before < 5_000


def _why_it_ended(client: Client) -> int | None:
    while data := client.socket.recv(65536):
        for event in client.h2.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                return event.error_code
    return None


@pytest.mark.parametrize(
    ("frame", "count"), [(PING, 200_000), (SETTINGS, 400_000), (PRIORITY, 50_000), (EMPTY_DATA, 9)]
)
def test_a_flood_of_frames_ends_the_connection(served: Served, frame: bytes, count: int) -> None:
    """Those that ask for an answer which is never read, and those that say nothing."""
    with Client(served.grpc) as client:
        client.send(1, None, ends=False)
        client.socket.settimeout(10)
        with contextlib.suppress(ConnectionError):
            for _ in range(0, count, 1000):
                client.socket.sendall(frame * min(count, 1000))
            while client.socket.recv(65536):
                continue

    assert [0] * 5 == [served.ask() for _ in range(5)]


def test_who_does_not_read_answers_keeps_nobody_from_them(served: Served) -> None:
    """A hundred connections' calls are answered into windows of no size: the others go on."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(Client(served.grpc))
            client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            for stream in range(1, 2 * CALLS, 2):
                client.send(stream, FRAMED, at_once=False)
            client.flush()

        assert [0] * 20 == [served.ask() for _ in range(20)]


def test_who_says_nothing_more_is_let_go(served: Served) -> None:
    """A client that shut its side is closed with what it had open, and half a call hurts nobody."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            client = stack.enter_context(Client(served.grpc))
            client.send(1, FRAMED[:20], ends=False)
            client.socket.shutdown(1)

        served.wait_for(lambda: told(served)["http.checks.downstream_cx_active"] == 0)
        assert 0 == served.ask()


def test_a_thousand_clients_may_be_there(tmp_path: Path) -> None:
    """Also where a process may have 256 files open at first, as long as it may have more."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * MANY:
        pytest.skip(f"a process may have no more than {most} files open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, most))
    try:
        with contextlib.ExitStack() as stack:
            served = stack.enter_context(serving(tmp_path))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            clients = [stack.enter_context(Client(served.grpc)) for _ in range(MANY)]

            assert {"0"} == {_ask_once(client) for client in clients}
            assert 0 == served.ask()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


def _ask_once(client: Client) -> str:
    client.send(1, FRAMED)
    return client.answer(1)[0]


def test_one_client_too_many_is_turned_away(tmp_path: Path) -> None:
    """It is closed at once; who is there goes on, and there is room again once one leaves."""
    with serving_with(tmp_path, CONNECTIONS=3) as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(served.grpc)) for _ in range(3)]
        for client in clients:
            client.send(1, FRAMED)
            client.answer(1)

        assert "UNAVAILABLE" == served.ask()
        clients[0].send(3, FRAMED)
        assert "0" == clients[0].answer(3)[0]
        clients[2].socket.close()
        served.wait_for(lambda: served.ask() == 0)


def test_long_bodies_fill_no_more_than_there_is_for_them(narrow: Served) -> None:
    """Calls that send 15 MiB and no end are broken off, and checks are answered all the while."""
    with Client(narrow.grpc) as client:
        client.send(1, FRAMED)
        client.answer(1)
        left = dict.fromkeys(range(3, 2 * CALLS + 3, 2), 15 * MEGABYTE)
        for stream in left:
            client.send(stream, None, ends=False)
        while left:
            _send_some(client, left)
            for event in client.h2.receive_data(client.socket.recv(65536)) if left else ():
                if isinstance(event, h2.events.StreamReset):
                    left.pop(event.stream_id, None)

        assert [0] * 5 == [narrow.ask() for _ in range(5)]
        narrow.wait_for(lambda: "resetting" in narrow.log)
    assert 0 == narrow.ask()


def _send_some(client: Client, left: dict[int, int]) -> None:
    """Send of each call's body what Envoy takes of it now."""
    for stream in list(left):
        while (size := min(left[stream], client.h2.local_flow_control_window(stream), 16_384)) > 0:
            client.h2.send_data(stream, bytes(size))
            left[stream] -= size
        if not left[stream]:
            del left[stream]
    client.flush()


def test_a_connection_has_an_end_and_no_call_with_it(tmp_path: Path) -> None:
    """It is sent away by GOAWAY after its time; who asks all the while notices nothing."""
    pause, found = threading.Event(), set[int]()
    with (
        serving_with(tmp_path, CONNECTION_SECONDS=1) as served,
        grpc.insecure_channel(served.grpc) as channel,
    ):
        ask = channel.unary_unary(CHECK, None, CheckResponse.FromString)
        while told(served)["http.checks.downstream_cx_total"] < 3:
            found |= {ask(MESSAGE, timeout=10).status.code for _ in range(20)}
            pause.wait(0.01)

    assert {0} == found


def test_who_is_gone_without_a_word_is_let_go(narrow: Served) -> None:
    """A client that answers no PING is closed, for it would be kept for an hour."""
    with Client(narrow.grpc) as client:
        client.send(1, FRAMED)
        client.answer(1)
        client.socket.settimeout(60)
        with contextlib.suppress(ConnectionError):
            while client.socket.recv(65536):
                continue

    assert 0 == narrow.ask()


def test_certificates_are_replaced_under_load(tmp_path: Path) -> None:
    """Five times, while clients ask on old and new connections: each check is answered."""
    authority = Authority()
    (tmp_path / "roots.pem").write_bytes(authority.root_pem)
    write_pair(tmp_path, authority.issue(GATEWAY))
    key = {"certificateFile": "server.pem", "keyFile": "server.key", "clientCaFile": "roots.pem"}
    tls = {name: str(tmp_path / file) for name, file in key.items()}
    certificate, private = authority.issue(GATEWAY)
    credentials = grpc.ssl_channel_credentials(authority.root_pem, private, certificate)
    stop, found = threading.Event(), list[int | str]()

    def ask_on(*, stays: bool) -> None:
        options = (
            ("grpc.ssl_target_name_override", SERVER_NAME),
            ("grpc.use_local_subchannel_pool", 1),
        )
        while not stop.is_set():
            with grpc.secure_channel(served.grpc, credentials, options) as channel:
                for _ in range(2000 if stays else 1):
                    found.append(_status(channel))
                    if stop.is_set():
                        return

    with serving(tmp_path, tls=tls) as served:
        askers = [threading.Thread(target=ask_on, kwargs={"stays": each}) for each in (True, False)]
        for asker in askers:
            asker.start()
        for _ in range(5):
            write_pair(tmp_path, authority.issue(GATEWAY))
            asked = len(found) + 20
            served.wait_for(lambda least=asked: len(found) > least)  # type: ignore[misc]
        stop.set()
        for asker in askers:
            asker.join(60)

    assert {0} == set(found)


def _status(channel: grpc.Channel) -> int | str:
    try:
        answer = channel.unary_unary(CHECK)(MESSAGE, timeout=20)
    except grpc.RpcError as exc:
        return f"{exc.code().name}: {exc.details()}"
    return CheckResponse.FromString(answer).status.code

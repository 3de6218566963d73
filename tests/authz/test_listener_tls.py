"""The gRPC listener over TLS: who may ask, and certificates that are replaced under way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from checking import make_authorizer, make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from issuing_root import SERVER_NAME, Authority, write_pair
from pydantic import ValidationError
from structlog.testing import capture_logs

from authz.errors import ListenError
from authz.grpc_server import GrpcServer
from authz.listen_tls_settings import ListenTlsSettings
from authz.listener_tls import ListenerTls

SERVER = "spiffe://cluster.local/ns/mesh/sa/authorizer"
GATEWAY = "spiffe://cluster.local/ns/edge/sa/gateway"
STRANGER = "spiffe://cluster.local/ns/shop/sa/web"
_HOUR = timedelta(hours=1)
_METHOD = "/envoy.service.auth.v3.Authorization/Check"


@pytest.fixture
def authority() -> Authority:
    """A fresh root."""
    return Authority()


def tls_of(folder: Path, authority: Authority, **more: Any) -> ListenerTls:
    """Return the listener's TLS over files in a folder."""
    (folder / "roots.pem").write_bytes(authority.root_pem)
    if not (folder / "server.pem").exists():
        write_pair(folder, authority.issue(SERVER))
    settings = {
        "certificateFile": folder / "server.pem",
        "keyFile": folder / "server.key",
        "clientCaFile": folder / "roots.pem",
        **more,
    }
    return ListenerTls(ListenTlsSettings.model_validate(settings))


@contextlib.contextmanager
def listening(tls: ListenerTls) -> Iterator[int]:
    """Answer checks over TLS and yield the port."""
    server = GrpcServer("127.0.0.1:0", 2, make_authorizer().check, tls=tls)
    try:
        yield server.port
    finally:
        server.stop(0)


def ask(port: int, roots: bytes, client: tuple[bytes, bytes] | None) -> str:
    """Ask over a new connection; return `allow`, or the name of the gRPC error."""
    certificate, key = client or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    # A name of its own, or channels to one place would share what another negotiated.
    options = (
        ("grpc.ssl_target_name_override", SERVER_NAME),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            answer = channel.unary_unary(_METHOD)(make_message().SerializeToString(), timeout=10)
        except grpc.RpcError as exc:
            return str(exc.code().name)
    return "deny" if CheckResponse.FromString(answer).status.code else "allow"


@pytest.mark.parametrize(
    ("uri", "client_ids", "expected"),
    [
        (GATEWAY, (), "allow"),
        (GATEWAY, (GATEWAY,), "allow"),
        (GATEWAY, ("spiffe://cluster.local/ns/edge/*",), "allow"),
        (STRANGER, (GATEWAY,), "PERMISSION_DENIED"),
        (STRANGER, ("spiffe://cluster.local/ns/edge/*",), "PERMISSION_DENIED"),
        (f"{GATEWAY}2", (GATEWAY,), "PERMISSION_DENIED"),
        (
            "spiffe://cluster.local/ns/edge",
            ("spiffe://cluster.local/ns/edge/*",),
            "PERMISSION_DENIED",
        ),
        ("https://cluster.local/ns/edge/sa/gateway", (GATEWAY,), "PERMISSION_DENIED"),
    ],
)
def test_only_clients_that_are_named_may_ask(
    tmp_path: Path, authority: Authority, uri: str, client_ids: tuple[str, ...], expected: str
) -> None:
    """A client of the roots is known by the one SPIFFE ID of its certificate."""
    with listening(tls_of(tmp_path, authority, clientIds=client_ids)) as port:
        assert expected == ask(port, authority.root_pem, authority.issue(uri))


@pytest.mark.parametrize("who", ["nobody", "another root's", "expired"])
def test_clients_that_prove_nothing(tmp_path: Path, authority: Authority, who: str) -> None:
    """Without a certificate that the roots vouch for now there is no connection."""
    client = {
        "nobody": None,
        "another root's": Authority().issue(GATEWAY),
        "expired": authority.issue(GATEWAY, -_HOUR),
    }[who]
    with listening(tls_of(tmp_path, authority)) as port:
        assert "UNAVAILABLE" == ask(port, authority.root_pem, client)


def test_without_client_roots_nobody_has_to_show_one(tmp_path: Path, authority: Authority) -> None:
    """TLS alone proves the authorizer, and keeps the requests from others' eyes."""
    with listening(tls_of(tmp_path, authority, clientCaFile=None)) as port:
        assert "allow" == ask(port, authority.root_pem, None)


def test_a_replaced_certificate_is_shown_to_new_connections(
    tmp_path: Path, authority: Authority
) -> None:
    """Another root's certificate, with other roots for clients, counts without a restart."""
    tls = tls_of(tmp_path, authority)
    following = Authority()
    with listening(tls) as port:
        assert "allow" == ask(port, authority.root_pem, authority.issue(GATEWAY))
        write_pair(tmp_path, following.issue(SERVER))
        (tmp_path / "roots.pem").write_bytes(following.root_pem + authority.root_pem)

        assert tls.status().fault == ""
        for root in (authority, following):
            assert "allow" == ask(port, following.root_pem, root.issue(GATEWAY))
        assert "UNAVAILABLE" == ask(port, authority.root_pem, authority.issue(GATEWAY))


@pytest.mark.parametrize("fault", ["other key", "no pem", "gone", "expired", "no roots"])
def test_a_bad_replacement_leaves_the_last_good_one(
    tmp_path: Path, authority: Authority, fault: str
) -> None:
    """What does not belong together is told of, and shown to nobody."""
    tls = tls_of(tmp_path, authority)
    good = (tmp_path / "server.pem").read_bytes(), (tmp_path / "server.key").read_bytes()
    with listening(tls) as port:
        _spoil(tmp_path, authority, fault)

        assert "allow" == ask(port, authority.root_pem, authority.issue(GATEWAY))
        assert tls.status().fault

        write_pair(tmp_path, good)
        (tmp_path / "roots.pem").write_bytes(authority.root_pem)
        assert "allow" == ask(port, authority.root_pem, authority.issue(GATEWAY))
        assert "" == tls.status().fault


def test_a_refused_pair_that_was_mended_in_place_is_shown(
    tmp_path: Path, authority: Authority
) -> None:
    """A copy may keep inode, size and modification time of what was refused before."""
    tls = tls_of(tmp_path, authority)
    following = authority.issue(SERVER)
    write_pair(tmp_path, (following[0], authority.issue(SERVER)[1]))
    assert "is not the key of" in tls.status().fault
    key = tmp_path / "server.key"
    before = key.stat()
    key.write_bytes(following[1])
    os.utime(key, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert before.st_size == key.stat().st_size
    assert following[0] == tls.shown().chain
    assert "" == tls.status().fault


def test_a_pair_that_a_wrong_clock_refused_is_shown_once_it_is_right(
    tmp_path: Path, authority: Authority
) -> None:
    """What was refused is judged anew, though the files are as they were then."""
    roots, now = tmp_path / "roots.pem", [datetime.now(UTC)]
    roots.write_bytes(authority.root_pem)
    write_pair(tmp_path, authority.issue(SERVER))
    files = {"certificateFile": tmp_path / "server.pem", "keyFile": tmp_path / "server.key"}
    tls = ListenerTls(ListenTlsSettings.model_validate(files), clock=lambda: now[0])
    now[0] += 2 * _HOUR
    following = authority.issue(SERVER)
    write_pair(tmp_path, following)
    assert "ended at" in tls.status().fault
    now[0] -= 2 * _HOUR

    assert following[0] == tls.shown().chain


def test_a_client_that_may_not_ask_is_named_once_a_minute(
    tmp_path: Path, authority: Authority
) -> None:
    """Such an Envoy asks with each of its requests; the log is for others as well."""
    write_pair(tmp_path, authority.issue(SERVER))
    (tmp_path / "roots.pem").write_bytes(authority.root_pem)
    files = {"certificateFile": tmp_path / "server.pem", "keyFile": tmp_path / "server.key"}
    more = {"clientCaFile": tmp_path / "roots.pem", "clientIds": [GATEWAY]}
    now = [datetime.now(UTC)]
    settings = ListenTlsSettings.model_validate(files | more)
    tls = ListenerTls(settings, clock=lambda: now[0])
    with capture_logs() as logs:
        for seconds in (0, 30, 59, 61):
            at, now[0] = now[0], now[0] + timedelta(seconds=seconds)
            assert not tls.admits_id(STRANGER, "ipv4:10.0.0.1:1")
            assert not tls.admits_id("", "ipv4:10.0.0.1:1")
            assert tls.admits_id(GATEWAY, "ipv4:10.0.0.2:1")
            now[0] = at

    assert [STRANGER, "no SPIFFE ID"] * 2 == [each["client"] for each in logs]


def _spoil(folder: Path, authority: Authority, fault: str) -> None:
    match fault:
        case "other key":
            (folder / "server.key").write_bytes(authority.issue(SERVER)[1])
        case "no pem":
            (folder / "server.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nAA\n")
        case "gone":
            (folder / "server.pem").unlink()
        case "expired":
            write_pair(folder, authority.issue(SERVER, -_HOUR))
        case _:
            (folder / "roots.pem").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("other key", "is not the key of"),
        ("no pem", "does not hold certificates in PEM"),
        ("gone", "cannot be read"),
        ("expired", "ended at"),
    ],
)
def test_a_bad_start_is_refused(
    tmp_path: Path, authority: Authority, spoil: str, message: str
) -> None:
    """There is no last good certificate, so the error names the file and why."""
    tls_of(tmp_path, authority)
    _spoil(tmp_path, authority, spoil)

    with pytest.raises(ListenError, match=message):
        tls_of(tmp_path, authority) if spoil != "gone" else _opened(tmp_path)


def _opened(folder: Path) -> ListenerTls:
    pair = {"certificateFile": folder / "server.pem", "keyFile": folder / "server.key"}
    return ListenerTls(ListenTlsSettings.model_validate(pair))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"clientIds": [GATEWAY]}, "needs `clientCaFile`"),
        ({"clientCaFile": "r", "clientIds": ["cluster.local/a"]}, "is not a SPIFFE ID"),
        ({"clientCaFile": "r", "clientIds": ["spiffe://td/a*"]}, "is not a SPIFFE ID"),
    ],
)
def test_settings_that_promise_what_cannot_be(more: dict[str, Any], message: str) -> None:
    """An allow list that nobody is held to, or of no identities, is an error."""
    with pytest.raises(ValidationError, match=message):
        ListenTlsSettings.model_validate({"certificateFile": "c", "keyFile": "k", **more})

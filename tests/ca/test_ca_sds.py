"""Secret discovery: the conversation alone, then over a real socket."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ca.board import SecretBoard
from ca.errors import SdsRequestError, SocketError, SvidInvalidError
from ca.sds_session import DeltaSession, SotwSession
from ca.secrets import SDS_TYPE_URL, encode_trust
from identity.spiffe_id import SpiffeId

ID = "spiffe://example.org/ns/shop/sa/cart"
ALL = ("ROOTCA", "spiffe://example.org", "ALL", "default", ID)


@pytest.fixture
def board(authority, clock, issue):
    """A board with roots and a certificate on it."""
    board = SecretBoard(SpiffeId.parse(ID), clock)
    board.publish_trust(authority.roots)
    board.publish_svid(issue())
    return board


def _names(response):
    """The secret names in a response, and that each is what it says."""
    secrets = []
    for item in response.resources:
        packed = item.resource if hasattr(item, "resource") else item
        secret = Secret()
        assert packed.Unpack(secret)
        secrets.append(secret.name)
    return secrets


def _ask(*names, nonce="", error=""):
    request = DiscoveryRequest(type_url=SDS_TYPE_URL, resource_names=names, response_nonce=nonce)
    if error:
        request.error_detail.code = 13
        request.error_detail.message = error
    return request


class TestStateOfTheWorld:
    """`StreamSecrets` without a network."""

    @pytest.mark.parametrize(
        ("asked", "given_names"),
        [
            (["default"], ["default"]),
            (["default", "ROOTCA"], ["ROOTCA", "default"]),
            ([ID, "spiffe://example.org", ID], ["spiffe://example.org", ID]),
            ([], list(ALL)),
        ],
    )
    def test_names(self, board, asked, given_names):
        """Each name is answered under itself, roots first; an empty list means all."""
        session = SotwSession(board)
        assert session.next_response() is None
        session.receive(_ask(*asked))
        response = session.next_response()
        assert _names(response) == given_names
        assert response.type_url == SDS_TYPE_URL
        assert session.next_response() is None

    @pytest.mark.parametrize(
        "name",
        [
            "x",
            "spiffe://example.org/ns/shop/sa/pay",
            "all",
            "spiffe://other.org",
            "rootca",
            "default ",
        ],
    )
    def test_unauthorised_name(self, board, name):
        """One name of somebody else's fails the whole request."""
        with pytest.raises(SdsRequestError, match="is not for this workload"):
            SotwSession(board).receive(_ask("default", name))
        delta = DeltaDiscoveryRequest(resource_names_subscribe=["default", name])
        with pytest.raises(SdsRequestError, match="is not for this workload"):
            DeltaSession(board).receive(delta)

    def test_other_type(self, board):
        """A request for clusters is refused."""
        with pytest.raises(SdsRequestError, match="only secrets are"):
            SotwSession(board).receive(DiscoveryRequest(type_url="type.googleapis.com/Cluster"))

    def test_ack_then_rotation(self, board, issue):
        """After an ACK nothing is said until the certificate changes."""
        session = SotwSession(board)
        session.receive(_ask("default"))
        first = session.next_response()
        session.receive(_ask("default", nonce=first.nonce))
        assert session.next_response() is None
        board.publish_svid(issue())
        second = session.next_response()
        assert second.version_info != first.version_info
        assert second.nonce != first.nonce

    def test_nack_is_held_and_logged(self, board, issue):
        """A refused version is not sent again; the next one is."""
        session = SotwSession(board)
        session.receive(_ask("default"))
        first = session.next_response()
        with capture_logs() as logs:
            session.receive(_ask("default", nonce=first.nonce, error="KEY_VALUES_MISMATCH"))
        assert [(e["event"], e["error"]) for e in logs] == [
            ("secret_refused_by_proxy", "KEY_VALUES_MISMATCH")
        ]
        assert session.next_response() is None
        board.publish_svid(issue())
        assert session.next_response() is not None

    def test_stale_nonce_says_nothing(self, board):
        """An answer to an older response changes neither subscription nor record."""
        session = SotwSession(board)
        session.receive(_ask("default"))
        session.next_response()
        session.receive(_ask("ROOTCA", nonce="another", error="x"))
        assert session.next_response() is None

    def test_more_names(self, board):
        """A name added to the subscription is answered at once."""
        session = SotwSession(board)
        session.receive(_ask("default"))
        nonce = session.next_response().nonce
        session.receive(_ask("default", "ROOTCA", nonce=nonce))
        assert _names(session.next_response()) == ["ROOTCA", "default"]

    def test_expired_is_never_sent(self, board, clock):
        """Past its end a certificate is not sent, even to a new stream; the roots still are."""
        clock.now += timedelta(hours=1, seconds=1)
        session = SotwSession(board)
        session.receive(_ask("default"))
        assert session.next_response() is None
        both = SotwSession(board)
        both.receive(_ask("default", "ROOTCA"))
        assert _names(both.next_response()) == ["ROOTCA"]

    def test_same_content_same_version(self, board):
        """Two streams see one version for the same bytes, so a reconnect changes nothing."""
        versions = set()
        for _ in range(2):
            session = SotwSession(board)
            session.receive(_ask("default"))
            versions.add(session.next_response().version_info)
        assert len(versions) == 1


class TestDelta:
    """`DeltaSecrets` without a network."""

    @pytest.mark.parametrize("asked", [[], ["*"], ["default", "ROOTCA", *ALL]])
    def test_everything(self, board, asked):
        """A first request without names, or `*`, is everything."""
        session = DeltaSession(board)
        session.receive(DeltaDiscoveryRequest(resource_names_subscribe=asked))
        assert _names(session.next_response()) == list(ALL)
        assert session.next_response() is None

    def test_reconnect_is_answered(self, board):
        """A name is answered though the other side says that it holds that version."""
        session = DeltaSession(board)
        session.receive(DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
        version = session.next_response().resources[0].version
        again = DeltaSession(board)
        again.receive(
            DeltaDiscoveryRequest(
                resource_names_subscribe=["default"], initial_resource_versions={"default": version}
            )
        )
        assert again.next_response().resources[0].version == version

    def test_nack_and_unsubscribe(self, board, issue):
        """A NACK is held and logged; a name given up is not sent any more."""
        session = DeltaSession(board)
        session.receive(DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
        nack = DeltaDiscoveryRequest(response_nonce=session.next_response().nonce)
        nack.error_detail.message = "no"
        with capture_logs() as logs:
            session.receive(nack)
        assert logs[0]["event"] == "secret_refused_by_proxy"
        assert session.next_response() is None
        session.receive(DeltaDiscoveryRequest(resource_names_unsubscribe=["default", "never"]))
        board.publish_svid(issue())
        assert session.next_response() is None


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.one_of(
            st.sampled_from(["rotate", "look"]),
            st.tuples(st.lists(st.sampled_from(ALL), max_size=3), st.sampled_from("anxe")),
        ),
        max_size=12,
    )
)
def test_any_conversation_ends_with_the_newest(board, issue, steps):
    """Whatever was said, a subscriber has the newest content, and never the same bytes twice."""
    session, held, nonce, names = SotwSession(board), None, "", None
    is_resubscribed = False
    for step in [*steps, "look"]:
        if step == "rotate":
            board.publish_svid(issue())
        elif step == "look":
            while (response := session.next_response()) is not None:
                assert is_resubscribed or (response.version_info, names) != held
                is_resubscribed = False
                held, nonce = (response.version_info, names), response.nonce
        else:
            asked, answer = step
            sent = {"a": nonce, "n": nonce, "x": "stale", "e": ""}[answer]
            session.receive(_ask(*asked, nonce=sent, error="bad" if answer == "n" else ""))
            if sent == nonce or not nonce:
                is_resubscribed |= names != board.check_names(asked)
                names = board.check_names(asked)
    if names is not None:
        # Too much may be unanswered to be sent more; an answer opens the way again.
        session.receive(_ask(*names, nonce=nonce))
        while (response := session.next_response()) is not None:
            held = (response.version_info, names)
        fresh = SotwSession(board)
        fresh.receive(_ask(*names))
        assert held == (fresh.next_response().version_info, names)


def test_board_refuses_what_envoy_would_swallow(board, issue, keeper_of, tmp_path, clock):
    """Another workload's certificate, another root's and an empty bundle are not put up."""
    before = board.look(ALL)
    with pytest.raises(SvidInvalidError, match="not for this workload"):
        board.publish_svid(issue("spiffe://example.org/other"))
    expired = issue()
    clock.now += timedelta(hours=2)
    with pytest.raises(SvidInvalidError, match="not in its validity"):
        board.publish_svid(expired)
    clock.now -= timedelta(hours=2)
    with pytest.raises(SvidInvalidError, match="without roots"):
        board.publish_trust(())
    assert board.look(ALL) == before
    with pytest.raises(SvidInvalidError, match="without roots"):
        encode_trust("ROOTCA", {board.spiffe_id.trust_domain: ()})


@asynccontextmanager
async def _stub(path):
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield SecretDiscoveryServiceStub(channel)


def test_over_the_socket(serving):
    """Each socket is for its own workload; both streams see a rotation; drain ends them."""

    async def run():
        async with (
            serving(svidLifetimeSeconds=2) as ca,
            _stub(ca.folder / "cart.sock") as cart,
            _stub(ca.folder / "pay.sock") as pay,
        ):
            assert (ca.folder / "cart.sock").stat().st_mode & 0o777 == 0o600
            fetched = await pay.FetchSecrets(_ask())
            assert "spiffe://cluster.local/ns/shop/sa/pay" in _names(fetched)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await cart.FetchSecrets(_ask("spiffe://cluster.local/ns/shop/sa/pay"))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            wrong = cart.StreamSecrets(iter([_ask("no-such")]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await wrong.read()
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            stream, delta = cart.StreamSecrets(), cart.DeltaSecrets()
            await stream.write(_ask("default"))
            await delta.write(DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
            seen = [(await stream.read()).version_info for _ in range(2)]
            seen_delta = [(await delta.read()).resources[0].version for _ in range(2)]
            assert len(set(seen)) == 2
            assert seen == seen_delta
            ca.stop.set()
            assert await stream.read() is grpc.aio.EOF
        assert not (ca.folder / "cart.sock").exists()

    asyncio.run(run())


def test_restart_takes_over_dead_sockets(serving, tmp_path):
    """A socket file that a killed CA left behind does not stop the next one."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "cart.sock"))

    async def run():
        async with serving() as ca, _stub(ca.folder / "cart.sock") as cart:
            assert _names(await cart.FetchSecrets(_ask("default"))) == ["default"]

    asyncio.run(run())


def test_socket_paths_refused(serving, tmp_path):
    """A long path, a live socket, a plain file and an open folder are refused by name."""

    async def start(path):
        workload = {"spiffeId": "spiffe://cluster.local/a", "socket": str(path)}
        async with serving(workloads=[workload]):
            pass

    def refused(path, words):
        with pytest.raises(SocketError, match=words):
            asyncio.run(start(path))

    refused(tmp_path / ("x" * 120), "expected at most 107")
    (tmp_path / "file").write_text("kept")
    refused(tmp_path / "file", "is not a socket")
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    refused(tmp_path / "open/a.sock", "others may write")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(tmp_path / "live.sock"))
        live.listen()
        refused(tmp_path / "live.sock", "in use by another process")

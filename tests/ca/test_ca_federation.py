"""Other trust domains: fetched or read, kept apart, handed on, and no longer when they are gone."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from delivering import delivering_ca, served, write_certificate
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_spiffe_validator_config_pb2 import (
    SPIFFECertValidatorConfig,
)
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from pydantic import ValidationError
from spiffe import JwtSource, TrustDomain, WorkloadApiClient
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub
from structlog.testing import capture_logs
from two_envoys import client_context, envoy, handshake, server_bootstrap

from ca.board import SecretBoard
from ca.bundle_endpoint import bundle_routes
from ca.control import ask
from ca.https_server import HttpsServer
from ca.issue import SvidRequest, issue_x509_svid
from ca.sds_answers import Answers
from ca.settings import CaSettings
from ca.streams import OpenStream
from ca.tls import server_context
from identity.bundle_document import encode_bundle
from identity.jwks import Jwk
from identity.spiffe_id import SpiffeId
from identity.spiffe_id import TrustDomain as Domain
from identity.trust_bundle import TrustBundle

CART = "spiffe://example.org/ns/shop/sa/cart"
MINE = f"unix:uid:{os.getuid()}"
HEADER = (("workload.spiffe.io", "true"),)
OTHER = Domain("other.org")
WAIT = 15


def _until(probe, what):
    """Return the first truthy answer of `probe`."""
    end, pause = datetime.now(UTC).timestamp() + WAIT, threading.Event()
    while datetime.now(UTC).timestamp() < end:
        if answer := probe():
            return answer
        pause.wait(0.05)
    raise AssertionError(what)


def _config(resource) -> dict[str, bytes]:
    """The roots of each trust domain in a secret."""
    secret = Secret()
    resource.Unpack(secret)
    config = SPIFFECertValidatorConfig()
    secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    return {each.name: each.trust_bundle.inline_bytes for each in config.trust_domains}


def _roots(socket: Path, name: str) -> dict[str, bytes] | grpc.StatusCode:
    """What a proxy is told under a name."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            response = SecretDiscoveryServiceStub(channel).FetchSecrets(
                DiscoveryRequest(resource_names=[name])
            )
        except grpc.RpcError as exc:
            return exc.code()
    return _config(response.resources[0])


def _settings(**federation):
    return {
        "workloads": [{"spiffeId": CART, "socket": "cart.sock"}],
        "federation": {
            "refresh": {"fileSeconds": 0.1, "retrySeconds": 0.1, "shortestSeconds": 1},
            "allowLoopback": True,
            **federation,
        },
    }


@pytest.fixture
def other(keeper_of, tmp_path):
    """The bundle of another trust domain."""
    with keeper_of(tmp_path / "o", "other.org") as keeper:
        return TrustBundle(trust_domain=OTHER, x509_authorities=keeper.roots, sequence=7)


class TestBoard:
    """What a workload's board says of other trust domains."""

    def test_known_unknown_and_gone(self, authority, clock, other):
        """A name waits for its first bundle; one without roots says so, and `ALL` is without it."""
        board = SecretBoard(SpiffeId.parse(CART), clock)
        name = "spiffe://other.org"
        board.publish_trust(authority.roots, federated={OTHER: None})
        assert board.check_names([name]) == (name,)
        assert board.look([name]) == ()
        board.publish_trust(authority.roots, federated={OTHER: other})
        [alone], [both] = board.look([name]), board.look(["ALL"])
        assert [*_config(alone.resource)] == ["other.org"]
        assert [*_config(both.resource)] == ["example.org", "other.org"]
        assert [*_config(board.look(["ROOTCA"])[0].resource)] == ["example.org"]
        board.publish_trust(authority.roots, federated={OTHER: TrustBundle(trust_domain=OTHER)})
        assert _config(board.look([name])[0].resource) == {}
        assert [*_config(board.look(["ALL"])[0].resource)] == ["example.org"]

    def test_a_stream_of_foreign_roots_holds_no_rotation_up(self, authority, clock, other):
        """Only who is sent our own roots is asked whether it has them."""
        board = SecretBoard(SpiffeId.parse(CART), clock)
        board.publish_trust(authority.roots, federated={OTHER: other})
        stream = OpenStream(kind="sds", spiffe_id=CART)
        answers = Answers(board, stream)
        for names, carries in ((["spiffe://other.org"], False), (["ALL"], True)):
            answers.note_names(names)
            assert stream.carries_roots is carries


@contextmanager
def _endpoint(folder: Path, monkeypatch):
    """Another CA with a bundle endpoint that the public vouches for."""
    folder.mkdir()
    certificate, key = write_certificate(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    endpoint = {
        "listen": "127.0.0.1:0",
        "certificateFile": str(certificate),
        "keyFile": str(key),
        "refreshHintSeconds": 1,
    }
    with (
        capture_logs() as logs,
        served(folder, trustDomain="other.org", bundleEndpoint=endpoint) as command,
    ):
        [port] = [each["port"] for each in logs if each["event"] == "bundle_endpoint_ready"]
        yield command, port


def test_two_cas_by_the_web_profile(short_path, monkeypatch):
    """One CA hands out what the other publishes, follows its rotation, and takes its tokens."""
    with _endpoint(short_path / "o", monkeypatch) as (command, port):
        command("entries", "add", "--spiffe-id", "spiffe://other.org/pay", "--selector", MINE)
        endpoint = {"url": f"https://localhost:{port}/bundle.json", "profile": "https_web"}
        federation = _settings(trustDomains=[{"trustDomain": "other.org", "endpoint": endpoint}])
        with served(short_path, **federation) as here:
            here("entries", "add", "--spiffe-id", CART, "--selector", MINE)
            theirs = (short_path / "o/state/bundle.pem").read_bytes()
            socket = short_path / "cart.sock"
            assert _roots(socket, "spiffe://other.org") == {"other.org": theirs}
            assert [*_roots(socket, "ALL")] == ["example.org", "other.org"]
            with WorkloadApiClient(f"unix://{short_path}/run/api.sock") as client:
                bundles = client.fetch_x509_context().x509_bundle_set
                found = bundles.get_bundle_for_trust_domain(TrustDomain("other.org"))
                assert len(found.x509_authorities) == 1
                with (
                    WorkloadApiClient(f"unix://{short_path}/o/run/api.sock") as there,
                    JwtSource(there) as tokens,
                ):
                    token = tokens.fetch_svid(audience={"cart"}).token
                svid = client.validate_jwt_svid(token, "cart")
                assert str(svid.spiffe_id) == "spiffe://other.org/pay"
            status = ask(short_path / "state", {"do": "status"})
            assert status["troubles"] == []
            assert (status["federation"][0]["trustDomain"], status["federation"][0]["ready"]) == (
                "other.org",
                True,
            )
            assert "federated     other.org  1 roots" in here("status")
            with grpc.insecure_channel(f"unix:{short_path}/run/api.sock") as channel:
                calls = SpiffeWorkloadAPIStub(channel).FetchX509SVID(
                    workload_pb2.X509SVIDRequest(), metadata=HEADER
                )
                first = next(calls).federated_bundles["spiffe://other.org"]
                command("rotate", "prepare")
                while len(next(calls).federated_bundles["spiffe://other.org"]) == len(first):
                    pass
                calls.cancel()


def test_a_start_while_the_endpoint_is_away(short_path, monkeypatch):
    """A CA that comes back hands out what it had last, until that is too old or unreadable."""
    with _endpoint(short_path / "o", monkeypatch) as (_, port):
        endpoint = {"url": f"https://localhost:{port}/bundle.json", "profile": "https_web"}
        trust = _settings(trustDomains=[{"trustDomain": "other.org", "endpoint": endpoint}])
        with served(short_path, **trust):
            before = _roots(short_path / "cart.sock", "ALL")
    assert [*before] == ["example.org", "other.org"]
    [kept] = (short_path / "state/federated").iterdir()
    for change, names, trouble in (
        (lambda: None, ["example.org", "other.org"], "federation_late"),
        (lambda: os.utime(kept, (0, 0)), ["example.org"], "federation_missing"),
        (lambda: kept.write_text("nonsense"), ["example.org"], "federation_missing"),
    ):
        change()
        with served(short_path, **trust):
            assert [*_roots(short_path / "cart.sock", "ALL")] == names
            status = ask(short_path / "state", {"do": "status"})
            assert [each["code"] for each in status["troubles"]] == [trouble]


def test_a_file_that_is_emptied(short_path, other):
    """An empty bundle takes the trust away, from proxies and from clients; a good one is back."""
    path = short_path / "other.json"
    path.write_bytes(encode_bundle(other))
    trust = _settings(trustDomains=[{"trustDomain": "other.org", "file": "other.json"}])
    socket, name = short_path / "cart.sock", "spiffe://other.org"
    with served(short_path, **trust) as command:
        command("entries", "add", "--spiffe-id", CART, "--selector", MINE)
        assert [*_roots(socket, name)] == ["other.org"]
        path.write_text('{"keys": []}')
        _until(lambda: _roots(socket, name) == {}, "no trust")
        assert [*_roots(socket, "ALL")] == ["example.org"]
        with grpc.insecure_channel(f"unix:{short_path}/run/api.sock") as channel:
            stub = SpiffeWorkloadAPIStub(channel)
            svids = next(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
            assert dict(svids.federated_bundles) == {}
            request = workload_pb2.X509BundlesRequest()
            bundles = next(stub.FetchX509Bundles(request, metadata=HEADER))
            assert [*bundles.bundles] == ["spiffe://example.org"]
        path.write_text("nonsense")
        status = _until(
            lambda: (s := ask(short_path / "state", {"do": "status"}))["troubles"] and s, "trouble"
        )
        assert [each["code"] for each in status["troubles"]] == ["federation_late"]
        path.write_bytes(encode_bundle(other))
        _until(lambda: [*_roots(socket, name)] == ["other.org"], "trust again")
    assert list((short_path / "state/federated").iterdir()) == []


def test_claims_that_nobody_agreed_on(tmp_path):
    """Of another trust domain's token a caller is told the standard's claims and no others."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = Jwk(kid="k", alg="ES256", algorithms=frozenset({"ES256"}), key=key.public_key())
    claims = {"sub": "spiffe://other.org/pay", "aud": ["cart"], "groups": ["admin"]}
    claims["exp"] = int(datetime.now(UTC).timestamp()) + 60
    token = jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k"})
    with delivering_ca(tmp_path) as ca, grpc.insecure_channel(ca.endpoint) as channel:
        ca.add(CART, MINE)
        ca.federated.append(TrustBundle(trust_domain=OTHER, jwt_authorities=(jwk,)))
        answer = SpiffeWorkloadAPIStub(channel).ValidateJWTSVID(
            workload_pb2.ValidateJWTSVIDRequest(audience="cart", svid=token), metadata=HEADER
        )
    assert answer.spiffe_id == "spiffe://other.org/pay"
    assert set(answer.claims) == {"sub", "aud", "exp"}


def test_the_spiffe_profile(short_path, keeper_of, clock, other, authority):
    """An endpoint that shows an SVID is believed by its ID and the bundle that was given."""
    clock.now = datetime.now(UTC)
    with keeper_of(short_path / "their", "other.org") as keeper:
        bundle = TrustBundle(
            trust_domain=OTHER,
            x509_authorities=keeper.roots,
            sequence=1,
            refresh_hint_seconds=1,
        )
        spiffe_id = SpiffeId.parse("spiffe://other.org/bundle")
        request = SvidRequest(spiffe_id=spiffe_id, lifetime=timedelta(hours=1))
        svid = issue_x509_svid(request, keeper.current(), now=clock())
    pem = short_path / "server.pem"
    pem.write_bytes(svid.key_pem() + svid.chain_pem())
    context = server_context()
    context.load_cert_chain(pem)
    (short_path / "given.json").write_bytes(encode_bundle(bundle))
    server = HttpsServer("127.0.0.1:0", lambda: context, bundle_routes(lambda: bundle))
    try:
        for shown, trouble in ((str(spiffe_id), []), (f"{spiffe_id}-x", ["federation_late"])):
            endpoint = {
                "url": f"https://127.0.0.1:{server.port}/",
                "profile": "https_spiffe",
                "spiffeId": shown,
                "bootstrap": "given.json",
            }
            trust = [{"trustDomain": "other.org", "endpoint": endpoint}]
            with served(short_path, **_settings(trustDomains=trust)):
                status = ask(short_path / "state", {"do": "status"})
            assert [each["code"] for each in status["troubles"]] == trouble
    finally:
        server.close()


@pytest.mark.envoy
def test_envoy_takes_a_peer_of_another_trust_domain(serving, tmp_path):
    """A real Envoy with `ALL` lets the other trust domain's client in, and names it."""
    folder = tmp_path / "other"
    folder.mkdir()
    foreign = {"spiffeId": "spiffe://other.org/ns/shop/sa/cart", "socket": "cart.sock"}
    trust = {"trustDomain": "other.org", "file": str(folder / "state/bundle.pem")}

    async def run():
        bootstrap = server_bootstrap(tmp_path, "DELTA_GRPC", ("default", "ALL"))
        async with (
            serving(folder=folder, trustDomain="other.org", workloads=[foreign]),
            serving(federation={"trustDomains": [trust]}),
            envoy(tmp_path, "pay", bootstrap) as pay,
        ):
            port = (await pay.ports(1))["mtls"]
            context = await client_context(folder / "cart.sock", folder)
            context.load_verify_locations(tmp_path / "state/bundle.pem")
            _, answer = await handshake(port, context)
            assert "x-peer: spiffe://other.org/ns/shop/sa/cart" in answer

    asyncio.run(run())


@pytest.mark.parametrize(
    ("domains", "words"),
    [
        ([{"trustDomain": "example.org", "file": "x"}], "our own trust domain"),
        ([{"trustDomain": "other.org"}], "one of them"),
        ([{"trustDomain": "Other.org", "file": "x"}], "not a trust domain"),
        ([{"trustDomain": "o", "file": "x"}] * 2, "stands there twice"),
        (
            [{"trustDomain": "o", "endpoint": {"url": "http://o", "profile": "https_web"}}],
            "https://",
        ),
    ],
)
def test_settings_that_make_no_sense(domains, words):
    """A federation that could not work is refused when it is read."""
    settings = {"stateFolder": "s", "trustDomain": "example.org"}
    with pytest.raises(ValidationError, match=words):
        CaSettings.model_validate(settings | _settings(trustDomains=domains))

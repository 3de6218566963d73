"""The Workload API over a real Unix socket, asked by the `spiffe` client and by hand."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from delivering import delivering_ca
from spiffe import JwtSource, TrustDomain, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2
from spiffe._proto.workload_pb2_grpc import SpiffeWorkloadAPIStub

from ca.entries import delete_entry
from ca.revocations import DeniedKind, Revocation, insert_revocation

CART = "spiffe://example.org/ns/shop/sa/cart"
PAY = "spiffe://example.org/ns/shop/sa/pay"
MINE = f"unix:uid:{os.getuid()}"
PYTHON = Path(sys.executable).resolve()
HEADER = (("workload.spiffe.io", "true"),)
WAIT = 10


@pytest.fixture
def ca(tmp_path):
    """A CA whose Workload API is served; without entries."""
    with delivering_ca(tmp_path) as delivering:
        yield delivering


@pytest.fixture
def stub(ca):
    """Generated stubs on the socket, for what no decent client would send."""
    with grpc.insecure_channel(ca.endpoint) as channel:
        yield SpiffeWorkloadAPIStub(channel)


def _code(call) -> grpc.StatusCode:
    """The status that a call ends with."""
    with pytest.raises(grpc.RpcError) as caught:
        result = call()
        next(iter(result))
    return caught.value.code()


class Watched:
    """A stream whose states are taken one by one, in a thread of its own."""

    def __init__(self, calls) -> None:
        """Read `calls` from now on."""
        self._states: queue.Queue[object] = queue.Queue()
        self._calls = calls
        threading.Thread(target=self._read, daemon=True).start()

    def next(self):
        """Return the next state, or the error that ended the stream."""
        return self._states.get(timeout=WAIT)

    def _read(self) -> None:
        try:
            for state in self._calls:
                self._states.put(state)
        except grpc.RpcError as exc:
            self._states.put(exc.code())


class TestSpiffeClient:
    """The PyPI `spiffe` client, which checks what it is given."""

    def test_x509_svid(self, ca):
        """The client fetches its SVID, and the chain leads to the bundle beside it."""
        ca.add(CART, MINE)
        with WorkloadApiClient(ca.endpoint) as client:
            context = client.fetch_x509_context()
            svid = context.default_svid
            assert str(svid.spiffe_id) == CART
            roots = context.x509_bundle_set.get_bundle_for_trust_domain(TrustDomain("example.org"))
            assert set(roots.x509_authorities) == set(ca.keeper.roots)
            bundles = client.fetch_x509_bundles()
            assert (
                len(
                    bundles.get_bundle_for_trust_domain(TrustDomain("example.org")).x509_authorities
                )
                == 1
            )
        [row] = ca.ca.rows(spiffe_id=CART)
        assert int(row.serial, 16) == svid.leaf.serial_number
        assert row.method == "unix"
        assert row.evidence["pid"] == str(os.getpid())
        assert row.evidence["path"] == str(PYTHON)

    def test_several_ids_oldest_first(self, ca, stub):
        """Every entry that fits gives an SVID; the oldest is the default; no hint twice."""
        ca.add(PAY, MINE, hint="pay")
        ca.add(CART, MINE, f"unix:path:{PYTHON}", hint="cart")
        ca.add(f"{CART}-2", MINE, hint="cart")
        with WorkloadApiClient(ca.endpoint) as client:
            svids = client.fetch_x509_svids()
        assert [str(svid.spiffe_id) for svid in svids] == [PAY, CART, f"{CART}-2"]
        request = workload_pb2.X509SVIDRequest()
        response = next(stub.FetchX509SVID(request, metadata=HEADER))
        assert [svid.hint for svid in response.svids] == ["pay", "cart", ""]

    def test_jwt_svid(self, ca):
        """The client fetches a token, verifies it under the bundle, and lets us verify it."""
        ca.add(CART, MINE)
        with WorkloadApiClient(ca.endpoint) as client:
            svid = client.fetch_jwt_svid(audience={"pay"})
            assert str(svid.spiffe_id) == CART
            assert client.validate_jwt_svid(svid.token, "pay").spiffe_id == svid.spiffe_id
            bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(
                TrustDomain("example.org")
            )
            assert [*bundle.jwt_authorities] == [ca.keys.active().kid]
        rows = ca.ca.rows(spiffe_id=CART)
        assert [row.kind for row in rows] == ["jwt"]
        assert rows[0].der_sha256 == hashlib.sha256(svid.token.encode()).hexdigest()

    def test_sources_watch(self, tmp_path, say):
        """The client's sources see every renewal of a short certificate, and fetch tokens."""
        with delivering_ca(tmp_path, lifetime=timedelta(seconds=3)) as ca:
            ca.add(CART, MINE)
            with WorkloadApiClient(ca.endpoint) as client, X509Source(client) as source:
                seen: queue.Queue[int] = queue.Queue()
                source.subscribe_for_updates(
                    lambda: seen.put(source.get_x509_context().default_svid.leaf.serial_number)
                )
                serials = {source.get_x509_context().default_svid.leaf.serial_number}
                while len(serials) < 3:
                    serials.add(seen.get(timeout=WAIT))
                assert (
                    source.get_x509_context().default_svid.leaf.not_valid_after_utc
                    > datetime.now(UTC)
                )
            with WorkloadApiClient(ca.endpoint) as client, JwtSource(client) as source:
                assert str(source.fetch_svid(audience={"x"}).spiffe_id) == CART
        say(f"spiffe (PyPI): X.509-SVID and JWT-SVID fetched, {len(serials) - 1} renewals watched")


class TestStreams:
    """What a stream says next."""

    def test_root_rotation_and_retirement(self, ca, stub):
        """A prepared root shows at once; a leaf of a root that went is replaced at once."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
        first = watched.next()
        assert _roots(first) == list(ca.keeper.roots)
        ca.keeper.prepare()
        second = watched.next()
        assert len(_roots(second)) == 2
        assert _leaf(second) == _leaf(first)
        ca.keeper.activate()
        ca.keeper.retire()
        third = watched.next()
        while len(_roots(third)) > 1:
            third = watched.next()
        assert _leaf(third) != _leaf(first)
        assert _roots(third) == list(ca.keeper.roots)

    def test_another_authority_signs(self, ca, stub):
        """When another authority begins to sign, each stream has a leaf of it at once."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
        first = watched.next()
        ca.keeper.prepare()
        ca.keeper.activate()
        after = watched.next()
        while _leaf(after).issuer == _leaf(first).issuer:
            after = watched.next()
        assert _leaf(after).issuer == ca.keeper.current().intermediate.subject

    def test_jwt_keys_rotate_with_the_roots(self, ca, stub):
        """A prepared authority's token key is in the bundle before it signs, and goes with it."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=HEADER))
        first, kid = watched.next(), ca.keys.active().kid
        assert _kids(first) == [kid]
        ca.keeper.prepare()
        both = _kids(watched.next())
        assert both[0] == kid and len(both) == 2
        ca.keeper.activate()
        assert ca.keys.active().kid == both[1]
        ca.keeper.retire()
        assert _kids(watched.next()) == both[1:]

    def test_losing_the_entry_ends_the_stream(self, ca, stub):
        """Without any identity left, the stream ends with PERMISSION_DENIED, on record."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
        assert watched.next().svids[0].spiffe_id == CART
        with ca.ca.store.write() as connection:
            delete_entry(connection, "entry-cart")
        ca.ca.registry.refresh()
        ca.changes.announce()
        assert watched.next() is grpc.StatusCode.PERMISSION_DENIED
        assert ca.ca.events("svid_refused")[0]["reason"] == "caller_unknown"

    def test_a_second_entry_adds_an_svid(self, ca, stub):
        """A new entry adds its SVID and leaves the first one as it is."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
        first = watched.next()
        ca.add(PAY, MINE)
        second = watched.next()
        assert [svid.spiffe_id for svid in second.svids] == [CART, PAY]
        assert second.svids[0] == first.svids[0]

    @pytest.mark.parametrize("kind", [DeniedKind.SERIAL, DeniedKind.SPIFFE_ID])
    def test_denial_is_felt_at_once(self, ca, stub, kind):
        """A denied certificate is replaced; a denied ID is lost."""
        ca.add(CART, MINE)
        watched = Watched(stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER))
        first = watched.next()
        value = f"{_leaf(first).serial_number:040x}" if kind is DeniedKind.SERIAL else CART
        with ca.ca.store.write() as connection:
            now = datetime.now(UTC)
            insert_revocation(connection, Revocation(kind=kind, value=value, revoked_at=now))
        ca.ca.registry.refresh()
        ca.changes.announce()
        after = watched.next()
        if kind is DeniedKind.SERIAL:
            assert _leaf(after) != _leaf(first)
        else:
            assert after is grpc.StatusCode.PERMISSION_DENIED

    def test_streams_are_counted(self, ca, stub):
        """An open stream carries roots for the rotation to see, and is gone when it ends."""
        ca.add(CART, MINE)
        calls = stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER)
        next(calls)
        [stream] = ca.streams
        assert (stream.kind, stream.spiffe_id) == ("workload_x509", CART)
        assert stream in ca.streams.carriers()


class TestRefusals:
    """Who gets nothing, and how they are told."""

    @pytest.mark.parametrize(
        "metadata",
        [(), (("workload.spiffe.io", "True"),), (("workload.spiffe.io", ""),), HEADER * 2],
    )
    def test_security_header(self, ca, stub, metadata):
        """A request without exactly the header is refused for good."""
        ca.add(CART, MINE)
        for call in (
            lambda: stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=metadata),
            lambda: stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=metadata),
            lambda: stub.FetchJWTBundles(workload_pb2.JWTBundlesRequest(), metadata=metadata),
            lambda: stub.FetchJWTSVID(
                workload_pb2.JWTSVIDRequest(audience=["x"]), metadata=metadata
            ),
        ):
            assert _code(call) is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize(
        "selectors",
        [
            (f"unix:uid:{os.getuid() + 1}",),
            (MINE, "unix:path:/usr/bin/cart"),
            (MINE, f"unix:sha256:{'0' * 64}"),
            ("k8s:ns:shop",),
        ],
    )
    def test_no_entry_fits(self, ca, stub, selectors):
        """Every selector of an entry has to fit; bundles too are for the registered only."""
        ca.add(CART, *selectors)
        for call in (
            lambda: stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER),
            lambda: stub.FetchX509Bundles(workload_pb2.X509BundlesRequest(), metadata=HEADER),
            lambda: stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["x"]), metadata=HEADER),
        ):
            assert _code(call) is grpc.StatusCode.PERMISSION_DENIED
        refused = ca.ca.events("svid_refused")
        assert [each["reason"] for each in refused] == ["caller_unknown"] * 3
        assert refused[0]["evidence"]["pid"] == str(os.getpid())

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            ({"audience": []}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"audience": [""]}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"audience": ["x"] * 17}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"audience": ["x"], "spiffe_id": "cart"}, grpc.StatusCode.INVALID_ARGUMENT),
            ({"audience": ["x"], "spiffe_id": PAY}, grpc.StatusCode.PERMISSION_DENIED),
        ],
    )
    def test_jwt_requests(self, ca, stub, request_, code):
        """Tokens need an audience, and are given for one's own IDs only."""
        ca.add(CART, MINE)
        request = workload_pb2.JWTSVIDRequest(**request_)
        assert _code(lambda: stub.FetchJWTSVID(request, metadata=HEADER)) is code

    @pytest.mark.parametrize("change", ["audience", "signature", "empty"])
    def test_tokens_that_do_not_hold(self, ca, stub, change):
        """A token for others, or not quite ours, is INVALID_ARGUMENT."""
        ca.add(CART, MINE)
        answer = stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["pay"]), metadata=HEADER)
        token = answer.svids[0].svid
        if change == "signature":
            token = token[:-8] + ("AAAAAAAA" if not token.endswith("AAAAAAAA") else "BBBBBBBB")
        asked = workload_pb2.ValidateJWTSVIDRequest(
            audience="cart" if change == "audience" else "pay",
            svid="" if change == "empty" else token,
        )
        code = _code(lambda: stub.ValidateJWTSVID(asked, metadata=HEADER))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    def test_claims_come_back(self, ca, stub):
        """Whole claims of a good token are in the answer."""
        ca.add(CART, MINE)
        token = (
            stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["pay"]), metadata=HEADER)
            .svids[0]
            .svid
        )
        answer = stub.ValidateJWTSVID(
            workload_pb2.ValidateJWTSVIDRequest(audience="pay", svid=token), metadata=HEADER
        )
        assert answer.spiffe_id == CART
        assert set(answer.claims) == {"sub", "aud", "exp", "iat", "jti"}
        assert answer.claims["exp"] - answer.claims["iat"] == 300

    def test_a_token_of_a_denied_id(self, ca, stub):
        """A token outlives the denial of its ID, but is valid for nobody."""
        ca.add(CART, MINE)
        ca.add(PAY, MINE)
        asked = workload_pb2.JWTSVIDRequest(audience=["pay"], spiffe_id=CART)
        token = stub.FetchJWTSVID(asked, metadata=HEADER).svids[0].svid
        denial = Revocation(kind=DeniedKind.SPIFFE_ID, value=CART, revoked_at=datetime.now(UTC))
        with ca.ca.store.write() as connection:
            insert_revocation(connection, denial)
        ca.ca.registry.refresh()
        request = workload_pb2.ValidateJWTSVIDRequest(audience="pay", svid=token)
        code = _code(lambda: stub.ValidateJWTSVID(request, metadata=HEADER))
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    def test_wit_is_unimplemented(self, ca):
        """What this house does not issue is UNIMPLEMENTED, which clients take for an answer."""
        with grpc.insecure_channel(ca.endpoint) as channel:
            call = channel.unary_unary("/SpiffeWorkloadAPI/FetchWITSVID")
            assert _code(lambda: call(b"", metadata=HEADER)) is grpc.StatusCode.UNIMPLEMENTED

    def test_ledger_away(self, ca, stub):
        """Nothing leaves that cannot be recorded: UNAVAILABLE, to be tried again."""
        ca.add(CART, MINE)
        ca.ca.recorder.close()
        for call in (
            lambda: stub.FetchX509SVID(workload_pb2.X509SVIDRequest(), metadata=HEADER),
            lambda: stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["x"]), metadata=HEADER),
        ):
            assert _code(call) is grpc.StatusCode.UNAVAILABLE


def _roots(response) -> list[x509.Certificate]:
    """The bundle in a response, certificate by certificate."""
    der, found = response.svids[0].bundle, []
    while der:
        certificate = x509.load_der_x509_certificate(der[: _der_length(der)])
        found.append(certificate)
        der = der[_der_length(der) :]
    return found


def _leaf(response) -> x509.Certificate:
    """The first leaf in a response."""
    der = response.svids[0].x509_svid
    return x509.load_der_x509_certificate(der[: _der_length(der)])


def _der_length(der: bytes) -> int:
    """How many bytes the first element takes (X.690 §8.1.3)."""
    count = der[1] & 0x7F
    return 2 + count + int.from_bytes(der[2 : 2 + count], "big")


def _kids(response) -> list[str]:
    """The key IDs of our own JWT bundle."""
    document = json.loads(response.bundles["spiffe://example.org"])
    assert all(key["use"] == "jwt-svid" for key in document["keys"])
    return [key["kid"] for key in document["keys"]]

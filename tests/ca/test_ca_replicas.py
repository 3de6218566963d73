"""Replicas that share their authorities: one signs as the other, and they rotate together."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from postgresql_server import postgresql_server

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.control import ask
from ca.errors import ControlError, KeyFileError, StateError
from ca.keys import generate_key
from ca.shared_state import Replicas, SharedKeyStore, SharedManifest
from ca.store import Store
from identity.spiffe_id import TrustDomain

PASSPHRASE = b"p" * 32
PLAN = AuthorityPlan(
    trust_domain=TrustDomain("example.org"),
    root_lifetime=timedelta(days=300),
    intermediate_lifetime=timedelta(days=90),
)


@pytest.fixture
def store_of(tmp_path):
    """Open the shared database once more, as another replica would."""
    opened = []

    def _open():
        opened.append(Store(f"sqlite:///{tmp_path}/shared.db"))
        return opened[-1]

    yield _open
    for store in opened:
        store.close()


@pytest.fixture
def keeper_on(store_of, clock, tmp_path):
    """Open a replica's keeper."""

    def _open(name):
        store = store_of()
        manifest = SharedManifest(store, tmp_path / f"{name}.pem")
        return AuthorityKeeper(manifest, SharedKeyStore(store, PASSPHRASE), PLAN, clock)

    return _open


def test_replicas_sign_as_one(keeper_on):
    """The second replica finds the authority of the first, and each step of it at its next look."""
    one, two = keeper_on("one"), keeper_on("two")
    assert one.current().intermediate == two.current().intermediate
    heard = []
    two.on_change(lambda: heard.append(two.current().number))
    for step, number in (("prepare", 1), ("activate", 2), ("retire", 2)):
        getattr(one, step)()
        two.refresh()
        assert heard[-1] == number
        assert (two.bundle_pem(), two.sequence) == (one.bundle_pem(), one.sequence)
        assert two.current().key.private_numbers() == one.current().key.private_numbers()
    two.refresh()
    assert len(heard) == 3
    two.prepare()
    with pytest.raises(Exception, match="prepared already"):
        one.prepare()


def test_of_two_changes_at_once_one_is_lost_and_says_so(keeper_on, store_of, tmp_path):
    """A manifest is replaced only as of what was read: the other's change is never overwritten."""
    keeper_on("one")
    manifests = [SharedManifest(store_of(), tmp_path / "b.pem") for _ in range(2)]
    [first, second] = [m.load_manifest() for m in manifests]
    manifests[0].store_manifest(first.model_copy(update={"sequence": 7}))
    with pytest.raises(StateError, match="another replica has changed"):
        manifests[1].store_manifest(second.model_copy(update={"sequence": 8}))
    assert manifests[1].load_manifest().sequence == 7


def test_keys_are_encrypted_in_the_database(store_of, tmp_path):
    """What lies in the database opens with the passphrase only, and a name is taken once."""
    store, key = store_of(), generate_key()
    keys = SharedKeyStore(store, PASSPHRASE)
    keys.store_key("a", key)
    assert keys.load_key("a").private_numbers() == key.private_numbers()
    with pytest.raises(KeyFileError, match="cannot be decrypted"):
        SharedKeyStore(store_of(), b"q" * 32).load_key("a")
    with pytest.raises(KeyFileError):
        keys.store_key("a", generate_key())
    keys.remove_key("a")
    assert keys.load_key("a") is None
    content = b"".join(path.read_bytes() for path in tmp_path.glob("shared.db*"))
    assert b"BEGIN PRIVATE KEY" not in content


def test_a_silent_replica_is_dead(store_of, clock):
    """Who has not reported for half a minute holds nobody up."""
    one, two = (Replicas(store_of(), name, clock) for name in ("one", "two"))
    one.report(1)
    two.report(1)
    assert one.lagging(2) == ("two",)
    two.report(2)
    assert one.lagging(2) == ()
    two.report(1)
    clock.now += timedelta(seconds=30)
    assert one.lagging(2) == ()


async def _chain(folder):
    """Return the certificates that a proxy of this replica gets."""
    async with grpc.aio.insecure_channel(f"unix:{folder}/cart.sock") as channel:
        stub = SecretDiscoveryServiceStub(channel)
        response = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
    secret = Secret()
    response.resources[0].Unpack(secret)
    return secret.tls_certificate.certificate_chain.inline_bytes


@pytest.mark.postgresql
def test_two_processes_rotate_together(serving, tmp_path):
    """A proxy at one replica that lacks the new root holds the other replica's activation up."""

    async def run(url):
        (tmp_path / "p").write_bytes(PASSPHRASE)
        (tmp_path / "p").chmod(0o600)
        folders = [tmp_path / "a", tmp_path / "b"]
        settings = {"sharedAuthorities": True, "keyPassphraseFile": str(tmp_path / "p")}
        cart = {"spiffeId": "spiffe://cluster.local/cart", "socket": "cart.sock"}
        for folder in folders:
            folder.mkdir()

        def served(folder):
            records = {"ledgerUrl": url, "nodeName": folder.name}
            return serving(folder=folder, records=records, workloads=[cart], **settings)

        async def asked(folder, **request):
            return await asyncio.to_thread(ask, folder / "state", request)

        async with (
            served(folders[0]) as a,
            served(folders[1]) as b,
            grpc.aio.insecure_channel(f"unix:{a.folder}/cart.sock") as channel_a,
            grpc.aio.insecure_channel(f"unix:{b.folder}/cart.sock") as channel_b,
        ):
            streams = [
                SecretDiscoveryServiceStub(each).StreamSecrets() for each in (channel_a, channel_b)
            ]
            for stream in streams:
                await stream.write(DiscoveryRequest(resource_names=["ROOTCA"]))
                nonce = (await stream.read()).nonce
                await stream.write(
                    DiscoveryRequest(resource_names=["ROOTCA"], response_nonce=nonce)
                )
            await asked(a.folder, do="rotate", step="prepare")
            news = [await stream.read() for stream in streams]
            answers = [
                DiscoveryRequest(resource_names=["ROOTCA"], response_nonce=new.nonce)
                for new in news
            ]
            await streams[0].write(answers[0])
            with pytest.raises(ControlError, match="not acknowledged by all at replica `b`"):
                while True:
                    await asked(a.folder, do="rotate", step="activate")
            before = await _chain(b.folder)
            await streams[1].write(answers[1])
            async with asyncio.timeout(20):
                while True:
                    try:
                        await asked(a.folder, do="rotate", step="activate")
                        break
                    except ControlError:
                        await asyncio.sleep(0.1)
                while await _chain(b.folder) == before:
                    await asyncio.sleep(0.1)
            status = await asked(b.folder, do="status")
            assert [s["phase"] for s in status["authorities"]] == ["retired", "active"]
            for stream in streams:
                stream.cancel()

    with postgresql_server() as server:
        asyncio.run(run(server.url))

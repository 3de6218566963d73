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


@pytest.mark.parametrize("minutes", [-600, -1, 1, 600])
def test_a_silent_replica_may_still_serve(store_of, clock, minutes):
    """Who lost the database, or whose clock is wrong, may have streams that lack the new root."""
    one, two = (Replicas(store_of(), name, clock) for name in ("one", "two"))
    two.report(1)
    clock.now += timedelta(minutes=minutes)
    assert one.lagging(2) == ("two",)
    assert one.lagging(1) == ()


def test_a_replica_that_is_gone_holds_nobody_up(store_of, clock):
    """Who has not reported for a day is not coming back."""
    one, two = (Replicas(store_of(), name, clock) for name in ("one", "two"))
    one.report(1)
    two.report(1)
    assert one.lagging(2) == ("two",)
    two.report(2)
    assert one.lagging(2) == ()
    two.report(1)
    clock.now += timedelta(days=1)
    assert one.lagging(2) == ()


async def _chain(folder):
    """Return the certificates that a proxy of this replica gets."""
    async with grpc.aio.insecure_channel(f"unix:{folder}/cart.sock") as channel:
        stub = SecretDiscoveryServiceStub(channel)
        response = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
    secret = Secret()
    response.resources[0].Unpack(secret)
    return secret.tls_certificate.certificate_chain.inline_bytes


def _replicas(serving, tmp_path, url):
    """Return two replicas that serve the same proxy's identity, not begun yet."""
    passphrase = tmp_path / "p"
    passphrase.write_bytes(PASSPHRASE)
    passphrase.chmod(0o600)
    cart = {"spiffeId": "spiffe://cluster.local/cart", "socket": "cart.sock"}
    found = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        found.append(
            serving(
                folder=folder,
                records={"ledgerUrl": url, "nodeName": name},
                workloads=[cart],
                sharedAuthorities=True,
                keyPassphraseFile=str(passphrase),
            )
        )
    return found


async def _asked(replica, **request):
    """Return what a replica answers a command."""
    return await asyncio.to_thread(ask, replica.folder / "state", request)


class _Proxy:
    """A proxy's stream of roots."""

    def __init__(self, channel):
        self._stream = SecretDiscoveryServiceStub(channel).StreamSecrets()

    async def begin(self):
        """Ask, and acknowledge what comes."""
        await self._stream.write(DiscoveryRequest(resource_names=["ROOTCA"]))
        await self.acknowledge(await self.news())

    async def news(self):
        """Return what names the next version."""
        return (await self._stream.read()).nonce

    async def acknowledge(self, nonce):
        """Say that a version was taken."""
        await self._stream.write(DiscoveryRequest(resource_names=["ROOTCA"], response_nonce=nonce))

    def end(self):
        """Hang up."""
        self._stream.cancel()


async def _activated(replica):
    """Ask for the activation until it is done."""
    while True:
        try:
            await _asked(replica, do="rotate", step="activate")
            return
        except ControlError:
            await asyncio.sleep(0.1)


async def _rotated(a, b, proxies):
    """Rotate at one replica; the proxy of the other one is slow to acknowledge."""
    for proxy in proxies:
        await proxy.begin()
    await _asked(a, do="rotate", step="prepare")
    news = [await proxy.news() for proxy in proxies]
    await proxies[0].acknowledge(news[0])
    with pytest.raises(ControlError, match="not acknowledged by all at replica `b`"):
        while True:
            await _asked(a, do="rotate", step="activate")
    before = await _chain(b.folder)
    await proxies[1].acknowledge(news[1])
    async with asyncio.timeout(20):
        await _activated(a)
        while await _chain(b.folder) == before:
            await asyncio.sleep(0.1)
    status = await _asked(b, do="status")
    assert [slot["phase"] for slot in status["authorities"]] == ["retired", "active"]


@pytest.mark.postgresql
def test_two_processes_rotate_together(serving, tmp_path):
    """A proxy at one replica that lacks the new root holds the other replica's activation up."""

    async def run(url):
        one, two = _replicas(serving, tmp_path, url)
        async with (
            one as a,
            two as b,
            grpc.aio.insecure_channel(f"unix:{a.folder}/cart.sock") as channel_a,
            grpc.aio.insecure_channel(f"unix:{b.folder}/cart.sock") as channel_b,
        ):
            proxies = [_Proxy(channel_a), _Proxy(channel_b)]
            await _rotated(a, b, proxies)
            for proxy in proxies:
                proxy.end()

    with postgresql_server() as server:
        asyncio.run(run(server.url))

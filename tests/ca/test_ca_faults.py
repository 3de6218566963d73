"""Faults as an operator meets them: what `status` says, and that nothing expired ever leaves.

A CA that serves loses its disk or its database for longer than a certificate lives, and gets it
back. Whatever reached the proxy meanwhile was in its validity, and is in the ledger and on the
audit chain. The other faults of the list: the clock and the intermediate in `test_ca_status`, a
reader that stopped in `test_ca_streams`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from delivering import served
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub
from postgresql_server import postgresql_server
from two_envoys import envoy, server_bootstrap, until

from audit.verify import verify_folder
from authz.cli import main
from ca.control import ask
from ca.ledger import LedgerFilter, find_rows, format_serial
from ca.store import Store

CART = "spiffe://example.org/ns/shop/sa/cart"
PAY = "spiffe://cluster.local/ns/shop/sa/pay"
LIFETIME = 3
WAIT = 20


class Proxy:
    """What a proxy of cart's has been sent, each certificate with the moment it came."""

    def __init__(self, socket: Path) -> None:
        """Ask at `socket`."""
        self.received: list[tuple[x509.Certificate, datetime]] = []
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._stub = SecretDiscoveryServiceStub(self._channel)
        self._stopped = threading.Event()
        self._call = None
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Proxy:
        """Listen until the block ends."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()
        self._thread.join()
        self._channel.close()

    def fetch(self) -> x509.Certificate | grpc.StatusCode:
        """Return what a proxy that starts at this moment gets."""
        try:
            response = self._stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
        except grpc.RpcError as exc:
            return exc.code()
        return self._note(response)

    def _listen(self) -> None:
        """Take what comes, and acknowledge it; the thread's top."""
        queue: list[DiscoveryRequest] = [DiscoveryRequest(resource_names=["default"])]
        wake = threading.Event()

        def requests():
            while not self._stopped.is_set():
                while queue:
                    yield queue.pop(0)
                wake.wait(0.1)
                wake.clear()

        self._call = self._stub.StreamSecrets(requests())
        with suppress(grpc.RpcError):
            for response in self._call:
                self._note(response)
                request = DiscoveryRequest(resource_names=["default"])
                request.version_info, request.response_nonce = (
                    response.version_info,
                    response.nonce,
                )
                queue.append(request)
                wake.set()

    def _note(self, response) -> x509.Certificate:
        """Keep the certificate of a response."""
        secret = Secret()
        response.resources[0].Unpack(secret)
        chain = secret.tls_certificate.certificate_chain.inline_bytes
        leaf = x509.load_pem_x509_certificate(chain)
        self.received.append((leaf, datetime.now(UTC)))
        return leaf


class Disk:
    """A small file system of its own, where it may be mounted, that fails on demand.

    `heals` says whether a CA that runs gets over it, or has to be started anew.
    """

    heals = True

    def __init__(self, folder: Path) -> None:
        """Mount at `folder`/disk."""
        self.place = folder / "disk"
        self.place.mkdir()
        self.settings = {"stateFolder": "disk/state"}
        self.ledger_url = f"sqlite:///{self.place}/state/ledger.db"
        self.trouble = "records"

    def _mount(self, *words: str) -> None:
        command = ["mount", *words, str(self.place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not allowed here")

    def close(self) -> None:
        """Unmount."""
        subprocess.run(["umount", "-l", str(self.place)], check=True)


class FullDisk(Disk):
    """A tmpfs that another program fills to the last byte."""

    def __init__(self, folder: Path) -> None:
        """Mount one of 4 MiB."""
        super().__init__(folder)
        self._mount("-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs")

    def strike(self) -> None:
        """Take the last byte."""
        with (self.place / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def mend(self) -> None:
        """Give the room back."""
        (self.place / "filler").unlink()


class ReadOnlyDisk(Disk):
    """An ext4 that the kernel turns read-only after an error, until it is mounted anew."""

    heals = False

    def __init__(self, folder: Path) -> None:
        """Make one in a file and mount it."""
        super().__init__(folder)
        self._image = folder / "image"
        with self._image.open("wb") as file:
            file.truncate(16 << 20)
        done = subprocess.run(["mke2fs", "-q", self._image], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mke2fs is not installed")
        self._mount_image()
        (self.place / "state").mkdir(mode=0o700)

    def strike(self) -> None:
        """Let the kernel find an error."""
        command = ["findmnt", "-n", "-o", "SOURCE", str(self.place)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        try:
            Path("/sys/fs/ext4", Path(found.strip()).name, "trigger_fs_error").write_text("1")
        except OSError:
            pytest.skip("an error of the file system cannot be caused here")

    def mend(self) -> None:
        """Mount it anew, as after a repair."""
        self.close()
        subprocess.run(["e2fsck", "-p", self._image], capture_output=True, check=False)
        self._mount_image()

    def _mount_image(self) -> None:
        self._mount("-o", "loop,errors=remount-ro", str(self._image))


class LostDatabase:
    """A PostgreSQL that crashes and is started again."""

    heals = True
    trouble = "records"

    def __init__(self, _: Path) -> None:
        """Start one."""
        self._server = postgresql_server()
        self._running = self._server.__enter__()
        self.ledger_url = self._running.url
        self.settings = {"records": {"ledgerUrl": self._running.url}}

    def strike(self) -> None:
        """Crash it."""
        self._running.stop()

    def mend(self) -> None:
        """Start it again."""
        self._running.start()

    def close(self) -> None:
        """Take it away."""
        self._server.__exit__(None, None, None)


@pytest.fixture
def fault(request, short_path):
    """One fault, ready to strike at a CA in `short_path`."""
    made = request.param(short_path)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def _serving(folder: Path, fault):
    """A CA whose certificates live for seconds, with the proxy that gets them."""
    workload = {"spiffeId": CART, "socket": "cart.sock"}
    settings = {"workloads": [workload], "svidLifetimeSeconds": LIFETIME} | fault.settings
    with served(folder, workloadApi=None, **settings), Proxy(folder / "cart.sock") as proxy:
        yield proxy


def _status(folder: Path, fault) -> dict:
    """Return what the CA says of itself."""
    return ask(folder / fault.settings.get("stateFolder", "state"), {"do": "status"})


def _exit_code(folder: Path, *words: str) -> int:
    """Return how a command of `meshwarden ca` ends."""
    return CliRunner().invoke(main, ["ca", *words, "-c", str(folder / "ca.yaml")]).exit_code


def _wait_for(probe, what: str):
    """Return the first truthy answer of `probe`."""
    end = datetime.now(UTC).timestamp() + WAIT
    pause = threading.Event()
    while datetime.now(UTC).timestamp() < end:
        if answer := probe():
            return answer
        pause.wait(0.05)
    raise AssertionError(f"{what}: {answer}")


def _codes(folder: Path, fault) -> dict[str, bool]:
    """Return the troubles that `status` names, and whether each is failing."""
    return {each["code"]: each["failing"] for each in _status(folder, fault)["troubles"]}


def _check_records(folder: Path, fault, proxy: Proxy) -> None:
    """Hold what the proxy has against ledger and chain."""
    store = Store(fault.ledger_url)
    with store.read() as connection:
        rows = {row.serial for row in find_rows(connection, LedgerFilter())}
    store.close()
    audit = folder / fault.settings.get("stateFolder", "state") / "audit"
    lines = [
        json.loads(line) for path in audit.glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    chained = {line["details"]["serial"] for line in lines if line.get("event") == "svid_issued"}
    held = {format_serial(leaf.serial_number) for leaf, _ in proxy.received}
    assert held <= chained <= rows
    assert verify_folder(audit).intact


@pytest.mark.failure("ca-disk-full", "ca-disk-read-only", "ca-database-lost")
@pytest.mark.parametrize(
    "fault",
    [FullDisk, ReadOnlyDisk, pytest.param(LostDatabase, marks=pytest.mark.postgresql)],
    indirect=True,
)
def test_an_outage_longer_than_a_certificate(fault, short_path, capsys):
    """`status` names it, nothing expired leaves, no slot changes, and service comes back."""
    told: list[str] = []
    with _serving(short_path, fault) as proxy:
        first = _wait_for(lambda: proxy.received, "a certificate")[0][0]
        assert _exit_code(short_path, "status") == 0
        fault.strike()
        _wait_for(lambda: _codes(short_path, fault).get(fault.trouble), fault.trouble)
        status = _status(short_path, fault)
        assert (_exit_code(short_path, "status"), status["state"]) == (1, "failing")
        told += [t["message"] for t in status["troubles"] if t["code"] == fault.trouble]
        if isinstance(fault, Disk):
            assert _exit_code(short_path, "rotate", "prepare") != 0
            phases = [each["phase"] for each in _status(short_path, fault)["authorities"]]
            assert phases == ["active"]
        _wait_for(lambda: "svid_missing" in _codes(short_path, fault), "svid_missing")
        assert proxy.fetch() is grpc.StatusCode.UNAVAILABLE
        if fault.heals:
            fault.mend()
            _wait_for(lambda: not _codes(short_path, fault), "a healthy status")
            assert proxy.fetch() != first
    if not fault.heals:
        fault.mend()
        with _serving(short_path, fault) as again:
            assert _wait_for(lambda: again.received, "a certificate")[0][0] != first
            assert _exit_code(short_path, "status") == 0
            proxy.received += again.received
    assert all(leaf.not_valid_after_utc >= at for leaf, at in proxy.received)
    _check_records(short_path, fault, proxy)
    with capsys.disabled():
        print(f"\n{type(fault).__name__}: failing, {told[0]}; {len(proxy.received)} received")


@pytest.mark.failure("ca-refusing-envoy")
@pytest.mark.envoy
def test_an_envoy_that_refuses_is_named_and_not_hammered(serving, tmp_path, monkeypatch, capsys):
    """A real Envoy that takes roots for its certificate refuses them once for each content."""
    monkeypatch.setattr("ca.server._WATCH_SECONDS", 0.05)

    async def run():
        bootstrap = server_bootstrap(tmp_path, "GRPC", ("ROOTCA", "spiffe://cluster.local"))
        async with serving() as ca, envoy(tmp_path, "pay", bootstrap) as pay:
            state = ca.folder / "state"

            async def rejected():
                page = (await pay.admin.get("/stats?filter=ROOTCA.update_rejected")).text
                return int(page.split(": ")[1])

            async def refused():
                status = await asyncio.to_thread(ask, state, {"do": "status"})
                found = [t for t in status["troubles"] if t["code"] == "secret_refused"]
                return (status, found[0]) if found else None

            status, trouble = await until(refused, "secret_refused")
            assert (status["state"], trouble["subject"]) == ("degraded", PAY)
            assert "`pay`" in trouble["message"]
            assert await rejected() == 1
            await asyncio.to_thread(ask, state, {"do": "rotate", "step": "prepare"})

            async def refused_again():
                return await rejected() == 2

            await until(refused_again, "a second refusal")

            async def it_alone_is_waited_for():
                waits = (await refused())[0]["rotation"]["activationWaitsFor"]
                return f"not acknowledged by `{PAY}`" in waits

            # Its other stream takes the new certificate, which may be a moment later.
            await until(it_alone_is_waited_for, "waiting for the one that refuses")
            assert await rejected() == 2
            return trouble["message"]

    message = asyncio.run(run())
    with capsys.disabled():
        print(f"\nNACK of a real Envoy: degraded, {message}")


@pytest.mark.failure("ca-slow-reader")
def test_a_reader_that_does_not_answer_is_named(serving, monkeypatch, capsys):
    """Who leaves a response unanswered is in `status` of the CA, and holds nobody else up."""
    monkeypatch.setattr("ca.status._PATIENCE", timedelta(milliseconds=100))

    async def run():
        async with (
            serving() as ca,
            grpc.aio.insecure_channel(f"unix:{ca.folder}/pay.sock") as channel,
        ):
            state = ca.folder / "state"
            stub = SecretDiscoveryServiceStub(channel)
            stuck = stub.StreamSecrets()
            request = DiscoveryRequest(resource_names=["default"])
            request.node.id = "sidecar-1"
            await stuck.write(request)
            async with asyncio.timeout(WAIT):
                while True:
                    status = await asyncio.to_thread(ask, state, {"do": "status"})
                    if status["troubles"]:
                        break
                    await asyncio.sleep(0.02)
            [trouble] = status["troubles"]
            assert (status["state"], trouble["code"]) == ("degraded", "slow_reader")
            assert "sidecar-1" in trouble["message"]
            other = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
            assert other.resources
            stuck.cancel()
            return trouble["message"]

    message = asyncio.run(run())
    with capsys.disabled():
        print(f"\nslow reader: degraded, {message}")

"""`meshwarden ca agent`: files that change together, from a Workload API that is not believed."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import queue
import ssl
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc.aio
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from delivering import delivering_ca
from hypothesis import given
from hypothesis import strategies as st
from two_envoys import envoy, handshake, server_bootstrap

from authz.commands.ca_agent import agent_command
from ca.agent import (
    BUNDLE_FILE,
    BUNDLES_FILE,
    KEY_FILE,
    SVID_FILE,
    AgentPlan,
    read_state,
    run_agent,
    split_der,
)
from ca.agent_files import PublishedFile, publish_files
from ca.clock import utc_now
from ca.envoy_files import ENVOY_ROOTS_FILE, ENVOY_SVID_FILE
from ca.errors import FolderHeldError, StateError, SvidInvalidError, WorkloadApiError
from ca.folder_hold import FolderHold
from ca.wire_messages import WORKLOAD_API
from identity.bundle_document import parse_bundle
from identity.spiffe_id import SpiffeId, TrustDomain

CART = "spiffe://example.org/ns/shop/sa/cart"
PAY = "spiffe://example.org/ns/shop/sa/pay"
MINE = f"unix:uid:{os.getuid()}"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WAIT = 10


@contextmanager
def _agent(socket: Path, folder: Path, **changes):
    """An agent in a thread; yields a queue of what it wrote."""
    written, loop, stop = queue.Queue(), asyncio.new_event_loop(), asyncio.Event()
    plan = AgentPlan(
        socket=socket,
        folder=folder,
        clock=utc_now,
        random=lambda: 0.0,
        written=written.put,
        **changes,
    )
    thread = threading.Thread(target=lambda: loop.run_until_complete(run_agent(plan, stop)))
    thread.start()
    try:
        yield written
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


class TestFiles:
    """The folder alone."""

    def test_layout(self, tmp_path):
        """Names lead through `..data` to a set of its own; the set before stays for one change."""
        folder = tmp_path / "certs"
        key = PublishedFile(b"", 0o600)
        sets = [
            publish_files(folder, {"a": PublishedFile(b"%d" % number), "k": key}, now=NOW)
            for number in range(3)
        ]
        assert (folder / "a").read_bytes() == b"2"
        assert (folder / "a").readlink() == Path("..data/a")
        assert (folder / "..data").readlink() == Path(sets[2].name)
        assert stat.S_IMODE((folder / "k").stat().st_mode) == 0o600
        names = {path.name for path in folder.iterdir()}
        assert names == {"a", "k", "..data", sets[1].name, sets[2].name}

    def test_readers_see_whole_sets(self, tmp_path):
        """Whoever opens the set's folder once reads files that belong together, at any moment."""
        files = {name: PublishedFile(b"0") for name in "abc"}
        publish_files(tmp_path, files, now=NOW)
        done, torn = threading.Event(), []

        def read() -> None:
            while not done.is_set():
                here = (tmp_path / "..data").resolve()
                try:
                    found = {(here / name).read_bytes() for name in "abc"}
                except FileNotFoundError:
                    # Two changes since the folder was looked up: the reader looks again.
                    continue
                if len(found) > 1:
                    torn.append(found)

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(30):
            files = {name: PublishedFile(b"%d" % number) for name in "abc"}
            publish_files(tmp_path, files, now=NOW)
        done.set()
        reader.join()
        assert torn == []

    def test_leftovers_of_a_killed_writer(self, tmp_path):
        """A half-written set and a link that was not yet renamed are swept."""
        (tmp_path / "..2026_01_01_00_00_00.dead").mkdir()
        (tmp_path / "..2026_01_01_00_00_00.dead" / "a").write_bytes(b"half")
        (tmp_path / "..data_tmp").symlink_to("nowhere")
        made = publish_files(tmp_path, {"a": PublishedFile(b"1")}, now=NOW)
        assert {path.name for path in tmp_path.iterdir()} == {"a", "..data", made.name}

    @pytest.mark.parametrize("in_the_way", ["file", "link", "folder"])
    def test_what_stands_in_the_way(self, tmp_path, in_the_way):
        """A file of somebody else's under a name of ours is never overwritten."""
        path = tmp_path / "a"
        if in_the_way == "folder":
            path.mkdir()
        elif in_the_way == "link":
            path.symlink_to("/etc/passwd")
        else:
            path.write_bytes(b"mine")
        with pytest.raises(StateError):
            publish_files(tmp_path, {"a": PublishedFile(b"1")}, now=NOW)
        assert in_the_way != "file" or path.read_bytes() == b"mine"

    def test_a_full_disk_keeps_the_old_set(self, tmp_path, monkeypatch):
        """Where a file cannot be written, the set before is in force still."""
        publish_files(tmp_path, {"a": PublishedFile(b"old")}, now=NOW)

        def refuse(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ca.agent_files.os.fsync", refuse)
        with pytest.raises(StateError, match="No space left"):
            publish_files(tmp_path, {"a": PublishedFile(b"new")}, now=NOW)
        assert (tmp_path / "a").read_bytes() == b"old"
        # Nothing is left of what was tried, or each attempt would take more of the disk.
        assert len(list(tmp_path.iterdir())) == 3


HOLD = """
import sys, time
from pathlib import Path
from ca.folder_hold import FolderHold
hold = FolderHold(Path(sys.argv[1]))
hold.take()
print("held", flush=True)
sys.stdin.read()
"""


class TestHold:
    """The lock of a folder."""

    def test_it_falls_with_its_process(self, tmp_path):
        """Of a holder that is killed nothing is left: no lock, and no file."""
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with other, closing(FolderHold(tmp_path)) as hold:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(FolderHeldError):
                hold.take()
            other.kill()
            other.wait()
            hold.take()
        assert list(tmp_path.iterdir()) == []

    def test_another_folder_of_the_name(self, tmp_path):
        """Who replaces a folder that is held has the new one held before the next set."""
        folder = tmp_path / "certs"
        with closing(FolderHold(folder)) as one, closing(FolderHold(folder)) as two:
            one.take()
            folder.rename(tmp_path / "away")
            two.take()
            with pytest.raises(FolderHeldError):
                one.take()
            two.close()
            one.take()

    def test_a_disk_without_locks(self, tmp_path, monkeypatch):
        """Where the file system knows no locks, files are written all the same."""

        def refuse(*_) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("ca.folder_hold.fcntl.flock", refuse)
        with closing(FolderHold(tmp_path)) as hold:
            hold.take()


class TestAgent:
    """The agent on a CA that serves."""

    def test_files_are_what_tls_takes(self, tmp_path):
        """Chain and key load together, openssl verifies them, the bundle documents parse."""
        folder = tmp_path / "certs"
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            with _agent(ca.socket, folder) as written:
                svid = written.get(timeout=WAIT)
                roots = ca.keeper.roots
        assert str(svid.spiffe_id) == CART
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / SVID_FILE, folder / KEY_FILE)
        context.load_verify_locations(folder / BUNDLE_FILE)
        assert stat.S_IMODE((folder / KEY_FILE).stat().st_mode) == 0o600
        verified = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", BUNDLE_FILE]
            + ["-untrusted", SVID_FILE, SVID_FILE],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        assert verified.returncode == 0, verified.stderr
        domains = json.loads((folder / BUNDLES_FILE).read_text())["trust_domains"]
        own = TrustDomain("example.org")
        bundle = parse_bundle(own, json.dumps(domains["example.org"]).encode())
        assert bundle.x509_authorities == roots

    def test_renewal_rotation_and_return(self, tmp_path):
        """Files follow renewals and roots, and a CA that comes back after it was away."""
        folder = tmp_path / "certs"
        with _agent(tmp_path / "api.sock", folder) as written:
            for _ in range(2):
                with delivering_ca(tmp_path, lifetime=timedelta(seconds=4)) as ca:
                    ca.ca.registry.refresh()
                    if not ca.ca.registry.state.entries.entries:
                        ca.add(CART, MINE)
                    first = written.get(timeout=WAIT)
                    assert written.get(timeout=WAIT).leaf != first.leaf
                    if ca.keeper.sequence == 1:
                        ca.keeper.prepare()
                        while len(_certificates(folder / BUNDLE_FILE)) < 2:
                            written.get(timeout=WAIT)

    def test_a_disk_that_is_full_for_a_while(self, tmp_path, monkeypatch):
        """Who has written files once goes on trying, with pauses; the files before stay."""
        folder, room, tried = tmp_path / "certs", threading.Event(), threading.Semaphore(0)

        def publish(*arguments, **named) -> Path:
            if not room.is_set() and (folder / SVID_FILE).exists():
                tried.release()
                raise StateError("No space left on device")
            return publish_files(*arguments, **named)

        monkeypatch.setattr("ca.agent.publish_files", publish)
        with delivering_ca(tmp_path, lifetime=timedelta(seconds=4)) as ca:
            ca.add(CART, MINE)
            with _agent(ca.socket, folder) as written:
                first = written.get(timeout=WAIT)
                assert all(tried.acquire(timeout=WAIT) for _ in range(3))
                assert _certificates(folder / SVID_FILE)[0] == first.leaf
                room.set()
                assert written.get(timeout=WAIT).leaf != first.leaf

    def test_a_folder_that_never_could_be_written(self, tmp_path):
        """Whoever starts an agent on a file, or on what is not theirs, is told at once."""
        (tmp_path / "certs").write_bytes(b"a file")
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            plan = AgentPlan(
                socket=ca.socket, folder=tmp_path / "certs", clock=utc_now, random=lambda: 0.0
            )
            with pytest.raises(StateError, match="cannot be written"):
                asyncio.run(run_agent(plan, asyncio.Event()))

    def test_two_agents_on_one_folder(self, tmp_path):
        """Who comes second says so and ends, the files stay the first one's; later it may."""
        folder = tmp_path / "certs"
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            other = AgentPlan(
                socket=ca.socket,
                folder=folder,
                clock=utc_now,
                random=lambda: 0.0,
                is_once=True,
            )
            with _agent(ca.socket, folder) as written:
                written.get(timeout=WAIT)
                before = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
                with pytest.raises(FolderHeldError, match="another process keeps"):
                    asyncio.run(run_agent(other, asyncio.Event()))
                assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == before
            asyncio.run(run_agent(other, asyncio.Event()))
            assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} != before

    def test_which_id(self, tmp_path):
        """Of several IDs the wanted one is written."""
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            ca.add(PAY, MINE)
            wanted = SpiffeId.parse(PAY)
            with _agent(ca.socket, tmp_path / "certs", spiffe_id=wanted) as written:
                assert written.get(timeout=WAIT).spiffe_id == wanted

    def test_command_line(self, tmp_path):
        """`--once` writes the files and ends."""
        folder = tmp_path / "certs"
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            arguments = ["--socket", ca.endpoint, "--folder", str(folder), "--once"]
            result = CliRunner().invoke(agent_command, arguments)
        assert result.exit_code == 0, result.output
        assert len(_certificates(folder / SVID_FILE)) == 2

    @pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "unix:relative", "http://x"])
    def test_other_endpoints(self, tmp_path, endpoint):
        """What is no Unix socket is a usage error."""
        arguments = ["--socket", endpoint, "--folder", str(tmp_path)]
        assert CliRunner().invoke(agent_command, arguments).exit_code == 2

    def test_nothing_expired_is_written(self, tmp_path):
        """A state that no peer would take leaves the files as they are."""
        with delivering_ca(tmp_path) as ca:
            ca.add(CART, MINE)
            plan = AgentPlan(
                socket=ca.socket,
                folder=tmp_path / "certs",
                clock=lambda: utc_now() + timedelta(days=2),
                random=lambda: 0.0,
                is_once=True,
            )
            stop = asyncio.Event()

            async def run() -> None:
                asyncio.get_running_loop().call_later(0.5, stop.set)
                await run_agent(plan, stop)

            asyncio.run(run())
        assert not (tmp_path / "certs").exists()

    def test_another_service(self, tmp_path):
        """A socket that does not serve the Workload API ends the agent, with the reason."""

        async def run() -> None:
            server = grpc.aio.server()
            server.add_insecure_port(f"unix:{tmp_path}/other.sock")
            await server.start()
            plan = AgentPlan(
                socket=tmp_path / "other.sock",
                folder=tmp_path / "certs",
                clock=utc_now,
                random=lambda: 0.0,
            )
            try:
                with pytest.raises(WorkloadApiError, match="UNIMPLEMENTED"):
                    await run_agent(plan, asyncio.Event())
            finally:
                await server.stop(None)

        asyncio.run(run())


def _certificates(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file."""
    return x509.load_pem_x509_certificates(path.read_bytes())


@pytest.mark.envoy
def test_envoy_watches_the_files(tmp_path):
    """Envoy takes certificate and roots from the agent's files, and each renewal as it comes."""
    folder = tmp_path / "certs"

    def source(name: str, file: str) -> dict[str, object]:
        watched = {"path": str(folder / file), "watched_directory": {"path": str(folder)}}
        return {
            "name": name,
            "sds_config": {"resource_api_version": "V3", "path_config_source": watched},
        }

    tls = {
        "tls_certificate_sds_secret_configs": [source("default", ENVOY_SVID_FILE)],
        "validation_context_sds_secret_config": source("ALL", ENVOY_ROOTS_FILE),
    }
    resources = server_bootstrap(tmp_path, "GRPC")
    resources["clusters"] = []
    socket = resources["listeners"][0]["filter_chains"][0]["transport_socket"]
    socket["typed_config"]["common_tls_context"] = tls

    async def look() -> None:
        async with envoy(tmp_path, "pay", resources) as pay:
            port, serials = (await pay.ports(1))["mtls"], set()
            async with asyncio.timeout(20):
                while len(serials) < 3:
                    context = ssl.create_default_context(cafile=folder / BUNDLE_FILE)
                    context.check_hostname = False
                    here = (folder / "..data").resolve()
                    context.load_cert_chain(here / SVID_FILE, here / KEY_FILE)
                    certificate, answer = await handshake(port, context)
                    # No handshake may fail, whatever is being renewed.
                    assert f"x-peer: {CART}" in answer
                    serials.add(certificate.serial_number)

    with delivering_ca(tmp_path, lifetime=timedelta(seconds=4)) as ca:
        ca.add(CART, MINE)
        with _agent(ca.socket, folder) as written:
            written.get(timeout=WAIT)
            asyncio.run(look())


class TestHostileWorkloadApi:
    """What the agent is sent may be anything."""

    @given(st.binary(max_size=300))
    def test_certificates(self, raw):
        """Bytes that are no certificates are refused by name."""
        with suppress(SvidInvalidError):
            assert b"".join(_der(each) for each in split_der(raw)) == raw

    @given(raw=st.binary(max_size=300), key=st.binary(max_size=100), name=st.text(max_size=40))
    def test_states(self, raw, key, name):
        """A state of nonsense is refused by name, whatever part of it is nonsense."""
        response = WORKLOAD_API["X509SVIDResponse"]()
        response.svids.add(spiffe_id=CART, x509_svid=raw, x509_svid_key=key, bundle=raw)
        response.federated_bundles[name] = raw
        with pytest.raises(SvidInvalidError):
            read_state(response, None)
        response.svids[0].spiffe_id = name
        with pytest.raises(SvidInvalidError):
            read_state(response, None)

    def test_no_svid(self):
        """A state without the wanted ID is refused."""
        with pytest.raises(SvidInvalidError, match="no SVID"):
            read_state(WORKLOAD_API["X509SVIDResponse"](), SpiffeId.parse(CART))


def _der(certificate: x509.Certificate) -> bytes:
    """The bytes of a certificate."""
    return certificate.public_bytes(serialization.Encoding.DER)

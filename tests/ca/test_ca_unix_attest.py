"""The Unix attestor: what the kernel says of a peer, and what a peer cannot make it say."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ca.errors import AttestationError
from ca.refusal import Refusal
from ca.unix_attest import UnixAttestor
from ca.unix_peer import PeerSocket

PYTHON = Path(sys.executable).resolve()
CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
{then}
"""
STAY = "print('connected', flush=True); sys.stdin.read()"
# The child holds the connection; the parent, which connected, ends.
HAND_DOWN = """
import os
if os.fork() == 0:
    os.setsid()
    sys.stdin.read()
"""


@pytest.fixture
def listener(tmp_path):
    """A listening socket that notes its peers."""
    with PeerSocket() as listening:
        listening.bind(str(tmp_path / "a.sock"))
        listening.listen()
        yield listening


@contextmanager
def _connected(listener, *, program=PYTHON, then=STAY):
    """A process that has connected, and the peer that was noted."""
    path = listener.getsockname()
    process = subprocess.Popen(
        [program, "-c", CONNECT.format(then=then), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    connection, peer = listener.accept()
    with process, connection:
        yield process, peer
        process.stdin.close()


def test_selectors_of_a_process(listener):
    """User, groups, path and digest are those of the process that connected."""
    digest = hashlib.sha256(PYTHON.read_bytes()).hexdigest()
    with _connected(listener) as (process, peer):
        caller = UnixAttestor()(peer)
    assert peer.pid == process.pid
    assert caller.selectors >= {
        f"unix:uid:{os.getuid()}",
        f"unix:gid:{os.getgid()}",
        f"unix:user:{pwd.getpwuid(os.getuid()).pw_name}",
        f"unix:group:{grp.getgrgid(os.getgid()).gr_name}",
        f"unix:path:{PYTHON}",
        f"unix:sha256:{digest}",
    }
    assert caller.evidence["pid"] == str(process.pid)
    assert {f"unix:supplementary_gid:{gid}" for gid in os.getgroups()} <= caller.selectors


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_process_that_ended_is_nobody(listener, has_pidfd):
    """Once the process has ended, its connection proves nothing, with and without a pidfd."""
    with _connected(listener) as (process, peer):
        seen, attest = peer if has_pidfd else replace(peer, pidfd=-1), UnixAttestor()
        attest(seen)
        process.stdin.close()
        process.wait()
        with pytest.raises(AttestationError, match="has ended") as caught:
            attest(seen)
    assert caught.value.reason is Refusal.CALLER_UNKNOWN


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_an_inherited_connection_is_nobodys(listener, has_pidfd):
    """A child that holds the connection of a parent that ended is not the parent."""
    with _connected(listener, then=HAND_DOWN) as (process, peer):
        process.wait()
        with pytest.raises(AttestationError):
            UnixAttestor()(peer if has_pidfd else replace(peer, pidfd=-1))


def test_a_number_given_out_anew(listener):
    """A later process under the number of the one that connected is not that one."""
    with _connected(listener) as (_, peer), pytest.raises(AttestationError):
        UnixAttestor()(replace(peer, started=str(int(peer.started) - 1), pidfd=-1))


def test_a_process_we_cannot_see(listener):
    """A peer of another PID namespace, or gone before the accept, has no folder to read."""
    with _connected(listener) as (_, peer), pytest.raises(AttestationError):
        UnixAttestor()(replace(peer, pid=0, proc=-1, pidfd=-1, started=""))


def test_a_deleted_binary_has_no_path(listener, tmp_path):
    """A program that was replaced on disk is told by its digest alone."""
    program = shutil.copy(PYTHON, tmp_path / "cart")
    env_python = Path(program)
    with _connected(listener, program=env_python) as (_, peer):
        attest = UnixAttestor()
        assert f"unix:path:{program}" in attest(peer).selectors
        env_python.unlink()
        env_python.write_bytes(b"another program")
        caller = attest(peer)
    assert not [each for each in caller.selectors if each.startswith("unix:path:")]
    assert f"unix:sha256:{hashlib.sha256(PYTHON.read_bytes()).hexdigest()}" in caller.selectors


def test_large_binaries_have_no_digest(listener):
    """A binary over the limit is not read."""
    with _connected(listener) as (_, peer):
        caller = UnixAttestor(max_binary_bytes=10)(peer)
    assert "sha256" not in caller.evidence
    assert caller.evidence["path"] == str(PYTHON)


def test_descriptors_are_given_back(listener):
    """A peer that nobody needs any more holds no descriptor."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX)
        client.connect(listener.getsockname())
        connection, peer = listener.accept()
        assert peer.is_alive()
        client.close()
        connection.close()
        del peer
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_another_view_of_the_file_system(listener, tmp_path):
    """Who mounts a program of its own over a path, where only it sees it, has not that path."""
    unshare = shutil.which("unshare")
    target, mine = tmp_path / "payd", tmp_path / "mine"
    target.write_bytes(b"the real one")
    shutil.copy(PYTHON, mine)
    script = f'mount --bind "{mine}" "{target}" && exec "{target}" "$@"'
    command = [unshare, "-Um", "--map-root-user", "sh", "-c", script, "sh", "-c"]
    if unshare is None or subprocess.run([unshare, "-Um", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody unshare its mounts")
    process = subprocess.Popen(
        [*command, CONNECT.format(then=STAY), listener.getsockname()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        listener.settimeout(10)
        connection, peer = listener.accept()
        with connection:
            caller = UnixAttestor()(peer)
            process.stdin.close()
    assert f"unix:path:{target}" not in caller.selectors


def test_one_user_cannot_take_every_connection(tmp_path):
    """A user's connection over the limit ends at once; when one goes, the next is served."""
    path = str(tmp_path / "b.sock")
    with PeerSocket(max_per_user=2) as listening, ExitStack() as stack:
        listening.bind(path)
        listening.listen()

        def connect() -> tuple[socket.socket, socket.socket, bool]:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(path)
            connection, peer = listening.accept()
            return client, stack.enter_context(connection), peer.is_alive()

        first, served, _ = connect()
        connect()
        client, refused, is_known = connect()
        assert not is_known
        assert client.recv(1) == b""
        refused.close()
        first.close()
        served.close()
        assert connect()[2]

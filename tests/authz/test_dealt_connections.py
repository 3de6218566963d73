"""New connections dealt by the kernel to one process of those that share a port."""

from __future__ import annotations

import os
import resource
import select
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from authz.dealt_connections import deal_to_all, take_new_connections

# It greets who connects with its name, and does what it reads.
LISTENER = """
import socket, sys, threading
from authz.dealt_connections import deal_to_all, take_new_connections

name, family, host, port = sys.argv[1:]
listening = socket.socket(socket.AddressFamily(int(family)))
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listening.bind((host, int(port)))
listening.listen()

def greet():
    while True:
        taken = listening.accept()[0]
        try:
            taken.sendall(name.encode())
            taken.recv(1)
        except OSError:
            pass
        taken.close()

for _ in range(4):
    threading.Thread(target=greet, daemon=True).start()
print("listening", flush=True)
for line in sys.stdin:
    asked, _, others = line.partition(" ")
    if asked == "take":
        print(take_new_connections(int(port), int(others)), flush=True)
    else:
        print(deal_to_all(int(port)), flush=True)
"""
CONNECTIONS = 60


class Group:
    """Processes that listen on one port, in the order in which they came."""

    def __init__(self, stack: ExitStack, family: socket.AddressFamily, host: str) -> None:
        self._stack, self._family, self._host = stack, family, host
        held = stack.enter_context(socket.socket(family))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, 0))
        self.port = held.getsockname()[1]
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def come(self, name: str) -> None:
        """Have one more listen."""
        command = [sys.executable, "-P", "-c", LISTENER, name]
        command += [str(int(self._family)), self._host, str(self.port)]
        process = self._stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        self._stack.callback(process.kill)
        self._processes[name] = process
        assert process.stdout is not None
        assert "listening" == process.stdout.readline().strip()

    def go(self, name: str) -> None:
        """Have one end."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def ask(self, name: str, what: str) -> bool:
        """Have one do something, and return whether it is done."""
        process = self._processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
        return process.stdout.readline().strip() == "True"

    def greeted_by(self) -> Counter[str]:
        """Return whom new connections were dealt to."""
        loopback = "::1" if self._host in ("::", "::1") else "127.0.0.1"
        found: Counter[str] = Counter()
        for _ in range(CONNECTIONS):
            with socket.create_connection((loopback, self.port), 20) as connection:
                found[connection.recv(10).decode()] += 1
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What ends with a test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
        # As grpcio listens for IPv4.
        (socket.AF_INET6, "::ffff:127.0.0.1"),
    ],
)
def test_who_takes_new_connections_gets_all_of_them(
    family: socket.AddressFamily, host: str, stack: ExitStack
) -> None:
    """The one that came last, until one before it went, and then all that are left."""
    group = Group(stack, family, host)
    for name in "abc":
        group.come(name)

    assert group.ask("c", "take 2")
    assert {"c"} == set(group.greeted_by())
    group.go("a")
    group.greeted_by()
    assert group.ask("c", "deal")
    assert {"b", "c"} == set(group.greeted_by())


@pytest.mark.parametrize(
    ("name", "others"), [("a", 0), ("b", 1), ("c", 2), ("b", 2), ("c", 4), ("b", 0), ("c", 1)]
)
def test_a_place_is_found_whatever_was_thought(name: str, others: int, stack: ExitStack) -> None:
    """Whoever of three it is, and however many others it was told of: found, or told not to be."""
    group = Group(stack, socket.AF_INET, "127.0.0.1")
    for each in "abc":
        group.come(each)
    is_within_reach = "abc".index(name) <= others

    assert is_within_reach == group.ask(name, f"take {others}")
    greeted = set(group.greeted_by())

    assert {name} == greeted if is_within_reach else len(greeted) > 1


def test_what_one_that_ended_was_dealt_is_taken_back(stack: ExitStack) -> None:
    """What is told outlives who told it, until another one of the group takes it back."""
    group = Group(stack, socket.AF_INET, "127.0.0.1")
    for each in "abc":
        group.come(each)
    assert group.ask("b", "take 1")
    group.go("b")
    assert {"c"} == set(group.greeted_by())

    group.come("d")
    assert group.ask("d", "deal")

    assert {"a", "c", "d"} == set(group.greeted_by())


def test_places_move_when_one_goes(stack: ExitStack) -> None:
    """One that was last may be first now: it is found all the same."""
    group = Group(stack, socket.AF_INET, "127.0.0.1")
    for each in "abc":
        group.come(each)
    group.go("a")
    group.come("d")

    for each in "bcd":
        assert group.ask(each, "take 2")
        assert {each} == set(group.greeted_by())


def test_who_accepts_goes_on_as_before() -> None:
    """A socket that never waits does not wait afterwards: its owner has others to serve."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        taken: list[socket.socket] = []
        ends = threading.Event()

        def accept() -> None:
            while not ends.is_set():
                if select.select([listening], [], [], 0.01)[0]:
                    taken.append(listening.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            assert take_new_connections(port, 0)
            assert deal_to_all(port)
        finally:
            ends.set()
            thread.join()
            for each in taken:
                each.close()
        assert not os.get_blocking(listening.fileno())


def test_without_room_for_a_descriptor_nothing_is_dealt() -> None:
    """A process that can open nothing more says no, and goes on."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listening:
        port = listening.getsockname()[1]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            answers = take_new_connections(port, 0), deal_to_all(port)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert (False, False) == answers
        assert deal_to_all(port)


def test_nobody_takes_what_it_does_not_listen_for() -> None:
    """A process without a socket of that port, or with one that is not shared, says no."""
    with socket.create_server(("127.0.0.1", 0)) as alone:
        port = alone.getsockname()[1]

        assert not take_new_connections(port, 1)
        assert not deal_to_all(port)

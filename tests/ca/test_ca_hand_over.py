"""From the recorder's thread to the loop, and from the loop to the wire: in groups, all of it."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from concurrent.futures import Future
from weakref import ref

import pytest

from ca.gathered_writes import GatheringTransport
from ca.hand_over import hand_over
from ca.signing_endpoints import listen_on


def _resolved(count: int) -> list[Future[int]]:
    """Return futures that another thread resolves: every third with an error."""
    futures: list[Future[int]] = [Future() for _ in range(count)]

    def resolve() -> None:
        for number, future in enumerate(futures):
            if number % 3:
                future.set_result(number)
            else:
                future.set_exception(ValueError(str(number)))

    threading.Thread(target=resolve).start()
    return futures


def test_each_waiter_gets_its_own_outcome():
    """Of a thousand futures each gives its waiter its own result or error."""

    async def ask() -> list[object]:
        waiters = [hand_over(future) for future in _resolved(1000)]
        return list(await asyncio.gather(*waiters, return_exceptions=True))

    for number, outcome in enumerate(asyncio.run(ask())):
        assert outcome == number if number % 3 else str(outcome) == str(number)


def test_what_the_loop_itself_resolves_is_there_at_once():
    """A future that ends in the loop's own thread ends its waiter; one that left is passed over."""

    async def ask() -> list[object]:
        futures: list[Future[int]] = [Future() for _ in range(3)]
        waiters = [asyncio.ensure_future(hand_over(future)) for future in futures]
        await asyncio.sleep(0)
        waiters[1].cancel()
        futures[0].set_result(7)
        futures[1].set_result(8)
        futures[2].set_exception(ValueError("no"))
        return list(await asyncio.gather(*waiters, return_exceptions=True))

    first, second, third = asyncio.run(ask())
    assert first == 7
    assert isinstance(second, asyncio.CancelledError)
    assert str(third) == "no"


def test_a_waiter_that_went_away_holds_nobody_up():
    """A cancelled waiter is passed over, and the others get theirs."""

    async def ask() -> int:
        first, second = Future[int](), Future[int]()
        gone = asyncio.create_task(hand_over(first))
        kept = asyncio.create_task(hand_over(second))
        await asyncio.sleep(0)
        gone.cancel()
        for number, future in enumerate((first, second)):
            threading.Thread(target=future.set_result, args=(number,)).start()
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await kept

    assert asyncio.run(ask()) == 1


def test_a_loop_that_is_gone_is_no_error_for_who_resolves():
    """Resolving for a loop that was closed meanwhile raises nothing."""
    future: Future[int] = Future()

    async def leave() -> None:
        task = asyncio.create_task(hand_over(future))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    future.set_result(1)


def test_a_loop_that_is_gone_is_not_kept():
    """What hands over to a loop does not keep it in memory once it is closed."""

    async def ask() -> ref[asyncio.AbstractEventLoop]:
        assert await hand_over(_resolved(2)[1]) == 1
        return ref(asyncio.get_running_loop())

    loop = asyncio.run(ask())
    gc.collect()
    assert loop() is None


class _Wire(asyncio.Transport):
    """A transport that remembers what it was told to send."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.is_shut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Remember."""
        assert not self.is_shut
        self.sent.append(bytes(data))

    def close(self) -> None:
        """Close."""
        self.is_shut = True

    abort = close

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_shut


def test_what_is_written_in_one_turn_leaves_together():
    """Writes of one turn of the loop are sent at once, in their order; those of the next apart."""

    async def talk() -> list[bytes]:
        wire = _Wire()
        gathering = GatheringTransport(wire)
        for piece in (b"head", bytearray(b"body"), memoryview(b"tail")):
            gathering.write(piece)
        assert wire.sent == []
        await asyncio.sleep(0)
        gathering.write(b"more")
        await asyncio.sleep(0)
        gathering.write(b"last")
        gathering.close()
        gathering.write(b"too late")
        await asyncio.sleep(0)
        assert gathering.is_closing()
        return wire.sent

    assert asyncio.run(talk()) == [b"headbodytail", b"more", b"last"]


def test_an_abort_sends_nothing_more():
    """What waits when a connection is given up is not sent."""

    async def talk() -> list[bytes]:
        wire = _Wire()
        gathering = GatheringTransport(wire)
        gathering.write(b"never")
        gathering.abort()
        await asyncio.sleep(0)
        return wire.sent

    assert asyncio.run(talk()) == []


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
def test_a_listeners_connections_send_short_answers_at_once(listen):
    """asyncio turns Nagle's algorithm off on what a listener accepts."""

    async def accept() -> int:
        listener = listen_on(listen)
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(greet, sock=listener)
        host, port = listener.getsockname()[:2]
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        found = await accepted
        server.close()
        return found

    assert asyncio.run(accept()) != 0

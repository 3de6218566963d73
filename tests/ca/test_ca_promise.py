"""A promise does what a future of the library does that somebody works on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, InvalidStateError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ca.hand_over import hand_over
from ca.promise import Promise

_STEPS = st.lists(
    st.sampled_from(
        [
            *("result", "error", "callback", "failing callback", "cancel", "ask", "wait"),
            *("done", "running", "cancelled", "start"),
        ]
    ),
    max_size=12,
)


def _outcome(act, *arguments, **more):
    """Return what came of an act: its value, or the type of its error."""
    try:
        return act(*arguments, **more)
    except Exception as exc:
        return type(exc)


def _fail(told: list[str]) -> None:
    """Be told, and fail."""
    told.append("failing")
    raise ValueError("no")


def _held(future, steps):
    """Take steps with a future; return what came of each, and who was told."""
    future.set_running_or_notify_cancel()
    told: list[str] = []
    acts = {
        "result": lambda: future.set_result("here"),
        "error": lambda: future.set_exception(KeyError("no")),
        "callback": lambda: future.add_done_callback(lambda f: told.append(str(f is future))),
        "failing callback": lambda: future.add_done_callback(lambda _: _fail(told)),
        "cancel": future.cancel,
        "ask": lambda: type(future.exception(timeout=0)),
        "wait": lambda: future.result(timeout=0),
        "done": future.done,
        "running": future.running,
        "cancelled": future.cancelled,
        "start": lambda: None,
    }
    return [(_outcome(acts[step]), tuple(told)) for step in steps]


@given(steps=_STEPS)
def test_it_does_as_the_library_s_future(steps):
    """Whatever is asked of it, in whatever order, comes out as of a future that is running."""
    assert _held(Promise(), steps) == _held(Future(), steps)


def test_it_is_kept_once():
    """A second result is an error, and does not count."""
    promise = Promise()
    promise.set_result(1)
    with pytest.raises(InvalidStateError):
        promise.set_exception(ValueError("late"))
    assert promise.result() == 1


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_who_blocks_is_woken(error):
    """Threads that wait come back with what was promised, or with its error."""
    promise: Promise[int] = Promise()
    found, ready = [], threading.Barrier(5)

    def wait() -> None:
        ready.wait()
        found.append(_outcome(promise.result, 10))

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    ready.wait()
    if error is None:
        promise.set_result(7)
    else:
        promise.set_exception(error)
    for thread in threads:
        thread.join()
    assert found == [7 if error is None else ValueError] * 4


def test_everybody_is_told_once():
    """Callbacks that are added while another thread keeps the promise are called once each."""
    for _ in range(200):
        promise: Promise[int] = Promise()
        told: list[int] = []
        start = threading.Barrier(2)

        def keep(promise=promise, start=start) -> None:
            start.wait()
            promise.set_result(1)

        thread = threading.Thread(target=keep)
        thread.start()
        start.wait()
        for number in range(20):
            promise.add_done_callback(lambda _, n=number, told=told: told.append(n))
        thread.join()
        assert sorted(told) == list(range(20))


@pytest.mark.parametrize("way", [asyncio.wrap_future, hand_over])
def test_an_event_loop_waits_for_it(way):
    """By the library's way into a loop and by ours, from another thread."""

    async def wait() -> int:
        promise: Promise[int] = Promise()
        threading.Timer(0, promise.set_result, [3]).start()
        result: int = await way(promise)
        return result

    assert asyncio.run(wait()) == 3

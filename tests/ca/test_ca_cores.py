"""Signing workers stay on cores of their own where there are as many of them as cores."""

from __future__ import annotations

import os
import threading

import pytest

from ca.cores import core_of, keep_to


@pytest.mark.parametrize(
    ("cores", "count", "expected"),
    [
        ({0, 1}, 2, [0, 1]),
        ({5, 3, 9}, 3, [3, 5, 9]),
        ({0, 1, 2, 3}, 2, [None, None]),
        ({0}, 2, [None, None]),
        ({4}, 1, [4]),
    ],
)
def test_each_has_one_of_its_own_or_none_has(monkeypatch, cores, count, expected):
    """Only the cores that this process may use count, and only a worker for each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    assert [core_of(number, count) for number in range(count)] == expected


def test_a_thread_stays_and_so_do_those_it_starts():
    """What a worker starts stays with it; others of the process are left where they are."""
    before = os.sched_getaffinity(0)
    core = min(before)
    found: list[set[int]] = []

    def look() -> None:
        found.append(os.sched_getaffinity(0))

    def stay() -> None:
        keep_to(core)
        child = threading.Thread(target=look)
        child.start()
        child.join()
        keep_to(None)
        look()

    thread = threading.Thread(target=stay)
    thread.start()
    thread.join()
    assert found == [{core}, {core}]
    assert os.sched_getaffinity(0) == before


def test_a_core_that_is_not_there_is_no_matter():
    """A worker whose core was taken away goes on where it may."""
    before = os.sched_getaffinity(0)
    keep_to(100_000)
    assert os.sched_getaffinity(0) == before

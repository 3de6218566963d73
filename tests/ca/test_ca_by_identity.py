"""A memory by identity gives what the function gives, and never what another argument was told."""

from __future__ import annotations

import gc

import pytest

from ca.by_identity import by_identity


def test_the_same_things_are_asked_about_once():
    """One call for the same objects, in whatever tuple they come; another for their equals."""
    calls = []

    @by_identity
    def describe(things, text, number):
        calls.append((things, text, number))
        return f"{things} {text} {number}"

    first, twin = "".join(["a", "b"]), bytes(2)
    for text in ("one", "".join(["on", "e"])):
        number = int("1000")
        assert describe((first, twin), text, number) == f"{(first, twin)} one 1000"
    assert len(calls) == 1
    describe((first, bytearray(2)), "one", 1000)
    describe((first, twin), "two", 1000)
    describe((first, twin), "one", 1001)
    assert len(calls) == 4


def test_what_came_to_be_in_the_place_of_another_is_another():
    """Objects that are made and thrown away by the thousand never get each other's answers."""

    @by_identity
    def content(thing):
        return thing[0]

    for number in range(5000):
        assert content([number]) == number
        if number % 1000 == 0:
            gc.collect()


def test_what_fails_is_asked_again():
    """An error is no result."""
    answers = iter([ValueError, None])

    @by_identity
    def check(_thing):
        error = next(answers)
        if error is not None:
            raise error
        return "sound"

    thing = object()
    with pytest.raises(ValueError):
        check(thing)
    assert check(thing) == "sound"
    assert check(thing) == "sound"
